"""optalloc replan: the best next plan after nodes are lost or added, counting what must move."""

from __future__ import annotations

import argparse

from optalloc.cli.answers import add_format, answered, colored, stop_rule


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("plan", metavar="PLAN", help="the plan that runs (plan.json)")
    parser.add_argument(
        "--lost",
        action="append",
        default=[],
        metavar="NODE",
        help="a node that is gone, by its place in the cluster from 0: n3, or n4-n6",
    )
    parser.add_argument(
        "--added", action="append", default=[], metavar="NODES", help="for example 8xh100-sxm"
    )
    parser.add_argument(
        "--steps-left", type=int, default=1000, metavar="N", help="steps still to run; default 1000"
    )
    parser.add_argument(
        "--time-limit", metavar="TIME", help="wall-clock limit of each search, for example 30s"
    )
    add_format(parser)
    parser.add_argument("-o", "--output", metavar="PATH", help="write the next plan, plan.json")


def run(arguments: argparse.Namespace) -> int:
    """Plan anew and print; returns the exit status."""
    import msgspec

    from optalloc.plan.plan import load_training_plan
    from optalloc.plan.replan import replan
    from optalloc.report.table import Table, render
    from optalloc.units import format_bytes, format_seconds

    stop = stop_rule(arguments)
    answer = replan(
        load_training_plan(arguments.plan),
        lost=[w for word in arguments.lost for w in word.split(",")],
        added=[w for word in arguments.added for w in word.split("+")],
        steps_left=arguments.steps_left,
        stop=stop,
    )
    rows = tuple(
        (
            c.name,
            format_seconds(c.step_time_s),
            format_bytes(c.moved_bytes),
            format_seconds(c.move_s),
            format_seconds(c.total_s),
        )
        for c in answer.candidates
    )
    table = Table(
        title=f"Next plans, {answer.steps_left:,} steps to run",
        columns=("plan", "step", "moved", "moving takes", "total"),
        rows=rows,
        right=("step", "moved", "moving takes", "total"),
    )
    moves = Table(
        title="What the best one moves",
        columns=("node", "was", "device", "receives"),
        rows=tuple(
            (
                f"n{m.node}",
                "new" if m.was is None else f"n{m.was}",
                m.device,
                format_bytes(m.received_bytes),
            )
            for m in answer.best.moves[:16]
        ),
        right=("receives",),
    )
    tables = [table, moves] if answer.best.moves else [table]
    data = {**msgspec.to_builtins(answer), "gap": answer.gap, "summary": answer.summary}
    with answered(arguments.output, answer.best.plan.save):
        if arguments.format == "table":
            print(answer.summary + "\n")
        print(render(tables, data, arguments.format, color=colored()), end="")
    return 0
