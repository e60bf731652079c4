"""Instances made by rule: classes of identical devices, and pairs that are made when asked for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from optalloc.assignment.problem import AssignmentProblem

Longs = npt.NDArray[np.int64]


def classes_of_devices(
    tasks: int, units: int, classes: int, seed: int, *, distinct: bool = False, resources: int = 1
) -> AssignmentProblem:
    """Tasks on units of k classes of identical devices.

    A task has a work from 20 to 100. Class k runs it at a speed that differs by task within 20 %,
    so that its load is work / speed, and costs load times a price; faster classes are dearer. Every
    unit of a class has the same costs, loads and capacity, and four fifths of all capacity are
    used. ``distinct`` draws costs and loads for each unit alone, for comparison. Of further
    ``resources`` a task takes from 20 to 100 on every unit, and again four fifths are used.
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
    if resources == 1:
        return AssignmentProblem(costs, load, np.ceil(rooms[kind]).astype(np.int64))
    more = rng.integers(20, 101, (tasks, 1, resources - 1))
    loads = np.concatenate([load[:, :, None], np.repeat(more, units, axis=1)], axis=2)
    further = np.repeat(more.sum(axis=0) / units / 0.8, units, axis=0)
    capacities = np.ceil(np.concatenate([rooms[kind][:, None], further], axis=1))
    return AssignmentProblem(costs, loads, capacities.astype(np.int64))


#: kind -> what is drawn; the capacities use so much of the loads
KINDS = {
    "c": "loads 5 to 25 and costs 10 to 50, apart",
    "d": "loads 1 to 100, costs 111 minus the load plus -10 to 10",
    "e": "loads 1 - 10 ln x, costs 1000 / load - 10 y; x and y uniform",
    "own": "loads 1 to 100 by task alone, costs 1 to 1000",
    "speeds": "loads work over speed within 20 %, costs load times a price that rises with speed",
    "classes": "work, speed and price as in speeds, by task and class; 8 classes of units",
    "unequal": "as d, capacities that differ by a factor of up to 4",
}
#: kind -> mean load of a pair (the work of a task over all speeds in the kinds with speeds)
_MEAN_LOAD = {"c": 15.0, "e": 11.0, "speeds": 600.0, "classes": 600.0}
_TIGHTNESS = {"own": 1 / 0.95, "speeds": 1 / 0.95, "classes": 1 / 0.95}


class DrawnPairs:
    """A source of pairs that holds none: a block is drawn again whenever it is asked for.

    ``kind`` is one of :data:`KINDS`; c, d and e are the types of the published benchmark.
    Capacities are ``tightness`` times the mean load a unit: 0.8 by default, as in the benchmark,
    and 1 / 0.95 where a task loads every unit alike, so that choosing units saves no load.
    """

    def __init__(
        self, tasks: int, units: int, seed: int, kind: str = "d", tightness: float | None = None
    ) -> None:
        self.num_tasks, self.units, self.seed, self.kind = tasks, units, seed, kind
        rng = np.random.default_rng([seed, 1])
        self._work = rng.integers(200, 1001, tasks)
        speeds = rng.uniform(1.0, 3.0, units)
        self._speeds = (
            np.linspace(1.0, 3.0, 8)[np.arange(units) % 8] if kind == "classes" else speeds
        )
        share = _TIGHTNESS.get(kind, 0.8) if tightness is None else tightness
        held = share * _MEAN_LOAD.get(kind, 50.5) * tasks
        if kind in ("speeds", "classes"):
            rooms = np.full(units, held / self._speeds.sum())  # every unit is busy for as long
        elif kind == "unequal":
            weights = rng.uniform(0.4, 1.6, units)
            rooms = held * weights / weights.sum()
        else:
            rooms = np.full(units, held / units)
        self.capacities: Longs = rooms.astype(np.int64)

    def rows(self, first: int, last: int) -> tuple[Longs, Longs]:
        """Each row from a generator of its own."""
        numbers = np.empty((last - first, self.units), dtype=np.uint32)
        for row, task in enumerate(range(first, last)):
            rng = np.random.Generator(np.random.SFC64([self.seed, task]))
            numbers[row] = rng.integers(0, 2**32, self.units, dtype=np.uint32)
        if self.kind == "classes":
            numbers = numbers[:, np.arange(self.units) % min(8, self.units)]
        low, high = (numbers & 0xFFFF).astype(np.int64), (numbers >> 16).astype(np.int64)
        if self.kind == "c":
            return 10 + (high * 41 >> 16), 5 + (low * 21 >> 16)
        if self.kind == "e":
            sizes = 1.0 - 10.0 * np.log((low + 1) / 65536)
            costs = np.floor(1000.0 / sizes - 10.0 * (high / 65536)).astype(np.int64)
            return costs, np.floor(sizes).astype(np.int64)
        if self.kind == "own":
            loads = np.broadcast_to(1 + (low[:, :1] * 100 >> 16), low.shape)
            return 1 + (high * 1000 >> 16), loads.astype(np.int64)
        if self.kind in ("speeds", "classes"):
            speeds = self._speeds * (0.8 + 0.4 * (low / 65536))
            loads = np.maximum(1, np.rint(self._work[first:last, None] / speeds)).astype(np.int64)
            return np.rint(loads * self._speeds**1.2).astype(np.int64) + (high * 21 >> 16), loads
        loads = (low * 100 >> 16) + 1
        return 111 - loads + (high * 21 >> 16) - 10, loads
