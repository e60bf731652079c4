"""The search finds what brute force over every configuration finds."""

from __future__ import annotations

import pytest
from benchmarks.serve_bruteforce import compared

from optalloc.serving.configuration.problem import OBJECTIVES
from optalloc.serving.configuration.search import Search


@pytest.mark.parametrize("seed", range(20))
def test_search_equals_brute_force(seed: int) -> None:
    one = compared(seed)
    assert not one.wrong
    if one.found is not None:
        least = Search(one.problem).roofline()
        assert least is not None
        assert least <= one.found if OBJECTIVES[one.problem.objective][1] else least >= one.found


@pytest.mark.parametrize("seed", range(8))
def test_requests_in_flight_are_split_as_brute_force_splits_them(seed: int) -> None:
    assert not compared(seed, in_flight=True).wrong
