"""The cheapest relaxation: the least capacity that has to be added, and to which units.

    minimise sum_ir o_ir / s_r   subject to   each task once, or left out where it may be,
    sum_j w_ijr x_ij <= L_ir + o_ir,  o_ir >= 0,   and every group together or apart

With one resource s = 1: the sum of what is added. With several, s_r is the mean capacity of
resource r, so that amounts of different kinds add up. HiGHS proposes the assignment; the amounts
are then counted exactly from it, so the enlarged units hold it for certain. That no smaller sum
would do rests on HiGHS.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from optalloc.assignment.problem import AssignmentProblem
from optalloc.result import Fix

_MOST_PAIRS = 20_000
_SECONDS = 5.0

#: Coefficients by column, with the lower and upper bound of the row.
_Row = tuple[dict[int, float], float, float]


def cheapest_relaxation(problem: AssignmentProblem) -> tuple[Fix, ...]:
    """Enlarge units so that everything fits; empty where no capacity would help."""
    placed = _proposal(problem)
    if placed is None:
        return ()
    resources, scales = problem.num_resources, _scales(problem)
    used = [[Fraction(0)] * resources for _ in range(problem.num_units)]
    for task, unit in enumerate(placed):
        if unit >= 0:
            for resource, load in enumerate(problem.loads_array[task, unit].tolist()):
                used[unit][resource] += Fraction(repr(load))
    raises: list[str] = []
    total = 0.0
    for unit, loads in enumerate(used):
        for resource, load in enumerate(loads):
            more = load - Fraction(repr(problem.capacities_matrix[unit, resource].item()))
            if more > 0:
                of = f"resource {resource} of " if resources > 1 else ""
                raises.append(f"{of}unit {unit} by {float(more):.12g}")
                total += float(more) / scales[resource]
    if not raises:
        return ()
    what = "raise the capacity of " + ", ".join(raises)
    size = f"{total:.12g} more capacity in all"
    if resources > 1:
        size = f"{total:.3%} of a unit's mean capacity in all"
    return (Fix(what=what, cost=f"{size}, the least that helps"),)


def _scales(problem: AssignmentProblem) -> list[float]:
    """What an added amount of each resource is divided by."""
    if problem.num_resources == 1:
        return [1.0]
    return [mean if mean > 0 else 1.0 for mean in problem.capacities_matrix.mean(axis=0).tolist()]


def _proposal(problem: AssignmentProblem) -> list[int] | None:
    """The unit of each task (-1: left out) of a least overloaded assignment."""
    import highspy

    from optalloc.assignment.milp import QuietHighs

    allowed = np.concatenate([problem.allowed, problem.optional[:, None]], axis=1)
    if not allowed.any(axis=1).all() or allowed.sum() > _MOST_PAIRS:
        return None
    tasks, units = np.nonzero(allowed)
    pairs = list(zip(tasks.tolist(), units.tolist(), strict=True))
    column = {pair: k for k, pair in enumerate(pairs)}
    rows = [_once(column, task, problem.num_units) for task in range(problem.num_tasks)]
    costs = [0.0] * len(pairs)
    for resource, scale in enumerate(_scales(problem)):
        table = problem.loads_array[:, :, resource]
        size = max(1.0, float(table.max(initial=0.0)) / 1e4)
        for unit in range(problem.num_units):
            here = [task for task in range(problem.num_tasks) if (task, unit) in column]
            row = {column[task, unit]: float(table[task, unit]) / size for task in here}
            row[len(costs)] = -1.0
            costs.append(size / scale)
            room = float(problem.capacities_matrix[unit, resource])
            rows.append((row, -highspy.kHighsInf, room / size))
    rows += _group_rows(problem, column)
    solver = QuietHighs()
    solver.passModel(_model(rows, costs, len(pairs)))
    for name, option in (("time_limit", _SECONDS), ("mip_rel_gap", 0.0)):
        solver.setOptionValue(name, option)
    solver.run()
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    chosen = np.asarray(solver.getSolution().col_value)[: len(pairs)] > 0.5
    placed = [-1] * problem.num_tasks
    for pair, is_chosen in zip(pairs, chosen.tolist(), strict=True):
        if is_chosen and pair[1] < problem.num_units:
            placed[pair[0]] = pair[1]
    # Overloads are what is asked for; another broken rule means that HiGHS was not exact enough.
    broken = [text for text in problem.evaluate(placed).violations if " carries " not in text]
    return None if broken else placed


def _once(column: dict[tuple[int, int], int], task: int, units: int) -> _Row:
    mine = {column[task, u]: 1.0 for u in range(units + 1) if (task, u) in column}
    return mine, 1.0, 1.0


def _group_rows(problem: AssignmentProblem, column: dict[tuple[int, int], int]) -> list[_Row]:
    """Together: the same choice as the first member's; apart: one member a unit at most."""
    rows: list[_Row] = []
    for group in problem.together:
        for task in group[1:]:
            for unit in range(problem.num_units + 1):
                one, other = column.get((group[0], unit)), column.get((task, unit))
                row = {k: sign for k, sign in ((one, 1.0), (other, -1.0)) if k is not None}
                if row:
                    rows.append((row, 0.0, 0.0))
    for group in problem.apart:
        for unit in range(problem.num_units):
            mine = {column[t, unit]: 1.0 for t in group if (t, unit) in column}
            if len(mine) > 1:
                rows.append((mine, 0.0, 1.0))
    return rows


def _model(rows: list[_Row], costs: list[float], num_pairs: int) -> object:
    """The first ``num_pairs`` columns are binary, the others amounts of at least 0."""
    import highspy

    extra = len(costs) - num_pairs
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = len(costs), len(rows)
    lp.col_cost_ = np.array(costs)
    lp.col_lower_ = np.zeros(len(costs))
    lp.col_upper_ = np.concatenate([np.ones(num_pairs), np.full(extra, highspy.kHighsInf)])
    kinds = highspy.HighsVarType
    lp.integrality_ = [kinds.kInteger] * num_pairs + [kinds.kContinuous] * extra
    lp.row_lower_ = np.array([low for _, low, _ in rows])
    lp.row_upper_ = np.array([high for _, _, high in rows])
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    starts = np.cumsum([0, *(len(row) for row, _, _ in rows)])
    lp.a_matrix_.start_ = starts.astype(np.int32)
    lp.a_matrix_.index_ = np.array([k for row, _, _ in rows for k in row], dtype=np.int32)
    lp.a_matrix_.value_ = np.array([v for row, _, _ in rows for v in row.values()])
    return lp
