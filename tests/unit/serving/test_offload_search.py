"""The offload search against trying everything and against a mixed integer programme."""

from __future__ import annotations

import math

import pytest
from tests.unit.serving.offload_oracles import (
    least_seconds_by_milp,
    random_problem,
    try_everything,
)

from optalloc.serving.offload.placement import check_fits, evaluate
from optalloc.serving.offload.search import Search, placement_of
from optalloc.stop import Never, NodeLimit


def _solved(seed: int, layers: int) -> Search:
    search = Search(random_problem(seed, layers=layers), Never())
    assert search.run()
    return search


def _agrees(search: Search, value: float) -> None:
    assert search.best.seconds == pytest.approx(value, rel=1e-6)
    if math.isinf(value):
        assert search.best.tables is None
        return
    assert search.bound == pytest.approx(value, rel=1e-6)
    found = evaluate(search.problem, placement_of(search.best))
    check_fits(found)
    assert found.seconds == pytest.approx(search.best.seconds, rel=1e-12)


@pytest.mark.parametrize("seed", range(120))
def test_search_finds_what_trying_everything_finds(seed: int) -> None:
    """Tiny problems of all shapes: linked, equal or no GPUs, with and without disk, limits."""
    search = _solved(seed, 1)
    _agrees(search, try_everything(search.problem))


@pytest.mark.parametrize("seed", range(200, 212))
def test_search_finds_what_an_integer_programme_finds(seed: int) -> None:
    """More layers than can be tried one by one."""
    search = _solved(seed, 4)
    _agrees(search, least_seconds_by_milp(search.problem))


@pytest.mark.parametrize("seed", [25, 31, 39])
def test_a_stopped_search_keeps_a_valid_bound(seed: int) -> None:
    """The bound of a search of two nodes is not above the optimum."""
    problem = random_problem(seed, layers=3)
    whole, stopped = Search(problem, Never()), Search(problem, NodeLimit(2))
    assert whole.run()
    assert not stopped.run()
    assert stopped.bound <= whole.best.seconds * (1 + 1e-9) <= stopped.best.seconds * (1 + 2e-9)
