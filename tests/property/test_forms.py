"""Every form of the assignment problem equals brute force on small random instances."""

from __future__ import annotations

import itertools
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from benchmarks.assignment_instances import FORMS, Goals, brute_force, draw

from optalloc.assignment.certify import Proof, certify_assignment
from optalloc.assignment.check_proof import Verdict, certify_proof
from optalloc.assignment.enumerate_forms import num_choices, solve_enumerate_forms
from optalloc.assignment.forms import solve_forms
from optalloc.assignment.problem import AssignmentProblem
from optalloc.assignment.proof import read_proof
from optalloc.assignment.result import AssignmentResult
from optalloc.assignment.shadow import shadow_prices
from optalloc.assignment.solve import solve_assignment
from optalloc.errors import InputError
from optalloc.result import Termination


def fraction(value: float) -> Fraction:
    """A number as the decimal it prints as."""
    return Fraction(repr(value))


def every_plan(problem: AssignmentProblem) -> list[tuple[int, ...]]:
    """Every choice of units, whatever rules it breaks; tasks that may be left out are, too."""
    return list(
        itertools.product(
            *([*range(problem.num_units), *([-1] if may else [])] for may in problem.optional)
        )
    )


def needs(
    problem: AssignmentProblem, plan: tuple[int, ...], scales: npt.NDArray[np.float64]
) -> tuple[int, float]:
    """How many rules a plan breaks, and by how much it exceeds the capacities."""
    broken = sum(unit >= 0 and not problem.allowed[task, unit] for task, unit in enumerate(plan))
    broken += sum(len({plan[task] for task in group}) > 1 for group in problem.together)
    for group in problem.apart:
        real = [plan[task] for task in group if plan[task] >= 0]
        broken += len(set(real)) < len(real)
    over = np.array(used(problem, plan), dtype=float) - problem.capacities_matrix
    return broken, float((np.maximum(over, 0) / scales).sum())


def used(problem: AssignmentProblem, plan: tuple[int, ...]) -> list[list[Fraction]]:
    """Load of each unit and resource."""
    loads = [[Fraction(0)] * problem.num_resources for _ in range(problem.num_units)]
    for task, unit in enumerate(plan):
        if unit >= 0:
            for resource, load in enumerate(problem.loads_array[task, unit].tolist()):
                loads[unit][resource] += fraction(load)
    return loads


def check(problem: AssignmentProblem, result: AssignmentResult, truth: Goals | None) -> bool:
    """The result is the truth, proven; whether it is feasible."""
    if truth is None:
        assert result.termination is Termination.INFEASIBLE, problem.arguments()
        assert result.placed is None
        return False
    assert result.termination is Termination.OPTIMAL, problem.arguments()
    assert result.bounds.gap == 0.0
    found = problem.evaluate(result.assignment)
    assert found.is_feasible, problem.arguments()
    assert found.objective == result.bounds.primal
    for goal, value in zip(problem.objective.split("-then-"), truth, strict=True):
        signed = -value if goal == "sum" and problem.sense == "max" else value
        assert found.value(goal) == pytest.approx(float(signed), rel=1e-12, abs=1e-12)
    return True


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [150, pytest.param(600, marks=pytest.mark.slow)])
def test_exact_equals_brute_force(form: str, count: int) -> None:
    """Termination and every goal; the independent check proves each claim again."""
    rng = np.random.default_rng([FORMS.index(form), count])
    feasible = 0
    for _ in range(count):
        problem = draw(form, rng, tasks=6, units=3)
        result = solve_forms(problem)
        feasible += check(problem, result, brute_force(problem))
        assert certify_assignment(problem, result).proof in (Proof.REPROVED, Proof.MULTIPLIERS)
    assert 0.15 * count < feasible < 0.98 * count


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [25, pytest.param(300, marks=pytest.mark.slow)])
def test_every_claim_passes_the_proof_checker(form: str, count: int, tmp_path: Path) -> None:
    """Optimal and infeasible alike, as brute force says."""
    rng = np.random.default_rng([FORMS.index(form), count, 37])
    path = tmp_path / "proof.jsonl"
    for _ in range(count):
        problem = draw(form, rng, tasks=6, units=3)
        result = solve_forms(problem, proof=path)
        verdict = certify_proof(problem, *read_proof(path)).verdict
        feasible = check(problem, result, brute_force(problem))
        expected = Verdict.OPTIMAL if feasible else Verdict.INFEASIBLE
        assert verdict is expected, problem.arguments()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", ["auto", "milp", "enumerate"])
def test_other_methods_equal_brute_force(form: str, method: str) -> None:
    rng = np.random.default_rng([FORMS.index(form), 32])
    for _ in range(40 if method == "milp" else 80):
        problem = draw(form, rng, tasks=6, units=3)
        result = solve_assignment(problem, method)
        check(problem, result, brute_force(problem))
        assert result.placed is not None or result.conflict


@pytest.mark.parametrize("form", FORMS)
def test_exact_equals_enumeration_on_larger_instances(form: str) -> None:
    """Up to 12 tasks and 6 units, as far as they can be enumerated."""
    rng = np.random.default_rng([FORMS.index(form), 33])
    done = 0
    while done < 40:
        problem = draw(form, rng, tasks=12, units=6)
        if num_choices(problem) > 50_000:
            continue
        done += 1
        brute = solve_enumerate_forms(problem)
        result = solve_forms(problem)
        assert result.termination is brute.termination, problem.arguments()
        if brute.placed is not None:
            mine, theirs = problem.evaluate(result.assignment), problem.evaluate(brute.placed)
            for goal in problem.objective.split("-then-"):
                assert mine.value(goal) == pytest.approx(theirs.value(goal), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("form", ["together", "optional", "bottleneck", "in order"])
def test_the_dynamic_programme_solves_what_reduces_to_one_capacity(form: str) -> None:
    rng = np.random.default_rng([FORMS.index(form), 34])
    for _ in range(100):
        problem = draw(form, rng, tasks=5, units=3)
        check(problem, solve_forms(problem, method="dynamic"), brute_force(problem))


@pytest.mark.parametrize("form", FORMS)
def test_the_cheapest_relaxation_is_the_least_that_helps(form: str) -> None:
    """The fewest rules and then the least overload of any plan; so relaxed it is feasible."""
    rng = np.random.default_rng([FORMS.index(form), 35])
    done = 0
    while done < 25:
        problem = draw(form, rng, tasks=5, units=3)
        if brute_force(problem) is not None:
            continue
        done += 1
        result = solve_assignment(problem)
        assert result.conflict
        (fix,) = result.fixes
        scales = np.ones(1)
        if problem.num_resources > 1:
            means = problem.capacities_matrix.mean(axis=0)
            scales = np.where(means > 0, means, 1.0)
        least = min(needs(problem, plan, scales) for plan in every_plan(problem))
        relaxed, rules = problem, 0
        for found in re.finditer(r"allow task (\d+) on unit (\d+)", fix.what):
            allowed = relaxed.allowed.copy()
            allowed[int(found[1]), int(found[2])] = True
            relaxed, rules = relaxed.replace(allowed=allowed), rules + 1
        for found in re.finditer(r"group (\[[\d, ]*\]) out of '(\w+)'", fix.what):
            left = list(getattr(relaxed, found[2]))
            left.remove(tuple(map(int, found[1][1:-1].split(","))))
            relaxed, rules = relaxed.replace(**{found[2]: left}), rules + 1
        wider = [[fraction(room) for room in row] for row in problem.capacities_matrix.tolist()]
        total = 0.0
        for found in re.finditer(r"(?:resource (\d+) of )?unit (\d+) by ([\d.e-]+)", fix.what):
            resource, unit = int(found[1] or 0), int(found[2])
            wider[unit][resource] += Fraction(found[3])
            total += float(found[3]) / scales[resource]
        assert rules == least[0]
        assert total == pytest.approx(least[1], abs=1e-6)
        capacities = np.array([[float(room) for room in row] for row in wider])
        enlarged = relaxed.replace(
            capacities=capacities if problem.capacities.ndim == 2 else capacities[:, 0]
        )
        assert brute_force(enlarged) is not None


@pytest.mark.parametrize("form", ["resources", "optional", "fixed"])
def test_shadow_prices_bound_what_more_capacity_saves(form: str) -> None:
    """With prices u the relaxed optimum is D(u); capacities L + d cost no less than D(u) - ud."""
    rng = np.random.default_rng([FORMS.index(form), 36])
    compared = paid = 0
    for _ in range(300):
        problem = draw(form, rng, tasks=5, units=3)
        if problem.sense == "max" or problem.num_tasks == 0:
            continue
        try:
            prices = shadow_prices(problem)
        except InputError:
            assert brute_force(problem) is None
            continue
        fits = problem.allowed & (problem.loads_array <= problem.capacities_matrix).all(axis=2)
        priced = problem.costs + (problem.loads_array * prices).sum(axis=2)
        out = np.where(problem.optional, problem.skip_costs, np.inf)
        least = np.minimum(np.where(fits, priced, np.inf).min(axis=1), out)
        dual = least.sum() - (prices * problem.capacities_matrix).sum()
        added = rng.integers(0, 3, prices.shape)
        more = problem.capacities_matrix + added
        wider = problem.replace(capacities=more if problem.capacities.ndim == 2 else more[:, 0])
        wider = wider.replace(allowed=fits)
        truth = brute_force(wider)
        if truth is None:
            continue
        compared += 1
        paid += bool((prices > 0).any())
        assert float(truth[0]) >= dual - (prices * added).sum() - 1e-6
    assert compared > 20
    assert paid >= 5
