"""Very many tasks and units: value, certified gap, time and memory, one row.

``python -m benchmarks scale --kind d --tasks 100000 --units 1000`` draws the pairs by rule whenever
they are read, so that the memory shown is that of the solver.
"""

from __future__ import annotations

import argparse
import csv
import resource
import sys
import time

from benchmarks.instances import KINDS, DrawnPairs
from optalloc.assignment.large import solve_large
from optalloc.stop import Either, Gap, StopRule, TimeLimit

COLUMNS = (
    "kind",
    "tasks",
    "units",
    "termination",
    "objective",
    "bound",
    "gap",
    "cpu_s",
    "wall_s",
    "memory_bytes",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the study."""
    listed = "; ".join(f"{kind}: {what}" for kind, what in KINDS.items()).replace("%", "%%")
    parser.add_argument("--kind", choices=KINDS, default="d", help=f"{listed} (default: d)")
    parser.add_argument(
        "--tightness", type=float, metavar="T", help="capacities as part of the mean load a unit"
    )
    parser.add_argument("--tasks", type=int, default=100_000, metavar="N")
    parser.add_argument("--units", type=int, default=1_000, metavar="M")
    parser.add_argument("--candidates", type=int, default=24, metavar="K")
    parser.add_argument("--rounds", type=int, default=6, metavar="R")
    parser.add_argument("--threads", type=int, default=2, metavar="T")
    parser.add_argument("--time-limit", type=float, metavar="S", help="wall seconds")
    parser.add_argument("--gap-limit", type=float, metavar="GAP")
    parser.add_argument("--seed", type=int, default=0, metavar="S")


def run(arguments: argparse.Namespace) -> int:
    """Print the row; 1 without a plan."""
    begin = time.perf_counter()
    source = DrawnPairs(
        arguments.tasks, arguments.units, arguments.seed, arguments.kind, arguments.tightness
    )
    rules: list[StopRule] = []
    if arguments.time_limit is not None:
        rules.append(TimeLimit(arguments.time_limit))
    if arguments.gap_limit is not None:
        rules.append(Gap(arguments.gap_limit))
    result = solve_large(
        source,
        num_candidates=arguments.candidates,
        rounds=arguments.rounds,
        seed=arguments.seed,
        threads=arguments.threads,
        stop=Either(*rules),
    )
    used = resource.getrusage(resource.RUSAGE_SELF)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerow(
        (
            arguments.kind,
            arguments.tasks,
            arguments.units,
            result.termination.value,
            result.bounds.primal,
            result.bounds.dual,
            f"{result.bounds.gap:.6g}",
            f"{used.ru_utime + used.ru_stime:.1f}",
            f"{time.perf_counter() - begin:.1f}",
            used.ru_maxrss * 1024,
        )
    )
    return 0 if result.placed is not None else 1
