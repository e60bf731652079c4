"""Prices of capacity that nearly maximise the dual over lists of candidates.

    D(u) = sum_j min_i (c_ij + u_i w_ij) - sum_i u_i L_i,     u >= 0

is concave and piecewise linear. The minimum is softened at falling temperatures, and each smooth
function climbed by L-BFGS on the prices that are not held at 0.

References: Nesterov, "Smooth minimization of non-smooth functions", Math. Program. 103 (2005), for
the soft minimum; Nocedal, Wright, *Numerical Optimization*, 2nd ed., algorithm 7.4, for L-BFGS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Longs = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]

_COOLING, _STAGES, _STEPS, _MEMORY = 0.4, 8, 20, 8
_TOLERANCE = 1e-9  # relative gain below which a stage ends: D is flat where loads are not yet even


class Lists(NamedTuple):
    """Candidates of each task, shape (num_tasks, K); a unit may be there twice."""

    units: Ints
    costs: Longs
    loads: Longs


def ascend(
    lists: Lists,
    rooms: Reals,
    start: Reals,
    stopped: Callable[[], bool],
    classes: Longs,
    *,
    stages: int = _STAGES,
    tolerance: float = _TOLERANCE,
) -> Reals:
    """Prices that nearly maximise D over the lists.

    Parameters
    ----------
    lists : Lists
    rooms : ndarray of float64, shape (num_units,)
        Capacities.
    start : ndarray of float64, shape (num_units,)
        Prices to begin with.
    stopped : callable
        Asked before each step; the best prices so far are returned.
    classes : ndarray of int64, shape (num_units,)
        From 0; units of one class, which are alike, share one price. D is concave, so that some
        optimal prices do, and lists that show a few of a class tell nothing about one unit of it.
    stages : int
        How often the temperature falls; fewer leave the minimum soft and return the last prices.
    tolerance : float
        A stage ends where a step gains less than this part of D.

    Complexity
    ----------
    At most 20 steps a stage, each O(N K) time; O(N K) memory.
    """
    members = np.bincount(classes)
    size = np.maximum(np.bincount(classes, rooms) / members, 1e-9)
    units = classes[lists.units]
    costs = lists.costs.astype(np.float64)
    loads = lists.loads / size[units]
    room = np.bincount(classes, rooms) / size
    flat = units.ravel()
    start = np.bincount(classes, start) / members
    priced = costs + (start * size)[units] * loads
    spread = max(float((priced.max(axis=1) - priced.min(axis=1)).mean()), 1e-9)

    def smooth(u: Reals, t: float) -> tuple[float, float, Reals]:
        priced = costs + u[units] * loads
        least = priced.min(axis=1)
        share = np.exp(np.maximum((least[:, None] - priced) / t, -40.0))
        total = share.sum(axis=1)
        share *= loads / total[:, None]
        slope = np.bincount(flat, share.ravel(), minlength=len(u)) - room
        exact = float(least.sum() - u @ room)
        return exact, exact - t * float(np.log(total).sum()), slope

    # Lists that leave no feasible plan would drive prices up without end.
    top = 100.0 * max(spread, 1.0) * max(1.0, len(costs) / len(classes))
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
                return (best_u / size)[classes]
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
            if gained < tolerance * abs(value):
                break
        if exact > best:
            best, best_u = exact, u
        t *= _COOLING
    return ((best_u if stages == _STAGES else u) / size)[classes]


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
