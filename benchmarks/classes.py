"""Write an instance of k classes of identical devices, for ``gap`` and ``optalloc assign``."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks.instances import classes_of_devices
from optalloc.assignment.formats import save_assignment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the study."""
    parser.add_argument("--tasks", type=int, default=512, metavar="N")
    parser.add_argument("--units", type=int, default=64, metavar="M")
    parser.add_argument("--classes", type=int, default=3, metavar="K")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--distinct", action="store_true", help="draw every unit alone")
    parser.add_argument("--resources", type=int, default=1, metavar="R", help="1, or else as .json")
    parser.add_argument("--apart", type=int, default=0, metavar="G", help="groups (0)")
    parser.add_argument("--size", type=int, default=2, metavar="T", help="tasks of a group (2)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")


def run(arguments: argparse.Namespace) -> int:
    """Write the file."""
    problem = classes_of_devices(
        arguments.tasks,
        arguments.units,
        arguments.classes,
        arguments.seed,
        distinct=arguments.distinct,
        resources=arguments.resources,
    )
    if arguments.apart:
        order = np.random.default_rng(arguments.seed).permutation(arguments.tasks)
        groups = order[: arguments.apart * arguments.size].reshape(-1, arguments.size)
        problem = problem.replace(apart=groups.tolist())
    save_assignment(problem, arguments.out)
    return 0
