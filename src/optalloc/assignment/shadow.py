"""Shadow prices: what one more unit of each capacity is worth.

They are the dual prices of the linear relaxation, in which a task may be split between units. For a
minimised sum of costs with relaxed optimum Z and prices u >= 0,

    no plan on capacities L + d costs less than Z - sum_ir u_ir d_ir        for every d >= -L,

so u bounds what added capacity can save, and points to the unit where it saves most. Where the
largest relative load is the first goal, prices say how fast it falls.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from optalloc.assignment.problem import AssignmentProblem
from optalloc.assignment.rows import Rows, reduce_rows
from optalloc.errors import InputError


def shadow_prices(problem: AssignmentProblem) -> npt.NDArray[np.float64]:
    """The price of one unit of each capacity, in the unit of the first goal.

    Parameters
    ----------
    problem : AssignmentProblem

    Returns
    -------
    ndarray of float64, shape (num_units, num_resources)
        At least 0; 0 for a capacity that the relaxation does not use up.

    Raises
    ------
    InputError
        If not even split tasks fit.

    Notes
    -----
    Computed in floating point by HiGHS; linear in the number of allowed pairs to set up.
    """
    rows = reduce_rows(problem)
    shape = (problem.num_units, problem.num_resources)
    if not rows.allowed.any(axis=1).all():
        raise _nothing_fits()
    if len(rows.members) == 0:
        return np.zeros(shape)
    flattens = problem.objective.startswith("bottleneck")
    duals, share = _relaxation(problem, rows, flattens)
    # Normalised rows have the right-hand side 1 (times the share, where that is minimised).
    rooms = problem.capacities_matrix.astype(np.float64)
    prices = np.zeros(shape)
    np.divide(np.maximum(duals, 0.0), rooms, out=prices, where=rooms > 0)
    return prices * share if flattens else prices


def _nothing_fits() -> InputError:
    return InputError(
        "there are no prices: not even split tasks fit",
        path="problem",
        fix="solve it: the result names the conflict and the capacity that is missing",
    )


def _relaxation(
    problem: AssignmentProblem, rows: Rows, flattens: bool
) -> tuple[npt.NDArray[np.float64], float]:
    """Duals of the capacity rows, shape (num_units, num_resources), and the least share."""
    import highspy

    from optalloc.assignment.milp import LinearRow, QuietHighs, set_rows

    blocks, units = np.nonzero(rows.allowed)
    count = len(blocks)
    column = np.full(rows.allowed.shape, -1, dtype=np.int64)
    column[blocks, units] = np.arange(count)
    lp = highspy.HighsLp()
    parts: list[LinearRow] = []
    for block in range(len(rows.members)):
        mine = column[block][column[block] >= 0]
        parts.append((mine, np.ones(len(mine)), 1.0, 1.0))
    free = -highspy.kHighsInf
    for unit in range(problem.num_units):
        for resource in range(problem.num_resources):
            here = np.nonzero(column[:, unit] >= 0)[0]
            room = float(rows.rooms[resource][unit])
            weights = rows.loads[resource, here, unit] / (room if room > 0 else 1.0)
            index = column[here, unit]
            if flattens and room > 0:
                index, weights = np.append(index, count), np.append(weights, -1.0)
                parts.append((index, weights, free, 0.0))
            else:
                parts.append((index, weights, free, 1.0 if room > 0 else 0.0))
    for group in rows.apart:
        for unit in range(rows.num_units):
            mine = column[list(group), unit]
            mine = mine[mine >= 0]
            parts.append((mine, np.ones(len(mine)), free, 1.0))
    costs = rows.costs[blocks, units] / abs(float(rows.cost_scale))
    lp.num_col_ = count + 1
    lp.col_cost_ = np.append(np.zeros(count) if flattens else costs, 1.0 if flattens else 0.0)
    lp.col_lower_ = np.zeros(count + 1)
    lp.col_upper_ = np.append(np.full(count, highspy.kHighsInf), 1.0)
    set_rows(lp, parts)
    solver = QuietHighs()
    solver.passModel(lp)
    solver.run()
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        raise _nothing_fits()
    solution = solver.getSolution()
    first, size = len(rows.members), problem.num_units * problem.num_resources
    duals = -np.asarray(solution.row_dual)[first : first + size]
    share = float(solution.col_value[count])
    return duals.reshape(problem.num_units, problem.num_resources), share
