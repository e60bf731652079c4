"""Enumeration."""

from __future__ import annotations

import pytest

from optalloc.assignment.enumerate import num_assignments, solve_enumerate
from optalloc.assignment.problem import AssignmentProblem
from optalloc.errors import InputError, NoPlan
from optalloc.result import Termination
from optalloc.stop import NodeLimit


def test_finds_the_optimum_worked_by_hand(four_by_two: AssignmentProblem) -> None:
    result = solve_enumerate(four_by_two)
    assert result.termination is Termination.OPTIMAL
    assert result.bounds.primal == 8.0
    assert result.bounds.gap == 0.0
    assert result.assignment == (0, 1, 1, 0)


def test_maximises_profits() -> None:
    """Profits 3 and 4 on unit 0 and 1 on unit 1; only one task fits on unit 0: 4 + 1 = 5."""
    result = solve_enumerate(AssignmentProblem([[3, 1], [4, 1]], [1, 1], [1, 1], sense="max"))
    assert result.bounds.primal == 5.0
    assert result.assignment == (1, 0)


def test_an_infeasible_instance_is_a_result_without_a_plan(
    pooled_phantom: AssignmentProblem,
) -> None:
    result = solve_enumerate(pooled_phantom)
    assert result.termination is Termination.INFEASIBLE
    with pytest.raises(NoPlan) as caught:
        _ = result.assignment
    assert caught.value.result is result


def test_counts_allowed_pairs_that_fit() -> None:
    """Task 0 fits on two units, task 1 on one (its load of 3 exceeds 2): 2 assignments."""
    assert num_assignments(AssignmentProblem([[1, 1], [1, 1]], [1, 3], [2, 3])) == 2


def test_refuses_what_would_take_too_long() -> None:
    with pytest.raises(InputError, match="would try"):
        solve_enumerate(AssignmentProblem([[1] * 10] * 30, [1] * 30, [30] * 10))


def test_a_limit_keeps_the_best_plan() -> None:
    problem = AssignmentProblem([[1, 2]] * 14, [1] * 14, [14, 14])
    result = solve_enumerate(problem, NodeLimit(1))
    assert result.termination is Termination.LIMIT
    assert problem.evaluate(result.assignment).is_feasible
