"""Plans near the best of a mixed cluster: the best of every way to use it, and none left out."""

from __future__ import annotations

import time

import pytest
from tests.property.mixed_problems import instance

from optalloc.training.mixed.enumerate import bests_by_enumeration
from optalloc.training.mixed.near import NearSearch
from optalloc.training.mixed.search import Search


@pytest.mark.parametrize("seed", range(12))
def test_near_plans_are_the_best_of_their_ways_and_cover_all_others(seed: int) -> None:
    """Each listed plan equals brute force over its groups and replicas; a plan within the ceiling
    that is not listed has one beside it on the same replicas, no other groups, and as fast."""
    problem = instance(seed)
    best = Search([problem]).run()
    truth = {way: value for way, (value, _) in bests_by_enumeration(problem).items()}
    if best.value is None:
        assert not truth
        return
    ceiling = 1.4 * best.value
    near = NearSearch([problem], best, ceiling_s=ceiling, begin=time.perf_counter())
    plans, complete = near.plans()
    assert complete
    listed = {one.way[1:]: one.value for one in plans}
    assert len(listed) == len(plans)
    for way, value in listed.items():
        assert value == pytest.approx(truth[way], rel=1e-9)
    for (groups, count), value in truth.items():
        if value < ceiling * (1.0 - 1e-9):
            beside = (v for (used, r), v in listed.items() if r == count and {*used} <= {*groups})
            assert min(beside) <= value * (1.0 + 1e-9)
    assert min(listed.values()) == pytest.approx(best.value, rel=1e-9)


def test_a_stopped_list_is_not_called_complete() -> None:
    """A rule that stops at once leaves what was found so far."""
    problem = instance(3)
    best = Search([problem]).run()
    assert best.value is not None
    near = NearSearch(
        [problem], best, ceiling_s=2.0 * best.value, begin=time.perf_counter(), stop=lambda _: True
    )
    assert near.plans()[1] is False
