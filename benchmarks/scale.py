"""Very many tasks and units: value, certified gap, time and memory, one row.

``python -m benchmarks scale --tasks 100000 --units 1000`` draws the pairs by rule whenever they are
read, so that the memory shown is that of the solver.
"""

from __future__ import annotations

import argparse
import csv
import resource
import sys
import time

from benchmarks.instances import DrawnPairs
from optalloc.assignment.large import solve_large

COLUMNS = ("tasks", "units", "objective", "bound", "gap", "cpu_s", "wall_s", "memory_bytes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the study."""
    parser.add_argument("--tasks", type=int, default=100_000, metavar="N")
    parser.add_argument("--units", type=int, default=1_000, metavar="M")
    parser.add_argument("--candidates", type=int, default=24, metavar="K")
    parser.add_argument("--seed", type=int, default=0, metavar="S")


def run(arguments: argparse.Namespace) -> int:
    """Print the row; 1 without a plan."""
    begin = time.perf_counter()
    source = DrawnPairs(arguments.tasks, arguments.units, arguments.seed)
    result = solve_large(source, num_candidates=arguments.candidates, seed=arguments.seed)
    used = resource.getrusage(resource.RUSAGE_SELF)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerow(
        (
            arguments.tasks,
            arguments.units,
            result.bounds.primal,
            result.bounds.dual,
            f"{result.bounds.gap:.6g}",
            f"{used.ru_utime + used.ru_stime:.1f}",
            f"{time.perf_counter() - begin:.1f}",
            used.ru_maxrss * 1024,
        )
    )
    return 0 if result.placed is not None else 1
