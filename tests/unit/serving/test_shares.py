"""Rows of stages of which every region carries a part: cheapest shares, and what rows pass."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from benchmarks.flow_instances import random_cluster

from optalloc import _native
from optalloc.result import Termination
from optalloc.serving.flow.arrays import FlowArrays
from optalloc.serving.flow.problem import FlowLink, FlowNode, FlowProblem
from optalloc.serving.flow.regions import regions_of
from optalloc.serving.flow.shares import row_of_shares
from optalloc.serving.flow.solve import place_layers


@pytest.mark.parametrize("seed", range(60))
def test_no_lanes_within_the_limits_of_regions_are_cheaper(seed: int) -> None:
    """Against every number of every lane; what is taken has the price and keeps to the limits."""
    draw = random.Random(seed)
    parts, regions, lanes = draw.randint(3, 8), draw.randint(1, 3), draw.randint(2, 4)
    cells = np.array([draw.randint(1, parts) for _ in range(lanes)], dtype=np.int32)
    region = np.array([draw.randrange(regions) for _ in range(lanes)], dtype=np.int32)
    cost = np.array([[draw.choice([draw.uniform(0.1, 5.0), math.inf])] for _ in range(lanes)])
    high = np.array([draw.randint(1, parts) for _ in range(regions)], dtype=np.int32)
    low = np.array([draw.randint(0, most) for most in high.tolist()], dtype=np.int32)
    counts = np.zeros((1, lanes), dtype=np.int32)
    total = _native.cheapest_shares(cost, cells, region, low, high, parts, counts)[0]

    def shares(taken: tuple[int, ...]) -> list[int]:
        """Parts each region carries; what is more than it may counts as all it may."""
        held = [0] * regions
        for number, size, r in zip(taken, cells.tolist(), region.tolist(), strict=True):
            held[r] += number * size
        return [min(one, most) for one, most in zip(held, high.tolist(), strict=True)]

    def fits(taken: tuple[int, ...]) -> bool:
        held = shares(taken)
        return sum(held) >= parts and all(
            one >= least for one, least in zip(held, low.tolist(), strict=True)
        )

    def price(taken: tuple[int, ...]) -> float:
        costs: list[float] = cost[:, 0].tolist()
        return sum(n * c for n, c in zip(taken, costs, strict=True) if n)

    every = itertools.product(*(range(-(-parts // size) + 1) for size in cells.tolist()))
    best = min((price(taken) for taken in every if fits(taken)), default=math.inf)
    assert total == pytest.approx(best, rel=1e-12)
    if math.isfinite(total):
        taken = tuple(counts[0].tolist())
        assert fits(taken)
        assert price(taken) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("seed", range(2))
def test_every_region_carries_its_part_of_every_stage(seed: int) -> None:
    """All nodes of the row are used once, and the flow is passed but for what links lack."""
    problem = random_cluster(seed, 48, 2, num_layers=24)
    arrays = FlowArrays(problem)
    regions = regions_of(arrays, 40_000.0)
    link = arrays.typical_link([region.nodes for region in regions])
    reached = 0.0
    for flow in (6_000.0, 9_000.0, 12_000.0):
        placement = row_of_shares(regions, 24, flow, 0.2, link, lambda: False)
        if placement is None:
            continue
        assert all(
            0 <= first < end <= first + problem.nodes[node].max_layers and end <= 24
            for node, (first, end) in placement.items()
        )
        for layer in range(24):
            held = [
                sum(
                    problem.nodes[node].throughput_tokens_per_s[end - first - 1]
                    for node, (first, end) in placement.items()
                    if node in region.nodes and first <= layer < end
                )
                for region in regions
            ]
            assert sum(held) >= flow * (1.0 - 1e-9)
            assert min(held) > 0.1 * flow
        reached = max(reached, arrays.value(placement) / flow)
    assert reached >= 1.0 - 1e-9


def test_regions_side_by_side_pass_what_each_passes_alone() -> None:
    """Two equal regions and hardly a link between them: twice the flow of one, and no more."""
    table = tuple(900.0 * (1.0 - 0.1 * k) / (k + 1) for k in range(4))
    nodes = tuple(FlowNode(type="a", throughput_tokens_per_s=table) for _ in range(16))
    wide, narrow = 1e9, 10.0
    links = [
        FlowLink(begin=a, end=b, bandwidth_bytes_per_s=rate, latency_s=0.001)
        for a, b in itertools.permutations(range(16), 2)
        for rate in [wide if a % 2 == b % 2 else narrow]
    ]
    for a in range(16):
        links.append(FlowLink(begin=None, end=a, bandwidth_bytes_per_s=wide, latency_s=0.001))
        links.append(FlowLink(begin=a, end=None, bandwidth_bytes_per_s=wide, latency_s=0.001))
    problem = FlowProblem(
        name="two",
        num_layers=8,
        token_bytes=2,
        activation_bytes=100,
        nodes=nodes,
        links=tuple(links),
    )
    found = place_layers(problem)
    assert found.termination is Termination.OPTIMAL
    assert found.bounds.primal == pytest.approx(2.0 * 900.0)
