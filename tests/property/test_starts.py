"""Starts: in every form the answer is the best one, and never worse than the start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmarks.assignment_instances import FORMS, brute_force, draw, feasible_plans

from optalloc.assignment.check_proof import Verdict, certify_proof
from optalloc.assignment.evaluate import Evaluation
from optalloc.assignment.problem import AssignmentProblem
from optalloc.assignment.proof import read_proof
from optalloc.assignment.solve import solve_assignment
from optalloc.errors import InputError
from optalloc.result import Termination
from optalloc.stop import NodeLimit


def worth(problem: AssignmentProblem, plan: Evaluation) -> list[float]:
    """Each goal, to be minimised."""
    goals = problem.objective.split("-then-")
    sign = -1 if problem.sense == "max" else 1
    return [sign * plan.cost if goal == "sum" else plan.value(goal) for goal in goals]


def begun(form: str, seed: int, count: int) -> list[tuple[AssignmentProblem, list[int]]]:
    """Feasible instances, each with one of its plans drawn at random, good or poor."""
    rng = np.random.default_rng([FORMS.index(form), seed])
    found: list[tuple[AssignmentProblem, list[int]]] = []
    while len(found) < count:
        problem = draw(form, rng, tasks=6, units=3)
        plans = feasible_plans(problem)
        if problem.num_tasks and len(plans):
            found.append((problem, rng.choice(plans).tolist()))
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_from_any_start_the_answer_is_brute_forces_and_proven(
    form: str, count: int, tmp_path: Path
) -> None:
    """On one thread and on several; the checker accepts the proof."""
    path, threads = tmp_path / "proof.jsonl", 0
    for problem, start in begun(form, 41, count):
        threads = threads % 3 + 1
        result = solve_assignment(problem, "exact", start=start, threads=threads, proof=path)
        assert result.termination is Termination.OPTIMAL, problem.arguments()
        truth = brute_force(problem)
        assert truth is not None
        found = problem.evaluate(result.assignment)
        assert found.is_feasible
        assert worth(problem, found) == pytest.approx([float(value) for value in truth], abs=1e-9)
        assert certify_proof(problem, *read_proof(path)).verdict is Verdict.OPTIMAL


@pytest.mark.parametrize("form", FORMS)
def test_a_search_stopped_at_once_keeps_the_start_or_better(form: str) -> None:
    """Goal by goal, with tasks left out and two goals in order too; its bound is none too high."""
    for number, (problem, start) in enumerate(begun(form, 42, 12)):
        given = worth(problem, problem.evaluate(start))
        result = solve_assignment(problem, "exact", stop=NodeLimit(number % 3), start=start)
        found = worth(problem, problem.evaluate(result.assignment))
        assert found <= [value + 1e-12 for value in given], problem.arguments()
        truth = brute_force(problem)
        assert truth is not None
        if result.bounds.dual is not None:
            is_profit = problem.sense == "max" and problem.objective.startswith("sum")
            bound = -result.bounds.dual if is_profit else result.bounds.dual
            assert bound <= float(truth[0]) + 1e-9


@pytest.mark.parametrize("form", FORMS)
def test_an_infeasible_start_is_refused_with_its_first_broken_rule(form: str) -> None:
    """The message names the rule, a task in the pointer, and what would help."""
    rng = np.random.default_rng([FORMS.index(form), 43])
    refused = 0
    for problem, start in begun(form, 43, 40):
        start[int(rng.integers(problem.num_tasks))] = int(rng.integers(-1, problem.num_units))
        broken = problem.evaluate(start).violations
        if not broken:
            continue
        refused += 1
        with pytest.raises(InputError) as error:
            solve_assignment(problem, "exact", start=start)
        assert broken[0] in error.value.what
        assert error.value.pointer.startswith("$.assignment[")
        assert error.value.fix
    assert refused > 3
