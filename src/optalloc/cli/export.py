"""optalloc export: write the files that run a plan with another tool."""

from __future__ import annotations

import argparse

from optalloc.cli.plans import engines_as_written, with_true_figures
from optalloc.export.base import TARGETS, check_target, export
from optalloc.export.mixed import export_mixed
from optalloc.export.offload.base import OFFLOAD_TARGETS, export_offload
from optalloc.export.serving.base import SERVING_TARGETS, export_serving
from optalloc.plan.plan import load_any_plan
from optalloc.serving.configuration.plan import ServingPlan
from optalloc.serving.offload.plan import OffloadPlan
from optalloc.training.mixed.plan import MixedPlan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("plan", metavar="PLAN", help="a saved plan (plan.json)")
    parser.add_argument(
        "--to",
        required=True,
        metavar="TARGET",
        help=f"one of {', '.join(sorted(TARGETS))}; of offload plans {', '.join(OFFLOAD_TARGETS)};"
        f" of serving plans {', '.join(SERVING_TARGETS)}",
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="FOLDER", help="made if it does not exist"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the files and print their paths."""
    saved = load_any_plan(arguments.plan)
    if isinstance(saved, ServingPlan):
        check_target(
            arguments.to, "--to", among=SERVING_TARGETS, refusal="is no target of serving plans"
        )
        serving = engines_as_written(saved, arguments.plan)
        for path in export_serving(serving, arguments.to, arguments.output):
            print(path)
        return 0
    if isinstance(saved, OffloadPlan):
        for path in export_offload(saved, arguments.to, arguments.output):
            print(path)
        return 0
    plan = with_true_figures(saved, arguments.plan)
    if isinstance(plan, MixedPlan):
        paths = export_mixed(plan, arguments.to, arguments.output)
    else:
        paths = export(plan, arguments.to, arguments.output)
    for path in paths:
        print(path)
    return 0
