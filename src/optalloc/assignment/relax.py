"""The cheapest relaxation: the least capacity that has to be added, and to which units.

    minimise sum_i o_i   subject to   each task once,   sum_j w_ij x_ij <= L_i + o_i,   o_i >= 0

HiGHS proposes the assignment; the amounts are then counted exactly from it, so the enlarged units
hold it for certain. That no smaller sum would do rests on HiGHS.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from optalloc.assignment.problem import AssignmentProblem
from optalloc.result import Fix

_MOST_PAIRS = 20_000
_SECONDS = 5.0


def cheapest_relaxation(problem: AssignmentProblem) -> tuple[Fix, ...]:
    """Enlarge units so that everything fits; empty where a task is allowed nowhere."""
    import highspy

    from optalloc.assignment.milp import QuietHighs

    homeless = np.nonzero(~problem.allowed.any(axis=1))[0].tolist()
    if homeless:
        return ()
    tasks, units = np.nonzero(problem.allowed)
    if len(tasks) > _MOST_PAIRS:
        return ()
    loads = problem.loads_matrix
    size = max(1.0, float(loads.max(initial=0.0)) / 1e4)
    count, width = len(tasks), problem.num_units
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = count + width, problem.num_tasks + width
    lp.col_cost_ = np.concatenate([np.zeros(count), np.ones(width)])
    lp.col_lower_ = np.zeros(count + width)
    lp.col_upper_ = np.concatenate([np.ones(count), np.full(width, highspy.kHighsInf)])
    kinds = highspy.HighsVarType
    lp.integrality_ = [kinds.kInteger] * count + [kinds.kContinuous] * width
    lp.row_lower_ = np.concatenate([np.ones(problem.num_tasks), np.full(width, -highspy.kHighsInf)])
    lp.row_upper_ = np.concatenate([np.ones(problem.num_tasks), problem.capacities / size])
    index = np.empty(2 * count + width, dtype=np.int32)
    value = np.empty(2 * count + width)
    index[0 : 2 * count : 2], value[0 : 2 * count : 2] = tasks, 1.0
    index[1 : 2 * count : 2] = problem.num_tasks + units
    value[1 : 2 * count : 2] = loads[tasks, units] / size
    index[2 * count :], value[2 * count :] = problem.num_tasks + np.arange(width), -1.0
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    starts = np.concatenate([np.arange(0, 2 * count, 2), 2 * count + np.arange(width + 1)])
    lp.a_matrix_.start_ = starts.astype(np.int32)
    lp.a_matrix_.index_, lp.a_matrix_.value_ = index, value
    solver = QuietHighs()
    solver.passModel(lp)
    solver.setOptionValue("threads", 1)
    solver.setOptionValue("time_limit", _SECONDS)
    solver.setOptionValue("mip_rel_gap", 0.0)
    solver.run()
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return ()
    chosen = np.asarray(solver.getSolution().col_value)[:count] > 0.5
    if int(chosen.sum()) != problem.num_tasks:
        return ()
    used = [Fraction(0)] * width
    for task, unit in zip(tasks[chosen].tolist(), units[chosen].tolist(), strict=True):
        used[unit] += Fraction(repr(loads[task, unit].item()))
    raises: list[str] = []
    total = Fraction(0)
    for unit, load in enumerate(used):
        more = load - Fraction(repr(problem.capacities[unit].item()))
        if more > 0:
            raises.append(f"unit {unit} by {float(more):.12g}")
            total += more
    if not raises:
        return ()
    what = "raise the capacity of " + ", ".join(raises)
    return (Fix(what=what, cost=f"{float(total):.12g} more capacity in all, the least that helps"),)
