"""has_cover: whether one set of tasks a unit, each task in one, can be worth enough together.

*Patterns* are the sets that a unit's knapsack admits and that are worth so much that the best
knapsacks of the other units could make up for what is missing. They are listed item by item: a
partial set stays while the best completion, from a table over the capacity, is worth enough. Then
one pattern a unit is looked for, depth first. Whatever the rewards r,

    value of a cover <= sum_t r_t + sum_u max_p (value_p - sum_{t in p} r_t)

so that patterns go which would leave the sum of these maxima below what is needed; so do patterns
with a task that another unit cannot do without, or without one that no other unit can take. The
search is exhaustive: "no" is a proof. Units of the same items are *twins* until a pattern is chosen
for one: swapped, covers stay covers, so that after a search with pattern p on one of them, the
others need not be tried with p.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Longs = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_MOST_CELLS = 30_000_000
_MOST_PATTERNS = 100_000
_MOST_NODES = 200_000
_FIRST_STEPS, _STEPS = 40, 6
_FEW = 40  # patterns that are not worth rewards


class TooManyError(Exception):
    """More patterns or nodes than are gone through."""


class Sack(NamedTuple):
    """What one unit may take: tasks, what each is worth and takes, and the room for them."""

    tasks: Longs
    values: Longs
    loads: Longs
    room: int


class _Patterns(NamedTuple):
    """Shape (P,), by unit and falling value; ``holds`` has the shape (P, num_tasks).

    ``rank`` counts the patterns of a unit.
    """

    unit: Longs
    rank: Longs
    value: Longs
    holds: Bools

    def only(self, keep: Bools) -> _Patterns:
        return _Patterns(self.unit[keep], self.rank[keep], self.value[keep], self.holds[keep])


def has_cover(sacks: list[Sack], num_tasks: int, need: int) -> bool:
    """Whether sets of tasks 0 .. num_tasks - 1, one a sack, hold each task once and are worth
    ``need`` or more.

    Raises
    ------
    TooManyError

    Complexity
    ----------
    O(num_items * room) for each table, then by the number of patterns: exponential at worst.
    """
    tables = [_completions(sack) for sack in sacks]
    best = sum(int(table[0, -1]) for table in tables)
    lists: list[_Patterns] = []
    for unit, (sack, table) in enumerate(zip(sacks, tables, strict=True)):
        least = need - (best - int(table[0, -1]))
        lists.append(_listed(unit, sack, table, least, num_tasks))
    everything = _Patterns(*(np.concatenate(parts) for parts in zip(*lists, strict=True)))
    return _search(everything, _twins(sacks), need)


def _twins(sacks: list[Sack]) -> Longs:
    """A number of each sack, equal for equal sacks."""
    names: dict[object, int] = {}
    for sack in sacks:
        names.setdefault(_name(sack), len(names))
    return np.array([names[_name(sack)] for sack in sacks])


def _name(sack: Sack) -> object:
    return (sack.tasks.tobytes(), sack.values.tobytes(), sack.loads.tobytes(), sack.room)


def _completions(sack: Sack) -> Longs:
    """Row q: the most that items q, q + 1, ... are worth by the room for them."""
    width = min(sack.room, int(sack.loads.sum())) + 1
    if (len(sack.tasks) + 1) * width > _MOST_CELLS:
        raise TooManyError("the table over a capacity is too large")
    rows = np.zeros((len(sack.tasks) + 1, width), dtype=np.int64)
    for item in range(len(sack.tasks) - 1, -1, -1):
        rows[item] = rows[item + 1]
        load = int(sack.loads[item])
        if load < width:
            taken = rows[item + 1, : width - load] + sack.values[item]
            np.maximum(rows[item, load:], taken, out=rows[item, load:])
    return rows


def _listed(unit: int, sack: Sack, table: Longs, least: int, num_tasks: int) -> _Patterns:
    """Every set worth ``least`` or more."""
    value = np.zeros(1, dtype=np.int64)
    room = np.full(1, table.shape[1] - 1)
    holds = np.zeros((1, num_tasks), dtype=np.bool_)
    keep = value + table[0, room] >= least
    value, room, holds = value[keep], room[keep], holds[keep]
    for item, task in enumerate(sack.tasks.tolist()):
        rest, load = table[item + 1], int(sack.loads[item])
        left = room - load
        more = value + sack.values[item]
        inside = left >= 0
        inside[inside] = more[inside] + rest[left[inside]] >= least
        outside = value + rest[room] >= least
        taken = holds[inside]
        taken[:, task] = True
        value = np.concatenate([value[outside], more[inside]])
        room = np.concatenate([room[outside], left[inside]])
        holds = np.concatenate([holds[outside], taken])
        if len(value) > _MOST_PATTERNS:
            raise TooManyError("a unit has too many patterns")
    order = np.argsort(-value, kind="stable")
    return _Patterns(np.full(len(value), unit), np.arange(len(value)), value[order], holds[order])


def _search(patterns: _Patterns, twins: Longs, need: int) -> bool:
    """Depth first, on the unit with the fewest patterns, the best ones first."""
    num_units = len(twins)
    rewards = np.zeros(patterns.holds.shape[1], dtype=np.int64)
    node = _reduced(patterns, num_units, need, rewards, _FIRST_STEPS)
    is_free = np.ones(num_units, dtype=np.bool_)  # no pattern is chosen
    stack: list[tuple[_Patterns, Longs, int, Iterator[int]]] = []
    for _ in range(_MOST_NODES):
        if node is not None:
            left, rewards = node
            if len(left.unit) == num_units:
                return True
            counts = np.bincount(left.unit, minlength=num_units)
            unit = int(np.where(counts > 1, counts, len(left.unit) + 1).argmin())
            is_free[unit] = False
            stack.append((left, rewards, unit, iter(np.nonzero(left.unit == unit)[0].tolist())))
        pick = None
        while stack and (pick := next(stack[-1][3], None)) is None:
            is_free[stack.pop()[2]] = True
        if pick is None:
            return False
        left, rewards, unit, _ = stack[-1]
        tried = (left.rank < left.rank[pick]) & (is_free & (twins == twins[unit]))[left.unit]
        keep = ~(left.holds & left.holds[pick]).any(axis=1) & (left.unit != unit) & ~tried
        keep[pick] = True
        node = _reduced(left.only(keep), num_units, need, rewards, _STEPS)
    raise TooManyError("the search for a cover is too long")


def _reduced(
    patterns: _Patterns, num_units: int, need: int, rewards: Longs, steps: int
) -> tuple[_Patterns, Longs] | None:
    """Without what cannot be in a cover, and better rewards; None: there is no cover."""
    left = _filtered(patterns, num_units, need)
    if left is None or len(left.unit) <= num_units + _FEW:
        return None if left is None else (left, rewards)
    left, rewards = _tightened(left, num_units, need, rewards, steps)
    left = None if left is None else _filtered(left, num_units, need)
    return None if left is None else (left, rewards)


def _filtered(patterns: _Patterns, num_units: int, need: int) -> _Patterns | None:
    """Without what fits no more; None: some unit or task has nothing left."""
    while True:
        counts = np.bincount(patterns.unit, minlength=num_units)
        if (counts == 0).any():
            return None
        starts = np.cumsum(counts) - counts
        best = patterns.value[starts]
        total = int(best.sum())
        some = np.logical_or.reduceat(patterns.holds, starts, axis=0)
        every = np.logical_and.reduceat(patterns.holds, starts, axis=0)
        takers, needers = some.sum(axis=0), every.sum(axis=0)
        if total < need or (takers == 0).any() or (needers > 1).any():
            return None
        must = some & (takers == 1)
        may_not = ~every & (needers == 1)
        unit = patterns.unit
        drop = patterns.value < need - total + best[unit]
        drop |= (must[unit] & ~patterns.holds | may_not[unit] & patterns.holds).any(axis=1)
        if not drop.any():
            return patterns
        patterns = patterns.only(~drop)


def _tightened(
    patterns: _Patterns, num_units: int, need: int, rewards: Longs, steps: int
) -> tuple[_Patterns | None, Longs]:
    """Subgradient steps on the rewards; without the patterns that the best ones refuse."""
    counts = np.bincount(patterns.unit, minlength=num_units)
    starts = np.cumsum(counts) - counts
    holds = patterns.holds.astype(np.int64)
    low: int | None = None
    kept, theta = rewards, 0.7
    for _ in range(steps):
        reduced = patterns.value - holds @ rewards
        most = np.maximum.reduceat(reduced, starts)
        bound = int(rewards.sum()) + int(most.sum())
        if bound < need:
            return None, rewards
        first = np.nonzero(reduced == most[patterns.unit])[0]
        chosen = first[np.unique(patterns.unit[first], return_index=True)[1]]
        if low is None or bound < low:
            low, kept = bound, rewards
        else:
            theta *= 0.7
        slope = holds[chosen].sum(axis=0) - 1
        norm = int((slope * slope).sum())
        if norm == 0:
            break
        stride = theta * (low - need + 1) / norm
        rewards = rewards + np.rint(stride * slope).astype(np.int64)
    reduced = patterns.value - holds @ kept
    most = np.maximum.reduceat(reduced, starts)
    bound = int(kept.sum()) + int(most.sum())
    return patterns.only(bound - most[patterns.unit] + reduced >= need), kept
