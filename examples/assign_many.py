"""Very many tasks: arrays mapped from files, a plan with a certified gap.

python examples/assign_many.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import optalloc as oa
from optalloc.assignment.large import solve_large
from optalloc.assignment.pairs import open_pairs


def main(num_tasks: int = 4000, num_units: int = 40) -> None:
    """Requests on devices: the same call serves a hundred thousand tasks on a thousand units."""
    rng = np.random.default_rng(0)
    work = rng.integers(20, 200, num_tasks)  # GFLOP of each request
    speed = rng.uniform(1.0, 3.0, num_units)  # of each device, relative
    loads = np.rint(work[:, None] / speed * rng.uniform(0.9, 1.1, (num_tasks, num_units)))
    costs = loads * speed**1.2 + rng.integers(0, 20, loads.shape)  # faster devices are dearer
    capacities = np.full(num_units, work.sum() / speed.sum() / 0.9)
    with tempfile.TemporaryDirectory() as folder:
        for name, array in (("costs", costs), ("loads", loads), ("capacities", capacities)):
            np.save(Path(folder) / f"{name}.npy", array.astype(np.int32))
        source = open_pairs(folder)  # mapped: blocks are read when they are needed
        result = solve_large(source, threads=2, stop=oa.Either(oa.TimeLimit(60), oa.Gap(1e-4)))
        del source
    print(f"{result.bounds.primal:,.0f}, at most {result.bounds.gap:.4%} above the optimum")


if __name__ == "__main__":
    main()
