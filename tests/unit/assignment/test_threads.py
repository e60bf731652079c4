"""Threads, starts and limits of the exact method, in the plain form and the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optalloc.assignment.check_proof import Verdict, certify_proof
from optalloc.assignment.enumerate import solve_enumerate
from optalloc.assignment.exact import solve_exact
from optalloc.assignment.forms import solve_forms
from optalloc.assignment.problem import AssignmentProblem
from optalloc.assignment.proof import read_proof
from optalloc.errors import InputError
from optalloc.result import Termination
from optalloc.stop import NodeLimit, Progress


def correlated(seed: int, tasks: int, units: int) -> AssignmentProblem:
    """Costs that fall with the loads: the hard kind of the benchmark."""
    rng = np.random.default_rng(seed)
    loads = rng.integers(1, 101, (tasks, units))
    costs = 111 - loads + rng.integers(-10, 11, (tasks, units))
    return AssignmentProblem(costs, loads, (0.8 * loads.sum(axis=0) / units).astype(np.int64))


@pytest.mark.parametrize("threads", [2, 3])
def test_exact_with_threads_equals_enumeration(threads: int, tmp_path: Path) -> None:
    """Same value, and the spliced proof is accepted."""
    for seed in range(20):
        problem = correlated(seed, 7 + seed % 3, 3)
        path = tmp_path / "proof.jsonl"
        result = solve_exact(problem, threads=threads, proof=path)
        brute = solve_enumerate(problem)
        assert result.termination is brute.termination
        assert result.bounds.primal == brute.bounds.primal
        verdict = certify_proof(problem, *read_proof(path)).verdict
        optimal = brute.termination is Termination.OPTIMAL
        assert verdict is (Verdict.OPTIMAL if optimal else Verdict.INFEASIBLE)


def test_a_search_split_among_threads_is_proven(tmp_path: Path) -> None:
    """Loads too large for patterns, so that there are enough nodes for subtrees."""
    base = correlated(0, 24, 4)
    loads = base.loads_matrix * 10**6 + base.costs
    problem = AssignmentProblem(base.costs, loads, base.capacities * 10**6)
    path = tmp_path / "proof.jsonl.gz"
    result = solve_exact(problem, threads=2, proof=path)
    assert result.termination is Termination.OPTIMAL
    check = certify_proof(problem, *read_proof(path))
    assert check.verdict is Verdict.OPTIMAL
    assert check.num_leaves > 25


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_equal_seeds_and_node_limits_give_equal_results(threads: int) -> None:
    """Plan, bound and nodes, whatever the clock does."""
    problem = correlated(2, 90, 9)
    first, second = (
        solve_exact(problem, NodeLimit(250), seed=5, threads=threads) for _ in range(2)
    )
    assert first.placed == second.placed
    assert first.bounds == second.bounds
    assert first.stats.nodes == second.stats.nodes


def constrained(seed: int, tasks: int, units: int, **more: Any) -> AssignmentProblem:
    """Two resources, capacities that bind: a few hundred nodes and more."""
    rng = np.random.default_rng(seed)
    loads = rng.integers(5, 60, (tasks, units, 2))
    costs = 80 - loads.sum(axis=2) // 2 + rng.integers(-10, 11, (tasks, units))
    rooms = np.tile(0.9 * loads.mean(axis=1).sum(axis=0) / units, (units, 1))
    return AssignmentProblem(costs, loads, rooms.astype(np.int64), **more)


FORMS: tuple[dict[str, Any], ...] = (
    {},
    {"apart": [[0, 1, 2], [2, 3, 4]], "skip_costs": [*[None] * 10, *[70] * 3]},
    {"objective": "bottleneck-then-sum", "together": [[5, 6], [7, 8]]},
)


@pytest.mark.parametrize("more", FORMS)
def test_every_form_with_threads_is_solved_alike_and_proven(
    more: dict[str, Any], tmp_path: Path
) -> None:
    """Equal values with one thread and more; the spliced proof of several trees is accepted."""
    path, leaves = tmp_path / "proof.jsonl", 0
    for seed in range(2):
        problem = constrained(seed, 13, 4, **more)
        alone = solve_forms(problem)
        assert alone.termination is Termination.OPTIMAL
        goals = problem.objective.split("-then-")
        for threads in (2, 3):
            result = solve_forms(problem, threads=threads, proof=path)
            mine, theirs = problem.evaluate(result.assignment), problem.evaluate(alone.assignment)
            assert [mine.value(goal) for goal in goals] == [theirs.value(goal) for goal in goals]
            check = certify_proof(problem, *read_proof(path))
            assert check.verdict is Verdict.OPTIMAL
            leaves += check.num_leaves
    assert leaves > 25


@pytest.mark.parametrize("threads", [2, 3])
def test_equal_seeds_and_node_limits_give_equal_results_in_every_form(threads: int) -> None:
    """Plan, bound and nodes, and the start at worst."""
    problem = constrained(0, 24, 5)
    start = solve_forms(problem, NodeLimit(1)).assignment
    first, second = (
        solve_forms(problem, NodeLimit(1500), seed=5, threads=threads, start=start)
        for _ in range(2)
    )
    assert first.placed == second.placed
    assert first.bounds == second.bounds
    assert first.stats.nodes == second.stats.nodes >= 1500
    assert first.bounds.primal is not None
    assert first.bounds.primal <= problem.evaluate(start).objective


def test_a_start_is_where_the_search_begins() -> None:
    """The first incumbent is the start; the last is no worse."""
    problem = correlated(3, 40, 4)
    start = solve_exact(problem, NodeLimit(1)).assignment
    result = solve_exact(problem, start=start)
    assert result.incumbents[0].value == problem.evaluate(start).objective
    assert result.termination is Termination.OPTIMAL


def test_an_infeasible_start_is_refused() -> None:
    """With the rule it breaks."""
    problem = correlated(3, 40, 4)
    with pytest.raises(InputError, match="start is not feasible"):
        solve_exact(problem, start=[0] * 40)


def test_no_threads_are_refused() -> None:
    """One at least."""
    with pytest.raises(InputError, match="0 threads"):
        solve_exact(correlated(3, 4, 2), threads=0)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("form", ["plain", "resources"])
def test_an_interrupt_keeps_plan_and_bound(form: str, threads: int) -> None:
    """Ctrl-C in the middle: LIMIT with what is known."""
    problem = correlated(4, 200, 20) if form == "plain" else constrained(4, 24, 5)

    def interrupt(progress: Progress) -> bool:
        if progress.incumbent is not None and progress.nodes > 100:
            raise KeyboardInterrupt
        return False

    solve = solve_exact if form == "plain" else solve_forms
    result = solve(problem, interrupt, threads=threads)
    assert result.termination is Termination.LIMIT
    assert problem.evaluate(result.assignment).is_feasible
    assert result.bounds.dual is not None
    assert result.message.startswith("interrupted")
