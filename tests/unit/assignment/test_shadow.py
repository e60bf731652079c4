"""Shadow prices by hand."""

from __future__ import annotations

import pytest

from optalloc.assignment.problem import AssignmentProblem
from optalloc.assignment.shadow import shadow_prices
from optalloc.errors import InputError


def test_a_price_is_what_half_a_task_more_saves() -> None:
    """One more of unit 0 holds half a task of load 2, which saves half of 5 - 1."""
    prices = shadow_prices(AssignmentProblem([[1, 5], [1, 5]], [2, 2], [2, 9]))
    assert prices.tolist() == [[2.0], [0.0]]


def test_the_price_of_the_largest_relative_load() -> None:
    """Load 4 over capacities 3 + 4: T = 4/7, and dT/dL = -4/49 on both."""
    problem = AssignmentProblem([[1, 5], [1, 5]], [2, 2], [3, 4], objective="bottleneck")
    assert shadow_prices(problem).ravel().tolist() == pytest.approx([4 / 49, 4 / 49])


def test_there_are_no_prices_where_not_even_split_tasks_fit() -> None:
    with pytest.raises(InputError, match="not even split tasks fit"):
        shadow_prices(AssignmentProblem([[1], [1]], [2, 2], [3]))
