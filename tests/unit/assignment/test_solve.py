"""The facade: method, certificate, conflict; and the reference article's signature."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import optalloc as oa
from optalloc.assignment.formats import load_assignment
from optalloc.assignment.solve import METHODS, choose_method

EXACT = ["enumerate", "dynamic", "milp", "exact", "auto"]


@pytest.mark.parametrize("method", [*EXACT, "greedy", "anneal"])
def test_every_method_solves_the_small_instance(
    method: str, four_by_two: oa.AssignmentProblem
) -> None:
    result = oa.solve_assignment(four_by_two, method)
    assert result.bounds.primal == 8.0
    assert result.matrix.tolist() == [[1, 0], [0, 1], [0, 1], [1, 0]]
    if method in EXACT:
        assert result.termination is oa.Termination.OPTIMAL
        assert result.bounds.gap == 0.0
        assert "certified" in result.message


def test_every_method_can_be_imported_but_is_only_when_chosen() -> None:
    assert set(METHODS) == {"enumerate", "dynamic", "greedy", "anneal", "milp", "exact", "large"}


def test_small_instances_go_to_the_plain_methods(four_by_two: oa.AssignmentProblem) -> None:
    assert choose_method(four_by_two) == "enumerate"
    many = oa.AssignmentProblem([[1, 2]] * 30, [1] * 30, [20, 20])
    assert choose_method(many) == "dynamic"


@pytest.mark.parametrize("method", ["enumerate", "greedy", "anneal"])
def test_an_interrupt_keeps_the_best_plan(method: str) -> None:
    rng = np.random.default_rng(3)
    problem = oa.AssignmentProblem(
        rng.integers(10, 50, (14, 3)), rng.integers(5, 25, (14, 3)), [64, 64, 64]
    )

    def interrupt(progress: oa.Progress) -> None:
        if progress.incumbent is not None:
            raise KeyboardInterrupt

    result = oa.solve_assignment(problem, method, on_progress=interrupt)
    assert result.termination is oa.Termination.LIMIT
    assert problem.evaluate(result.assignment).is_feasible
    assert result.bounds.primal == result.incumbents[-1].value


def test_an_unknown_method_suggests_a_near_one(four_by_two: oa.AssignmentProblem) -> None:
    with pytest.raises(oa.InputError, match="'greedy'"):
        oa.solve_assignment(four_by_two, "gredy")


def test_a_task_too_large_for_every_unit_is_named() -> None:
    result = oa.solve_assignment(oa.AssignmentProblem([[1, 1], [1, 1]], [1, 9], [4, 5]))
    assert result.termination is oa.Termination.INFEASIBLE
    assert result.conflict == (
        "task 1 fits on no unit it may use: unit 0 (needs 9, holds 4), unit 1 (needs 9, holds 5)",
    )
    assert result.fixes[0].what == "raise the capacity of unit 1 by 4"


def test_tasks_that_together_exceed_their_units_are_named() -> None:
    """Tasks 0 and 1 (loads 3 and 3) may only use unit 0 of capacity 5; task 2 is innocent."""
    result = oa.solve_assignment(
        oa.AssignmentProblem([[1, 1]] * 3, [3, 3, 1], [5, 5], allowed=[[1, 0], [1, 0], [1, 1]])
    )
    assert result.conflict == ("tasks 0 and 1 fit only on unit 0 and need 6 there, but it holds 5",)
    assert result.fixes[0].what == "raise the capacity of unit 0 by 1"
    with pytest.raises(oa.NoPlan, match="tasks 0 and 1"):
        _ = result.assignment


def test_tasks_that_no_distribution_fits_are_named() -> None:
    """Three loads of 2 in two units of 3; the fourth task of load 0 takes no part."""
    result = oa.solve_assignment(
        oa.AssignmentProblem([[1, 1]] * 4, [[2, 2], [2, 2], [0, 0], [2, 2]], [3, 3])
    )
    assert result.conflict == (
        "tasks 0, 1 and 3 do not fit together in any distribution: unit 0 holds 3, unit 1 holds 3",
    )
    assert result.fixes[0].what in (
        "raise the capacity of unit 0 by 1",
        "raise the capacity of unit 1 by 1",
    )


def test_costs_too_large_for_exact_multipliers_go_to_another_method() -> None:
    """Forty tasks of cost 2**55 or 2**55 + 2**54; 30 fit on the cheap unit."""
    rng = np.random.default_rng(1)
    loads = rng.integers(50, 99, 40)
    costs = [[2**55 + int(k), 2**55 + 2**54] for k in rng.integers(0, 2**53, 40)]
    problem = oa.AssignmentProblem(costs, loads, [2200, 2200])
    result = oa.solve_assignment(problem)
    assert problem.evaluate(result.assignment).is_feasible
    assert result.bounds.gap < 1e-6


def test_published_optima_are_proven(shared_data: Path) -> None:
    """All gap1 to gap12 and the types A and B, within seconds together."""
    with (shared_data / "gap" / "best_known.csv").open(encoding="utf-8") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if row["set"] == "cattrysse1994" or row["name"][0] in "ab"
        ]
    assert len(rows) == 72
    for row in rows:
        problem = load_assignment(shared_data / "gap" / row["file"])
        result = oa.solve_assignment(problem)
        assert result.termination is oa.Termination.OPTIMAL, row["name"]
        assert result.bounds.primal == float(row["best_known"]), row["name"]


def test_the_articles_worked_example() -> None:
    """Loads 1 and 2, capacities 2 and 3: task 0 on unit 0 (cost 1), task 1 on unit 1 (cost 1)."""
    matrix = oa.global_optimal_allocation([[1, 2], [2, 1]], [1, 2], [2, 3])
    assert matrix.dtype == np.int64
    assert matrix.tolist() == [[1, 0], [0, 1]]


def test_the_article_would_overload_where_the_optimum_does_not() -> None:
    """Pooled capacities put both tasks on unit 0 for 2; each unit's own capacity costs 1 + 5."""
    matrix = oa.global_optimal_allocation([[1, 5], [1, 5]], [2, 2], [2, 2])
    assert sorted(matrix.tolist()) == [[0, 1], [1, 0]]


def test_the_article_would_invent_a_plan_where_there_is_none() -> None:
    with pytest.raises(oa.NoPlan, match="tasks 0, 1 and 2 do not fit together"):
        oa.global_optimal_allocation([[1, 1]] * 3, [2, 2, 2], [3, 3])


@pytest.mark.parametrize("method", ["enumerate", "dynamic", "exact", "milp", "greedy"])
def test_optimal_is_only_said_without_a_gap(method: str) -> None:
    """Costs of 1e30 and 1e-30 are rounded to zero or so: the best plan is found, not proven."""
    problem = oa.AssignmentProblem([[1e30, 6], [5, 1e-30]], [1e-9, 2e12], [2, 3e12])
    result = oa.solve_assignment(problem, method)
    assert result.assignment == (1, 1)
    assert result.termination is oa.Termination.FEASIBLE
    assert result.bounds.gap > 0
    assert "differ too much in size" in result.message
