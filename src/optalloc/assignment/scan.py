"""One pass over all pairs: the bound of given prices, lists of candidates, the cost of a plan.

The pairs are read block by block, in several threads; what a pass finds does not depend on how
many. Bounds are sums of integers: prices become multiples of a power of two that leaves a priced
pair within 64 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from optalloc.assignment.ascent import Ints, Lists, Longs, Reals
from optalloc.assignment.pairs import PairSource
from optalloc.errors import InputError
from optalloc.result import Fix

_BLOCK_PAIRS = 2_000_000
_WORD_BITS = 61  # of what a priced pair may use of 64
_MOST_BITS = 40  # of a price
_FEW_CLASSES = 6  # of identical units that each list should show
_MIX = np.array([0x1E3779B97F4A7C15, 0x3F58476D1CE4E5B9])  # odd; products wrap


class Scan(NamedTuple):
    """What one pass finds: D(u) rounded up, the lists, and the plan's cost (None: infeasible).

    ``classes`` of the units: those of one class are alike to every task.
    """

    bound: int
    lists: Lists
    value: int | None
    classes: Longs


class Infeasible(Exception):
    """Proven; in words: what conflicts, and the least that helps."""

    def __init__(self, conflict: str, fix: Fix) -> None:
        self.conflict, self.fix = conflict, fix
        super().__init__(conflict)


class _Block(NamedTuple):
    total: int  # of the least priced costs
    peak: int  # the largest cost
    value: int  # of the plan
    used: Longs
    marks: Longs


class Scanner:
    """Passes over one source; costs times ``sign``."""

    def __init__(self, source: PairSource, sign: int, pool: ThreadPoolExecutor) -> None:
        self.source, self.sign, self.pool = source, sign, pool
        self._peak = 1

    def rows(self, first: int, last: int) -> tuple[Longs, Longs]:
        """Costs and loads of a block."""
        costs, loads = self.source.rows(first, last)
        return (-costs if self.sign < 0 else costs), loads

    def scan(
        self,
        prices: Reals,
        kept: int,
        classes: Longs,
        plan: Longs | None = None,
        *,
        free: bool = False,
    ) -> Scan:
        """One pass.

        Parameters
        ----------
        prices : ndarray of float64, shape (num_units,)
        kept : int
            How many of the cheapest units to list for each task; 0: none.
        classes : ndarray of int64, shape (num_units,)
            Equal for identical units: lists show a few of each class.
        plan : ndarray of int64, shape (num_tasks,), optional
        free : bool
            With all costs 0.

        Raises
        ------
        Infeasible
            If a task fits on no unit.
        InputError
            If the numbers are too large for 64-bit integers.
        """
        source, rooms = self.source, self.source.capacities
        tasks = source.num_tasks
        # Any prices give a bound: those that are no numbers count as nothing.
        bounded = np.where(np.isfinite(prices), np.maximum(prices, 0.0), 0.0)
        largest = max(float(self._peak) * 4, float((bounded * rooms).max()), 1.0)
        bits = min(_MOST_BITS, _WORD_BITS - int(np.ceil(np.log2(largest))))
        if bits < 0:
            raise InputError("the numbers are too large", path="source", fix="divide the costs")
        whole = np.floor(bounded * 2.0**bits).astype(np.int64)
        show = _window(classes, kept)
        shape = (tasks, kept)
        lists = Lists(
            np.empty(shape, np.int32), np.empty(shape, np.int64), np.empty(shape, np.int64)
        )
        height = max(1, _BLOCK_PAIRS // len(rooms))

        def block(first: int) -> _Block:
            last = min(first + height, tasks)
            costs, loads = self.rows(first, last)
            unit_marks = marks(costs, loads, first)
            if free:
                costs = np.zeros_like(costs)
            fits = loads <= rooms
            able = fits.any(axis=1)
            if not able.all():
                task = first + int(np.argmin(able))
                raise Infeasible(
                    f"task {task} fits on no unit",
                    Fix(what=f"give a unit on which task {task} fits, or leave the task out"),
                )
            peak = int(np.where(fits, np.abs(costs), 0).max())
            if peak.bit_length() + bits > _WORD_BITS:
                raise _TooLarge(peak)
            priced = (costs << bits) + whole * np.where(fits, loads, 0)
            priced[~fits] = np.iinfo(np.int64).max
            least = priced.min(axis=1)
            if kept:
                reals = np.where(fits, costs + bounded * loads, np.inf)
                if show is not None:
                    reals[~show(np.arange(first, last))] = np.inf
                mine = _cheapest(costs, loads, reals, kept, priced.argmin(axis=1))
                lists.units[first:last] = mine.units
                lists.costs[first:last] = mine.costs
                lists.loads[first:last] = mine.loads
            value = 0
            used = np.zeros(len(rooms), dtype=np.int64)
            if plan is not None:
                rows, units = np.arange(last - first), plan[first:last]
                value = int(costs[rows, units].sum())
                np.add.at(used, units, loads[rows, units])
            # A sum of 64-bit numbers, in halves that cannot overflow.
            total = (int((least >> 32).sum()) << 32) + int((least & 0xFFFFFFFF).sum())
            return _Block(total, peak, value, used, unit_marks)

        try:
            parts = list(self.pool.map(block, range(0, tasks, height)))
        except _TooLarge as error:
            if self._peak >= error.peak:
                raise InputError(
                    "the costs are too large", path="source", fix="divide the costs"
                ) from error
            self._peak = error.peak
            return self.scan(prices, kept, classes, plan, free=free)
        self._peak = max(self._peak, *(part.peak for part in parts))
        total = sum(part.total for part in parts)
        total -= sum(int(price) * int(room) for price, room in zip(whole, rooms, strict=True))
        used = sum((part.used for part in parts), np.zeros(len(rooms), dtype=np.int64))
        is_feasible = plan is not None and bool((used <= rooms).all())
        value = sum(part.value for part in parts) if is_feasible else None
        with np.errstate(over="ignore"):
            classes = alike(sum((part.marks for part in parts), np.zeros_like(used)), rooms)
        return Scan(-((-total) >> bits), lists, value, classes)


class _TooLarge(Exception):
    def __init__(self, peak: int) -> None:
        self.peak = peak
        super().__init__(str(peak))


def marks(costs: Longs, loads: Longs, first: int) -> Longs:
    """Of each unit, a sum over the tasks from ``first`` on: equal units have equal marks.

    Others have equal marks once in about 2**60 pairs; no bound rests on that they do not.
    """
    words = np.random.default_rng(first).integers(-(2**62), 2**62, (2, len(costs)))
    with np.errstate(over="ignore"):
        mine: Longs = words[0] @ costs + words[1] @ loads
    return mine


def alike(marks: Longs, rooms: Longs) -> Longs:
    """Classes of the units, numbered as they come, by their marks and capacities."""
    with np.errstate(over="ignore"):
        keys = marks + rooms * 0x9E3779B97F4A7
    _, firsts, classes = np.unique(keys, return_index=True, return_inverse=True)
    numbers: Longs = np.argsort(np.argsort(firsts)).astype(np.int64)[classes]
    return numbers


def _cheapest(costs: Longs, loads: Longs, priced: Reals, kept: int, instead: Longs) -> Lists:
    """The ``kept`` cheapest units of each row, or ``instead`` where fewer can be listed."""
    best = np.argpartition(priced, kept - 1, axis=1)[:, :kept]
    listed = np.isfinite(np.take_along_axis(priced, best, axis=1))
    best = np.where(listed, best, instead[:, None])
    best.sort(axis=1)
    return Lists(
        best.astype(np.int32),
        np.take_along_axis(costs, best, axis=1),
        np.take_along_axis(loads, best, axis=1),
    )


def fitting(costs: Longs, loads: Longs, fits: npt.NDArray[np.bool_]) -> Lists:
    """All units of each row; the cheapest one that fits stands for those that do not."""
    best = np.where(fits, costs, np.iinfo(np.int64).max).argmin(axis=1)
    grid: Ints = np.arange(costs.shape[1], dtype=np.int32)
    units = np.where(fits, grid, best[:, None]).astype(np.int32)
    return Lists(
        units, np.take_along_axis(costs, units, axis=1), np.take_along_axis(loads, units, axis=1)
    )


def _window(classes: Longs, kept: int) -> Callable[[Longs], npt.NDArray[np.bool_]] | None:
    """Which units the tasks may list: of each class of identical units a few, at random.

    Of every class on its own, or units would share their tasks with few others.

    None where no two units are identical or all are kept.
    """
    units = len(classes)
    sizes = np.bincount(classes)
    if kept == 0 or kept >= units or sizes.max() == 1:
        return None
    order = np.argsort(classes, kind="stable")
    rank = np.empty(units, dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    rank[order] = np.arange(units) - starts[classes[order]]
    size = sizes[classes]
    shown = max(1, -(-kept // min(len(sizes), _FEW_CLASSES)))

    def show(tasks: Longs) -> npt.NDArray[np.bool_]:
        words = (tasks[:, None] + 1) * _MIX[0] ^ (np.arange(len(sizes)) + 1) * _MIX[1]
        turn: Longs = ((words ^ words >> 29) * _MIX[0] >> 32 & 0x7FFFFFFF) % sizes
        return (rank + turn[:, classes]) % size < shown

    return show
