"""Paths of stages through regions: what pools cover, and the flow a path passes."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from benchmarks.flow_instances import random_cluster

from optalloc import _native
from optalloc.serving.flow.arrays import FlowArrays
from optalloc.serving.flow.kinds import Kind, kinds_of
from optalloc.serving.flow.paths import path_of_stages
from optalloc.serving.flow.pools import Layers, joined
from optalloc.serving.flow.regions import regions_of
from optalloc.serving.flow.stages import Stage


def most_side_by_side(kinds: tuple[Kind, ...], free: tuple[int, ...], flow: float) -> int:
    """Most layers of stages of single nodes: every set of nodes of every length, tried in turn."""
    best = 0
    for taken in itertools.product(*(range(n + 1) for n in free)):
        for k in range(1, max(len(kind.table) for kind in kinds) + 1):
            if all(k <= len(kind.table) for n, kind in zip(taken, kinds, strict=True) if n):
                rates = [n * kind.table[k - 1] for n, kind in zip(taken, kinds, strict=True) if n]
                if sum(rates) >= flow:
                    left = tuple(n - m for n, m in zip(free, taken, strict=True))
                    best = max(best, k + most_side_by_side(kinds, left, flow))
    return best


def rate_of(stage: Stage, kinds: tuple[Kind, ...], most: float) -> float:
    """What the lanes of a stage pass, each at most ``most``."""
    return sum(min(most, *(kinds[t].table[k - 1] for t, k in lane)) for lane in stage.lanes)


@pytest.mark.parametrize("seed", range(12))
def test_stages_of_a_region_cover_most_layers(seed: int) -> None:
    """At least what single nodes side by side reach, on nodes there are, at the flow asked for."""
    draw = random.Random(seed)
    kinds = tuple(
        Kind(
            table=tuple(draw.uniform(0.6, 1.2) * 8.0 / k for k in range(1, draw.randint(2, 4))),
            nodes=tuple(range(9 * t, 9 * t + draw.randint(1, 3))),
        )
        for t in range(2)
    )
    flow = draw.uniform(3.0, 11.0)
    layers = Layers(kinds, flow, [0.5, 1.0], seed)
    kinds = layers.kinds
    for into, out in ((None, None), (0.5, None), (None, 0.5), (0.5, 0.5), (0.5, 1.0)):
        covered, first, last = layers.best(into, out)
        if covered < 0:
            continue
        ends = [stage for stage in (first, last) if stage is not None]
        alone = into is not None and out is not None and last is None
        row = ends if alone else [*ends, *layers.between(ends)]
        assert sum(stage.layers for stage in row) == covered
        for t, kind in enumerate(kinds):
            assert sum(stage.nodes().get(t, 0) for stage in row) <= len(kind.nodes)
        for stage in row:
            assert rate_of(stage, kinds, flow) >= flow * (1.0 - 1e-9)
        for end, cap in ((first, into), (first if alone else last, out)):
            if end is not None and cap is not None:
                assert rate_of(end, kinds, cap * flow) >= flow * (1.0 - 1e-9)
    free = tuple(len(kind.nodes) for kind in kinds)
    assert layers.best(None, None)[0] >= most_side_by_side(kinds, free, flow)


@pytest.mark.parametrize("seed", range(20))
def test_most_layers_of_stages_for_all_numbers_of_nodes(seed: int) -> None:
    """Each entry is that of plain recursion, and the stage given for it leads on to the rest."""
    draw = np.random.default_rng(seed)
    counts = draw.integers(0, 5, draw.integers(1, 4)).astype(np.int64)
    nodes = draw.integers(0, 4, (draw.integers(0, 5), len(counts))).astype(np.int64)
    layers = draw.integers(1, 5, len(nodes)).astype(np.int64)
    most, last = np.zeros((2, int(np.prod(counts + 1))), dtype=np.int32)
    _native.cover_lattice(layers, nodes, counts, most, last)
    entries = list(itertools.product(*(range(n + 1) for n in counts.tolist())))
    reached = dict(zip(entries, most.tolist(), strict=True))

    def recursion(free: tuple[int, ...]) -> int:
        left = [
            (k, tuple(np.subtract(free, need).tolist()))
            for k, need in zip(layers.tolist(), nodes, strict=True)
            if need.any() and (need <= free).all()
        ]
        return max((k + recursion(rest) for k, rest in left), default=0)

    for free, stage in zip(entries, last.tolist(), strict=True):
        assert reached[free] == recursion(free)
        if stage >= 0:
            rest = tuple(np.subtract(free, nodes[stage]).tolist())
            assert reached[free] == layers[stage] + reached[rest]
        else:
            assert reached[free] == 0


def test_kinds_are_joined_at_the_lesser_table() -> None:
    """Three kinds of two nodes and at most 16 states: the two near ones become one."""
    kinds = [
        Kind(table=(9.0, 4.0), nodes=(0, 1)),
        Kind(table=(8.9, 4.1), nodes=(2, 3)),
        Kind(table=(2.0,), nodes=(4, 5)),
    ]
    assert joined(kinds, 27) == (kinds[2], kinds[1], kinds[0])
    near = joined(kinds, 16)
    assert [(kind.table, kind.nodes) for kind in near] == [
        ((2.0,), (4, 5)),
        ((8.9, 4.0), (2, 3, 0, 1)),
    ]


@pytest.mark.parametrize("regions", [2, 3])
def test_a_path_passes_the_flow_it_is_made_for(regions: int) -> None:
    """With links counted at their worst every crossing has room: the flow is passed, or no path
    is found; more is found at lower flows."""
    problem = random_cluster(regions, 12, regions, num_layers=20)
    arrays = FlowArrays(problem)
    found = {
        flow: path_of_stages(arrays, regions_of(arrays, flow), flow, 0.0, 0)
        for flow in (1_000.0, 2_000.0, 9_000.0)
    }
    assert found[1_000.0] is not None
    assert found[9_000.0] is None
    for flow, placement in found.items():
        if placement is not None:
            assert arrays.value(placement) >= flow * (1.0 - 1e-9)


def test_random_clusters_have_regions_and_kinds_as_asked() -> None:
    """Equal seeds, equal clusters; narrow links split the regions; 0 kinds: all tables differ."""
    problem = random_cluster(3, 12, 3)
    assert problem == random_cluster(3, 12, 3)
    assert len(regions_of(FlowArrays(problem), 5_000.0)) == 3
    assert len(kinds_of(random_cluster(0, 9, num_kinds=0))) == 9
