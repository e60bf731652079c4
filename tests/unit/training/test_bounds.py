"""Bounds stay below the time of every configuration, on any links."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from optalloc.cluster.load import load_cluster
from optalloc.cluster.topology import Cluster
from optalloc.cost.model import CostModel
from optalloc.model.load import load_model
from optalloc.training.bounds import MeshFacts, ShapeFacts, StemFacts
from optalloc.training.estimate import build_plan, meshes_of
from optalloc.training.solve import plan_training
from optalloc.training.space import ONE_F_ONE_B, Space, parse_limits
from optalloc.training.strategy import Strategy
from optalloc.workload import Training


def _slow_nodes(name: str, *, devices: int) -> Cluster:
    """Nodes of so many devices whose inner link is a hundred times slower than the network."""
    cluster = load_cluster(name)
    group = cluster.nodes[0]
    slow = msgspec.structs.replace(
        group.node_link,
        bandwidth_bytes_per_s=group.network.bandwidth_bytes_per_s / 100.0,
        latency_s=100.0 * group.network.latency_s,
    )
    count = cluster.num_devices // devices
    group = msgspec.structs.replace(
        group, node_link=slow, devices=devices, count=count, domain=devices
    )
    return msgspec.structs.replace(cluster, nodes=(group,))


@pytest.mark.parametrize(
    ("devices", "layers"), [(1, (1, 3, 4, 5, 6, 6, 6, 9)), (2, (5, 5, 5, 5, 5, 5, 5, 5))]
)
def test_a_network_faster_than_the_node_link_is_bounded(
    devices: int, layers: tuple[int, ...]
) -> None:
    """A boundary between two nodes is crossed over the network, here the faster of the two."""
    cluster = _slow_nodes("8xmi300x", devices=devices)
    workload = Training(global_batch=6, sequence_length=128)
    cost = CostModel(load_model("phi-4"), cluster, workload)
    strategy = Strategy(pp=8, micro_batch=6, zero_stage=0, layers_per_chunk=layers)
    time_s = build_plan(cost, strategy).step_time_s
    meshes = meshes_of(strategy)
    known = MeshFacts(cost, meshes, cost.tables(meshes))
    assert known.bounds([(ONE_F_ONE_B, 1)])[0, 0] <= time_s
    assert ShapeFacts(cost, meshes).bounds([(ONE_F_ONE_B, 1)])[0, 0] <= time_s
    best = plan_training(
        cost.model, cluster, workload, pin=["pp=8", "micro_batch=6", "schedule=1f1b"]
    )
    assert best.plan.step_time_s <= time_s * (1.0 + 1e-9)


def test_the_short_output_of_a_decoder_is_bounded() -> None:
    """Before a last stage that holds the head alone only the decoder's few tokens are sent."""
    workload = Training(global_batch=2048, sequence_length=4096, decoder_sequence_length=16)
    cluster = load_cluster("2xrtx-4090")
    cost = CostModel(load_model("t5-3b"), cluster, workload)
    strategy = Strategy(pp=2, micro_batch=2048, zero_stage=0, layers_per_chunk=(48, 0))
    time_s = build_plan(cost, strategy).step_time_s
    meshes = meshes_of(strategy)
    known = MeshFacts(cost, meshes, cost.tables(meshes))
    assert known.bounds([(ONE_F_ONE_B, 1)])[0, 0] <= time_s


@pytest.mark.parametrize("name", ["gpt2", "llama-3.1-70b"])
@pytest.mark.parametrize("pins", [[], ["virtual_stages=3,5"], ["schedule=gpipe,zb-h1"]])
def test_the_bound_of_a_shape_holds_for_each_of_its_schedules(name: str, pins: list[str]) -> None:
    """Of the shallow model all interleaved cuts are tried, of the deep one only some."""
    cluster, workload = load_cluster("32xh100-sxm"), Training(global_batch=96, sequence_length=512)
    cost = CostModel(load_model(name), cluster, workload)
    space = Space(cost.graph, cluster, workload, parse_limits(pins, []))
    weight = np.ones(cluster.num_devices + 1)
    shapes, bounds, *_ = StemFacts(cost, space, weight).promising(np.inf, np.inf)
    facts, least = ShapeFacts(cost, shapes), np.full(len(shapes), np.inf)
    for schedule, v, _, fits in space.schedules(shapes):
        of_schedule = facts.bounds([(schedule, v)])[0]
        least[fits] = np.minimum(least[fits], of_schedule[fits])
    assert len(shapes) > 500
    assert np.all(bounds <= least * (1.0 + 1e-9))
    assert np.mean(bounds > 0.9 * least) > 0.5
