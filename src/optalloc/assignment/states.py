"""Knapsacks for the proof checker: the best value, and with each item forced in or out.

Best values as a function of the capacity are step functions; they are kept as tables where the
capacity is small, else as sorted lists of undominated (load, profit) states. Both are exact.

References: Kellerer, Pferschy, Pisinger, *Knapsack Problems*, Springer 2004, sections 2.3 and 3.4.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Longs = npt.NDArray[np.int64]

_MOST_CELLS = 30_000_000
_MOST_STATES = 200_000


def best_profit(profits: Longs, loads: Longs, capacity: int, classes: Longs) -> int:
    """Best profit alone; see :func:`conditioned`."""
    useful = np.nonzero(profits > 0)[0]
    if not (classes[useful] >= 0).any() and int(loads[useful].sum()) <= capacity:
        return int(profits[useful].sum())
    if len(useful) * (capacity + 1) > _MOST_CELLS:
        return conditioned(profits, loads, capacity, classes)[0]
    row = np.zeros(capacity + 1, dtype=np.int64)
    for items in _classed(useful, classes):
        row = _one_of(row, items, profits, loads)
    return int(row[capacity])


def conditioned(
    profits: Longs, loads: Longs, capacity: int, classes: Longs
) -> tuple[int, Longs, Longs]:
    """Best profit; best profit with each item in; best profit with each item out.

    Parameters
    ----------
    profits, loads : ndarray of int64, shape (num_items,)
        Profits of any sign; loads from 0 to ``capacity``.
    capacity : int
    classes : ndarray of int64, shape (num_items,)
        At most one item of profit above 0 is taken of a class; -1: the item is of none.

    Returns
    -------
    (int, ndarray, ndarray)
        Upper bounds instead where there would be too many states: those of the linear relaxation,
        and without the classes where there are more than tables hold.

    Complexity: O(num_items * capacity), or O(num_items * states) time and memory.
    """
    useful = np.nonzero(profits > 0)[0]
    total = int(profits[useful].sum())
    with_, without = np.empty_like(profits), np.empty_like(profits)
    room = capacity - int(loads[useful].sum())
    roomy = room >= 0 and (not len(loads) or room >= int(loads.max()))
    if roomy and not (classes[useful] >= 0).any():
        with_[:] = total + np.minimum(profits, 0)
        without[:] = total - np.maximum(profits, 0)
        return total, with_, without
    if len(useful) * (capacity + 1) <= _MOST_CELLS:
        best = _by_table(profits, loads, capacity, _classed(useful, classes), with_, without)
    else:
        best = _by_states(profits, loads, capacity, useful, with_, without)
    return best, with_, without


def _classed(useful: Longs, classes: Longs) -> list[list[int]]:
    """Items of one class side by side, the others alone."""
    alone = [[item] for item in useful[classes[useful] < 0].tolist()]
    shared: dict[int, list[int]] = {}
    for item in useful[classes[useful] >= 0].tolist():
        shared.setdefault(int(classes[item]), []).append(item)
    return alone + list(shared.values())


def _one_of(row: Longs, items: list[int], profits: Longs, loads: Longs) -> Longs:
    """The best values by capacity with at most one more of the items."""
    better = row.copy()
    for item in items:
        load = int(loads[item])
        np.maximum(better[load:], row[: len(row) - load] + profits[item], out=better[load:])
    return better


def _by_table(
    profits: Longs,
    loads: Longs,
    capacity: int,
    classes: list[list[int]],
    with_: Longs,
    without: Longs,
) -> int:
    """``ahead[q][y]``: best of the first q classes in capacity y; the rest from the end."""
    width = capacity + 1
    ahead = [np.zeros(width, dtype=np.int64)]
    for items in classes:
        ahead.append(_one_of(ahead[-1], items, profits, loads))
    full = ahead[-1]
    best = int(full[capacity])
    others = np.nonzero(profits <= 0)[0]
    with_[others] = profits[others] + full[capacity - loads[others]]
    without[others] = best
    behind = np.zeros(width, dtype=np.int64)
    for before, items in zip(reversed(ahead[:-1]), reversed(classes), strict=True):
        back = behind[::-1]  # back[y]: best of the later items in capacity - y
        values = [int((before + back).max())]  # of none of the class, then of each item
        for item in items:
            load = int(loads[item])
            values.append(int(profits[item]) + int((before[: width - load] + back[load:]).max()))
        for place, item in enumerate(items, start=1):
            with_[item] = values[place]
            without[item] = max(values[:place] + values[place + 1 :])
        behind = _one_of(behind, items, profits, loads)
    return best


State = tuple[Longs, Longs]  # loads and profits of undominated sets, both increasing


def _by_states(
    profits: Longs, loads: Longs, capacity: int, useful: Longs, with_: Longs, without: Longs
) -> int:
    """As :func:`_by_table`, over undominated states; linear bounds when there are too many."""
    empty = (np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))
    items = useful.tolist()
    ahead: list[State] = [empty]
    for item in items:
        ahead.append(_with_item(ahead[-1], int(profits[item]), int(loads[item]), capacity))
        if sum(len(state[0]) for state in ahead) > _MOST_STATES * 20:
            break
    behind: list[State] = [empty]
    if len(ahead) == len(items) + 1:
        for item in reversed(items):
            behind.append(_with_item(behind[-1], int(profits[item]), int(loads[item]), capacity))
            if sum(len(state[0]) for state in behind) > _MOST_STATES * 20:
                break
    if len(behind) != len(items) + 1:
        return _linear(profits, loads, capacity, useful, with_, without)
    best = int(ahead[-1][1][-1])
    for other in np.nonzero(profits <= 0)[0].tolist():
        with_[other] = int(profits[other]) + _joined(ahead[-1], empty, capacity - int(loads[other]))
        without[other] = best
    for q, item in enumerate(items):
        rest = behind[len(items) - 1 - q]
        without[item] = _joined(ahead[q], rest, capacity)
        with_[item] = int(profits[item]) + _joined(ahead[q], rest, capacity - int(loads[item]))
    return best


def _with_item(state: State, profit: int, load: int, capacity: int) -> State:
    used, value = state
    fits = used + load <= capacity
    loads = np.concatenate([used, used[fits] + load])
    values = np.concatenate([value, value[fits] + profit])
    order = np.lexsort((-values, loads))
    loads, values = loads[order], values[order]
    reached = np.maximum.accumulate(values)
    keep = np.ones(len(values), dtype=np.bool_)
    keep[1:] = values[1:] > reached[:-1]
    return loads[keep], values[keep]


def _joined(first: State, second: State, capacity: int) -> int:
    """Best sum of a state of each list within the capacity."""
    fits = first[0] <= capacity
    place = np.searchsorted(second[0], capacity - first[0][fits], side="right") - 1
    return int((first[1][fits] + second[1][place]).max())


def _linear(
    profits: Longs, loads: Longs, capacity: int, useful: Longs, with_: Longs, without: Longs
) -> int:
    """Upper bounds from one price of capacity: q L + sum max(0, p - q w) for a rational q."""
    order = sorted(useful.tolist(), key=lambda k: -int(profits[k]) / max(int(loads[k]), 0.5))
    left, up, down = capacity, 0, 1
    for item in order:
        left -= int(loads[item])
        if left < 0:
            up, down = int(profits[item]), int(loads[item])
            break
    gains = [int(p) * down - up * int(w) for p, w in zip(profits, loads, strict=True)]
    base = up * capacity + sum(max(0, gain) for gain in gains)
    for item, gain in enumerate(gains):
        with_[item] = min(base, base + gain) // down if gain < 0 else base // down
        without[item] = min(base, base - gain) // down if gain > 0 else base // down
    return base // down
