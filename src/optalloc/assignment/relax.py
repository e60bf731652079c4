"""The cheapest relaxation: the least capacity that has to be added, and to which units.

    minimise sum_ir o_ir / s_r   subject to   each task once, or left out where it may be,
    sum_j w_ijr x_ij <= L_ir + o_ir,  o_ir >= 0,   and every group together or apart

With one resource s = 1: the sum of what is added. With several, s_r is the mean capacity of
resource r, so that amounts of different kinds add up. Where no capacity would help, rules go first:
forbidden pairs may be used and groups broken, as few in all as possible, and of those choices one
that then needs the least capacity. HiGHS proposes the assignment; rules and amounts are then
counted exactly from it, so it is feasible for certain without and with them. That fewer or less
would not do rests on HiGHS.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from optalloc.assignment.problem import AssignmentProblem
from optalloc.result import Fix

_MOST_PAIRS = 20_000
_SECONDS = 5.0


def cheapest_relaxation(problem: AssignmentProblem) -> tuple[Fix, ...]:
    """Rules to drop and units to enlarge so that everything fits; empty where none was found."""
    placed = _proposal(problem, 0)
    if placed is None and (fewest := _proposal(problem, None)) is not None:
        most = len(_broken_rules(problem, fewest))
        placed = _proposal(problem, most) if most else None
    if placed is None:
        return ()
    rules = _broken_rules(problem, placed)
    raises, added = _overloads(problem, placed)
    what, size = list(rules), []
    if rules:
        size.append(f"{len(rules)} {'rule' if len(rules) == 1 else 'rules'}")
    if raises:
        what.append("raise the capacity of " + ", ".join(raises))
        several = problem.num_resources > 1
        size.append(
            f"{added:.3%} of a unit's mean capacity in all"
            if several
            else f"{added:.12g} more capacity in all"
        )
    if not what:
        return ()
    return (Fix(what="; ".join(what), cost=f"{' and '.join(size)}, the least that helps"),)


def _broken_rules(problem: AssignmentProblem, placed: Sequence[int]) -> list[str]:
    """What an assignment needs beside capacity."""
    words = [
        f"allow task {task} on unit {unit}"
        for task, unit in enumerate(placed)
        if unit >= 0 and not problem.allowed[task, unit]
    ]
    for name, groups in (("together", problem.together), ("apart", problem.apart)):
        for group in groups:
            units = [placed[task] for task in group]
            real = [unit for unit in units if unit >= 0]
            breaks = len(set(units)) > 1 if name == "together" else len(set(real)) < len(real)
            if breaks:
                words.append(f"take the group {list(group)} out of {name!r}")
    return words


def _overloads(problem: AssignmentProblem, placed: Sequence[int]) -> tuple[list[str], float]:
    """By how much which capacity falls short, in words, and the sum."""
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
    return raises, total


def _scales(problem: AssignmentProblem) -> list[float]:
    """What an added amount of each resource is divided by."""
    if problem.num_resources == 1:
        return [1.0]
    return [mean if mean > 0 else 1.0 for mean in problem.capacities_matrix.mean(axis=0).tolist()]


def _proposal(problem: AssignmentProblem, most_rules: int | None) -> list[int] | None:
    """The unit of each task (-1: left out) of an assignment that breaks at most so many rules and
    needs the least capacity; with None, of one that breaks the fewest.
    """
    breaks = most_rules != 0
    usable = problem.allowed | breaks
    allowed = np.concatenate([usable, problem.optional[:, None]], axis=1)
    if not allowed.any(axis=1).all() or allowed.sum() > _MOST_PAIRS:
        return None
    tasks, units = np.nonzero(allowed)
    pairs = list(zip(tasks.tolist(), units.tolist(), strict=True))
    model = _Model()
    column = {pair: model.column(whole=True) for pair in pairs}
    rule_columns = [
        column[task, unit]
        for task, unit in pairs
        if unit < problem.num_units and not problem.allowed[task, unit]
    ]
    for task in range(problem.num_tasks):
        mine = [column[task, u] for u in range(problem.num_units + 1) if (task, u) in column]
        model.row(dict.fromkeys(mine, 1.0), 1.0, 1.0)
    if most_rules is not None:
        _capacity_rows(problem, column, model)
    rule_columns += _group_rows(problem, column, model, breaks=breaks)
    if most_rules is None:
        for k in rule_columns:
            model.costs[k] = 1.0
    elif rule_columns:
        model.row(dict.fromkeys(rule_columns, 1.0), 0.0, float(most_rules))
    values = model.solve()
    if values is None:
        return None
    placed = [-1] * problem.num_tasks
    for (task, unit), k in column.items():
        if values[k] > 0.5 and unit < problem.num_units:
            placed[task] = unit
    lost = [task for task, unit in enumerate(placed) if unit < 0 and not problem.optional[task]]
    # What HiGHS was not exact enough for.
    if lost or (most_rules is not None and len(_broken_rules(problem, placed)) > most_rules):
        return None
    return placed


def _capacity_rows(
    problem: AssignmentProblem, column: dict[tuple[int, int], int], model: _Model
) -> None:
    """What a unit carries beyond its capacity is paid."""
    for resource, scale in enumerate(_scales(problem)):
        table = problem.loads_array[:, :, resource]
        size = max(1.0, float(table.max(initial=0.0)) / 1e4)
        for unit in range(problem.num_units):
            here = [task for task in range(problem.num_tasks) if (task, unit) in column]
            row = {column[task, unit]: float(table[task, unit]) / size for task in here}
            row[model.column(cost=size / scale)] = -1.0
            model.row(row, -np.inf, float(problem.capacities_matrix[unit, resource]) / size)


def _group_rows(
    problem: AssignmentProblem,
    column: dict[tuple[int, int], int],
    model: _Model,
    *,
    breaks: bool,
) -> list[int]:
    """Together: the same choice as the first member's; apart: one member a unit at most.

    Returns the columns that are 1 where a group is broken, if that may be.
    """
    columns: list[int] = []

    def allowance(size: float) -> dict[int, float]:
        """What breaking the group adds to a row."""
        if not breaks:
            return {}
        columns.append(model.column(whole=True))
        return {columns[-1]: -size}

    for group in problem.together:
        slack = allowance(1.0)
        for task in group[1:]:
            for unit in range(problem.num_units + 1):
                one, other = column.get((group[0], unit)), column.get((task, unit))
                for sign in (1.0, -1.0):
                    row = {k: s for k, s in ((one, sign), (other, -sign)) if k is not None}
                    if row:
                        model.row(row | slack, -np.inf, 0.0)
    for group in problem.apart:
        slack = allowance(len(group))
        for unit in range(problem.num_units):
            mine = {column[t, unit]: 1.0 for t in group if (t, unit) in column}
            if len(mine) > 1:
                model.row(mine | slack, -np.inf, 1.0)
    return columns


class _Model:
    """A mixed-integer programme, built column by column and row by row; columns are at least 0,
    whole ones at most 1.
    """

    def __init__(self) -> None:
        self.costs: list[float] = []
        self._whole: list[bool] = []
        self._rows: list[tuple[dict[int, float], float, float]] = []

    def column(self, *, cost: float = 0.0, whole: bool = False) -> int:
        """A new column; its number."""
        self.costs.append(cost)
        self._whole.append(whole)
        return len(self.costs) - 1

    def row(self, coefficients: dict[int, float], low: float, high: float) -> None:
        """A new row."""
        self._rows.append((coefficients, low, high))

    def solve(self) -> list[float] | None:
        """The values of an optimal solution; None where HiGHS found none in time."""
        import highspy

        from optalloc.assignment.milp import QuietHighs

        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = len(self.costs), len(self._rows)
        lp.col_cost_ = np.array(self.costs)
        lp.col_lower_ = np.zeros(len(self.costs))
        lp.col_upper_ = np.where(self._whole, 1.0, highspy.kHighsInf)
        kinds = highspy.HighsVarType
        lp.integrality_ = [kinds.kInteger if one else kinds.kContinuous for one in self._whole]
        lp.row_lower_ = np.array([low for _, low, _ in self._rows])
        lp.row_upper_ = np.array([high for _, _, high in self._rows])
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        starts = np.cumsum([0, *(len(row) for row, _, _ in self._rows)])
        lp.a_matrix_.start_ = starts.astype(np.int32)
        indices = [k for row, _, _ in self._rows for k in row]
        lp.a_matrix_.index_ = np.array(indices, dtype=np.int32)
        lp.a_matrix_.value_ = np.array([v for row, _, _ in self._rows for v in row.values()])
        solver = QuietHighs()
        solver.passModel(lp)
        for name, option in (("time_limit", _SECONDS), ("mip_rel_gap", 0.0)):
            solver.setOptionValue(name, option)
        solver.run()
        if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            return None
        return [float(value) for value in solver.getSolution().col_value]
