"""The independent check refuses what is wrong."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from optalloc.assignment.certify import Proof, certify_assignment, multiplier_bound
from optalloc.assignment.enumerate import solve_enumerate
from optalloc.assignment.milp import solve_milp
from optalloc.assignment.problem import AssignmentProblem
from optalloc.assignment.result import AssignmentResult, Witness
from optalloc.errors import CertificateError
from optalloc.result import Bounds, Termination


@pytest.fixture
def optimal(four_by_two: AssignmentProblem) -> AssignmentResult:
    return solve_enumerate(four_by_two)


def test_a_true_claim_is_proven_again(
    four_by_two: AssignmentProblem, optimal: AssignmentResult
) -> None:
    certificate = certify_assignment(four_by_two, optimal)
    assert certificate.proof is Proof.REPROVED
    assert certificate.objective == 8.0


def test_a_worse_plan_called_optimal_is_refused(
    four_by_two: AssignmentProblem, optimal: AssignmentResult
) -> None:
    """(1, 0, 1, 0) costs 4 + 2 + 2 + 1 = 9."""
    wrong = msgspec.structs.replace(
        optimal, placed=(1, 0, 1, 0), bounds=Bounds(primal=9.0, dual=9.0)
    )
    with pytest.raises(CertificateError, match="better assignment"):
        certify_assignment(four_by_two, wrong)


def test_a_wrong_objective_or_an_overload_is_refused(
    four_by_two: AssignmentProblem, optimal: AssignmentResult
) -> None:
    wrong = msgspec.structs.replace(optimal, bounds=Bounds(primal=7.0, dual=7.0))
    with pytest.raises(CertificateError, match="costs 8"):
        certify_assignment(four_by_two, wrong)
    with pytest.raises(CertificateError, match="unit 0 is overloaded"):
        certify_assignment(four_by_two, msgspec.structs.replace(optimal, placed=(0, 0, 1, 0)))
    with pytest.raises(CertificateError, match="number of tasks"):
        certify_assignment(four_by_two, msgspec.structs.replace(optimal, placed=(0, 1)))


def test_infeasible_is_refused_where_something_is_feasible(
    four_by_two: AssignmentProblem, optimal: AssignmentResult
) -> None:
    wrong = msgspec.structs.replace(
        optimal, termination=Termination.INFEASIBLE, placed=None, bounds=Bounds()
    )
    with pytest.raises(CertificateError, match="better assignment"):
        certify_assignment(four_by_two, wrong)


def test_infeasible_is_confirmed(pooled_phantom: AssignmentProblem) -> None:
    certificate = certify_assignment(pooled_phantom, solve_enumerate(pooled_phantom))
    assert certificate.proof is Proof.REPROVED


def test_multipliers_give_the_bound_worked_by_hand(pooled_trap: AssignmentProblem) -> None:
    """Multipliers 5, 5: knapsack 0 (one task fits, profit 4) is 4, knapsack 1 is 0: 10 - 4 = 6."""
    witness = Witness(multipliers=(5, 5), scale=1, bound=6)
    assert multiplier_bound(pooled_trap, witness) == 6
    result = msgspec.structs.replace(solve_enumerate(pooled_trap), witness=witness)
    assert certify_assignment(pooled_trap, result).proof is Proof.MULTIPLIERS


def test_multipliers_never_prove_more_than_the_optimum() -> None:
    rng = np.random.default_rng(2)
    for _ in range(200):
        problem = AssignmentProblem(
            rng.integers(-9, 9, (4, 2)), rng.integers(0, 5, (4, 2)), rng.integers(4, 9, 2)
        )
        result = solve_enumerate(problem)
        multipliers = tuple(rng.integers(-30, 60, 4).tolist())
        bound = multiplier_bound(problem, Witness(multipliers=multipliers, scale=4, bound=0))
        if result.placed is not None:
            form = problem.integer_form()
            assert bound <= form.costs[np.arange(4), list(result.placed)].sum()


def test_a_witness_of_another_problem_is_refused(pooled_trap: AssignmentProblem) -> None:
    witness = Witness(multipliers=(5,), scale=1, bound=6)
    wrong = msgspec.structs.replace(solve_enumerate(pooled_trap), witness=witness)
    with pytest.raises(CertificateError, match="does not fit"):
        certify_assignment(pooled_trap, wrong)


def test_a_large_search_is_left_to_the_method() -> None:
    """60 tasks on 10 units without a witness take too long to search again."""
    rng = np.random.default_rng(7)
    loads = rng.integers(5, 25, (60, 10))
    problem = AssignmentProblem(rng.integers(10, 50, (60, 10)), loads, loads.sum(axis=0) * 8 // 100)
    result = solve_milp(problem)
    assert result.termination is Termination.OPTIMAL
    assert certify_assignment(problem, result).proof is Proof.SEARCH


def test_a_plan_without_a_claim_is_checked_all_the_same(four_by_two: AssignmentProblem) -> None:
    result = msgspec.structs.replace(solve_enumerate(four_by_two), termination=Termination.FEASIBLE)
    assert certify_assignment(four_by_two, result).proof is Proof.NONE
