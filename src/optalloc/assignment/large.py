"""Very many tasks and units: a plan with a certified gap, without holding all pairs.

A hundred thousand tasks on a thousand units are 10**8 pairs. They are read block by block, a few
times; what is kept is a short list of candidate units for each task.

1. Prices of capacity from a sample of the tasks, on its share of the capacities (:func:`_ascend`).
2. One pass: the K cheapest units of each task at these prices, cost plus price times load.
3. Better prices from the candidates of all tasks.
4. A Lagrangian dive over the candidates, repair, shifts and swaps (native/assignment/sparse.cpp).
5. One pass over all pairs: the bound D(u) in integers, and the plan evaluated from the source.

The bound holds for all pairs, not for the candidates alone: for any prices u >= 0

    D(u) = sum_j min_i (c_ij + u_i w_ij) - sum_i u_i L_i

is at most the cost of every feasible assignment, and u is rounded to integers over a scale before
it is evaluated.

Memory: about 90 bytes a candidate (N K of them) and 60 bytes a pair of one block.

References: Nesterov, "Smooth minimization of non-smooth functions", Math. Program. 103 (2005), for
the soft minimum; Nocedal, Wright, *Numerical Optimization*, 2nd ed., algorithm 7.4, for L-BFGS.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from optalloc import _native
from optalloc.assignment.result import AssignmentResult
from optalloc.errors import InputError
from optalloc.result import Bounds, Stats, Termination
from optalloc.stop import Never, Progress, StopRule

Longs = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]

_BLOCK_PAIRS = 2_000_000
_SAMPLE_PAIRS = 2_000_000
_COOLING, _STAGES, _STEPS, _MEMORY = 0.4, 7, 12, 8
_SAMPLE_STAGES = 3
_PRICE_BITS = 20
_RANGE = 2.0**62


class PairSource(Protocol):
    """Where pairs come from: arrays, files, or a function of the row."""

    @property
    def num_tasks(self) -> int: ...
    @property
    def capacities(self) -> Longs:
        """Shape (num_units,)."""
        ...

    def rows(self, first: int, last: int) -> tuple[Longs, Longs]:
        """Costs and loads of the tasks ``first`` to ``last - 1``, int64, (last - first, num_units).

        The same rows every time; loads of at least 0.
        """
        ...


class ArraySource:
    """Arrays of any integer type, for example ``numpy.load(path, mmap_mode="r")``."""

    def __init__(
        self,
        costs: npt.NDArray[np.integer[Any]],
        loads: npt.NDArray[np.integer[Any]],
        capacities: npt.ArrayLike,
    ) -> None:
        self.capacities: Longs = np.array(capacities, dtype=np.int64)
        shape = (len(costs), len(self.capacities))
        for name, array in (("costs", costs), ("loads", loads)):
            if array.shape != shape or array.dtype.kind not in "iu":
                raise InputError(
                    f"{name} has the shape {array.shape} and the type {array.dtype}",
                    pointer=f"$.{name}",
                    fix=f"give integers of the shape {shape}",
                )
        self.costs, self.loads = costs, loads

    @property
    def num_tasks(self) -> int:
        """N."""
        return len(self.costs)

    def rows(self, first: int, last: int) -> tuple[Longs, Longs]:
        """The rows as int64."""
        return (
            self.costs[first:last].astype(np.int64),
            self.loads[first:last].astype(np.int64),
        )


class _Lists(NamedTuple):
    """Candidates of each task, shape (num_tasks, K); units ascend in each row."""

    units: Ints
    costs: Longs
    loads: Longs


def solve_large(
    source: PairSource,
    *,
    num_candidates: int = 24,
    rounds: int = 6,
    seed: int = 0,
    stop: StopRule | None = None,
) -> AssignmentResult:
    """A feasible plan and a bound over all pairs.

    Parameters
    ----------
    source : PairSource
        Every task may use every unit on which it fits.
    num_candidates : int
        K, units kept for each task.
    rounds : int
        At most so many passes of shifts and swaps.
    seed : int
        Of the sample.
    stop : StopRule, optional
        Asked between steps and inside the dive and the shifts; what was not reached is left out.

    Returns
    -------
    AssignmentResult
        FEASIBLE with a gap, or LIMIT; OPTIMAL where bound and plan meet.

    Complexity
    ----------
    Two passes over the pairs and the sample; O(N K) memory and O(N K) a step of prices and dive.
    """
    begin, cpu = time.perf_counter(), time.process_time()
    rule: StopRule = stop if stop is not None else Never()

    def stopped() -> bool:
        return rule(Progress(elapsed_s=time.perf_counter() - begin))

    rooms = source.capacities
    num_units = len(rooms)
    if source.num_tasks == 0 or num_units == 0:
        raise InputError("there is no pair", path="source", fix="give tasks and units")
    kept = min(num_candidates, num_units)
    prices = _sample_prices(source, seed, stopped)
    lists = _candidates(source, prices, kept)
    prices = _ascend(lists, rooms.astype(np.float64), prices, stopped)
    priced = np.sort(lists.costs + prices[lists.units] * lists.loads, axis=1)
    regret = float((priced[:, min(1, kept - 1)] - priced[:, 0]).mean())
    units = _native.solve_sparse_assignment(
        lists.units,
        lists.costs,
        lists.loads,
        rooms,
        np.ascontiguousarray(priced[:, 0]),
        max(regret, 1e-3),
        0.1,
        0.02,
        rounds,
        seed,
        stopped,
    )
    plan = np.array(units, dtype=np.int64) if units else None
    bound, value = _certify(source, prices, plan)
    met = value is not None and value == bound
    ended = Termination.LIMIT if plan is None or stopped() else Termination.FEASIBLE
    return AssignmentResult(
        termination=Termination.OPTIMAL if met else ended,
        bounds=Bounds(primal=None if value is None else float(value), dual=float(bound)),
        stats=Stats(wall_s=time.perf_counter() - begin, cpu_s=time.process_time() - cpu),
        method="large",
        arithmetic="exact",
        num_units=num_units,
        placed=None if value is None or plan is None else tuple(plan.tolist()),
        message="certified: prices of capacity prove the bound over all pairs",
    )


def _blocks(source: PairSource) -> Iterator[tuple[int, Longs, Longs]]:
    """First task, costs and loads of each block."""
    height = max(1, _BLOCK_PAIRS // len(source.capacities))
    for first in range(0, source.num_tasks, height):
        costs, loads = source.rows(first, min(first + height, source.num_tasks))
        yield first, costs, loads


def _sample_prices(source: PairSource, seed: int, stopped: Callable[[], bool]) -> Reals:
    """Prices of a few tasks on their share of each capacity."""
    num_units = len(source.capacities)
    count = min(source.num_tasks, max(1, _SAMPLE_PAIRS // num_units, 4 * num_units))
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(source.num_tasks, size=count, replace=False))
    parts = [source.rows(int(task), int(task) + 1) for task in chosen]
    units = np.broadcast_to(np.arange(num_units, dtype=np.int32), (count, num_units))
    lists = _Lists(
        np.ascontiguousarray(units),
        np.concatenate([costs for costs, _ in parts]),
        np.concatenate([loads for _, loads in parts]),
    )
    rooms: Reals = source.capacities.astype(np.float64) * (count / source.num_tasks)
    # Few tasks a unit say little about single units: stop while the minimum is still soft.
    return _ascend(lists, rooms, np.zeros(num_units), stopped, stages=_SAMPLE_STAGES)


def _candidates(source: PairSource, prices: Reals, kept: int) -> _Lists:
    """The units of least cost plus price times load, of those on which the task fits."""
    shape = (source.num_tasks, kept)
    lists = _Lists(np.empty(shape, np.int32), np.empty(shape, np.int64), np.empty(shape, np.int64))
    for first, costs, loads in _blocks(source):
        priced = costs + prices * loads
        priced[loads > source.capacities] = np.inf
        best = np.argpartition(priced, kept - 1, axis=1)[:, :kept]
        best.sort(axis=1)
        last = first + len(costs)
        lists.units[first:last] = best
        lists.costs[first:last] = np.take_along_axis(costs, best, axis=1)
        lists.loads[first:last] = np.take_along_axis(loads, best, axis=1)
    return lists


def _ascend(
    lists: _Lists,
    rooms: Reals,
    start: Reals,
    stopped: Callable[[], bool],
    *,
    stages: int = _STAGES,
) -> Reals:
    """Prices that nearly maximise D over the lists: L-BFGS at falling temperatures."""
    size = np.maximum(rooms, 1e-9)
    costs = lists.costs.astype(np.float64)
    loads = lists.loads / size[lists.units]
    room = rooms / size
    flat = lists.units.ravel()
    spread = float((costs.max(axis=1) - costs.min(axis=1)).mean())

    def smooth(u: Reals, t: float) -> tuple[float, float, Reals]:
        priced = costs + u[lists.units] * loads
        least = priced.min(axis=1)
        share = np.exp(np.maximum((least[:, None] - priced) / t, -40.0))
        total = share.sum(axis=1)
        share *= loads / total[:, None]
        slope = np.bincount(flat, share.ravel(), minlength=len(u)) - room
        exact = float(least.sum() - u @ room)
        return exact, exact - t * float(np.log(total).sum()), slope

    # Lists that leave no feasible plan would drive prices up without end.
    top = 100.0 * max(spread, 1.0) * max(1.0, len(costs) / len(size))
    u = start * size
    best, best_u = -np.inf, u
    t = max(0.1 * spread, 1e-6)
    for _ in range(stages):
        pairs: list[tuple[Reals, Reals]] = []
        exact, value, slope = smooth(u, t)
        for _ in range(_STEPS):
            if exact > best:
                best, best_u = exact, u
            if stopped():
                return best_u / size
            free = (u > 0) | (slope > 0)
            step = np.where(free, _two_loops(slope * free, pairs), 0.0)
            if float(slope @ step) <= 0:
                step, pairs = slope * free, []
            if not pairs:
                step = step * (0.1 * spread / max(float(np.abs(step).max()), 1e-12))
            length, accepted = 1.0, False
            for _ in range(8):
                trial = np.clip(u + length * step, 0.0, top)
                found = smooth(trial, t)
                if found[1] >= value + 1e-4 * float(slope @ (trial - u)):
                    accepted = True
                    break
                length *= 0.4
            if not accepted:
                break
            moved, bent = trial - u, slope - found[2]
            if float(moved @ bent) > 1e-12:
                pairs = [*pairs[1 - _MEMORY :], (moved, bent)]
            gained = found[1] - value
            u, (exact, value, slope) = trial, found
            if gained < 1e-6 * abs(value):
                break
        if exact > best:
            best, best_u = exact, u
        t *= _COOLING
    return (best_u if stages == _STAGES else u) / size


def _two_loops(slope: Reals, pairs: list[tuple[Reals, Reals]]) -> Reals:
    """The L-BFGS direction of ascent from moves and falls of the slope."""
    q, weights = slope.copy(), []
    for moved, bent in reversed(pairs):
        weight = float(moved @ q) / float(moved @ bent)
        weights.append(weight)
        q -= weight * bent
    if pairs:
        moved, bent = pairs[-1]
        q *= float(moved @ bent) / float(bent @ bent)
    for (moved, bent), weight in zip(pairs, reversed(weights), strict=True):
        q += moved * (weight - float(bent @ q) / float(moved @ bent))
    return q


def _certify(source: PairSource, prices: Reals, plan: Longs | None) -> tuple[int, int | None]:
    """The bound of the prices over all pairs, and the cost of the plan, None if it is infeasible.

    Raises
    ------
    InputError
        If the numbers are too large for 64-bit integers.
    """
    rooms = source.capacities
    # Any prices give a bound: those that are too large for integers count less.
    bounded = np.clip(np.nan_to_num(prices, nan=0.0), 0.0, 2.0**_PRICE_BITS)
    whole = np.floor(bounded * 2.0**_PRICE_BITS).astype(np.int64)
    total, value = 0, 0
    used = np.zeros(len(rooms), dtype=np.int64)
    for first, costs, loads in _blocks(source):
        fits = loads <= rooms
        peak = float(np.abs(costs).max()) * 2.0**_PRICE_BITS
        peak += float((whole * np.minimum(loads, rooms).astype(np.float64)).max())
        if peak * len(costs) >= _RANGE or not fits.any(axis=1).all():
            raise InputError(
                "a task fits on no unit, or the numbers are too large",
                path="source",
                pointer=f"tasks from {first}",
                fix="divide costs and loads, or give units on which every task fits",
            )
        priced = (costs << _PRICE_BITS) + whole * np.where(fits, loads, 0)
        priced[~fits] = np.iinfo(np.int64).max
        total += int(priced.min(axis=1).sum())
        if plan is not None:
            rows, mine = np.arange(len(costs)), plan[first : first + len(costs)]
            value += int(costs[rows, mine].sum())
            np.add.at(used, mine, loads[rows, mine])
    total -= sum(int(price) * int(room) for price, room in zip(whole, rooms, strict=True))
    feasible = plan is not None and bool((used <= rooms).all())
    return -((-total) >> _PRICE_BITS), value if feasible else None
