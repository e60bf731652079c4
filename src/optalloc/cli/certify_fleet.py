"""``optalloc certify-fleet``: check a saved fleet and its bound with other code."""

from __future__ import annotations

import argparse

from optalloc.cli.answers import add_format, colored


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("problem", metavar="FILE", help="the problem that was solved")
    parser.add_argument("answer", metavar="ANSWER", help="what 'optalloc fleet' wrote with '-o'")
    add_format(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check and print; what is not true is raised."""
    import msgspec

    from optalloc.cli.plans import checked
    from optalloc.files import read_json
    from optalloc.report.table import Table, render
    from optalloc.serving.mix.certify import certify_fleet
    from optalloc.serving.mix.instance import load_fleet
    from optalloc.serving.mix.result import FleetAnswer

    answer = read_json(arguments.answer, FleetAnswer)
    problem = msgspec.structs.replace(
        load_fleet(arguments.problem),
        utilization=answer.utilization,
        redundancy=answer.redundancy,
        utilization_after_failure=answer.utilization_after_failure,
    )
    proven = answer.witness is not None
    with checked(arguments.answer):
        certify_fleet(
            problem,
            answer.counts,
            answer.shares,
            value_usd_per_h=answer.price_usd_per_h,
            bound_usd_per_h=answer.bound_usd_per_h if proven else None,
            witness=answer.witness,
        )
    data = {
        "valid": True,
        "price_usd_per_h": answer.price_usd_per_h,
        "bound_usd_per_h": answer.bound_usd_per_h if proven else None,
        "optimal": proven and answer.termination == "optimal",
    }
    price, bound = answer.price_usd_per_h, answer.bound_usd_per_h
    table = Table(
        title="The answer says the truth about itself.",
        columns=("checked anew, in rational numbers", "USD/h"),
        rows=(
            (
                "price of the fleet, which serves the load",
                "no fleet" if price is None else f"{price:,.6g}",
            ),
            ("bound, from its witness", "none claimed" if bound is None else f"{bound:,.6g}"),
        ),
        right=("USD/h",),
    )
    print(render([table], data, arguments.format, color=colored()), end="")
    return 0
