"""Every method of the assignment family against brute force on random small instances."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

from optalloc.assignment.problem import AssignmentProblem, Sense
from optalloc.assignment.result import AssignmentResult
from optalloc.assignment.solve import solve_assignment
from optalloc.result import Termination


def random_instance(rng: np.random.Generator, kind: int) -> AssignmentProblem:
    """Up to 6 tasks on up to 3 units: integers, decimals, or floats; some pairs forbidden."""
    tasks, units = int(rng.integers(0, 7)), int(rng.integers(1, 4))
    costs = rng.integers(-20, 20, (tasks, units))
    loads = rng.integers(0, 8, (tasks, units) if rng.random() < 0.7 else tasks)
    capacities = rng.integers(0, 16, units)
    allowed = rng.random((tasks, units)) < 0.93
    sense: Sense = "min" if rng.random() < 0.7 else "max"
    if kind == 1:
        return AssignmentProblem(
            np.round(costs + rng.random(costs.shape), 2),
            loads / 10,
            capacities / 10,
            allowed,
            sense,
        )
    if kind == 2:
        factor = rng.random(loads.shape)
        return AssignmentProblem(
            costs + rng.random(costs.shape), loads * factor, capacities * 0.77, allowed, sense
        )
    return AssignmentProblem(costs, loads, capacities, allowed, sense)


def brute_force(problem: AssignmentProblem) -> float | None:
    """Objective of the best assignment, counted in decimals; None where nothing is feasible."""
    loads = [[Fraction(repr(v)) for v in row] for row in problem.loads_matrix.tolist()]
    rooms = [Fraction(repr(v)) for v in problem.capacities.tolist()]
    best: Fraction | None = None
    for placed in itertools.product(range(problem.num_units), repeat=problem.num_tasks):
        if not all(problem.allowed[task, unit] for task, unit in enumerate(placed)):
            continue
        used = [Fraction(0)] * problem.num_units
        for task, unit in enumerate(placed):
            used[unit] += loads[task][unit]
        if any(load > room for load, room in zip(used, rooms, strict=True)):
            continue
        value = sum(
            (Fraction(repr(problem.costs[t, u].item())) for t, u in enumerate(placed)), Fraction(0)
        )
        if best is None or (value < best if problem.sense == "min" else value > best):
            best = value
    return None if best is None else float(best)


def check(problem: AssignmentProblem, result: AssignmentResult, truth: float | None) -> None:
    """An exact method's answer is the truth, proven."""
    if truth is None:
        assert result.termination is Termination.INFEASIBLE
        assert result.conflict
        return
    assert result.termination is Termination.OPTIMAL
    assert result.bounds.primal == pytest.approx(truth, rel=1e-9, abs=1e-9)
    assert result.bounds.gap < 1e-9
    assert problem.evaluate(result.assignment).is_feasible
    assert (result.matrix.sum(axis=1) == 1).all()


@pytest.mark.parametrize(
    ("method", "kind"),
    [("enumerate", 0), ("enumerate", 1), ("enumerate", 2), ("dynamic", 0), ("dynamic", 1)],
)
def test_exact_methods_equal_brute_force(method: str, kind: int) -> None:
    """Integers, decimals, floats (of which the dynamic program would need too many states)."""
    rng = np.random.default_rng([kind, 17])
    for _ in range(500):
        problem = random_instance(rng, kind)
        check(problem, solve_assignment(problem, method), brute_force(problem))


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["integers", "decimals", "floats"])
def test_auto_equals_brute_force(kind: int) -> None:
    rng = np.random.default_rng([kind, 18])
    for _ in range(500):
        problem = random_instance(rng, kind)
        check(problem, solve_assignment(problem), brute_force(problem))


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["integers", "decimals", "floats"])
def test_exact_equals_brute_force(kind: int) -> None:
    rng = np.random.default_rng([kind, 24])
    for _ in range(700):
        problem = random_instance(rng, kind)
        check(problem, solve_assignment(problem, "exact"), brute_force(problem))


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["integers", "decimals", "floats"])
def test_milp_equals_brute_force(kind: int) -> None:
    rng = np.random.default_rng([kind, 19])
    for _ in range(80):
        problem = random_instance(rng, kind)
        check(problem, solve_assignment(problem, "milp"), brute_force(problem))


@pytest.mark.parametrize("method", ["greedy", "anneal"])
def test_heuristics_lie_between_bound_and_optimum(method: str) -> None:
    """Never better than the optimum, never a bound beyond it, never a plan that does not fit."""
    rng = np.random.default_rng(20)
    solved = feasible = 0
    for turn in range(120 if method == "greedy" else 40):
        problem = random_instance(rng, turn % 3)
        truth = brute_force(problem)
        result = solve_assignment(problem, method)
        if truth is None:
            assert result.placed is None
            continue
        assert result.termination is not Termination.INFEASIBLE
        feasible += 1
        sign = 1 if problem.sense == "min" else -1
        if result.bounds.dual is not None:
            assert sign * result.bounds.dual <= sign * truth + 1e-9
        if result.placed is not None:
            assert problem.evaluate(result.placed).is_feasible
            assert result.bounds.primal is not None
            assert sign * result.bounds.primal >= sign * truth - 1e-9
            solved += abs(result.bounds.primal - truth) < 1e-9
    assert solved >= 0.9 * feasible


def test_more_capacity_and_more_allowed_pairs_never_hurt() -> None:
    rng = np.random.default_rng(21)
    for _ in range(150):
        problem = random_instance(rng, 0)
        truth = solve_assignment(problem, "enumerate").bounds.primal
        wider = AssignmentProblem(
            problem.costs, problem.loads, problem.capacities + 2, None, problem.sense
        )
        more = solve_assignment(wider, "dynamic").bounds.primal
        if truth is not None:
            assert more is not None
            assert more <= truth if problem.sense == "min" else more >= truth


def test_scaling_costs_scales_the_answer_and_order_does_not_matter() -> None:
    rng = np.random.default_rng(22)
    for _ in range(150):
        problem = random_instance(rng, 0)
        truth = solve_assignment(problem, "dynamic").bounds.primal
        tasks, units = rng.permutation(problem.num_tasks), rng.permutation(problem.num_units)
        other = AssignmentProblem(
            problem.costs[tasks][:, units] * 3,
            problem.loads_matrix[tasks][:, units] * 5,
            problem.capacities[units] * 5,
            problem.allowed[tasks][:, units],
            problem.sense,
        )
        again = solve_assignment(other, "dynamic").bounds.primal
        assert again == (None if truth is None else 3 * truth)


def test_pooling_capacities_breaks_a_unit_on_many_small_instances() -> None:
    """The reference article's programme, restated: one residual number for all units together."""
    rng = np.random.default_rng(23)
    broken = feasible = 0
    while feasible < 300:
        tasks, units = int(rng.integers(2, 7)), int(rng.integers(2, 4))
        problem = AssignmentProblem(
            rng.integers(1, 10, (tasks, units)),
            rng.integers(1, 6, (tasks, units)),
            rng.integers(3, 9, units),
        )
        truth = brute_force(problem)
        if truth is None:
            continue
        feasible += 1
        value, placed = pooled(problem)
        assert value <= truth
        broken += not problem.evaluate(placed).is_feasible
    assert broken / feasible > 0.2


def pooled(problem: AssignmentProblem) -> tuple[int, list[int]]:
    """V(j, R) = min over units of c_ij + V(j + 1, R - w_ij), R the sum of what is left."""
    costs, loads = problem.costs.tolist(), problem.loads_matrix.tolist()

    def value(task: int, room: int) -> tuple[int, list[int]]:
        if task == problem.num_tasks:
            return 0, []
        best = (10**9, [-1] * (problem.num_tasks - task))
        for unit in range(problem.num_units):
            if loads[task][unit] <= room:
                rest, placed = value(task + 1, room - loads[task][unit])
                best = min(best, (costs[task][unit] + rest, [unit, *placed]))
        return best

    return value(0, int(problem.capacities.sum()))
