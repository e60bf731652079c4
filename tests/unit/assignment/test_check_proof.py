"""The proof checker: it accepts what the kernel writes and refuses what is not so."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from optalloc.assignment.check_proof import ProofCheck, Verdict, certify_proof
from optalloc.assignment.enumerate import solve_enumerate
from optalloc.assignment.exact import solve_exact
from optalloc.assignment.problem import AssignmentProblem
from optalloc.assignment.proof import Event, ProofHeader, read_proof
from optalloc.assignment.states import best_profit, conditioned
from optalloc.cli.__main__ import main
from optalloc.errors import InputError
from optalloc.result import Termination
from optalloc.stop import NodeLimit


def tight(seed: int, tasks: int = 9, units: int = 3) -> AssignmentProblem:
    """Costs that fall with the loads, so that a search is needed."""
    rng = np.random.default_rng(seed)
    loads = rng.integers(5, 60, (tasks, units))
    costs = 70 - loads + rng.integers(-6, 7, (tasks, units))
    capacities = (0.82 * loads.sum(axis=0) / units).astype(np.int64)
    return AssignmentProblem(costs, loads, capacities)


def large(seed: int, tasks: int = 9, units: int = 3) -> AssignmentProblem:
    """The same with loads too large for a table of patterns, so that the search branches."""
    base = tight(seed, tasks, units)
    loads = base.loads * 10**9 + 7 * base.costs
    return AssignmentProblem(base.costs, loads, base.capacities * 10**9)


def twins(seed: int) -> AssignmentProblem:
    """Three units of one kind and one of another, each drawn as in :func:`large`."""
    base = large(seed, tasks=6, units=2)
    units = [0, 0, 1, 0]
    capacities = base.capacities[units] * 10 // (17 - seed % 4)
    return AssignmentProblem(base.costs[:, units], base.loads_matrix[:, units], capacities)


def proof_of(problem: AssignmentProblem, folder: Path) -> tuple[ProofHeader, list[Event]]:
    """Solve and read the proof back."""
    solve_exact(problem, proof=folder / "proof.jsonl")
    header, events = read_proof(folder / "proof.jsonl")
    return header, list(events)


def is_true(problem: AssignmentProblem, check: ProofCheck) -> bool:
    """Whether enumeration agrees with the verdict."""
    best = solve_enumerate(problem)
    value = best.bounds.primal
    if check.verdict is Verdict.INVALID:
        return True
    if check.verdict is Verdict.INFEASIBLE:
        return best.termination is Termination.INFEASIBLE
    if check.bound is None or (value is not None and check.bound > value):
        return False
    return check.verdict is Verdict.BOUND or check.objective == value == check.bound


def test_every_small_proof_is_accepted(tmp_path: Path) -> None:
    """Hundreds of searches, feasible and not: the verdict is that of enumeration."""
    seen = {Verdict.OPTIMAL: 0, Verdict.INFEASIBLE: 0}
    kinds: Counter[str] = Counter()
    for seed in range(90):
        drawn: list[AssignmentProblem] = [
            tight(seed, tasks=6 + seed % 4),
            twins(seed),
            large(seed, tasks=6),
        ]
        problem = drawn[seed % 3]
        header, events = proof_of(problem, tmp_path)
        kinds.update(event[0] for event in events)
        check = certify_proof(problem, header, events)
        brute = solve_enumerate(problem)
        expected = (
            Verdict.OPTIMAL if brute.termination is Termination.OPTIMAL else Verdict.INFEASIBLE
        )
        assert check.verdict is expected, (seed, check)
        assert check.objective == brute.bounds.primal
        seen[check.verdict] += 1
    assert min(seen.values()) > 8
    assert min(kinds[kind] for kind in ("branch", "fix", "leaf", "cover")) > 5


def changed(value: Any) -> Iterator[Any]:
    """Other values of the same JSON type."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value - 1, value + 1000, -value - 7, 10**30)
    elif isinstance(value, str):
        yield from ("", value + "0")
    elif value is None:
        yield (0,)


@pytest.mark.parametrize(
    ("made", "kinds"), [(large, {"branch", "fix", "leaf"}), (tight, {"fix", "cover"})]
)
def test_a_changed_field_never_proves_what_is_false(
    made: Callable[[int], AssignmentProblem], kinds: set[str], tmp_path: Path
) -> None:
    """Each number of each event and header, in turn: refused, or what is claimed is still true."""
    problem = made(3)
    header, events = proof_of(problem, tmp_path)
    assert {event[0] for event in events} == kinds
    refused = tried = 0
    for at, event in enumerate(events):
        for place in range(1, len(event)):
            many = isinstance(event[place], list)
            for inner in range(len(event[place])) if many else [0]:
                for other in changed(event[place][inner] if many else event[place]):
                    bad = copy.deepcopy(events)
                    if many:
                        bad[at][place][inner] = other
                    else:
                        bad[at][place] = other
                    check = certify_proof(problem, header, bad)
                    assert is_true(problem, check), (at, place, inner, other)
                    refused += check.verdict is Verdict.INVALID
                    tried += 1
    assert refused > tried / 10


@pytest.mark.parametrize("cut", ["drop", "double", "end", "swap"])
def test_a_tree_with_other_events_is_refused_or_true(cut: str, tmp_path: Path) -> None:
    """Events left out, told twice, after the end, in another order."""
    problem = tight(3)
    header, events = proof_of(problem, tmp_path)
    for at in range(len(events)):
        bad = list(events)
        if cut == "drop":
            del bad[at]
        elif cut == "double":
            bad.insert(at, bad[at])
        elif cut == "end":
            del bad[at:]
        else:
            bad[at], bad[at - 1] = bad[at - 1], bad[at]
        check = certify_proof(problem, header, bad)
        assert is_true(problem, check)
        if cut == "end":
            assert check.verdict is Verdict.INVALID


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("instance", "0" * 64),
        ("trees", ()),
        ("assignment", (0,) * 9),
        ("assignment", (0,)),
        ("assignment", (7,) * 9),
        ("assignment", (-1,) * 9),
    ],
)
def test_a_changed_header_is_refused(field: str, value: object, tmp_path: Path) -> None:
    """Each field of the header."""
    problem = tight(3)
    header, events = proof_of(problem, tmp_path)
    bad = msgspec.structs.replace(header, **{field: value})
    assert certify_proof(problem, bad, events).verdict is Verdict.INVALID


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scale", 0),
        ("scale", 10**15),
        ("shift", 1),
        ("shift", -1),
        ("without_costs", True),
        ("share", "<1/2"),
        ("share", "<=9/0"),
        ("kept", (1, 0, 0)),
        ("kept", (0,)),
        ("classes", ((0, 1),)),
        ("groups", ((0, 1),)),
        ("groups", ((0, 9),)),
    ],
)
def test_another_claim_is_not_proven_by_the_tree(field: str, value: object, tmp_path: Path) -> None:
    """Each field of the claim but the target and the cells, which a tree may well stand."""
    problem = large(3)
    header, events = proof_of(problem, tmp_path)
    assert changed_claim(problem, header, events, **{field: value}).verdict is Verdict.INVALID


def changed_claim(
    problem: AssignmentProblem, header: ProofHeader, events: list[Event], **changes: object
) -> ProofCheck:
    """The outcome where the only tree claims something else."""
    (tree,) = header.trees
    trees = (msgspec.structs.replace(tree, **changes),)
    return certify_proof(problem, msgspec.structs.replace(header, trees=trees), events)


def test_a_higher_target_is_refused_and_a_lower_one_proves_less(tmp_path: Path) -> None:
    """The target is what the leaves are judged by."""
    problem = large(3)
    header, events = proof_of(problem, tmp_path)
    target = header.trees[0].target
    higher = changed_claim(problem, header, events, target=target + 1)
    assert higher.verdict is Verdict.INVALID
    none = msgspec.structs.replace(header, assignment=None)
    assert changed_claim(problem, none, events, target=target + 3).verdict is Verdict.INVALID
    lower = changed_claim(problem, header, events, target=target - 1)
    assert is_true(problem, lower)
    assert lower.verdict is Verdict.BOUND


def test_a_stopped_search_proves_its_bound(tmp_path: Path) -> None:
    """The bound it reports is the bound that is proven."""
    problem = tight(11, tasks=40, units=5)
    path = tmp_path / "proof.jsonl.gz"
    result = solve_exact(problem, NodeLimit(3), proof=path)
    check = certify_proof(problem, *read_proof(path))
    assert check.bound == result.bounds.dual
    assert check.verdict in (Verdict.BOUND, Verdict.OPTIMAL)


def test_large_loads_are_checked_with_lists_of_states(tmp_path: Path) -> None:
    """Capacities of 10**10 fit no table."""
    base = tight(5)
    problem = AssignmentProblem(
        base.costs, base.loads * 10**9 + 7 * base.costs, base.capacities * 10**9
    )
    check = certify_proof(problem, *proof_of(problem, tmp_path))
    assert check.verdict is Verdict.OPTIMAL
    assert check.objective == solve_enumerate(problem).bounds.primal


@pytest.mark.parametrize("factor", [1, 10**9])
def test_conditioned_knapsacks_equal_enumeration(factor: int) -> None:
    """With each item in and out, by table and by states."""
    rng = np.random.default_rng(factor)
    for _ in range(60):
        count = int(rng.integers(1, 9))
        profits = rng.integers(-5, 20, count)
        loads = rng.integers(0, 12, count) * factor
        capacity = max(int(rng.integers(0, 40)) * factor, int(loads.max()))
        alone = np.full(count, -1)
        best, with_, without = conditioned(profits, loads, capacity, alone)
        sets = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        value = np.where(sets @ loads <= capacity, sets @ profits, -(10**6))
        assert best == value.max() == best_profit(profits, loads, capacity, alone)
        for item in range(count):
            assert with_[item] == value[sets[:, item] == 1].max()
            assert without[item] == value[sets[:, item] == 0].max()


def test_knapsacks_take_one_item_of_a_class() -> None:
    """With each useful item in and out; an item of no profit only keeps its room."""
    rng = np.random.default_rng(7)
    for _ in range(120):
        count = int(rng.integers(1, 9))
        profits = rng.integers(-5, 20, count)
        loads = rng.integers(0, 12, count)
        classes = rng.integers(-1, 3, count)
        capacity = max(int(rng.integers(0, 40)), int(loads.max()))
        best, with_, without = conditioned(profits, loads, capacity, classes)
        sets = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        fits = sets @ loads <= capacity
        for name in range(3):
            fits &= (sets * ((classes == name) & (profits > 0))).sum(axis=1) <= 1
        value = np.where(fits, sets @ profits, -(10**6))
        assert best == value.max() == best_profit(profits, loads, capacity, classes)
        for item in range(count):
            assert with_[item] == value[sets[:, item] == 1].max()
            assert without[item] == value[sets[:, item] == 0].max()


def test_the_verb_proves_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0 for a proof, 2 for a proof of another instance or a broken file."""
    first, other, proof = tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "p.jsonl"
    first.write_text("2 3\n1 5 4\n5 1 4\n2 2 2\n2 2 2\n4 4\n")
    other.write_text("2 3\n1 5 4\n5 1 3\n2 2 2\n2 2 2\n4 4\n")
    assert main(["assign", str(first), "--proof", str(proof)]) == 0
    assert main(["certify-assignment", str(first), str(proof)]) == 0
    assert "Proof: optimal" in capsys.readouterr().out
    assert main(["certify-assignment", str(other), str(proof)]) == 2
    assert "another instance" in capsys.readouterr().out
    proof.write_text(proof.read_text()[:-5])
    assert main(["certify-assignment", str(first), str(proof)]) == 2


def test_a_file_that_is_no_proof_is_refused(tmp_path: Path) -> None:
    """With the way to make one."""
    path = tmp_path / "proof.jsonl"
    path.write_text("{}\n")
    with pytest.raises(InputError, match="no proof"):
        read_proof(path)
