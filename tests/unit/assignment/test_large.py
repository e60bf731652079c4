"""Very many tasks: the plan is feasible, and the bound holds for all pairs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from benchmarks.instances import KINDS, DrawnPairs, classes_of_devices

from optalloc.assignment.ascent import Lists, ascend
from optalloc.assignment.enumerate import solve_enumerate
from optalloc.assignment.exact import solve_exact
from optalloc.assignment.large import ArraySource, solve_large
from optalloc.assignment.problem import AssignmentProblem, Sense
from optalloc.assignment.scan import Scanner
from optalloc.assignment.solve import choose_method, solve_assignment
from optalloc.errors import InputError
from optalloc.result import Termination
from optalloc.stop import Gap, NodeLimit, Progress, TimeLimit


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
    """Many tasks of the hard kind, drawn when they are read."""
    source = DrawnPairs(1500, 30, 1)
    result = solve_large(source)
    assert result.bounds.gap < 0.002
    costs, loads = source.rows(0, 1500)
    problem = AssignmentProblem(costs, loads, source.capacities)
    assert problem.evaluate(result.assignment).objective == result.bounds.primal


@pytest.mark.parametrize("kind", KINDS)
def test_the_gap_is_small_for_every_kind(kind: str) -> None:
    """A bound and a plan of thousands of tasks within a thousandth of each other."""
    result = solve_large(DrawnPairs(1500, 30, 3, kind))
    assert result.placed is not None
    assert result.bounds.gap < (0.002 if kind == "own" else 0.001)


def test_every_claim_holds_on_small_instances() -> None:
    """Against all assignments: forbidden pairs, identical units, profits, nothing feasible."""
    seen = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        tasks, units = int(rng.integers(1, 6)), int(rng.integers(1, 5))
        loads = rng.integers(0, 30, (tasks, units))
        costs = rng.integers(-30, 60, (tasks, units))
        rooms = (rng.uniform(0.6, 1.6) * loads.sum(axis=0) / units).astype(np.int64)
        if seed % 3 == 0:
            loads[:, -1], costs[:, -1], rooms[-1] = loads[:, 0], costs[:, 0], rooms[0]
        allowed = rng.random((tasks, units)) < 0.9
        sense: Sense = "max" if seed % 2 else "min"
        problem = AssignmentProblem(costs, loads, rooms, allowed, sense)
        best = solve_enumerate(problem).bounds.primal
        source = ArraySource(costs, loads, rooms, allowed)
        result = solve_large(source, num_candidates=2, seed=seed, sense=sense)
        again = solve_assignment(problem, "large", seed=seed)
        for found in (result, again):
            seen.add(found.termination)
            if found.termination is Termination.INFEASIBLE:
                assert best is None
                assert found.conflict
            if found.placed is not None:
                evaluation = problem.evaluate(found.placed)
                assert evaluation.is_feasible
                assert evaluation.objective == found.bounds.primal
                assert best is not None
                low, high = sorted((found.bounds.primal, found.bounds.dual or 0.0))
                assert low <= best <= high
            if found.termination is Termination.OPTIMAL:
                assert found.bounds.primal == best
    assert seen >= {Termination.OPTIMAL, Termination.FEASIBLE, Termination.INFEASIBLE}


def test_threads_and_node_limits_give_equal_results() -> None:
    """One thread or two, to the end or to so many questions."""
    source = DrawnPairs(600, 20, 2, "e")
    for limit in (30, 60, 10**9):
        one, two = (
            solve_large(source, threads=threads, seed=5, stop=NodeLimit(limit))
            for threads in (1, 2)
        )
        assert one.placed == two.placed
        assert one.bounds == two.bounds
        assert one.stats.nodes == two.stats.nodes


def test_capacities_that_cannot_hold_all_loads_are_refuted() -> None:
    """Every task loads every unit alike and all together exceed the capacities by a quarter."""
    result = solve_large(DrawnPairs(800, 10, 1, "own", tightness=0.8))
    assert result.termination is Termination.INFEASIBLE
    assert "capacities" in result.conflict[0]
    share = float(result.fixes[0].what.split()[-1].rstrip("%"))
    source = DrawnPairs(800, 10, 1, "own", tightness=0.8)
    least = 100 * (source.rows(0, 800)[1][:, 0].sum() / source.capacities.sum() - 1)
    assert 0.9 * least < share <= least + 0.001


def test_a_task_that_fits_nowhere_is_named() -> None:
    costs = np.ones((3, 2), np.int64)
    result = solve_large(ArraySource(costs, np.array([1, 9, 1]), [4, 4]))
    assert result.termination is Termination.INFEASIBLE
    assert result.conflict == ("task 1 fits on no unit",)


def test_an_interrupt_keeps_plan_and_bound() -> None:
    """The second plan is interrupted: the first one and the bound are what is left."""
    plans = set()

    def interrupt(progress: Progress) -> bool:
        if progress.incumbent is not None:
            plans.add(progress.incumbent)
        if len(plans) == 2:
            raise KeyboardInterrupt
        return False

    result = solve_large(DrawnPairs(1500, 30, 2), stop=interrupt)
    assert result.termination is Termination.LIMIT
    assert result.placed is not None
    assert 0 < result.bounds.gap < 0.05


def test_a_gap_that_is_small_enough_ends_it() -> None:
    result = solve_large(DrawnPairs(1500, 30, 2), stop=Gap(0.01))
    assert result.termination is Termination.LIMIT
    assert 0.0 < result.bounds.gap <= 0.01


def test_numbers_of_any_size_are_bounded_in_integers() -> None:
    """Loads in bytes, costs in micro-dollars, and costs of billions."""
    rng = np.random.default_rng(0)
    for load, cost in ((10**11, 10**6), (50, 10**12)):
        loads = rng.integers(load // 10, load, (400, 8))
        costs = rng.integers(0, cost, (400, 8))
        rooms = np.full(8, int(loads.mean() * 50 * 0.8))
        result = solve_large(ArraySource(costs, loads, rooms))
        assert result.bounds.gap < 0.01


def test_auto_takes_large_instances_here() -> None:
    """Two million pairs are still proven."""
    loads = np.ones((2001, 1000), np.int64)
    assert choose_method(AssignmentProblem(loads[:2000], loads[:2000], [9] * 1000)) == "exact"
    assert choose_method(AssignmentProblem(loads, loads, [9] * 1000)) == "large"


@pytest.mark.parametrize("kind", ["d", "classes"])
def test_a_limit_ends_it_with_a_plan_and_a_bound(kind: str) -> None:
    """No time at all: a plan in a hurry, and a valid bound."""
    result = solve_large(DrawnPairs(1500, 30, 1, kind), stop=TimeLimit(0.0))
    assert result.termination is Termination.LIMIT
    assert result.placed is not None
    assert len(result.incumbents) == 1
    assert 0.0 < result.bounds.gap < 0.1


@pytest.mark.parametrize("asked", [1, 12, 110])
def test_an_interrupt_before_the_first_plan_still_gives_one(asked: int) -> None:
    """While prices are sought, of the lists or already in the sweeps."""
    asks = 0

    def interrupt(progress: Progress) -> bool:
        nonlocal asks
        asks += progress.bound is not None  # the lists are there
        if asks == asked:
            asks += 1
            raise KeyboardInterrupt
        return False

    source = DrawnPairs(1500, 30, 2)
    result = solve_large(source, stop=interrupt)
    assert result.termination is Termination.LIMIT
    assert result.placed is not None
    assert 0.0 < result.bounds.gap < 0.1


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


def test_units_of_a_class_share_a_price_that_loses_nothing() -> None:
    """On lists that show few units of a class, the bound over all pairs is as good as on all."""
    source = DrawnPairs(2000, 40, 4, "classes")
    rooms = source.capacities.astype(np.float64)
    alone, zeros = np.arange(40), np.zeros(40)
    grid = np.broadcast_to(np.arange(40, dtype=np.int32), (2000, 40))
    with ThreadPoolExecutor(2) as pool:
        scanner = Scanner(source, 1, pool)
        full = ascend(Lists(grid, *source.rows(0, 2000)), rooms, zeros, lambda: False, alone)
        short = scanner.scan(full, 24, np.arange(40) % 8)
        classes = short.classes
        assert classes.tolist() == (np.arange(40) % 8).tolist()
        shared = ascend(short.lists, rooms, zeros, lambda: False, classes)
        assert all(len(set(shared[classes == k])) == 1 for k in range(8))
        best = scanner.scan(full, 0, alone).bound
        assert scanner.scan(shared, 0, alone).bound > best - 1e-5 * abs(best)


def test_one_pair_sets_a_unit_apart() -> None:
    """Units are of one class only where all tasks, costs, loads and capacities agree."""
    costs, loads = np.full((500, 6), 7), np.full((500, 6), 3)
    costs[499, 1] = 8
    loads[250, 4] = 2
    source = ArraySource(costs, loads, [900, 900, 901, 900, 900, 900])
    with ThreadPoolExecutor(1) as pool:
        found = Scanner(source, 1, pool).scan(np.zeros(6), 0, np.arange(6)).classes
    assert found.tolist() == [0, 1, 2, 0, 3, 0]
