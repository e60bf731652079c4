"""Instances made by rule: classes of identical devices, and pairs that are made when asked for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from optalloc.assignment.problem import AssignmentProblem

Longs = npt.NDArray[np.int64]


def classes_of_devices(
    tasks: int, units: int, classes: int, seed: int, *, distinct: bool = False
) -> AssignmentProblem:
    """Tasks on units of k classes of identical devices.

    A task has a work from 20 to 100. Class k runs it at a speed that differs by task within 20 %,
    so that its load is work / speed, and costs load times a price; faster classes are dearer. Every
    unit of a class has the same costs, loads and capacity, and four fifths of all capacity are
    used. ``distinct`` draws costs and loads for each unit alone, for comparison.
    """
    rng = np.random.default_rng(seed)
    kind = np.sort(np.arange(units) % classes)
    speed = np.linspace(1.0, 2.0, classes)[kind]
    price = np.linspace(1.0, 2.4, classes)[kind]
    work = rng.integers(20, 101, (tasks, 1))
    own = rng.uniform(0.8, 1.2, (tasks, units)) if distinct else None
    shared = rng.uniform(0.8, 1.2, (tasks, classes))[:, kind]
    load = np.maximum(1, np.rint(work / (speed * (shared if own is None else own)))).astype(
        np.int64
    )
    noise = rng.integers(0, 21, (tasks, units) if distinct else (tasks, classes))
    costs = np.rint(10 * load * price).astype(np.int64) + (noise if distinct else noise[:, kind])
    rooms = np.array([load[:, kind == k].mean(axis=1).sum() for k in range(classes)]) / units / 0.8
    return AssignmentProblem(costs, load, np.ceil(rooms[kind]).astype(np.int64))


class DrawnPairs:
    """A source of pairs that holds none: a block is drawn again whenever it is asked for.

    Loads from 1 to 100, costs 111 minus the load plus -10 to 10 (dear where they are small, the
    hard kind of the benchmark); capacities are four fifths of the mean load a unit.
    """

    def __init__(self, tasks: int, units: int, seed: int) -> None:
        self.num_tasks, self.units, self.seed = tasks, units, seed
        self.capacities: Longs = np.full(units, int(0.8 * 50.5 * tasks / units), dtype=np.int64)

    def rows(self, first: int, last: int) -> tuple[Longs, Longs]:
        """Each row from a generator of its own."""
        shape = (last - first, self.units)
        numbers = np.empty(shape, dtype=np.uint32)
        for row, task in enumerate(range(first, last)):
            rng = np.random.Generator(np.random.SFC64([self.seed, task]))
            numbers[row] = rng.integers(0, 2**32, self.units, dtype=np.uint32)
        loads = (numbers & 0xFFFF).astype(np.int64) * 100 // 65536 + 1
        costs = 111 - loads + (numbers >> 16).astype(np.int64) * 21 // 65536 - 10
        return costs, loads
