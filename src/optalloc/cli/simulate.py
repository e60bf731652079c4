"""optalloc simulate: replay one step of a training plan, or the requests of a serving plan."""

from __future__ import annotations

import argparse
from typing import Any

import msgspec

from optalloc.cli import mixed, simulate_requests
from optalloc.cli.answers import add_format, colored
from optalloc.cli.plans import with_true_figures
from optalloc.plan.plan import AnyTrainingPlan, read_saved
from optalloc.report.table import Table, render
from optalloc.serving.configuration.plan import ServingPlan
from optalloc.simulate.simulation import MOST_PASSES, Simulation, simulate
from optalloc.training.mixed.plan import MixedPlan
from optalloc.training.plan import TrainingPlan
from optalloc.units import format_bytes, format_seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("plan", metavar="PLAN", help="a saved plan (plan.json)")
    parser.add_argument(
        "--trace", metavar="FILE", help="write what happens as a trace for ui.perfetto.dev"
    )
    parser.add_argument(
        "--trace-all",
        action="store_true",
        help="write every pass of a long step; without it, the beginning and the end of each stage",
    )
    add_format(parser)
    simulate_requests.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Replay and print; returns the exit status."""
    kinds: tuple[type[AnyTrainingPlan | ServingPlan], ...] = (TrainingPlan, MixedPlan, ServingPlan)
    saved = read_saved(arguments.plan, *kinds)
    if isinstance(saved, ServingPlan):
        return simulate_requests.run(arguments, saved)
    simulate_requests.refuse(arguments, "a training plan")
    plan = with_true_figures(saved, arguments.plan)
    if isinstance(plan, MixedPlan):
        return mixed.simulate(arguments, plan)
    simulation = simulate(plan)
    if arguments.trace is not None:
        whole = arguments.trace_all
        (simulation.trace if whole else simulation.short_trace()).write(arguments.trace)
    csv = arguments.format == "csv"
    table = _raw(simulation) if csv else _table(simulation, arguments)
    print(render([table], _plain(simulation), arguments.format, color=colored()), end="")
    return 0


def _plain(simulation: Simulation) -> dict[str, Any]:
    """The answer without the passes, which are in the trace."""
    return {
        "step_time_s": simulation.step_time_s,
        "planned_step_time_s": simulation.planned_step_time_s,
        "difference": simulation.difference,
        "idle_share": simulation.idle_share,
        "fixed_s": simulation.fixed_s,
        "num_transfers": len(simulation.run.transfers),
        "stages": msgspec.to_builtins(simulation.stages),
    }


def _table(simulation: Simulation, arguments: argparse.Namespace) -> Table:
    rows = tuple(
        (
            use.index,
            f"{use.busy_share:.1%}",
            f"{use.tail_s / simulation.step_time_s:.1%}",
            f"{use.idle_share:.1%}",
            format_seconds(use.end_s),
            format_bytes(use.peak_memory_bytes),
            format_seconds(use.peak_at_s),
            format_bytes(use.capacity_bytes),
        )
        for use in simulation.stages
    )
    planned, idle = format_seconds(simulation.planned_step_time_s), simulation.idle_share
    notes = [
        f"The plan says {planned}, a relative difference of {simulation.difference:.1e}.",
        f"Stages are idle for {idle:.1%} of the step. Tail: visible gradient reduction, optimizer "
        "and weight gathering behind the last pass.",
    ]
    if arguments.trace is not None:
        notes.append(f"Trace: {arguments.trace} (open it at https://ui.perfetto.dev).")
        if simulation.num_passes > MOST_PASSES and not arguments.trace_all:
            notes.append(
                f"It shows about {MOST_PASSES:,} of {simulation.num_passes:,} passes, those at the "
                "beginning and the end of each stage; --trace-all writes every one."
            )
    return Table(
        title=f"Simulated step: {format_seconds(simulation.step_time_s)} (estimate)",
        columns=("stage", "busy", "tail", "idle", "last pass", "peak memory", "at", "capacity"),
        rows=rows,
        notes=tuple(notes),
    )


def _raw(simulation: Simulation) -> Table:
    """Plain numbers, one row a stage."""
    fields = simulation.stages[0].__struct_fields__
    return Table(
        title="",
        columns=fields,
        rows=tuple(tuple(getattr(use, name) for name in fields) for use in simulation.stages),
    )
