"""``optalloc certify-assignment``: prove again what the proof of an assignment claims."""

from __future__ import annotations

import argparse

from optalloc.cli.answers import add_format, colored
from optalloc.cli.assign import OBJECTIVES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("instance", metavar="INSTANCE", help="the file that was solved")
    parser.add_argument("proof", metavar="PROOF", help="written by 'optalloc assign --proof'")
    parser.add_argument(
        "--sense", choices=("min", "max"), help="whether costs are paid or earned (default: file)"
    )
    parser.add_argument(
        "--objective", choices=OBJECTIVES, help="what was minimised (default: file)"
    )
    parser.add_argument(
        "--index", type=int, help="which instance of an OR-Library file of several, from 0"
    )
    add_format(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check and print; 2 when the proof is invalid."""
    import msgspec

    from optalloc.assignment.check_proof import Verdict, certify_proof
    from optalloc.assignment.formats import load_assignment
    from optalloc.assignment.proof import read_proof
    from optalloc.report.table import Table, render

    problem = load_assignment(arguments.instance, sense=arguments.sense, index=arguments.index)
    if arguments.objective is not None:
        problem = problem.replace(objective=arguments.objective)
    check = certify_proof(problem, *read_proof(arguments.proof))
    data = msgspec.to_builtins(check)
    table = Table(
        title=f"Proof: {check.verdict.value}",
        columns=("what", "value"),
        rows=(
            ("objective of the plan", _shown(check.objective)),
            ("proven bound", _shown(check.bound)),
            ("leaves proven", check.num_leaves),
            ("pairs removed", check.num_fixed),
        ),
        notes=(check.reason,) if check.reason else (),
    )
    print(render([table], data, arguments.format, color=colored()), end="")
    return 2 if check.verdict is Verdict.INVALID else 0


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:,.12g}"
