"""optalloc explain: where the time of a plan goes, what binds it, what more would bring."""

from __future__ import annotations

import argparse
import os
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("plan", metavar="PLAN", help="a saved plan (plan.json)")
    parser.add_argument(
        "--replan", action="store_true", help="also search again for each change (seven searches)"
    )
    parser.add_argument(
        "--time-limit", metavar="TIME", help="wall-clock limit of each search, for example 30s"
    )
    parser.add_argument(
        "--format", choices=("table", "json", "csv"), default="table", help="default: table"
    )


def run(arguments: argparse.Namespace) -> int:
    """Explain and print; returns the exit status."""
    import msgspec

    from optalloc.plan.explain import explain
    from optalloc.plan.plan import load_plan
    from optalloc.report.table import Table, render
    from optalloc.stop import TimeLimit
    from optalloc.units import parse_duration

    stop = None
    if arguments.time_limit is not None:
        stop = TimeLimit(parse_duration(arguments.time_limit, path="--time-limit"))
    explanation = explain(load_plan(arguments.plan), replan=arguments.replan, stop=stop)
    tables = [
        Table(title=title, columns=columns, rows=rows, right=_NUMBERS)
        for title, columns, rows in explanation.sections()
    ]
    data = {**msgspec.to_builtins(explanation), "summary": explanation.summary}
    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    if arguments.format == "table":
        print(explanation.summary + "\n")
    print(render(tables, data, arguments.format, color=color), end="")
    if arguments.format == "table" and not arguments.replan:
        print(f"Next: optalloc explain {arguments.plan} --replan searches again for each change.")
    return 0


_NUMBERS = (
    "time",
    "share",
    "total",
    "free",
    "storing one layer more",
    "step",
    "gain",
    "replanned",
    "gain then",
)
