"""The problem value and its evaluation."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from optalloc.assignment.problem import AssignmentProblem
from optalloc.errors import InputError


def test_evaluate_adds_costs_and_loads_by_unit() -> None:
    """Costs 4 + 9 + 1 = 14; unit 0 carries 2 + 5 = 7, unit 1 carries 4."""
    problem = AssignmentProblem([[4, 7], [6, 9], [1, 8]], [[2, 3], [1, 4], [5, 6]], [7, 4])
    evaluation = problem.evaluate([0, 1, 0])
    assert evaluation.objective == 14.0
    assert evaluation.unit_loads == (7.0, 4.0)
    assert evaluation.is_feasible


def test_evaluate_names_each_broken_rule() -> None:
    problem = AssignmentProblem(
        [[1, 1]] * 3, [3, 3, 1], [4, 9], allowed=[[True, True], [True, True], [True, False]]
    )
    assert problem.evaluate([0, 0, 1]).violations == (
        "task 2 may not run on unit 1",
        "unit 0 carries 6 of capacity 4",
    )
    assert problem.evaluate([-1, 1, 0]).violations == ("task 0 has no unit",)


def test_one_load_a_task_equals_a_row_of_equal_loads() -> None:
    assert AssignmentProblem([[1, 2]], [3], [4, 5]) == AssignmentProblem([[1, 2]], [[3, 3]], [4, 5])


def test_a_problem_is_frozen_and_keeps_its_own_copy() -> None:
    costs = np.array([[1.0, 2.0]])
    problem = AssignmentProblem(costs, [1], [1, 1])
    costs[0, 0] = 99.0
    assert problem.costs[0, 0] == 1.0
    with pytest.raises(AttributeError):
        problem.sense = "max"
    with pytest.raises(ValueError, match="read-only"):
        problem.costs[0, 0] = 3.0


def test_a_problem_survives_pickling() -> None:
    problem = AssignmentProblem([[1, 2.5]], [1], [1, 1], [[True, False]], "max")
    assert pickle.loads(pickle.dumps(problem)) == problem


def test_decimals_are_added_as_decimals() -> None:
    """0.1 + 0.2 is 0.30000000000000004 in binary floating point, yet fits into 0.3."""
    assert AssignmentProblem([[0], [0]], [0.1, 0.2], [0.3]).evaluate([0, 0]).is_feasible


def test_no_tasks_and_one_unit_are_an_instance() -> None:
    assert AssignmentProblem([], [], [0]).evaluate([]).objective == 0.0


@pytest.mark.parametrize(
    ("costs", "loads", "capacities", "pointer"),
    [
        ([[1, 2]], [1], [-1, 2], "$.capacities[0]"),
        ([[1, 2], [3, float("nan")]], [1, 1], [1, 1], "$.costs[1,1]"),
        ([[1, float("inf")]], [1], [1, 1], "$.costs[0,1]"),
        ([[1, 2]], [-3], [1, 1], "$.loads[0]"),
        ([[1, 2]], [[1, -2]], [1, 1], "$.loads[0,1]"),
        ([[1, 2, 3]], [1], [1, 1], "$.costs"),
        ([[1, 2], [1]], [1, 1], [1, 1], "$.costs"),
        ([[1, 2]], [1, 2, 3], [1, 1], "$.loads"),
        ([[1, "a"]], [1], [1, 1], "$.costs"),
        ([[1, 2]], [1], [], "$.capacities"),
        ([[1, 2]], [1], 5, "$.capacities"),
        ([[1e300, 2], [1, 1e300]], [1, 1], [1, 1], "$.costs"),
        ([[1, 2]], [10**400], [1, 1], "$.loads"),
    ],
)
def test_bad_arrays_are_refused_with_the_place(
    costs: object, loads: object, capacities: object, pointer: str
) -> None:
    with pytest.raises(InputError) as caught:
        AssignmentProblem(costs, loads, capacities)  # type: ignore[arg-type]
    assert pointer in str(caught.value)


def test_bad_allowed_and_sense_are_refused() -> None:
    with pytest.raises(InputError, match=r"\$\.allowed"):
        AssignmentProblem([[1, 2]], [1], [1, 1], allowed=[[True]])
    with pytest.raises(InputError, match=r"\$\.allowed"):
        AssignmentProblem([[1, 2]], [1], [1, 1], allowed=[[1, 7]])
    with pytest.raises(InputError, match=r"\$\.sense"):
        AssignmentProblem([[1, 2]], [1], [1, 1], sense="least")  # type: ignore[arg-type]


def test_an_assignment_of_wrong_length_or_unit_is_refused() -> None:
    problem = AssignmentProblem([[1, 2]], [1], [1, 1])
    with pytest.raises(InputError, match=r"\$\.assignment"):
        problem.evaluate([0, 1])
    with pytest.raises(InputError, match=r"\$\.assignment\[0\]"):
        problem.evaluate([2])
