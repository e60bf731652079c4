"""The dynamic program over residual capacities."""

from __future__ import annotations

import pytest

from optalloc.assignment.dynamic import num_states, solve_dynamic
from optalloc.assignment.problem import AssignmentProblem
from optalloc.errors import InputError
from optalloc.result import Termination


def test_finds_the_optimum_worked_by_hand(four_by_two: AssignmentProblem) -> None:
    result = solve_dynamic(four_by_two)
    assert result.termination is Termination.OPTIMAL
    assert result.bounds.primal == 8.0
    assert result.assignment == (0, 1, 1, 0)


def test_capacities_are_not_pooled(
    pooled_trap: AssignmentProblem, pooled_phantom: AssignmentProblem
) -> None:
    assert solve_dynamic(pooled_trap).bounds.primal == 6.0
    assert solve_dynamic(pooled_phantom).termination is Termination.INFEASIBLE


def test_states_are_counted_by_layer() -> None:
    """Loads 1 into capacities 1 and 1 have 4 vectors; layers hold 1, 2 and min(4, 4): 7."""
    assert num_states(AssignmentProblem([[1, 1], [1, 1]], [1, 1], [1, 1])) == 7


def test_refuses_with_its_state_count() -> None:
    """401**4 = 2.59e10 vectors; 4**18 exceeds that: 23 full layers and (4**18 - 1) / 3 before."""
    loads = [7 + 2 * task for task in range(40)]
    problem = AssignmentProblem([[1, 2, 3, 4]] * 40, loads, [400] * 4)
    with pytest.raises(InputError, match=r"may need 6\.18e\+11 states over 2\.59e\+10"):
        solve_dynamic(problem)


def test_equal_loads_shrink_to_counts() -> None:
    """Loads of 10**9 are one each after division: 5 tasks on 2 units of 3."""
    problem = AssignmentProblem([[1, 2]] * 5, [10**9] * 5, [3 * 10**9] * 2)
    assert num_states(problem) < 100
    assert solve_dynamic(problem).bounds.primal == 3 * 1 + 2 * 2
