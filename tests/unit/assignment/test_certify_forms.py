"""The independent check refuses wrong claims about every form."""

from __future__ import annotations

import msgspec
import pytest

from optalloc.assignment.certify import Proof, certify_assignment
from optalloc.assignment.problem import AssignmentProblem
from optalloc.assignment.result import AssignmentResult
from optalloc.assignment.solve import solve_assignment
from optalloc.errors import CertificateError
from optalloc.result import Bounds, Termination


@pytest.fixture
def problem() -> AssignmentProblem:
    """The optimum is (0, 1, 1, -1): 4 + 3 + 2 and 7 for leaving task 3 out."""
    return AssignmentProblem(
        [[4, 6], [5, 3], [1, 2], [9, 9]],
        [[1, 2], [2, 1], [1, 1], [3, 3]],
        [[3, 4], [3, 3]],
        fixed={2: 1},
        apart=[[0, 1]],
        skip_costs=[None, None, None, 7],
        objective="sum-then-bottleneck",
    )


@pytest.fixture
def optimal(problem: AssignmentProblem) -> AssignmentResult:
    return solve_assignment(problem)


def claim(result: AssignmentResult, placed: tuple[int, ...], value: float) -> AssignmentResult:
    return msgspec.structs.replace(result, placed=placed, bounds=Bounds(primal=value, dual=value))


def test_a_true_claim_is_proven_again(
    problem: AssignmentProblem, optimal: AssignmentResult
) -> None:
    assert optimal.assignment == (0, 1, 1, -1)
    assert certify_assignment(problem, optimal).proof is Proof.REPROVED


@pytest.mark.parametrize(
    ("placed", "value", "match"),
    [
        ((1, 0, 1, -1), 20.0, "something better"),
        ((0, 1, 1, 0), 18.0, "unit 0 is overloaded in resource 0"),
        ((1, 1, 1, -1), 18.0, "overloaded|not apart"),
        ((0, 1, 0, -1), 15.0, "task 2 may not run on unit 0"),
        ((-1, 1, 1, -1), 12.0, "task 0 has no unit"),
        ((0, 1, 1, -1), 15.0, "objective is 16"),
        ((0, 1, 1), 16.0, "number of tasks"),
    ],
)
def test_wrong_plans_are_refused(
    problem: AssignmentProblem,
    optimal: AssignmentResult,
    placed: tuple[int, ...],
    value: float,
    match: str,
) -> None:
    with pytest.raises(CertificateError, match=match):
        certify_assignment(problem, claim(optimal, placed, value))


def test_infeasible_is_refused_where_something_is_feasible(
    problem: AssignmentProblem, optimal: AssignmentResult
) -> None:
    wrong = msgspec.structs.replace(
        optimal, termination=Termination.INFEASIBLE, placed=None, bounds=Bounds()
    )
    with pytest.raises(CertificateError, match="something better"):
        certify_assignment(problem, wrong)


def test_the_second_goal_is_checked_among_the_optima_of_the_first() -> None:
    """Every plan costs 2; both tasks on one unit fill it to 2/2, one on each to 1/2."""
    problem = AssignmentProblem([[1, 1]] * 2, [1, 1], [2, 2], objective="sum-then-bottleneck")
    best = solve_assignment(problem)
    assert sorted(best.assignment) == [0, 1]
    with pytest.raises(CertificateError, match="something better"):
        certify_assignment(problem, claim(best, (0, 0), 2.0))


def test_a_bound_above_the_plan_is_refused(
    problem: AssignmentProblem, optimal: AssignmentResult
) -> None:
    limit = msgspec.structs.replace(
        optimal, termination=Termination.LIMIT, bounds=Bounds(primal=16.0, dual=17.0)
    )
    with pytest.raises(CertificateError, match="bound"):
        certify_assignment(problem, limit)


def test_groups_that_stay_together_are_checked() -> None:
    problem = AssignmentProblem([[1, 2]] * 2, [1, 1], [2, 2], together=[[0, 1]])
    best = solve_assignment(problem)
    with pytest.raises(CertificateError, match="not together"):
        certify_assignment(problem, claim(best, (0, 1), 3.0))
