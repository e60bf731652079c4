"""Compare assignment methods with brute force on random small instances of every form.

Each instance has at most ``--tasks`` tasks on ``--units`` units and is drawn from the seed and its
number alone. A line a form says how many instances there were, how many of them had a plan, and of
how many proofs the checker proved every leaf again. An answer that differs is printed with its
number; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks.assignment_instances import (
    FORMS,
    Goals,
    brute_force,
    draw,
    feasible_plans,
    num_plans,
)
from optalloc.assignment.check_proof import Verdict, certify_proof
from optalloc.assignment.problem import AssignmentProblem
from optalloc.assignment.proof import read_proof
from optalloc.assignment.result import AssignmentResult
from optalloc.assignment.solve import METHODS, solve_assignment
from optalloc.result import Termination


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the study."""
    parser.add_argument("--count", type=int, default=1000, metavar="N", help="of each form (1000)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the instances (0)")
    parser.add_argument("--form", choices=FORMS, nargs="+", default=FORMS, help="default: all")
    parser.add_argument("--tasks", type=int, default=12, metavar="N", help="at most (12)")
    parser.add_argument("--units", type=int, default=6, metavar="M", help="at most (6)")
    parser.add_argument(
        "--most-plans", type=int, default=300_000, help="draw again above so many plans (300,000)"
    )
    parser.add_argument("--method", choices=("auto", *METHODS), default="exact")
    parser.add_argument(
        "--prove", type=float, default=0.2, metavar="SHARE", help="of proofs checked (0.2)"
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of exact (1)")
    parser.add_argument(
        "--starts",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of exact's searches that begin with a feasible plan drawn at random (0)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print a line a form; 1 when an answer or a proof was wrong."""
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for form in arguments.form:
            counts: Counter[str] = Counter()
            for number in range(arguments.count):
                rng = np.random.default_rng([arguments.seed, FORMS.index(form), number])
                problem = _drawn(form, rng, arguments)
                proves = arguments.method == "exact" and rng.random() < arguments.prove
                proof = Path(folder) / "proof.jsonl" if proves else None
                truth = brute_force(problem)
                start = _start(problem, rng, arguments)
                result = solve_assignment(
                    problem, arguments.method, threads=arguments.threads, start=start, proof=proof
                )
                fault = _fault(problem, result, truth)
                if proof is not None and not fault:
                    fault = _fault_of_proof(problem, proof, truth)
                counts["feasible"] += truth is not None
                counts["proofs"] += proves
                counts["starts"] += start is not None
                counts["wrong"] += bool(fault)
                if fault:
                    print(f"{form} {number}: {fault}", flush=True)
            wrong += counts["wrong"]
            print(
                f"{form}: {arguments.count} instances, {counts['feasible']} feasible, "
                f"{counts['starts']} with a start, {counts['proofs']} proofs checked, "
                f"{counts['wrong']} wrong",
                flush=True,
            )
    return 1 if wrong else 0


def _drawn(form: str, rng: np.random.Generator, arguments: argparse.Namespace) -> AssignmentProblem:
    while True:
        problem = draw(form, rng, tasks=arguments.tasks, units=arguments.units)
        if num_plans(problem) <= arguments.most_plans:
            return problem


def _start(
    problem: AssignmentProblem, rng: np.random.Generator, arguments: argparse.Namespace
) -> list[int] | None:
    """A feasible plan, for a share of the searches of ``exact``."""
    if arguments.method != "exact" or rng.random() >= arguments.starts:
        return None
    plans = feasible_plans(problem)
    return [int(unit) for unit in rng.choice(plans)] if len(plans) else None


def _fault(problem: AssignmentProblem, result: AssignmentResult, truth: Goals | None) -> str:
    """What is wrong with an answer; empty: nothing."""
    expected = Termination.INFEASIBLE if truth is None else Termination.OPTIMAL
    if truth is not None and result.termination is Termination.FEASIBLE:
        expected = Termination.FEASIBLE  # a heuristic
    if result.termination is not expected:
        return f"{result.termination.value} where brute force says {expected.value}"
    if truth is None:
        return ""
    found = problem.evaluate(result.assignment)
    if not found.is_feasible:
        return f"the plan breaks a rule: {found.violations[0]}"
    if expected is Termination.FEASIBLE:
        return ""
    for goal, value in zip(problem.objective.split("-then-"), truth, strict=True):
        signed = -value if goal == "sum" and problem.sense == "max" else value
        if abs(found.value(goal) - float(signed)) > 1e-9 * max(1.0, abs(float(signed))):
            return f"{goal} {found.value(goal)} where brute force has {float(signed)}"
    return ""


def _fault_of_proof(problem: AssignmentProblem, proof: Path, truth: Goals | None) -> str:
    check = certify_proof(problem, *read_proof(proof))
    expected = Verdict.INFEASIBLE if truth is None else Verdict.OPTIMAL
    if check.verdict is not expected:
        return f"the checker says {check.verdict.value} of its proof: {check.reason}"
    return ""
