"""Reductions of problems to rows, by hand."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from optalloc.assignment.forms import solve_forms
from optalloc.assignment.problem import AssignmentProblem
from optalloc.assignment.rows import reduce_rows
from optalloc.assignment.solve import solve_assignment
from optalloc.errors import InputError
from optalloc.result import Termination
from optalloc.stop import NodeLimit, Progress


def test_tasks_that_stay_together_become_one_block() -> None:
    """Groups 0-2 and 2-3 share task 2: the block costs 1 + 3 + 4 on unit 0 and fits there alone."""
    problem = AssignmentProblem(
        [[1, 9], [2, 9], [3, 9], [4, 9]], [1, 1, 2, 3], [6, 5], together=[[0, 2], [2, 3]]
    )
    rows = reduce_rows(problem)
    assert rows.members == ((0, 2, 3), (1,))
    assert rows.costs.tolist() == [[8, 0], [2, 9]]
    assert rows.allowed.tolist() == [[True, False], [True, True]]
    assert rows.is_plain
    assert rows.assignment((0, 1)) == (0, 1, 0, 0)


def test_leaving_out_is_one_more_unit_of_no_load() -> None:
    """Profits 5 and 7 are costs -5 and -7; leaving task 1 out is paid either way."""
    problem = AssignmentProblem([[5], [7]], [1, 1], [1], sense="max", skip_costs=[None, 2])
    rows = reduce_rows(problem)
    assert rows.costs.tolist() == [[-5, 0], [-7, 2]]
    assert rows.allowed.tolist() == [[True, False], [True, True]]
    assert solve_assignment(problem).assignment == (0, -1)
    assert solve_assignment(problem).bounds.primal == 3.0


def test_a_group_both_together_and_apart_can_only_be_left_out() -> None:
    costs, loads, capacities = [[1, 1], [1, 1]], [1, 1], [9, 9]
    both: dict[str, Any] = {"together": [[0, 1]], "apart": [[0, 1]]}
    assert (
        solve_assignment(AssignmentProblem(costs, loads, capacities, **both)).termination
        is Termination.INFEASIBLE
    )
    optional = AssignmentProblem(costs, loads, capacities, **both, skip_costs=[4, 5])
    assert solve_assignment(optional).bounds.primal == 9.0


def test_a_share_becomes_whole_capacities() -> None:
    """Half of 5 and 7 is 2.5 and 3.5, so 2 and 3; above a half, 3/5 comes before 4/7."""
    rows = reduce_rows(AssignmentProblem([[0, 0]] * 4, [2, 2, 2, 2], [5.0, 7.0]))
    assert rows.within(Fraction(1, 2)).capacities.tolist() == [[1, 1]]  # loads were divided by 2
    assert rows.share_above(Fraction(1, 2)) == Fraction(4, 7)
    assert rows.share_above(Fraction(1)) is None


def test_a_largest_relative_load_below_all_floats_is_found() -> None:
    """The search halves between fractions, where two of them are one float."""
    loads, capacities = [[3e-322, 3e-322], [5e-324, 5e-324]], [1e12, 2e12]
    problem = AssignmentProblem([[1, 1]] * 2, loads, capacities, objective="bottleneck")
    assert solve_forms(problem).assignment == (1, 0)


def test_the_largest_relative_load_ends_at_the_optimum_itself() -> None:
    """Loads 3, 3, 2 on capacities 10 and 6: 6/10 against 2/6 is the best of all splits."""
    problem = AssignmentProblem(
        [[5, 0], [5, 0], [0, 5]], [3, 3, 2], [10, 6], objective="bottleneck"
    )
    result = solve_forms(problem)
    assert result.bounds.primal == 0.5  # 3 and 2 on unit 0, 3 on unit 1
    assert result.termination is Termination.OPTIMAL


@pytest.mark.parametrize(
    ("objective", "cost", "share"),
    [("sum-then-bottleneck", 2, 0.5), ("bottleneck-then-sum", 6, 0.25)],
)
def test_goals_in_order(objective: str, cost: float, share: float) -> None:
    """Both on unit 0 cost 2 at 2/4; one on each cost 1 + 5 at 1/4."""
    problem = AssignmentProblem([[1, 5], [1, 5]], [1, 1], [4, 4], objective=objective)  # type: ignore[arg-type]
    found = problem.evaluate(solve_assignment(problem).assignment)
    assert (found.cost, found.largest_relative_load) == (cost, share)


def test_methods_refuse_forms_they_do_not_take() -> None:
    apart = AssignmentProblem([[1, 2]] * 2, [1, 1], [2, 2], apart=[[0, 1]])
    with pytest.raises(InputError, match="no groups that stay apart"):
        solve_assignment(apart, "greedy")
    flat = AssignmentProblem([[1, 2]] * 2, [1, 1], [2, 2], objective="bottleneck")
    with pytest.raises(InputError, match="sum of the costs alone"):
        solve_assignment(flat, "anneal")


@pytest.mark.parametrize("method", ["greedy", "anneal"])
def test_heuristics_take_what_reduces_to_a_plain_problem(method: str) -> None:
    problem = AssignmentProblem([[1, 9], [2, 9], [3, 9]], [1, 1, 2], [4, 4], together=[[0, 2]])
    result = solve_assignment(problem, method)
    assert result.bounds.primal == 6.0
    assert result.bounds.dual is not None
    assert result.bounds.dual <= 6.0


def test_a_limit_keeps_plan_and_bound() -> None:
    """Thirty tasks on five units of two tight resources take thousands of nodes."""
    rng = np.random.default_rng(1)
    loads = rng.integers(5, 26, (30, 5, 2))
    capacities = loads.sum(axis=0) * 8 // 50
    problem = AssignmentProblem(rng.integers(10, 51, (30, 5)), loads, capacities)
    seen: list[Progress] = []
    result, again = (solve_forms(problem, NodeLimit(300), seen.append) for _ in range(2))
    assert result.termination is Termination.LIMIT
    assert result.bounds.primal is not None
    assert result.bounds.dual is not None
    assert 600 < result.bounds.dual < result.bounds.primal
    assert problem.evaluate(result.assignment).is_feasible
    assert again.placed == result.placed
    assert again.bounds == result.bounds
    assert seen


def test_numbers_beyond_the_multipliers_scale_are_rounded_down_not_refused() -> None:
    """Costs of 2**50 shift out of the scale; the search still tells them apart."""
    big = 2**50
    problem = AssignmentProblem(
        [[big + 3, big + 5], [big, big + 9], [big + 1, big + 2]],
        [[[1, 2], [2, 1]]] * 3,
        [[2, 4], [4, 2]],
        apart=[[0, 1]],
    )
    best = solve_assignment(problem, "enumerate").bounds.primal
    assert solve_forms(problem).bounds.primal == best
    assert solve_forms(problem).termination is Termination.OPTIMAL
