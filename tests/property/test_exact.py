"""The exact method equals enumeration on thousands of small random instances of every kind."""

from __future__ import annotations

import math

import numpy as np
import pytest

from optalloc.assignment.certify import certify_assignment
from optalloc.assignment.enumerate import solve_enumerate
from optalloc.assignment.exact import lagrangian_bound, solve_exact
from optalloc.assignment.problem import AssignmentProblem, Sense
from optalloc.result import Termination

KINDS = ("small", "huge", "decimal", "binary", "multiples", "ties")
COUNT = 500


def draw(kind: str, rng: np.random.Generator) -> AssignmentProblem:
    """Up to 8 tasks and 4 units; about half of the instances are infeasible."""
    units = int(rng.integers(1, 5))
    tasks = int(rng.integers(0, 9 if units < 4 else 7))
    shape = (tasks, units)
    costs: np.ndarray[tuple[int, ...], np.dtype[np.float64 | np.int64]]
    if kind == "huge":
        costs = rng.integers(-(10**11), 10**11, shape)
    elif kind == "decimal":
        costs = np.round(rng.normal(0, 5, shape), 2)
    elif kind == "binary":
        costs = rng.normal(0, 5, shape)
    elif kind == "multiples":
        costs = 7 * rng.integers(0, 3, shape)
    else:
        costs = rng.integers(-2 if kind == "ties" else -20, 3 if kind == "ties" else 30, shape)
    largest = int(rng.choice([9, 9, 10**6]))
    loads = rng.integers(0, largest, shape if rng.random() < 0.7 else (tasks,))
    total = float(loads.sum()) * (units if loads.ndim == 1 else 1)
    capacities = np.floor(rng.random(units) * total * 2.4 / units**2)
    allowed = rng.random(shape) < (1.0 if rng.random() < 0.6 else 0.7)
    sense: Sense = "max" if rng.random() < 0.3 else "min"
    if rng.random() < 0.2:
        return AssignmentProblem(costs, loads / 8, capacities / 8, allowed, sense)
    return AssignmentProblem(costs, loads, capacities.astype(np.int64), allowed, sense)


@pytest.mark.parametrize("kind", KINDS)
def test_exact_equals_enumeration(kind: str) -> None:
    """Same termination and value, a feasible plan, and a claim the independent check accepts."""
    rng = np.random.default_rng(KINDS.index(kind))
    feasible = 0
    for _ in range(COUNT):
        problem = draw(kind, rng)
        exact, brute = solve_exact(problem), solve_enumerate(problem)
        assert exact.termination is brute.termination, problem
        certify_assignment(problem, exact)
        if exact.termination is Termination.OPTIMAL:
            feasible += 1
            assert brute.bounds.primal is not None
            assert exact.bounds.gap <= (1e-9 if exact.arithmetic == "float" else 0.0)
            assert exact.bounds.primal == pytest.approx(brute.bounds.primal, rel=1e-9, abs=1e-9)
            assert problem.evaluate(exact.assignment).is_feasible
    assert COUNT * 0.2 < feasible < COUNT * 0.9


def test_native_bound_equals_the_reference() -> None:
    """The kernel's bound at the root multipliers is that of the NumPy reference, to the integer."""
    rng = np.random.default_rng(99)
    compared = 0
    for _ in range(COUNT):
        problem = draw("small", rng)
        form = problem.integer_form()
        result = solve_exact(problem)
        if result.witness is None or form.capacities.max() > 10**5:
            continue
        bound = lagrangian_bound(form, result.witness.multipliers, result.witness.scale)
        assert math.ceil(bound) == result.witness.bound
        compared += 1
    assert compared > COUNT * 0.3
