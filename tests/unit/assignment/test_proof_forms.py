"""Proofs of the forms beyond the plain one: accepted where true, refused where changed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from optalloc.assignment.check_facts import read_facts
from optalloc.assignment.check_integers import are_costs
from optalloc.assignment.check_proof import ProofCheck, Verdict, certify_proof
from optalloc.assignment.enumerate_forms import solve_enumerate_forms
from optalloc.assignment.formats import save_assignment
from optalloc.assignment.forms import solve_forms
from optalloc.assignment.problem import OBJECTIVES, AssignmentProblem
from optalloc.assignment.proof import Event, ProofHeader, read_proof
from optalloc.assignment.result import AssignmentResult
from optalloc.assignment.rows import reduce_rows
from optalloc.assignment.solve import solve_assignment
from optalloc.cli.__main__ import main
from optalloc.errors import InputError
from optalloc.result import Termination
from optalloc.stop import NodeLimit, Progress

VERDICTS = {
    Termination.OPTIMAL: Verdict.OPTIMAL,
    Termination.INFEASIBLE: Verdict.INFEASIBLE,
    Termination.LIMIT: Verdict.BOUND,
}


def tight(seed: int, *, tasks: int = 7, units: int = 3) -> AssignmentProblem:
    """Costs that fall with the loads, little room, and a few of the further constraints."""
    rng = np.random.default_rng(seed)
    resources = int(rng.integers(1, 4))
    loads: Any = rng.integers(5, 60, (tasks, units, resources))
    costs: Any = 70 - loads.mean(axis=2).astype(np.int64) + rng.integers(-6, 7, (tasks, units))
    room = 0.85 + 0.3 * rng.random()
    capacities: Any = (room * loads.sum(axis=0) / units).astype(np.int64)
    more: dict[str, Any] = {
        "objective": OBJECTIVES[seed % 4],
        "sense": ("min", "max")[seed % 3 > 1],
    }
    if rng.random() < 0.5:
        sizes = rng.integers(2, units + 1, int(rng.integers(1, 6)))
        more["apart"] = [rng.permutation(tasks)[:size].tolist() for size in sizes]
    if rng.random() < 0.2:
        more["together"] = [rng.permutation(tasks)[:2].tolist()]
    if rng.random() < 0.3:
        more["skip_costs"] = [
            None if rng.random() < 0.4 else cost for cost in rng.integers(20, 90, tasks).tolist()
        ]
    match seed % 5:
        case 1:  # more than the tables of the search hold
            loads = loads * 997 + rng.integers(0, 900, loads.shape)
            capacities = capacities * 997
        case 2:  # beyond the scale of the multipliers
            costs = costs * 2**44 + rng.integers(0, 1000, costs.shape)
        case 3:
            loads, capacities = loads / 10, capacities / 10
    return AssignmentProblem(costs, loads, capacities, **more)


def proof_of(problem: AssignmentProblem, folder: Path) -> tuple[ProofHeader, list[Event]]:
    """Solve and read the proof back."""
    solve_forms(problem, proof=folder / "proof.jsonl")
    header, events = read_proof(folder / "proof.jsonl")
    return header, list(events)


def is_true(problem: AssignmentProblem, check: ProofCheck, best: AssignmentResult) -> bool:
    """Whether enumeration, which gave ``best``, agrees with the verdict."""
    value = best.bounds.primal
    if check.verdict is Verdict.INVALID:
        return True
    if value is None or check.verdict is Verdict.INFEASIBLE:
        return best.termination is Termination.INFEASIBLE
    assert check.bound is not None
    is_profit = problem.sense == "max" and problem.objective.startswith("sum")
    if (check.bound - value) * (-1 if is_profit else 1) > 1e-9 * abs(value):
        return False
    return check.verdict is Verdict.BOUND or check.objective == value


def test_every_claim_of_every_form_passes(tmp_path: Path) -> None:
    """Several resources, groups, optional tasks, both goals and both orders, wide numbers."""
    path = tmp_path / "proof.jsonl"
    seen = dict.fromkeys(VERDICTS.values(), 0)
    branched = 0
    for seed in range(40):
        problem = tight(seed)
        result = solve_forms(problem, proof=path)
        check = certify_proof(problem, *read_proof(path))
        assert check.verdict is VERDICTS[result.termination], (seed, check)
        assert check.objective == result.bounds.primal
        assert is_true(problem, check, solve_enumerate_forms(problem))
        seen[check.verdict] += 1
        branched += check.num_leaves > 3
    assert seen[Verdict.OPTIMAL] > 20
    assert seen[Verdict.INFEASIBLE] > 2
    assert branched > 5


def test_a_stopped_search_proves_the_bound_it_reports(tmp_path: Path) -> None:
    """After a few nodes; in a search on two goals the first may be proven already."""
    path = tmp_path / "proof.jsonl"
    stopped = 0
    for seed in range(12):
        problem = tight(seed, tasks=10, units=4)
        result = solve_forms(problem, NodeLimit(4), proof=path)
        check = certify_proof(problem, *read_proof(path))
        assert check.verdict is VERDICTS[result.termination], (seed, check)
        if result.bounds.dual is not None:
            assert check.bound == result.bounds.dual
        stopped += check.verdict is Verdict.BOUND
    assert stopped > 3


Searched = tuple[AssignmentProblem, ProofHeader, list[Event]]


@pytest.fixture(scope="module", params=range(4))
def searched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """A proof with branches, fixes and prices for each of the objectives."""
    tmp_path = tmp_path_factory.mktemp("searched")
    for seed in range(request.param, 400, 4):
        problem = tight(seed)
        if problem.num_resources == 1 or not problem.apart:
            continue
        header, events = proof_of(problem, tmp_path)
        first = len(read_facts(problem).costs)
        kinds = {event[0] for event in events}
        priced = any(len(event) == 3 and max(event[1], default=0) >= first for event in events)
        several = kinds == {"leaf", "fix", "branch"} and len(events) < 50
        if several and priced and header.assignment is not None:
            return problem, header, events
    raise AssertionError("no seed gives such a proof")


def test_a_proof_without_a_leaf_is_invalid(searched: Searched) -> None:
    problem, header, events = searched
    assert certify_proof(problem, header, events).verdict is Verdict.OPTIMAL
    leaves = [at for at, event in enumerate(events) if event[0] == "leaf"]
    for at in leaves[:: max(1, len(leaves) // 8)]:
        check = certify_proof(problem, header, events[:at] + events[at + 1 :])
        assert check.verdict is Verdict.INVALID


def test_another_plan_is_not_called_optimal(searched: Searched) -> None:
    """Each task on each other unit: the plan breaks a rule, or is no better than before."""
    problem, header, events = searched
    plan = header.assignment
    assert plan is not None
    optimal = problem.evaluate(plan)
    for task in range(0, problem.num_tasks, 2):
        for unit in range(problem.num_units):
            other = (*plan[:task], unit, *plan[task + 1 :])
            bad = msgspec.structs.replace(header, assignment=other)
            check = certify_proof(problem, bad, events)
            found = problem.evaluate(other)
            same = all(
                found.value(name) == optimal.value(name)
                for name in problem.objective.split("-then-")
            )
            if not (found.is_feasible and same):
                assert check.verdict in (Verdict.INVALID, Verdict.BOUND)
                assert (check.verdict is Verdict.BOUND) == found.is_feasible


def test_changed_numbers_never_prove_what_is_false(searched: Searched) -> None:
    """Multipliers, prices, branches: refused, or what is claimed is still true."""
    problem, header, events = searched
    best = solve_enumerate_forms(problem)
    rng = np.random.default_rng(4)
    refused = 0
    for _ in range(60):
        bad = copy.deepcopy(events)
        event = bad[int(rng.integers(len(bad)))]
        if len(event) == 3 and event[2]:
            at = int(rng.integers(len(event[2])))
            event[int(rng.integers(1, 3))][at] += int(rng.choice([-(10**6), -1, 1, 10**6]))
        elif event[0] == "branch":
            event[int(rng.integers(1, 4))] += int(rng.choice([-1, 1]))
        check = certify_proof(problem, header, bad)
        assert is_true(problem, check, best)
        refused += check.verdict is Verdict.INVALID
    assert refused > 10


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"classes": ((0, 1, 2, 3),)}, "need not stay apart"),
        ({"groups": ((0, 1, 2, 3),)}, "need not stay apart"),
        ({"groups": ((0, 99),)}, "need not stay apart"),
        ({"kept": ()}, "does not hold"),
        ({"target": 10**6}, "does not hold|scale"),
    ],
)
def test_another_relaxation_is_refused(
    changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    """Groups that the problem does not have, another resource in the knapsacks."""
    rng = np.random.default_rng(5)
    loads = rng.integers(5, 60, (9, 3, 2)) * np.array([1, 3])
    costs = 70 - loads[:, :, 0] + rng.integers(-6, 7, (9, 3))
    capacities = np.stack([10 * loads[:, :, 0].sum(axis=0), loads[:, :, 1].sum(axis=0) // 3], 1)
    problem = AssignmentProblem(costs, loads, capacities, apart=[[0, 1], [2, 3, 4]])
    header, events = proof_of(problem, tmp_path)
    assert certify_proof(problem, header, events).verdict is Verdict.OPTIMAL
    (tree,) = header.trees
    bad = msgspec.structs.replace(header, trees=(msgspec.structs.replace(tree, **changes),))
    check = certify_proof(problem, bad, events)
    assert check.verdict is Verdict.INVALID
    assert any(word in check.reason for word in reason.split("|"))


def test_a_negative_price_is_refused(searched: Searched) -> None:
    """It would lift the bound of every node."""
    problem, header, events = searched
    first = len(read_facts(problem).costs)
    events = copy.deepcopy(events)
    event = next(event for event in events if len(event) == 3 and max(event[1]) >= first)
    event[2][event[1].index(max(event[1]))] *= -1
    check = certify_proof(problem, header, events)
    assert check.verdict is Verdict.INVALID
    assert "price" in check.reason


def test_the_tree_of_one_goal_does_not_prove_both(tmp_path: Path) -> None:
    """Without the second tree the plan is not shown to be the best; without the first, nothing."""
    problem = AssignmentProblem(
        [[1, 2], [1, 2], [3, 3]], [2, 2, 2], [6, 4], objective="sum-then-bottleneck"
    )
    header, events = proof_of(problem, tmp_path)
    first, second = header.trees
    assert (first.share, second.share) == (None, "<2/3")
    ends = [
        at
        for at in range(1, len(events))
        if certify_proof(
            problem, msgspec.structs.replace(header, trees=(first,)), events[:at]
        ).verdict
        is Verdict.BOUND
    ]
    (end,) = ends
    alone = msgspec.structs.replace(header, trees=(second,))
    assert certify_proof(problem, alone, events[end:]).verdict is Verdict.INVALID


def test_the_checker_reads_the_reductions_of_the_search() -> None:
    """Two readings of one problem, written apart: costs, loads, capacities and pairs agree."""
    for seed in range(40):
        problem = tight(seed)
        facts, rows = read_facts(problem), reduce_rows(problem)
        assert facts.members == rows.members
        assert np.array_equal(facts.allowed, rows.allowed)
        assert np.array_equal(facts.capacities, rows.capacities)
        assert np.array_equal(np.where(facts.allowed, facts.loads, 0), rows.loads)
        ratio = facts.cost_scale / rows.cost_scale
        assert np.array_equal(
            np.where(facts.allowed, facts.costs * ratio.denominator, 0),
            rows.costs * ratio.numerator,
        )


@pytest.mark.parametrize("field", ["costs", "loads", "capacities", "allowed"])
def test_integers_that_are_not_the_numbers_given_prove_nothing(field: str, tmp_path: Path) -> None:
    """Decimals, binary fractions, wide numbers: each integer of the problem is compared."""
    rng = np.random.default_rng(8)
    loads = rng.integers(1, 9, (6, 2))
    for by in (1, 10, 64, 2.0**-40):
        problem = AssignmentProblem(rng.integers(1, 9, (6, 2)) / by, loads / by, [30 / by, 31 / by])
        assert certify_proof(problem, *proof_of(problem, tmp_path)).verdict is Verdict.OPTIMAL
    header, events = proof_of(problem, tmp_path)
    form = problem.resource_forms[0]
    wrong = getattr(form, field).copy()
    wrong[0] = not wrong[0].any() if field == "allowed" else wrong[0] - 1
    problem.__dict__["resource_forms"] = (msgspec.structs.replace(form, **{field: wrong}),)
    if field != "costs":
        assert "integers" in certify_proof(problem, header, events).reason
    else:
        assert not are_costs(problem.costs, problem.resource_forms[0])


def test_ctrl_c_keeps_plan_bound_and_proof(tmp_path: Path) -> None:
    """The interrupt comes from the listener, in the middle of the search."""
    problem = tight(4, tasks=14, units=4).replace(objective="sum")
    path = tmp_path / "proof.jsonl"

    class Interrupt:
        def __call__(self, progress: Progress) -> bool:
            if progress.nodes >= 3:
                raise KeyboardInterrupt
            return False

    result = solve_forms(problem, Interrupt(), proof=path)
    assert result.termination is Termination.LIMIT
    assert result.message == "interrupted"
    assert result.bounds.dual is not None
    assert certify_proof(problem, *read_proof(path)).bound == result.bounds.dual


def test_other_methods_take_no_proof_and_no_start(tmp_path: Path) -> None:
    problem = tight(0)
    for method in ("milp", "enumerate"):
        with pytest.raises(InputError, match="takes no proof"):
            solve_assignment(problem, method, proof=tmp_path / "proof")
        with pytest.raises(InputError, match="takes no start"):
            solve_assignment(problem, method, start=[0] * 7)


def test_the_verbs_prove_every_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a file; small instances too are searched where a proof is asked for."""
    problem = AssignmentProblem(
        [[1, 5], [1, 5], [2, 2]],
        [[[1, 2], [1, 2]]] * 3,
        [[4, 4], [4, 6]],
        apart=[[0, 1]],
        skip_costs=[None, None, 9],
        objective="sum-then-bottleneck",
    )
    instance, proof = tmp_path / "instance.json", tmp_path / "proof.jsonl.gz"
    save_assignment(problem, instance)
    assert main(["assign", str(instance), "--proof", str(proof)]) == 0
    capsys.readouterr()
    assert main(["certify-assignment", str(instance), str(proof), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "optimal"
    instance.write_text(instance.read_text().replace('"skip_costs"', '"skip_costs "'), "utf-8")
    assert main(["certify-assignment", str(instance), str(proof)]) == 2
