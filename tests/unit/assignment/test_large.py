"""Very many tasks: the plan is feasible, and the bound holds for all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.instances import DrawnPairs, classes_of_devices

from optalloc.assignment.exact import solve_exact
from optalloc.assignment.large import ArraySource, solve_large
from optalloc.assignment.problem import AssignmentProblem
from optalloc.errors import InputError
from optalloc.result import Termination
from optalloc.stop import NodeLimit, TimeLimit


def test_bound_and_plan_enclose_the_optimum() -> None:
    """On small instances of every tightness, against the exact method."""
    found = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        loads = rng.integers(1, 40, (30, 4))
        costs = rng.integers(-20, 60, (30, 4))
        rooms = (rng.uniform(0.7, 1.2) * loads.sum(axis=0) / 4).astype(np.int64)
        problem = AssignmentProblem(costs, loads, rooms)
        exact = solve_exact(problem)
        result = solve_large(ArraySource(costs, loads, rooms), num_candidates=3, seed=seed)
        if result.placed is None:
            continue
        found += 1
        evaluation = problem.evaluate(result.placed)
        assert evaluation.is_feasible
        assert evaluation.objective == result.bounds.primal
        best, dual = exact.bounds.primal, result.bounds.dual
        assert best is not None
        assert dual is not None
        assert dual <= best <= evaluation.objective
    assert found > 15


def test_the_gap_of_many_tasks_is_small() -> None:
    """Thousands of tasks of the hard kind, drawn when they are read."""
    source = DrawnPairs(3000, 40, 1)
    result = solve_large(source)
    assert result.bounds.gap < 0.002
    costs, loads = source.rows(0, 3000)
    problem = AssignmentProblem(costs, loads, source.capacities)
    assert problem.evaluate(result.assignment).objective == result.bounds.primal


def test_a_limit_ends_it_with_a_bound() -> None:
    """No time at all: no plan, and still a valid bound."""
    result = solve_large(DrawnPairs(500, 10, 1), stop=TimeLimit(0.0))
    assert result.termination is Termination.LIMIT
    assert result.bounds.dual is not None


def test_wrong_shapes_are_refused() -> None:
    """With the shape that is wanted."""
    with pytest.raises(InputError, match="shape"):
        ArraySource(np.zeros((3, 2), np.int64), np.zeros((2, 2), np.int64), [1, 1])


def test_classes_of_identical_devices_are_solved_closely() -> None:
    """64 tasks on 16 units of 3 classes: every unit of a class is the same, the gap is small."""
    problem = classes_of_devices(64, 16, 3, seed=2)
    assert len({tuple(column) for column in problem.costs.T.tolist()}) == 3
    result = solve_exact(problem, NodeLimit(2000))
    assert result.bounds.gap < 0.002
