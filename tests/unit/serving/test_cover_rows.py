"""Placements from covers in whole numbers: every layer is covered, on nodes that there are."""

from __future__ import annotations

import random

import pytest
from benchmarks.flow_instances import random_cluster

from optalloc.serving.flow.arrays import FlowArrays
from optalloc.serving.flow.cover_rows import row_of_covers
from optalloc.serving.flow.kinds import Kind, kinds_of
from optalloc.serving.flow.problem import FlowLink, FlowNode, FlowProblem
from optalloc.serving.flow.solve import place_layers


def cluster(tables: list[tuple[float, ...]], num_layers: int) -> FlowProblem:
    """Nodes with these tables, all joined by links that never bind."""
    ends: list[int | None] = [None, *range(len(tables))]
    return FlowProblem(
        name="wide",
        num_layers=num_layers,
        token_bytes=2,
        activation_bytes=2,
        nodes=tuple(FlowNode(type="", throughput_tokens_per_s=table) for table in tables),
        links=tuple(
            FlowLink(begin=a, end=b, bandwidth_bytes_per_s=1e9, latency_s=0.0)
            for a in ends
            for b in ends
            if a != b
        ),
    )


def test_nodes_run_on_beside_others_that_change() -> None:
    """Of three layers on one node, two lie beside one node and one beside two slower ones: stages
    of lanes cannot say that, and no other placement of these four nodes passes ten tokens/s."""
    tables = [(6.0, 5.0, 4.0), (8.0, 6.0), (3.0,), (3.0,)]
    problem = cluster(tables, 3)
    found = row_of_covers(kinds_of(problem), 3, 10.0, lambda: False)
    assert found is not None
    assert sorted(end - begin for begin, end in found.values()) == [1, 1, 2, 3]
    assert FlowArrays(problem).value(found) == pytest.approx(10.0)
    assert place_layers(problem).bounds.primal == pytest.approx(10.0)


@pytest.mark.parametrize("seed", range(40))
def test_every_layer_is_covered_by_nodes_there_are(seed: int) -> None:
    """Ranges keep to the tables, no node is used twice, and rates add up at every layer."""
    draw = random.Random(seed)
    kinds = kinds_of(random_cluster(seed, draw.randint(6, 14), num_layers=20))
    flow = draw.uniform(200.0, 3_000.0)
    found = row_of_covers(kinds, 20, flow, lambda: False)
    if found is None:
        return
    of_node = {node: kind for kind in kinds for node in kind.nodes}
    held = [0.0] * 20
    for node, (begin, end) in found.items():
        assert 0 <= begin < end <= min(20, begin + len(of_node[node].table))
        for layer in range(begin, end):
            held[layer] += of_node[node].table[end - begin - 1]
    assert min(held) >= flow * (1.0 - 1e-9)


def test_none_where_covers_or_nodes_are_too_few() -> None:
    """More than the nodes pass together, and one node that would have to be in two places."""
    kinds = [Kind(table=(4.0, 3.0), nodes=(0, 1))]
    assert row_of_covers(kinds, 4, 3.1, lambda: False) is None
    assert row_of_covers(kinds, 4, 3.0, lambda: False) == {0: (0, 2), 1: (2, 4)}
