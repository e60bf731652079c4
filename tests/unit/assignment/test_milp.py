"""HiGHS as a second opinion."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import highspy
import pytest

from optalloc.assignment.formats import load_assignment
from optalloc.assignment.milp import QuietHighs, solve_milp
from optalloc.assignment.problem import AssignmentProblem
from optalloc.result import Termination
from optalloc.stop import Gap, Progress


def test_finds_the_optimum_worked_by_hand(four_by_two: AssignmentProblem) -> None:
    result = solve_milp(four_by_two)
    assert result.termination is Termination.OPTIMAL
    assert result.bounds.primal == 8.0
    assert result.bounds.gap == 0.0


def test_infeasible_and_empty_instances(pooled_phantom: AssignmentProblem) -> None:
    assert solve_milp(pooled_phantom).termination is Termination.INFEASIBLE
    assert solve_milp(AssignmentProblem([], [], [1])).assignment == ()


def test_large_and_tiny_numbers_are_solved() -> None:
    """Costs of 10**12 and loads of 10**-6: only the cheap diagonal fits."""
    problem = AssignmentProblem([[1e12, 3e12], [3e12, 2e12]], [1e-6, 1e-6], [1e-6, 1e-6])
    assert solve_milp(problem).bounds.primal == 3e12


def test_progress_is_reported_and_bounds_never_cross(shared_data: Path) -> None:
    problem = load_assignment(shared_data / "gap" / "cattrysse1994" / "gap8-1.txt")
    seen: list[Progress] = []
    result = solve_milp(problem, on_progress=seen.append)
    assert result.bounds.primal == 783.0
    known = [p for p in seen if p.incumbent is not None and p.bound is not None]
    assert known
    assert all(p.bound is not None and p.bound <= 783.0 for p in known)
    assert all(p.incumbent is not None and p.incumbent >= 783.0 for p in known)


def test_a_stop_rule_ends_the_search_with_the_plan_so_far(shared_data: Path) -> None:
    problem = load_assignment(shared_data / "gap" / "chu1997" / "d20200.txt")
    result = solve_milp(problem, Gap(0.2))
    assert result.termination is Termination.LIMIT
    assert problem.evaluate(result.assignment).is_feasible
    assert 0 < result.bounds.gap <= 0.2


@pytest.mark.parametrize("module", ["optalloc.assignment.milp"])
def test_nothing_is_printed(module: str) -> None:
    """HiGHS prints a banner on construction unless told not to."""
    code = (
        f"from {module} import solve_milp\n"
        "from optalloc.assignment.problem import AssignmentProblem\n"
        "solve_milp(AssignmentProblem([[1, 2]], [1], [1, 1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == ""


def test_a_pool_of_threads_made_by_other_code_is_no_obstacle() -> None:
    """HiGHS refuses a second number of threads in one process; ours ends the other pool."""
    highspy.Highs.resetGlobalScheduler(True)
    other = highspy.Highs()
    other.setOptionValue("output_flag", False)
    other.setOptionValue("threads", 3)
    other.addVariable(lb=0.0, ub=1.0, obj=-1.0)
    assert other.run() == highspy.HighsStatus.kOk
    mine = QuietHighs()
    mine.addVariable(lb=0.0, ub=2.0, obj=-1.0)
    mine.run()
    assert mine.getModelStatus() == highspy.HighsModelStatus.kOptimal
    assert mine.getInfo().objective_function_value == -2.0
