"""Small named instances."""

from __future__ import annotations

import pytest

from optalloc.assignment.problem import AssignmentProblem


@pytest.fixture(scope="session")
def pooled_trap() -> AssignmentProblem:
    """Pooling the capacities puts both tasks on unit 0 (cost 2, load 4 of 2); the optimum is 6."""
    return AssignmentProblem([[1, 5], [1, 5]], [2, 2], [2, 2])


@pytest.fixture(scope="session")
def pooled_phantom() -> AssignmentProblem:
    """Three tasks of load 2 need 6 of the pooled 6, but each unit of 3 holds one: infeasible."""
    return AssignmentProblem([[1, 1]] * 3, [2, 2, 2], [3, 3])


@pytest.fixture(scope="session")
def four_by_two() -> AssignmentProblem:
    """Optimum 8 by hand.

    Units of capacity 5; loads 3, 3, 2, 2, so each unit takes one load of 3 and one of 2. Costs on
    (unit 0, unit 1): task 0 (1, 4), task 1 (2, 4), task 2 (5, 2), task 3 (1, 3). Of the threes the
    choices cost 1 + 4 = 5 or 4 + 2 = 6; of the twos 5 + 3 = 8 or 2 + 1 = 3. Best: 5 + 3 = 8.
    """
    return AssignmentProblem([[1, 4], [2, 4], [5, 2], [1, 3]], [3, 3, 2, 2], [5, 5])
