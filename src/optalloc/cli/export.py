"""optalloc export: write the files that run a plan with another tool."""

from __future__ import annotations

import argparse

from optalloc.cli.plans import read_plan
from optalloc.export.base import TARGETS, export
from optalloc.plan.mixed import is_mixed_plan, load_mixed_plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("plan", metavar="PLAN", help="a saved plan (plan.json)")
    parser.add_argument(
        "--to", required=True, metavar="TARGET", help=f"one of {', '.join(sorted(TARGETS))}"
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="FOLDER", help="made if it does not exist"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the files and print their paths."""
    if is_mixed_plan(arguments.plan):
        from optalloc.export.mixed import export_mixed

        plan = load_mixed_plan(arguments.plan)
        for path in export_mixed(plan, arguments.to, arguments.output):
            print(path)
        return 0
    for path in export(read_plan(arguments.plan), arguments.to, arguments.output):
        print(path)
    return 0
