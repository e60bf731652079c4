"""Duals: the prices of CPU memory at which the bound on all layouts is highest.

*Formulation.* Rows that the prices stand for: CPU memory, ``sum size_c x_c <= C``; and, in a part
of the space, ``low_c <= x_c <= high_c`` for the parts of kind c in CPU memory. With multipliers l,
u_c, w_c >= 0 a part costs ``p_c = l size_c + u_c - w_c`` and

    bound(l, u, w) = path(p) - l C - sum u_c high_c + sum w_c low_c

is a bound for all of them. It is concave; every path visited, with its own seconds T and parts x,
is a cut ``bound <= T + l (size x - C) + sum u (x - high) + sum w (low - x)`` (:class:`Pool`). The
highest point of all cuts is tried next, until it is reached (Kelley's method).
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

from optalloc.serving.offload.prices import Layouts
from optalloc.serving.offload.tables import Counts, Floats, Tables

_STEPS = 60
_CLOSE = 1e-8
_WIDER = 64.0
_NEAR = 1e-4  # of the shortest chain: ranges that are made whole at once


class Pool:
    """Paths visited on one set of tables, with whole fills of GPUs and with fractional ones: their
    seconds, and their parts in CPU memory.
    """

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.paths: dict[bool, list[tuple[float, Floats]]] = {False: [], True: []}
        self.total = tables.counts(0, tables.num_places)
        self.most = _most(tables)
        steepest = 0.0
        for modes in tables.modes.values():
            for mode in modes:
                finite = np.where(np.isinf(mode.seconds), np.nan, mode.seconds)
                span = np.nanmax(finite, axis=1) - np.nanmin(finite, axis=1)
                steepest = max(steepest, float((span / tables.sizes).max(initial=0.0)))
        self.steepest = max(8.0 * steepest, 1e-18)


class Space(msgspec.Struct):
    """A part of all placements: parts of each kind in CPU memory from ``low`` to ``high``.

    No placement in it takes less than ``bound`` seconds. ``paid`` is what the prices of
    ``layouts`` bring at least; ``mean`` are the parts in CPU memory of the relaxed optimum.
    """

    pool: Pool
    low: Counts
    high: Counts
    bound: float
    layouts: Layouts
    paid: float
    mean: Floats

    def halves(self) -> tuple[tuple[Counts, Counts], tuple[Counts, Counts]] | None:
        """Bounds of two parts that together are this one; None where all means are whole."""
        sizes = self.pool.tables.sizes
        off = np.minimum(self.mean - np.floor(self.mean), np.ceil(self.mean) - self.mean)
        off = np.where((self.high > self.low) & (off > 1e-6), off, 0.0) * sizes
        if not off.any():
            return None
        c = int(np.argmax(off))
        below, above = self.high.copy(), self.low.copy()
        below[c] = math.floor(self.mean[c])
        above[c] = below[c] + 1
        return (self.low, below), (above, self.high)


def best_space(
    pool: Pool,
    low: Counts,
    high: Counts,
    share: float,
    *,
    above: float = math.inf,
    whole: bool = False,
) -> Space | None:
    """The space with its highest bound; None where nothing in it takes less than ``above``.

    Ranges on chains within ``share`` of the shortest have the bound of a whole knapsack; with
    ``whole`` the prices are found with that bound too, which takes longer and is higher.
    """
    from highspy import HighsModelStatus

    from optalloc.assignment.milp import QuietHighs

    tables, paths = pool.tables, pool.paths[whole]
    if tables.room < 0:
        return None
    sizes = tables.sizes.astype(float)
    rows = [(c, 1.0) for c in np.flatnonzero(high < pool.total)]
    rows += [(c, -1.0) for c in np.flatnonzero(low > 0)]
    limits = np.array([high[c] if sign > 0 else -low[c] for c, sign in rows])

    def excess(held: Floats) -> Floats:
        """What a path uses of every row beyond its limit, in parts and in bytes."""
        own = np.array([sign * held[c] for c, sign in rows])
        return np.concatenate([[float(sizes @ held) - tables.room], own - limits])

    def prices_of(multipliers: Floats) -> Floats:
        prices: Floats = multipliers[0] * sizes
        for (c, sign), value in zip(rows, multipliers[1:], strict=True):
            prices[c] += sign * value
        return prices

    highs = QuietHighs()
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("threads", 1)
    unit = max(float(sizes.max()), 1.0)  # memory in units of the largest part
    scale = np.array([unit, *(1.0 for _ in rows)])
    worth = np.array([pool.steepest * unit, *(pool.steepest * sizes[c] for c, _ in rows)])
    top = highs.addVariable(lb=-math.inf, ub=4.0 * pool.most + 1.0, obj=-1.0)
    prices = [highs.addVariable(lb=0.0, ub=float(ub)) for ub in worth]

    def cut(seconds: float, held: Floats) -> None:
        slope = excess(held) / scale
        # HiGHS takes no smaller coefficients; the cuts only lead to the prices.
        terms = sum(float(a) * x for a, x in zip(slope, prices, strict=True) if abs(a) > 1e-8)
        highs.addConstr(top - terms <= seconds)

    for seconds, held in paths:
        cut(seconds, held)
    best: tuple[float, Layouts, float] | None = None
    multipliers = np.zeros(1 + len(rows))
    bound_above = math.inf
    for step in range(_STEPS):
        if paths or step:
            highs.run()
            assert highs.getModelStatus() == HighsModelStatus.kOptimal
            values = highs.getSolution().col_value
            bound_above = float(values[0])
            multipliers = np.maximum(np.array(values[1:]), 0.0) / scale
        if best is not None and bound_above - best[0] <= _CLOSE * abs(bound_above):
            edges = np.isclose(multipliers * scale, worth) & (worth < pool.most * 1e6)
            if not edges.any():
                break
            for k in np.flatnonzero(edges):
                worth[k] *= _WIDER
                highs.changeColBounds(int(k) + 1, 0.0, float(worth[k]))
            continue
        layouts = Layouts(tables, prices_of(multipliers))
        if whole:
            layouts.sharpen(_NEAR)
        cost, made = layouts.shortest()
        if math.isinf(cost):
            return None
        held = layouts.in_cpu(made, whole=whole)
        over = excess(held)
        paid = float(layouts.prices @ held) - float(multipliers @ over)
        value = cost - paid
        if best is None or value > best[0]:
            best = (value, layouts, paid)
        if value > min(above, pool.most):
            return None
        seconds = cost - float(layouts.prices @ held)
        paths.append((seconds, held))
        cut(seconds, held)
        if not multipliers.any() and (over <= 0.0).all():
            break
    assert best is not None
    value, layouts, paid = best
    weights = -np.array(highs.getSolution().row_dual[: len(paths)])
    mean = paths[-1][1]  # where memory is worth nothing, that path alone is the optimum
    if len(weights) == len(paths) and weights.sum() > 0.5:
        mean = weights @ np.array([held for _, held in paths]) / weights.sum()
    bound = max(value, layouts.sharpen(share) - paid)
    return Space(pool, low, high, bound, layouts, paid, mean) if bound <= above else None


def _most(tables: Tables) -> float:
    """More seconds than any placement takes."""
    counts = tables.counts(0, tables.num_places)
    worst = hops = 0.0
    for modes in tables.modes.values():
        for mode in modes:
            finite = np.where(np.isinf(mode.seconds), 0.0, mode.seconds).max(axis=1)
            worst = max(worst, float((counts * finite).sum()))
            hops = max(hops, tables.problem.hop_s(mode.device, None))
    return 1.01 * worst * len(tables.modes) + 4.0 * hops * (tables.num_places + 1)


def whole_space(tables: Tables, share: float, *, above: float = math.inf) -> Space | None:
    """All placements on the tables; as :func:`best_space`. None where all memories and the disk
    together are too small, for the disk has no price."""
    if not tables.holds_all():
        return None
    pool = Pool(tables)
    return best_space(pool, np.zeros_like(pool.total), pool.total, share, above=above)
