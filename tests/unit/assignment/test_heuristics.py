"""Greedy and annealing: feasible plans with a valid bound."""

from __future__ import annotations

import numpy as np
import pytest

from optalloc.assignment.anneal import solve_anneal
from optalloc.assignment.greedy import by_regret, solve_greedy
from optalloc.assignment.neighbours import Neighbourhood
from optalloc.assignment.problem import AssignmentProblem
from optalloc.result import Termination
from optalloc.stop import NodeLimit


@pytest.fixture(scope="module")
def medium() -> AssignmentProblem:
    """30 tasks, 5 units at 80 % load."""
    rng = np.random.default_rng(1)
    loads = rng.integers(5, 25, (30, 5))
    return AssignmentProblem(rng.integers(10, 50, (30, 5)), loads, loads.sum(axis=0) * 8 // 50)


def test_regret_places_the_task_that_would_lose_most_first() -> None:
    """Unit 0 holds one task. Waiting costs task 0 1 and task 1 8: task 1 gets it."""
    form = AssignmentProblem([[1, 2], [1, 9]], [1, 1], [1, 2]).integer_form()
    assert by_regret(form, form.costs.astype(float)).tolist() == [1, 0]


def test_swaps_leave_a_local_optimum_of_shifts() -> None:
    """Full units: no task can be shifted alone, swapping both saves 5 + 5 - 1 - 1 = 8."""
    form = AssignmentProblem([[5, 1], [1, 5]], [1, 1], [1, 1]).integer_form()
    plan = Neighbourhood(form, np.array([0, 1]), np.full(2, 100.0))
    assert plan.best_shift(0)[0] > 0
    assert plan.best_swap(0) == (-8.0, 1)
    plan.descend(lambda: False)
    assert plan.placed.tolist() == [1, 0]
    assert plan.used.tolist() == [1, 1]


@pytest.mark.parametrize("solve", [solve_greedy, solve_anneal])
def test_small_instances_are_solved(solve: object, four_by_two: AssignmentProblem) -> None:
    result = solve(four_by_two)  # type: ignore[operator]
    assert result.bounds.primal == 8.0
    assert result.bounds.dual <= 8.0


@pytest.mark.parametrize("solve", [solve_greedy, solve_anneal])
def test_the_plan_is_feasible_and_between_bound_and_start(
    solve: object, medium: AssignmentProblem
) -> None:
    result = solve(medium)  # type: ignore[operator]
    assert medium.evaluate(result.assignment).is_feasible
    assert result.bounds.dual <= result.bounds.primal
    assert result.bounds.gap < 0.06
    values = [incumbent.value for incumbent in result.incumbents]
    assert values == sorted(values, reverse=True)
    assert result.termination in (Termination.FEASIBLE, Termination.OPTIMAL)


def test_equal_seeds_give_equal_plans(medium: AssignmentProblem) -> None:
    first = solve_anneal(medium, seed=4, moves=20_000)
    again = solve_anneal(medium, seed=4, moves=20_000)
    assert first.assignment == again.assignment
    assert first.stats.nodes == again.stats.nodes


def test_annealing_obeys_the_stop_rule(medium: AssignmentProblem) -> None:
    result = solve_anneal(medium, NodeLimit(4000))
    assert result.termination is Termination.LIMIT
    assert result.stats.nodes == 4000


def test_a_task_that_fits_nowhere_is_infeasible() -> None:
    problem = AssignmentProblem([[1, 1]], [9], [1, 1])
    assert solve_greedy(problem).termination is Termination.INFEASIBLE
    assert solve_anneal(problem).termination is Termination.INFEASIBLE


def test_no_task_is_solved() -> None:
    problem = AssignmentProblem([], [], [3, 4])
    assert solve_greedy(problem).assignment == ()
    assert solve_anneal(problem).assignment == ()
