"""Capacity prices: the linear-programming dual in one price a unit, and the bound it proves.

With a price u_i >= 0 for one unit of capacity of unit i,

    D(u) = sum_j min_{i in A_j} (c_ij + u_i w_ij) - sum_i u_i L_i

never exceeds the cost of a feasible assignment; its maximum is the linear programming bound. It is
found by Newton steps on a smoothed D (a soft minimum at a falling temperature t); the bound is then
evaluated again in integers, so that it is a proof.

References: log-sum-exp smoothing after Nesterov, "Smooth minimization of non-smooth functions",
Math. Program. 103 (2005).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from optalloc.assignment.integers import IntegerForm
from optalloc.assignment.result import Witness

FloatArray = npt.NDArray[np.float64]

_STAGES, _STEPS, _TRIES = 14, 12, 12
_COOLING = 0.45


def capacity_prices(form: IntegerForm) -> FloatArray:
    """Prices u that (nearly) maximise D.

    Parameters
    ----------
    form : IntegerForm
        Every task must have an allowed unit.

    Returns
    -------
    ndarray of float64, shape (num_units,)
        Integer cost a unit of integer load, at least 0.

    Complexity
    ----------
    At most 168 steps of O(N M^2 + M^3) time, O(N M) memory.
    """
    tasks, units = form.costs.shape
    if tasks == 0:
        return np.zeros(units)
    size = np.maximum(form.capacities, 1).astype(np.float64)
    loads = np.where(form.allowed, form.loads / size, 0.0)
    room = form.capacities / size
    unit_cost = max(float(np.abs(form.costs[form.allowed]).mean()), 1e-12)
    costs = np.where(form.allowed, form.costs / unit_cost, np.inf)
    most = float(form.most) / unit_cost

    def smooth(u: FloatArray, t: float) -> tuple[float, float, FloatArray]:
        priced = costs + u * loads
        least = priced.min(axis=1)
        share = np.exp(np.maximum((least[:, None] - priced) / t, -50.0))
        share[~form.allowed] = 0.0
        total = share.sum(axis=1)
        paid = float(u @ room)
        exact = float(least.sum()) - paid
        return exact, exact - t * float(np.log(total).sum()), share / total[:, None]

    u = np.zeros(units)
    best, best_u = -np.inf, u
    t, damping = 0.3, 1e-3
    for _ in range(_STAGES):
        for _ in range(_STEPS):
            exact, value, share = smooth(u, t)
            if exact > best:
                best, best_u = exact, u
            if best > most + 1e-3 * (1 + abs(most)):  # nothing is feasible: keep the prices small
                while smooth(best_u / 2, t)[0] > most + 1e-3 * (1 + abs(most)):
                    best_u = best_u / 2
                return best_u * unit_cost / size
            taken = share * loads
            slope = taken.sum(axis=0) - room
            free = np.nonzero((u > 0) | (slope > 0))[0]
            if len(free) == 0 or float(np.abs(slope[free]).max()) < 1e-7:
                break
            part = taken[:, free]
            curve = (np.diag((part * loads[:, free]).sum(axis=0)) - part.T @ part) / t
            accepted = False
            for _ in range(_TRIES):
                ridge = damping * max(float(np.diag(curve).max()), 1e-12)
                step = np.linalg.solve(curve + ridge * np.eye(len(free)), slope[free])
                trial = u.copy()
                trial[free] = np.maximum(0.0, u[free] + step)
                gain = float(slope @ (trial - u))
                if gain > 0 and smooth(trial, t)[1] >= value + 1e-4 * gain:
                    u, damping, accepted = trial, max(damping / 4, 1e-9), True
                    break
                damping *= 8
            if not accepted:
                damping = 1e-3
                break
        t *= _COOLING
    return best_u * unit_cost / size


def price_witness(form: IntegerForm, prices: FloatArray) -> Witness | None:
    """The bound D(prices) in integers, with the task multipliers that prove it.

    Returns None where a task has no allowed unit (then nothing is feasible).
    """
    if not form.allowed.any(axis=1).all():
        return None
    tasks = form.costs.shape[0]
    peak = float(np.abs(form.costs).max(initial=1)) * max(tasks, 1)
    peak += float((prices * form.capacities).sum()) * 2
    peak += float((prices * np.where(form.allowed, form.loads, 0)).max(initial=0.0)) * max(tasks, 1)
    scale = 2 ** max(0, min(20, int(np.floor(61 - np.log2(max(peak, 1.0))))))
    if peak * scale >= 2.0**62:
        return None
    whole = np.floor(prices * scale).astype(np.int64)
    priced = form.costs * np.int64(scale) + whole * np.where(form.allowed, form.loads, 0)
    priced = np.where(form.allowed, priced, np.iinfo(np.int64).max)
    multipliers = priced.min(axis=1) if tasks else np.zeros(0, dtype=np.int64)
    scaled = int(multipliers.sum()) - int((whole * form.capacities).sum())
    return Witness(
        multipliers=tuple(multipliers.tolist()), scale=scale, bound=-((-scaled) // scale)
    )
