"""optalloc export: write the files that run a plan with another tool."""

from __future__ import annotations

import argparse

from optalloc.cli.plans import engines_as_written, with_true_figures
from optalloc.export.base import TARGETS, check_target
from optalloc.export.export import export
from optalloc.export.offload.base import OFFLOAD_TARGETS
from optalloc.export.serving.base import SERVING_TARGETS
from optalloc.plan.plan import load_any_plan
from optalloc.serving.configuration.plan import ServingPlan
from optalloc.serving.offload.plan import OffloadPlan


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
    plan = load_any_plan(arguments.plan)
    if isinstance(plan, ServingPlan):
        check_target(
            arguments.to, "--to", among=SERVING_TARGETS, refusal="is no target of serving plans"
        )
        plan = engines_as_written(plan, arguments.plan)
    elif not isinstance(plan, OffloadPlan):
        plan = with_true_figures(plan, arguments.plan)
    for path in export(plan, arguments.to, arguments.output):
        print(path)
    return 0
