"""The offload search against trying everything and against a mixed integer programme."""

from __future__ import annotations

import math

import msgspec
import pytest
from benchmarks.offload import MODELS, random_case
from tests.unit.serving.offload_oracles import (
    least_seconds_by_milp,
    random_problem,
    try_everything,
)
from tests.unit.serving.test_offload import machine

from optalloc.model.load import load_model
from optalloc.model.spec import LayerRun
from optalloc.serving.offload.duals import whole_space
from optalloc.serving.offload.generation import Generation
from optalloc.serving.offload.parts import chain_of
from optalloc.serving.offload.placement import check_fits, evaluate
from optalloc.serving.offload.problem import OffloadProblem
from optalloc.serving.offload.search import Search, placement_of
from optalloc.serving.offload.tables import Tables
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


@pytest.mark.parametrize("seed", [*range(80), 1101, 1274])
def test_search_finds_what_trying_everything_finds(seed: int) -> None:
    """Tiny problems of all shapes: linked, equal or no GPUs, with and without disk, limits."""
    search = _solved(seed, 1)
    _agrees(search, try_everything(search.problem))


@pytest.mark.parametrize("seed", range(300, 306))
def test_search_finds_what_an_integer_programme_finds(seed: int) -> None:
    """More layers than can be tried one by one."""
    search = _solved(seed, 3)
    _agrees(search, least_seconds_by_milp(search.problem))


def test_parts_too_coarse_for_a_price_are_proven_too() -> None:
    """16 experts of a third of CPU memory each: a price alone leaves 2 % open."""
    model = load_model("mixtral-8x7b")
    model = msgspec.structs.replace(model, layers=(LayerRun(model.layers[0].layer, 16),))
    box = machine(5.5, cpu_gb=9.5, disk_gb=200.0)
    problem = OffloadProblem(machine=box, chain=chain_of(model, Generation()))
    search = Search(problem, NodeLimit(4000))
    assert search.run()
    assert search.bound == search.best.seconds
    assert search.root < 0.98 * search.bound


def test_a_space_in_which_memory_is_worth_nothing_is_halved() -> None:
    """All broken parts fit without a disk, 24 whole experts do not: at most four in CPU memory."""
    model, several, asked = random_case(126, 2, MODELS, None)
    problem = OffloadProblem(machine=several, chain=chain_of(model, asked))
    space = whole_space(Tables(problem, 0), 0.002)
    assert space is not None
    assert not space.layouts.prices.any()
    halves = space.halves()
    assert halves is not None
    (_, few), (many, _) = halves
    experts = int((few < space.high).argmax())
    assert (few[experts], many[experts]) == (3, 4)


@pytest.mark.parametrize("seed", [25, 31, 39])
def test_a_stopped_search_keeps_a_valid_bound(seed: int) -> None:
    """The bound of a search of two nodes is not above the optimum."""
    problem = random_problem(seed, layers=3)
    whole, stopped = Search(problem, Never()), Search(problem, NodeLimit(2))
    assert whole.run()
    assert not stopped.run()
    assert stopped.bound <= whole.best.seconds * (1 + 1e-9) <= stopped.best.seconds * (1 + 2e-9)
