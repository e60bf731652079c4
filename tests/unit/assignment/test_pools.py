"""Identical units as one unit: the bound, its proof, and what the checker refuses."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import numpy as np
import pytest
from benchmarks.assignment_instances import feasible_plans
from benchmarks.instances import classes_of_devices

from optalloc.assignment import exact, tree
from optalloc.assignment.check_proof import Verdict, certify_proof
from optalloc.assignment.enumerate import solve_enumerate
from optalloc.assignment.enumerate_forms import solve_enumerate_forms
from optalloc.assignment.exact import solve_exact
from optalloc.assignment.forms import solve_forms
from optalloc.assignment.pools import find_pools, split
from optalloc.assignment.problem import OBJECTIVES, AssignmentProblem
from optalloc.assignment.proof import instance_digest, read_proof
from optalloc.assignment.solve import solve_assignment
from optalloc.result import Termination
from optalloc.stop import NodeLimit


def two_kinds(seed: int) -> AssignmentProblem:
    """Units 0 and 2 of one kind and unit 1 of another; a third of the instances is infeasible."""
    rng = np.random.default_rng(seed)
    units = [0, 1, 0]
    loads = 3 * rng.integers(1, 20, (7, 2))[:, units]
    costs = 60 - loads + rng.integers(-9, 10, (7, 2))[:, units]
    return AssignmentProblem(costs, loads, rng.integers(50, 80, 2)[units])


def test_groups_are_of_equal_columns_and_capacities() -> None:
    """A unit with another capacity stays alone."""
    problem = two_kinds(0)
    assert find_pools(problem.integer_form()) == ((0, 2), (1,))
    other = AssignmentProblem(problem.costs, problem.loads, problem.capacities - [0, 0, 3])
    assert find_pools(other.integer_form()) is None


def test_the_bound_over_pools_is_proven_and_true(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Asked for at once: the value is that of enumeration, and some proofs are over pools."""
    monkeypatch.setattr(exact, "FIRST_NODES", 0)
    path, over_pools, feasible = tmp_path / "p.jsonl", 0, 0
    for seed in range(16):
        problem = two_kinds(seed)
        result, brute = solve_exact(problem, proof=path), solve_enumerate(problem)
        assert result.termination is brute.termination, seed
        assert result.bounds.primal == brute.bounds.primal, seed
        header, events = read_proof(path)
        verdict = certify_proof(problem, header, events).verdict
        optimal = brute.termination is Termination.OPTIMAL
        assert verdict is (Verdict.OPTIMAL if optimal else Verdict.INFEASIBLE), seed
        over_pools += bool(header.trees[0].pools)
        feasible += optimal
    assert over_pools > 1
    assert 4 < feasible < 15


@pytest.mark.parametrize(
    "groups", [((0, 2),), ((0, 1), (2,)), ((0, 2), (1,), (1,)), ((0, 2), (3,))]
)
def test_other_pools_are_refused(groups: tuple[tuple[int, ...], ...], tmp_path: Path) -> None:
    """Units left out, that differ, told twice, that do not exist."""
    problem = two_kinds(2)
    solve_exact(problem, proof=tmp_path / "p.jsonl")
    header, events = read_proof(tmp_path / "p.jsonl")
    trees = (msgspec.structs.replace(header.trees[0], pools=groups),)
    check = certify_proof(problem, msgspec.structs.replace(header, trees=trees), events)
    assert check.verdict is Verdict.INVALID
    assert "pool" in check.reason


def test_a_tree_of_the_units_does_not_prove_its_claim_over_pools(tmp_path: Path) -> None:
    """Where the units hold less than their pool, the cheaper plan over pools stays."""
    loads = [[3, 3, 1], [3, 3, 1], [4, 4, 1]]  # two units hold a task each, their pool three
    problem = AssignmentProblem([[1, 1, 9]] * 3, loads, [5, 5, 3])
    result = solve_exact(problem, proof=tmp_path / "p.jsonl")
    assert result.bounds.primal == 11
    header, events = read_proof(tmp_path / "p.jsonl")
    trees = (msgspec.structs.replace(header.trees[0], pools=((0, 1), (2,))),)
    check = certify_proof(problem, msgspec.structs.replace(header, trees=trees), events)
    assert check.verdict is Verdict.INVALID


@pytest.mark.parametrize(("room", "fits"), [(7, True), (6, False)])
def test_a_plan_over_pools_is_split_where_its_tasks_fit(room: int, fits: bool) -> None:
    """Loads 3, 4 and 4 on two units: 7 each hold them, 6 each hold 12 in all but not these."""
    problem = AssignmentProblem([[1, 5, 1]] * 3, [3, 4, 4], [room, 9, room])
    form = problem.integer_form()
    groups = find_pools(form)
    assert groups == ((0, 2), (1,))

    def fill(tasks: list[int], group: tuple[int, ...]) -> tuple[int, ...] | None:
        for places in itertools.product(range(len(group)), repeat=len(tasks)):
            used = np.bincount(places, weights=form.loads[tasks, 0], minlength=len(group))
            if (used <= form.capacities[list(group)]).all():
                return places
        return None

    units = split(groups, [0, 0, 0], fill)
    assert (units is not None) == fits
    assert units is None or problem.evaluate(units).objective == 3


def test_tasks_on_classes_of_devices_are_proven() -> None:
    """Fifty tasks on two classes of five devices, in fewer nodes than the tree would take."""
    result = solve_exact(classes_of_devices(50, 10, 2, 2), NodeLimit(2000))
    assert result.termination is Termination.OPTIMAL


def test_pools_prove_problems_with_tasks_left_out_and_kept_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The unit that takes what is left out is in no pool."""
    monkeypatch.setattr(exact, "FIRST_NODES", 0)
    path, over_pools = tmp_path / "p.jsonl", 0
    for seed in range(10):
        plain = two_kinds(seed)
        problem = plain.replace(
            together=[[0, 1]] if seed % 3 else [], skip_costs=[None, None, 70, 40, 45, 80, None]
        )
        result = solve_assignment(problem, "exact", proof=path)
        header, events = read_proof(path)
        check = certify_proof(problem, header, events)
        assert check.verdict.value == result.termination.value
        over_pools += bool(header.trees[0].pools)
    assert over_pools > 1


def kinds_of_nodes(seed: int) -> AssignmentProblem:
    """Two resources, groups that stay apart, tasks left out, two goals; units 0, 2 and 3 alike."""
    rng = np.random.default_rng(seed)
    units = [0, 1, 0, 0]
    loads = rng.integers(1, 20, (6, 2, 2))[:, units]
    costs = (60 - loads.mean(axis=2) + rng.integers(-9, 10, (6, 2))[:, units]).astype(np.int64)
    return AssignmentProblem(
        costs,
        loads,
        rng.integers(12, 32, (2, 2))[units],
        apart=[rng.permutation(6)[:3].tolist() for _ in range(seed % 3)],
        skip_costs=[None, None, None, None, 70, 65] if seed % 2 else None,
        objective=OBJECTIVES[seed // 2 % 4],
    )


@pytest.mark.parametrize(("first_nodes", "begins"), [(0, False), (0, True), (10**9, False)])
def test_identical_units_of_several_resources_are_proven(
    first_nodes: int, begins: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With pools asked for at once, also from a start, and with twins alone."""
    monkeypatch.setattr(tree, "FIRST_NODES", first_nodes)
    path, over_pools, infeasible = tmp_path / "p.jsonl", 0, 0
    for seed in range(16):
        problem = kinds_of_nodes(seed)
        plans = feasible_plans(problem).tolist() if begins else []
        result = solve_forms(problem, start=plans[0] if plans else None, proof=path)
        brute = solve_enumerate_forms(problem)
        assert result.termination is brute.termination, seed
        if brute.placed is not None:
            mine, theirs = problem.evaluate(result.assignment), problem.evaluate(brute.placed)
            for goal in problem.objective.split("-then-"):
                assert mine.value(goal) == theirs.value(goal), seed
        header, events = read_proof(path)
        check = certify_proof(problem, header, events)
        assert check.verdict.value == result.termination.value, (seed, check)
        over_pools += any(proof.pools for proof in header.trees)
        infeasible += brute.placed is None
    assert (over_pools > 1) == (first_nodes == 0)
    assert 1 < infeasible < 14


def test_groups_that_need_not_stay_apart_are_refused_over_pools(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two devices a class hold two of three tasks; the proof says nothing without that group."""
    monkeypatch.setattr(tree, "FIRST_NODES", 0)
    problem = classes_of_devices(10, 4, 2, 1).replace(apart=[[0, 1, 2], [3, 4, 5]])
    solve_forms(problem, proof=tmp_path / "p.jsonl")
    header, events = read_proof(tmp_path / "p.jsonl")
    assert header.trees[0].pools == ((0, 1), (2, 3))
    assert header.trees[0].groups == ((0, 1, 2), (3, 4, 5))
    free = problem.replace(apart=[[0, 1, 2]])
    header = msgspec.structs.replace(header, instance=instance_digest(free))
    check = certify_proof(free, header, events)
    assert check.verdict is Verdict.INVALID
    assert "need not stay apart" in check.reason


@pytest.mark.parametrize("resources", [1, 2])
def test_units_that_differ_in_cost_alone_are_a_pool_where_costs_do_not_count(
    resources: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The largest relative load does not depend on the costs."""
    for module in (tree, exact):
        monkeypatch.setattr(module, "FIRST_NODES", 0)
    path, over_pools = tmp_path / "p.jsonl", 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        loads = rng.integers(3, 20, (7, 2, resources))[:, [0, 1, 0]]
        rooms = np.full((3, resources), 60)
        problem = AssignmentProblem(
            rng.integers(0, 9, (7, 3)), loads, rooms, objective="bottleneck"
        )
        solve_forms(problem, proof=path)
        header, events = read_proof(path)
        assert certify_proof(problem, header, events).verdict is Verdict.OPTIMAL
        over_pools += bool(header.trees[0].pools)
    assert over_pools > 1


def test_tasks_on_classes_of_devices_with_two_resources_are_proven() -> None:
    """Forty tasks on two classes of four devices, which the tree of the units leaves open."""
    problem = classes_of_devices(40, 8, 2, 0, resources=2)
    assert solve_forms(problem, NodeLimit(2000)).termination is Termination.OPTIMAL
