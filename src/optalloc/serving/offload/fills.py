"""Fills: which parts of a range a GPU holds, and which of the rest CPU memory holds.

Both are knapsacks with few kinds of many equal parts, solved over exact bytes: labels (bytes used,
seconds gained) are extended kind by kind, and dropped where even a fractional rest of the knapsack
(Dantzig's bound) does not bring them to what is needed.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from optalloc.serving.offload.tables import CPU, DEVICE, DISK, Counts, Floats, Mode

_TINY = 1e-12


def _labels(
    sizes: Counts,
    gains: Floats,
    counts: Counts,
    room: int,
    need: float,
    *,
    least: int | None,
    always: NDArray[np.bool_],
) -> tuple[Counts, Floats]:
    """Every count of each kind that uses at most ``room`` and can gain ``need``, and its gain.

    With ``least`` only what no other beats is kept: less memory (of at least ``least``) and more
    gain. Of a kind in ``always`` more is never worse: as the last one it takes all that fits.
    """
    order = np.argsort(-gains / sizes, kind="stable")
    used: Counts = np.zeros(1, dtype=np.int64)
    gained: Floats = np.zeros(1)
    chosen: Counts = np.zeros((1, len(sizes)), dtype=np.int64)
    slack = _TINY * (abs(need) if math.isfinite(need) else 0.0) + 1e-15
    for position, c in enumerate(order):
        rest = [k for k in order[position + 1 :] if gains[k] > 0.0]
        steps = np.concatenate([[0.0], np.cumsum([sizes[k] * counts[k] for k in rest])])
        worth = np.concatenate([[0.0], np.cumsum([gains[k] * counts[k] for k in rest])])
        if position == len(order) - 1 and always[c]:
            take = np.minimum(counts[c], (room - used) // sizes[c])
            rows = np.arange(len(used))
        else:
            most = np.minimum(counts[c], (room - used) // sizes[c])
            rows = np.repeat(np.arange(len(used)), most + 1)
            starts = np.cumsum(most + 1) - (most + 1)
            take = np.arange(len(rows)) - starts[rows]
        new_used = used[rows] + take * sizes[c]
        new_gained = gained[rows] + take * gains[c]
        keep = new_gained + np.interp(room - new_used, steps, worth) >= need - slack
        rows, take, used, gained = rows[keep], take[keep], new_used[keep], new_gained[keep]
        chosen = chosen[rows]
        chosen[:, c] = take
        if least == 0 and len(used) > 1:
            by = np.lexsort((-gained, used))
            best = np.maximum.accumulate(gained[by])
            kept = by[np.concatenate([[True], gained[by][1:] > best[:-1]])]
            used, gained, chosen = used[kept], gained[kept], chosen[kept]
    if least:
        keep = used >= least
        gained, chosen = gained[keep], chosen[keep]
    return chosen, gained


def gpu_fills(
    mode: Mode, sizes: Counts, counts: Counts, prices: Floats, allowed: float
) -> tuple[Counts, Floats]:
    """Ways to fill a GPU whose priced seconds are at most ``allowed``, the best first.

    Returns
    -------
    tuple of ndarray of int64, shape (n, kinds), and ndarray of float64, shape (n,)
        Parts held on the GPU by kind, and seconds of the range with CPU memory paid.
    """
    away = mode.away(prices)
    forced = np.isinf(away) & (counts > 0)
    room = mode.room - int((counts * sizes)[forced].sum())
    here = np.where(forced, counts, 0)
    none = (np.zeros((0, len(sizes)), dtype=np.int64), np.zeros(0))
    if room < 0:
        return none
    free = np.flatnonzero((counts > 0) & ~forced)
    base = float((counts[forced] * mode.seconds[forced, DEVICE]).sum())
    base += float((counts[free] * away[free]).sum())
    if not len(free):
        return (here[None, :], np.array([base])) if base <= allowed else none
    gains = away[free] - mode.seconds[free, DEVICE]
    # Where a part is never slower on the GPU, no room may be left for another one.
    never_slower = mode.seconds[free, DEVICE] <= mode.seconds[free][:, [CPU, DISK]].min(axis=1)
    chosen, gained = _labels(
        sizes[free], gains, counts[free], room, base - allowed, least=None, always=never_slower
    )
    left = room - chosen @ sizes[free]
    more = (left[:, None] >= sizes[free]) & (chosen < counts[free]) & never_slower
    keep = ~more.any(axis=1)
    order = np.argsort(-gained[keep], kind="stable")
    filled = np.repeat(here[None, :], len(order), axis=0)
    filled[:, free] = chosen[keep][order]
    return filled, base - gained[keep][order]


def best_fill(mode: Mode, sizes: Counts, counts: Counts, prices: Floats) -> tuple[float, Counts]:
    """The best fill of a GPU at given prices: seconds of the range with CPU memory paid, and the
    parts on the GPU by kind; infinite where the range does not fit.
    """
    away = mode.away(prices)
    forced = np.isinf(away) & (counts > 0)
    held: Counts = np.where(forced, counts, 0)
    room = mode.room - int((counts * sizes)[forced].sum())
    if room < 0:
        return math.inf, held
    free = np.flatnonzero((counts > 0) & ~forced)
    base = float((counts[forced] * mode.seconds[forced, DEVICE]).sum())
    base += float((counts[free] * away[free]).sum())
    gains = away[free] - mode.seconds[free, DEVICE]
    free, gains = free[gains > 0.0], gains[gains > 0.0]
    if not len(free):
        return base, held
    rest, need = room, 0.0  # the greedy fill is a start
    greedy = np.zeros(len(free), dtype=np.int64)
    for c in np.argsort(-gains / sizes[free], kind="stable"):
        greedy[c] = min(int(counts[free[c]]), rest // int(sizes[free[c]]))
        rest -= int(greedy[c]) * int(sizes[free[c]])
        need += float(greedy[c] * gains[c])
    if (greedy == counts[free]).all():
        held[free] = greedy
        return base - need, held
    chosen, gained = _labels(
        sizes[free], gains, counts[free], room, need, least=0, always=np.ones(len(free), bool)
    )
    if len(gained) and float(gained.max()) > need:
        greedy, need = chosen[int(np.argmax(gained))], float(gained.max())
    held[free] = greedy
    return base - need, held


def cpu_fill(
    sizes: Counts, gains: Floats, counts: Counts, room: int, *, need: float, least: int
) -> tuple[NDArray[np.int64], float] | None:
    """Parts to hold in CPU memory rather than on disk, with the most seconds gained.

    Parameters
    ----------
    sizes, gains, counts : ndarray, shape (kinds,)
        Bytes and seconds gained of a part, and how many there are; gains are positive.
    room, least : int
        Bytes that may be used, and that must be because the disk is full.
    need : float
        Only a gain above this is of use.

    Returns
    -------
    tuple of ndarray and float, or None
        Counts in CPU memory by kind and their gain; None where none is above ``need``.
    """
    total = int((sizes * counts).sum())
    if total < least or room < least:
        return None
    if total <= room:
        gain = float((gains * counts).sum())
        return (counts, gain) if gain > need else None
    pairs: dict[tuple[int, float], list[int]] = {}
    for c, pair in enumerate(zip(sizes.tolist(), gains.tolist(), strict=True)):
        pairs.setdefault(pair, []).append(c)
    merged_sizes = np.array([size for size, _ in pairs], dtype=np.int64)
    merged_gains = np.array([gain for _, gain in pairs])
    merged_counts = np.array([counts[members].sum() for members in pairs.values()])
    chosen, gained = _labels(
        merged_sizes,
        merged_gains,
        merged_counts,
        room,
        need,
        least=least,
        always=np.ones(len(merged_sizes), bool),
    )
    if not len(gained) or gained.max() <= need:
        return None
    best = int(np.argmax(gained))
    found = np.zeros(len(sizes), dtype=np.int64)
    for members, amount in zip(pairs.values(), chosen[best], strict=True):
        for c in members:
            found[c] = min(int(amount), int(counts[c]))
            amount -= found[c]
    return found, float(gained[best])
