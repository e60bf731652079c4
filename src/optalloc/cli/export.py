"""optalloc export: write the files that run a plan with another tool."""

from __future__ import annotations

import argparse

from optalloc.errors import ExportError
from optalloc.export.base import TARGETS, artefacts, write
from optalloc.plan.plan import load_plan


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
    """Write the files and print their paths; 2 if the target cannot express the plan."""
    plan = load_plan(arguments.plan)
    try:
        files = artefacts(plan, arguments.to)
    except ExportError as error:
        import sys

        print(f"optalloc: {error}", file=sys.stderr)
        return 2
    for path in write(files, arguments.output):
        print(path)
    return 0
