"""The words that name a conflict, and the relaxation that ends it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from optalloc.assignment.conflict import _names
from optalloc.assignment.problem import AssignmentProblem
from optalloc.assignment.relax import cheapest_relaxation
from optalloc.assignment.solve import solve_assignment
from optalloc.result import Termination


def test_numbers_are_listed_whole_and_long_runs_shortened() -> None:
    assert _names("unit", [3]) == "unit 3"
    assert _names("task", [0, 1, 2]) == "tasks 0, 1 and 2"
    assert _names("task", [0, 2, 3, 4, 5, 9]) == "tasks 0, 2 to 5 and 9"
    assert _names("task", [4, 5, 6, 7]) == "tasks 4 to 7"


def test_the_smallest_crowded_set_is_named_not_everything() -> None:
    """Loads 4, 4, 1 need 9 of the 8 on unit 0; dropping the load of 1 would resolve it: it stays.

    The load of 5 on the roomy unit 1 takes no part.
    """
    problem = AssignmentProblem(
        [[1, 1]] * 4, [4, 4, 1, 5], [8, 50], [[1, 0], [1, 0], [1, 0], [0, 1]]
    )
    assert solve_assignment(problem).conflict == (
        "tasks 0, 1 and 2 fit only on unit 0 and need 9 there, but it holds 8",
    )


def test_a_load_without_which_the_rest_still_conflicts_is_left_out() -> None:
    """Loads 6, 6 and 1 on unit 0 of 8: the sixes conflict by themselves."""
    problem = AssignmentProblem([[1]] * 3, [6, 1, 6], [8])
    assert solve_assignment(problem).conflict == (
        "tasks 0 and 2 fit only on unit 0 and need 12 there, but it holds 8",
    )


def test_the_relaxation_makes_it_feasible_and_nothing_smaller_does() -> None:
    """Six loads of 6 on five units of 10: two must share one, which needs 12."""
    problem = AssignmentProblem(np.ones((6, 5)), [6] * 6, [10] * 5)
    (fix,) = cheapest_relaxation(problem)
    assert fix.what.startswith("raise the capacity of unit ")
    assert fix.what.endswith(" by 2")
    unit = int(fix.what.split()[5])
    for more, termination in ((2, Termination.OPTIMAL), (1, Termination.INFEASIBLE)):
        capacities = problem.capacities.copy()
        capacities[unit] += more
        wider = AssignmentProblem(problem.costs, problem.loads, capacities)
        assert solve_assignment(wider).termination is termination


def test_a_task_allowed_nowhere_is_to_be_allowed_where_it_fits() -> None:
    result = solve_assignment(AssignmentProblem([[1, 1]], [2], [1, 2], [[False, False]]))
    assert result.conflict == ("task 0 is allowed on no unit",)
    (fix,) = result.fixes
    assert fix.what == "allow task 0 on unit 1"
    assert fix.cost == "1 rule, the least that helps"


@pytest.mark.parametrize(
    ("rules", "room", "what", "cost"),
    [
        ({"together": [[0, 1]], "apart": [[0, 1]]}, 3, "take the group [0, 1] out of ", "1 rule"),
        ({"apart": [[0, 1, 2]]}, 3, "take the group [0, 1, 2] out of 'apart'", "1 rule"),
        (
            {"apart": [[0, 1, 2]]},
            1,
            "take the group [0, 1, 2] out of 'apart'; raise the capacity of unit 1 by 1",
            "1 rule and 1 more capacity in all",
        ),
        (
            {"together": [[0, 1]], "fixed": {0: 0, 1: 1}},
            1,
            "; raise the capacity of unit 1 by 1",
            "1 rule and 1 more capacity in all",
        ),
        (
            {"apart": [[0, 1], [0, 2], [1, 2]], "fixed": {0: 0, 1: 0, 2: 0}},
            3,
            "allow task ",
            "2 rules",
        ),
    ],
)
def test_where_no_capacity_would_help_the_fewest_rules_go(
    rules: dict[str, Any], room: int, what: str, cost: str
) -> None:
    """Three tasks of load 2 on units of 4 and 3 (or 1): then unit 1 needs one more."""
    problem = AssignmentProblem([[1, 2]] * 3, [2, 2, 2], [4, room], **rules)
    result = solve_assignment(problem)
    assert result.conflict
    (fix,) = result.fixes
    assert fix.cost == f"{cost}, the least that helps"
    assert what in fix.what
