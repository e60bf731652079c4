"""The exact method: hand-worked instances, edge cases, limits and the published optima."""

from __future__ import annotations

import csv
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from optalloc.assignment.certify import Proof, certify_assignment, multiplier_bound
from optalloc.assignment.exact import knapsack, lagrangian_bound, solve_exact
from optalloc.assignment.problem import AssignmentProblem
from optalloc.errors import InputError, NoPlan
from optalloc.result import Termination
from optalloc.stop import NodeLimit, Progress, TimeLimit


def read_unit_major(path: Path) -> AssignmentProblem:
    """An OR-Library file: M, N, then M rows of N costs, M rows of N loads, M capacities."""
    numbers = [int(word) for word in path.read_text().split()]
    units, tasks = numbers[:2]
    pairs = units * tasks
    costs = np.array(numbers[2 : 2 + pairs]).reshape(units, tasks).T
    loads = np.array(numbers[2 + pairs : 2 + 2 * pairs]).reshape(units, tasks).T
    return AssignmentProblem(costs, loads, numbers[2 + 2 * pairs :])


def correlated(tasks: int, units: int, seed: int) -> AssignmentProblem:
    """A tight instance with dear small loads (type D of the literature)."""
    rng = np.random.default_rng(seed)
    loads = rng.integers(1, 101, (tasks, units))
    costs = 111 - loads + rng.integers(-10, 11, (tasks, units))
    return AssignmentProblem(costs, loads, (loads.sum(axis=0) * 8) // (10 * units))


def test_knapsack_reference_by_hand() -> None:
    """Capacity 5: 4 + 3 (loads 3 and 2) beats 5 (load 4); the item of load 6 cannot enter."""
    assert knapsack(np.array([4, 3, 5, 9]), np.array([3, 2, 4, 6]), 5) == 7


def test_lagrangian_bound_by_hand(four_by_two: AssignmentProblem) -> None:
    """Multipliers (4, 4, 3, 3): the profits are 3, 2, -2, 2 on unit 0 and 0, 0, 1, 0 on unit 1.

    The knapsacks give 3 + 2 = 5 (loads 3 and 2) and 1: the bound is 14 - 5 - 1 = 8, the optimum.
    """
    assert lagrangian_bound(four_by_two.integer_form(), [4, 4, 3, 3]) == Fraction(8)
    assert lagrangian_bound(four_by_two.integer_form(), [8, 8, 6, 6], scale=2) == Fraction(8)


def test_capacities_are_not_pooled(pooled_trap: AssignmentProblem) -> None:
    """Each unit takes one task: 1 + 5 = 6."""
    result = solve_exact(pooled_trap)
    assert result.termination is Termination.OPTIMAL
    assert result.bounds.primal == result.bounds.dual == 6
    assert sorted(result.assignment) == [0, 1]


def test_infeasible_is_proven_and_certified(pooled_phantom: AssignmentProblem) -> None:
    """Three tasks and room for two: infeasible, and the check agrees."""
    result = solve_exact(pooled_phantom)
    assert result.termination is Termination.INFEASIBLE
    assert result.bounds.primal is None
    with pytest.raises(NoPlan):
        _ = result.assignment
    assert certify_assignment(pooled_phantom, result).proof is not Proof.NONE


def test_optimum_by_hand(four_by_two: AssignmentProblem) -> None:
    """The optimum is 8, with tasks 0 and 3 on unit 0."""
    result = solve_exact(four_by_two)
    assert result.assignment == (0, 1, 1, 0)
    assert result.bounds.primal == 8


def test_maximise_by_hand(four_by_two: AssignmentProblem) -> None:
    """The most a plan can cost: threes 4 + 2 = 6, twos 5 + 3 = 8, together 14."""
    problem = AssignmentProblem(
        four_by_two.costs, four_by_two.loads, four_by_two.capacities, sense="max"
    )
    result = solve_exact(problem)
    assert result.termination is Termination.OPTIMAL
    assert result.bounds.primal == result.bounds.dual == 14


@pytest.mark.parametrize(
    ("problem", "optimum"),
    [
        (AssignmentProblem(np.zeros((0, 2)), np.zeros((0, 2)), [1, 1]), 0),
        (AssignmentProblem([[3]], [0], [0]), 3),
        (AssignmentProblem([[3], [-5], [4]], [1, 2, 3], [6]), 2),
        (AssignmentProblem([[-7, -9], [-3, 0]], [[0, 0], [0, 0]], [0, 0]), -12),
        (AssignmentProblem([[0.1, 0.3], [0.2, 0.7]], [1, 1], [1, 2]), 0.5),
        (AssignmentProblem([[1, 9], [1, 9]], [1, 1], [2, 2], [[True, True], [False, True]]), 10),
        (AssignmentProblem([[10**12, 3], [5, 10**12]], [1, 1], [1, 1]), 8),
    ],
    ids=["no-task", "zero-load", "one-unit", "negative", "decimal", "forbidden", "large-costs"],
)
def test_edge_cases(problem: AssignmentProblem, optimum: float) -> None:
    """No task, one unit, zero loads and capacities, negative, decimal and huge costs."""
    result = solve_exact(problem)
    assert result.termination is Termination.OPTIMAL
    assert result.bounds.primal == result.bounds.dual == pytest.approx(optimum, abs=1e-12)


def test_a_task_that_fits_nowhere_is_infeasible() -> None:
    """Load 3 against capacities 2 and 2."""
    result = solve_exact(AssignmentProblem([[1, 1], [1, 1]], [1, 3], [2, 2]))
    assert result.termination is Termination.INFEASIBLE


def test_costs_beyond_exact_multipliers_are_refused() -> None:
    """Costs of 4e17 leave no room for multipliers in 64 bits."""
    costs = [[0, 4 * 10**17], [4 * 10**17 - 1, 0], [1, 4 * 10**17]]
    with pytest.raises(InputError, match="too large"):
        solve_exact(AssignmentProblem(costs, [1, 1, 1], [2, 2]))


def test_loads_too_large_for_tables_are_solved() -> None:
    """Loads up to 10^9: the knapsacks are enumerated; the optimum equals that of a dear detour.

    Every unit holds just its own three tasks, whose costs there are 1 and 5 elsewhere.
    """
    rng = np.random.default_rng(3)
    loads = rng.integers(5 * 10**8, 10**9, (9, 3))
    own = np.arange(9) // 3
    costs = np.full((9, 3), 5)
    costs[np.arange(9), own] = 1
    capacities = [int(loads[own == unit, unit].sum()) for unit in range(3)]
    result = solve_exact(AssignmentProblem(costs, loads, capacities))
    assert result.bounds.primal == 9
    assert result.assignment == tuple(own.tolist())


def test_witness_is_checked_by_other_code() -> None:
    """The bound of the witness is that of the reference and of the independent check."""
    problem = correlated(30, 4, seed=1)
    result = solve_exact(problem)
    witness = result.witness
    assert witness is not None
    reference = lagrangian_bound(problem.integer_form(), witness.multipliers, witness.scale)
    assert witness.bound == -(-reference.numerator // reference.denominator)
    assert multiplier_bound(problem, witness) <= witness.bound
    assert witness.bound <= (result.bounds.primal or 0)


def test_root_witness_proves_what_needs_no_search(shared_data: Path) -> None:
    """On a05100 the multipliers alone prove the optimum 1698."""
    problem = read_unit_major(shared_data / "gap" / "chu1997" / "a05100.txt")
    result = solve_exact(problem)
    assert result.bounds.primal == 1698
    assert certify_assignment(problem, result).proof is Proof.MULTIPLIERS


def test_progress_only_ever_improves() -> None:
    """Incumbents fall, bounds rise, and they meet at the optimum."""
    seen: list[Progress] = []
    result = solve_exact(correlated(40, 5, seed=2), on_progress=seen.append)
    incumbents = [p.incumbent for p in seen if p.incumbent is not None]
    bounds = [p.bound for p in seen if p.bound is not None]
    assert incumbents == sorted(incumbents, reverse=True)
    assert bounds == sorted(bounds)
    assert incumbents[-1] == result.bounds.primal == result.bounds.dual
    assert [i.value for i in result.incumbents] == sorted(set(incumbents), reverse=True)


def test_a_limit_keeps_plan_and_bound() -> None:
    """After few nodes the answer is LIMIT, its bound below the optimum and its plan above."""
    problem = correlated(60, 6, seed=4)
    optimum = solve_exact(problem).bounds.primal
    result = solve_exact(problem, NodeLimit(3))
    assert result.termination is Termination.LIMIT
    assert optimum is not None
    assert result.bounds.primal is not None
    assert result.bounds.dual is not None
    assert result.bounds.dual <= optimum <= result.bounds.primal
    assert problem.evaluate(result.assignment).is_feasible
    assert solve_exact(problem, TimeLimit(0.0)).termination is Termination.LIMIT


def test_a_plan_without_waste_is_found() -> None:
    """Capacities are what a hidden plan of the best pairs takes: its cost is the root's bound."""
    rng = np.random.default_rng(3)
    tasks, units = np.arange(300), 24
    loads = rng.integers(1, 101, (len(tasks), units))
    costs = 111 - loads + rng.integers(0, 9, loads.shape)
    hidden = rng.integers(0, units, len(tasks))
    costs[tasks, hidden] = 111 - loads[tasks, hidden]
    capacities = np.bincount(hidden, loads[tasks, hidden], units).astype(int)
    result = solve_exact(AssignmentProblem(costs, loads, capacities), NodeLimit(300), seed=1)
    assert result.termination is Termination.OPTIMAL
    assert result.bounds.primal == costs[tasks, hidden].sum()


def test_equal_runs_give_equal_answers() -> None:
    """A node limit makes the search deterministic, incumbents and bounds included."""
    problem = correlated(60, 6, seed=5)
    first, second = (solve_exact(problem, NodeLimit(200)) for _ in range(2))
    assert first.placed == second.placed
    assert first.bounds == second.bounds
    assert first.witness == second.witness
    assert first.stats.nodes == second.stats.nodes


def test_interrupt_keeps_the_best_plan() -> None:
    """Ctrl-C while progress is reported ends the search with LIMIT and a plan."""
    problem = correlated(60, 6, seed=6)

    def interrupt(progress: Progress) -> None:
        if progress.incumbent is not None:
            raise KeyboardInterrupt

    result = solve_exact(problem, on_progress=interrupt)
    assert result.termination is Termination.LIMIT
    assert problem.evaluate(result.assignment).is_feasible


def test_published_optima(shared_data: Path) -> None:
    """All 60 small instances and types A and B, each proven at the published value."""
    folder = shared_data / "gap"
    with (folder / "best_known.csv").open() as lines:
        rows = [
            row
            for row in csv.DictReader(lines)
            if row["set"] == "cattrysse1994" or row["name"][0] in "ab"
        ]
    assert len(rows) == 72
    wrong = []
    for row in rows:
        result = solve_exact(read_unit_major(folder / row["file"]), TimeLimit(30))
        answer = (result.termination, result.bounds.primal)
        if answer != (Termination.OPTIMAL, float(row["best_known"])):
            wrong.append((row["name"], answer))
    assert wrong == []


def test_patterns_and_multipliers_prove_the_same(tmp_path: Path) -> None:
    """A run that writes a proof closes its nodes by multipliers alone, others by patterns too."""
    for seed in range(4):
        problem = correlated(40, 5, seed)
        plain = solve_exact(problem)
        logged = solve_exact(problem, proof=tmp_path / "proof")
        assert plain.termination is logged.termination is Termination.OPTIMAL
        assert plain.bounds.primal == logged.bounds.primal


def test_no_false_proof_after_double_removal(shared_data: Path) -> None:
    """d05100 is 6353: a pair removed twice in one sweep once made 6354 look optimal."""
    problem = read_unit_major(shared_data / "gap" / "chu1997" / "d05100.txt")
    result = solve_exact(problem, TimeLimit(60))
    assert result.bounds.primal == result.bounds.dual == 6353


def test_a_search_stopped_at_once_has_a_plan_all_the_same() -> None:
    """By regret, where capacities are ample; the bound is that of the search."""
    rng = np.random.default_rng(4)
    costs, loads = rng.integers(10, 50, (300, 8)), rng.integers(5, 25, (300, 8))
    problem = AssignmentProblem(costs, loads, loads.sum(axis=0) // 6)
    result = solve_exact(problem, NodeLimit(0))
    assert result.termination is Termination.LIMIT
    assert problem.evaluate(result.assignment).is_feasible
    assert result.bounds.dual is not None
