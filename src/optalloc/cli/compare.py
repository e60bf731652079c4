"""optalloc compare: show what differs between two plans, and where the time between them goes."""

from __future__ import annotations

import argparse

from optalloc.cli.answers import add_format, colored
from optalloc.cli.plans import read_as_it_is, with_true_figures
from optalloc.plan.compare import Comparison, compare
from optalloc.plan.compare_serving import ServingComparison, compare_serving
from optalloc.plan.plan import AnyTrainingPlan, load_serving_plan, read_saved
from optalloc.report.table import Table, render
from optalloc.serving.configuration.plan import ServingPlan
from optalloc.training.mixed.plan import MixedPlan
from optalloc.training.plan import TrainingPlan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("first", metavar="PLAN", help="a saved plan (plan.json)")
    parser.add_argument("second", metavar="PLAN", help="another")
    add_format(parser)


def run(arguments: argparse.Namespace) -> int:
    """Compare and print; returns the exit status."""
    kinds: tuple[type[AnyTrainingPlan | ServingPlan], ...] = (TrainingPlan, MixedPlan, ServingPlan)
    first = read_saved(arguments.first, *kinds)
    comparison: Comparison | ServingComparison
    if isinstance(first, ServingPlan):
        comparison = compare_serving(
            with_true_figures(first, arguments.first),
            with_true_figures(load_serving_plan(arguments.second), arguments.second),
        )
    else:
        comparison = compare(read_as_it_is(arguments.first), read_as_it_is(arguments.second))
    if arguments.format == "table":
        print(comparison.summary)
    print(render(_tables(comparison), comparison, arguments.format, color=colored()), end="")
    return 0


def _tables(comparison: Comparison | ServingComparison) -> list[Table]:
    """The sections as tables; the decisions come first and are the CSV."""
    return [
        Table(title=title, columns=columns, rows=rows, right=() if number == 0 else columns[1:])
        for number, (title, columns, rows) in enumerate(comparison.sections())
    ]
