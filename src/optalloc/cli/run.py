"""optalloc run: run a plan on this machine and compare what is measured with what is estimated."""

from __future__ import annotations

import argparse

from optalloc.cli.answers import add_format, colored
from optalloc.cli.plans import read_plan
from optalloc.execute.run import Run, run_plan
from optalloc.report.table import Cell, Table, render
from optalloc.units import format_seconds, parse_duration


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("plan", metavar="PLAN", help="a saved plan (plan.json)")
    parser.add_argument("--processes", type=int, metavar="N", help="at most so many processes")
    parser.add_argument("--steps", type=int, default=3, metavar="N", help="default: 3")
    parser.add_argument(
        "--time-limit", default="600s", metavar="TIME", help="of each run; default: 600s"
    )
    add_format(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run and print; returns 1 if the losses differ from the one-process run's."""
    result = run_plan(
        read_plan(arguments.plan),
        processes=arguments.processes,
        steps=arguments.steps,
        timeout_s=parse_duration(arguments.time_limit, path="--time-limit"),
    )
    print(render(tables(result), result, arguments.format, color=colored()), end="")
    return 0 if result.loss.equal else 1


def tables(result: Run) -> list[Table]:
    """The losses of each step, then the paced pipeline."""
    loss = result.loss
    d = loss.degrees
    rows: list[tuple[Cell, ...]] = [
        (step, f"{ours:.6f}", f"{theirs:.6f}", format_seconds(seconds))
        for step, (ours, theirs, seconds) in enumerate(
            zip(loss.losses, loss.reference_losses, loss.measured_step_s, strict=True)
        )
    ]
    verdict = "equal" if loss.equal else "DIFFERENT"
    first = Table(
        title=f"{result.model}, scaled down: {loss.processes} processes "
        f"(tp {d.tp}, cp {d.cp}, pp {d.pp}, dp {d.dp}, ep {d.ep})",
        columns=("step", "loss", "loss of one process", "measured step"),
        rows=tuple(rows),
        notes=(
            f"Losses are {verdict}: largest difference {loss.largest_difference:.1e}.",
            f"The plan's step on its own devices: {format_seconds(result.estimate_step_s)} "
            f"(estimate, {result.cost_model}); the times above are of this machine.",
        ),
    )
    if result.pace is None:
        return [first]
    pace = result.pace
    second = Table(
        title=f"Pipeline with sleeping stages, all times x {pace.time_scale:.3g}, "
        f"{pace.num_microbatches} micro-batches",
        columns=("processes", "estimate", "measured", "measured / estimate"),
        rows=(
            (
                pace.processes,
                format_seconds(pace.estimate_step_s),
                format_seconds(pace.measured_step_s),
                round(pace.ratio, 3),
            ),
        ),
        notes=("The estimate is the event time of the schedule without transfers.",),
    )
    return [first, second]
