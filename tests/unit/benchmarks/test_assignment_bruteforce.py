"""The study that compares with brute force: its oracle, and that it tells what is wrong."""

from __future__ import annotations

from fractions import Fraction

import pytest
from benchmarks import assignment_bruteforce
from benchmarks.__main__ import main
from benchmarks.assignment_instances import Goals, brute_force

from optalloc.assignment.problem import AssignmentProblem


def test_the_best_goals_are_those_worked_out_by_hand() -> None:
    """Loads 1, 2 and 1 on capacities 3 and 2: apart from task 1, task 0 costs 4 on unit 0.

    Then task 1 (5 or 3) is on unit 1, which it fills, and task 2 (2) on unit 0: cost 9, and unit 1
    is full. The other way round costs 6 + 5 + 2 = 13 and fills unit 0. Without task 1, tasks 0 and
    2 cost 6 on different units.
    """
    problem = AssignmentProblem(
        [[4, 6], [5, 3], [2, 2]], [1, 2, 1], [3, 2], apart=[[0, 1]], objective="sum-then-bottleneck"
    )
    assert brute_force(problem) == (Fraction(9), Fraction(1))
    assert brute_force(problem.replace(objective="bottleneck")) == (Fraction(1),)
    assert brute_force(problem.replace(skip_costs=[None, 0.25, None])) == (
        Fraction("6.25"),
        Fraction(1, 2),
    )
    assert brute_force(problem.replace(apart=[[0, 1, 2]])) is None


def test_answers_and_proofs_equal_brute_force(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["assignment-bruteforce", "--count", "3", "--tasks", "6", "--units", "3"]
    assert main([*words, "--prove", "1"]) == 0
    out = capsys.readouterr().out
    assert out.count("3 instances") == 10
    assert out.count("3 proofs checked, 0 wrong") == 10


def test_a_wrong_answer_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cheaper(problem: AssignmentProblem) -> Goals | None:
        goals = brute_force(problem)
        return None if goals is None else (goals[0] - 1, *goals[1:])

    monkeypatch.setattr(assignment_bruteforce, "brute_force", cheaper)
    words = ["assignment-bruteforce", "--count", "4", "--form", "optional", "--prove", "0"]
    assert main(words) == 1
    assert "where brute force has" in capsys.readouterr().out
