"""Properties of cost tables over many meshes: monotone, scaling, the same alone and together."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from optalloc.cluster.load import load_cluster
from optalloc.cluster.topology import Cluster, Link
from optalloc.cost.constants import Constants, read_constants, values
from optalloc.cost.meshes import Meshes, MeshTables
from optalloc.cost.model import CostModel
from optalloc.model.load import load_model
from optalloc.model.spec import ModelSpec
from optalloc.workload import FRAMEWORKS, Dtype, Training

WORK = Training(global_batch=64, sequence_length=2048)


def _many(count: int = 300, seed: int = 7) -> Meshes:
    rng = np.random.default_rng(seed)
    tp = 2 ** rng.integers(0, 4, count)
    dp = 2 ** rng.integers(0, 4, count)
    cp = 2 ** rng.integers(0, 2, count)
    group = dp * cp
    shard = np.where((rng.random(count) < 0.3) & (group > 2), group // 2, 0)
    return Meshes(
        tp=tp,
        sequence=np.where(tp > 1, rng.integers(0, 2, count), 0),
        cp=cp,
        pp=2 ** rng.integers(0, 2, count),
        dp=dp,
        ep=np.minimum(8, np.gcd(tp * group, 2 ** rng.integers(0, 4, count))),
        micro_batch=2 ** rng.integers(0, 3, count),
        zero_stage=rng.integers(0, 4, count),
        shard_group=shard,
        virtual_stages=np.ones(count, np.int64),
        schedule=np.ones(count, np.int64),
        recompute_rule=np.zeros(count, np.int64),
    )


TIMES = ("forward_s", "backward_s", "weight_s", "extra_full_s", "reduce_s", "gather_s", "update_s")
REAL_TIMES = ("latency_near_s", "latency_far_s", "transfer_near_s", "transfer_far_s", "tied_s")


def _tables(model: ModelSpec, cluster: Cluster, constants: Constants | None = None) -> MeshTables:
    return CostModel(model, cluster, WORK, constants=constants).tables(_many())


def _scaled(cluster: Cluster, **factors: float) -> Cluster:
    """The cluster with peaks, memory, node link or network times a factor, latencies divided."""
    group = cluster.nodes[0]
    old = group.device
    compute, memory = factors.get("compute", 1.0), factors.get("memory", 1.0)
    new = msgspec.structs.replace(
        old,
        peak_flops_per_s={k: compute * v for k, v in old.peak_flops_per_s.items()},
        memory_bandwidth_bytes_per_s=memory * old.memory_bandwidth_bytes_per_s,
    )

    def link(link: Link, factor: float) -> Link:
        return msgspec.structs.replace(
            link,
            bandwidth_bytes_per_s=factor * link.bandwidth_bytes_per_s,
            latency_s=link.latency_s / factor,
        )

    group = msgspec.structs.replace(
        group,
        device=new,
        node_link=link(group.node_link, factors.get("node", 1.0)),
        network=link(group.network, factors.get("network", 1.0)),
    )
    return msgspec.structs.replace(cluster, nodes=(group,))


@pytest.mark.parametrize("part", ["compute", "memory", "node", "network"])
def test_a_faster_part_lengthens_no_pass_that_waits_for_the_host(part: str) -> None:
    """Layers of GPT-2, so small that launching them takes longer than running them.

    Schedules with a divided backward run input and weight gradients apart: each by itself must not
    grow.
    """
    model = load_model("gpt2")
    before, row = CostModel(model, load_cluster("32xh100-sxm"), WORK).layer_costs(_many())
    faster = _scaled(load_cluster("32xh100-sxm"), **{part: 2.0})
    after, _ = CostModel(model, faster, WORK).layer_costs(_many())
    for name in ("forward_s", "backward_s", "weight_s"):
        new, old = getattr(after, name)[row], getattr(before, name)[row]
        assert np.all(new <= old * (1 + 1e-12)), name


@pytest.mark.parametrize("part", ["compute", "memory", "node", "network"])
def test_a_faster_part_never_costs_time(moe: ModelSpec, part: str) -> None:
    """300 meshes of an expert model on four nodes.

    The backward counts with its weight gradients: both hide the reduction, and a faster pass hides
    less of it.
    """
    before = _tables(moe, load_cluster("32xh100-sxm"))
    after = _tables(moe, _scaled(load_cluster("32xh100-sxm"), **{part: 2.0}))
    for name in TIMES:
        new, old = after.field(name), before.field(name)
        if name == "backward_s":
            new, old = new + after.field("weight_s"), old + before.field("weight_s")
        assert np.all(new <= old * (1 + 1e-12)), name
    for name in REAL_TIMES:
        assert np.all(after.real(name) <= before.real(name) * (1 + 1e-12)), name
    assert np.array_equal(after.field("state_bytes"), before.field("state_bytes"))


def test_twice_as_fast_hardware_takes_half_the_time(moe: ModelSpec) -> None:
    """Peaks, memory, links doubled and latencies, launches and fixed time halved."""
    cluster = load_cluster("32xh100-sxm")
    old = values(read_constants())
    halves = {
        name: getattr(old, name) / 2 for name in Constants.__struct_fields__ if name[-2:] == "_s"
    }
    before = _tables(moe, cluster, old)
    twice = _scaled(cluster, compute=2.0, memory=2.0, node=2.0, network=2.0)
    after = _tables(moe, twice, msgspec.structs.replace(old, **halves))
    for name in TIMES:
        assert after.field(name) == pytest.approx(before.field(name) / 2, rel=1e-12), name
    for name in (*REAL_TIMES, "fixed_s"):
        assert after.real(name) == pytest.approx(before.real(name) / 2, rel=1e-12), name


def test_more_memory_leaves_more_room(moe: ModelSpec) -> None:
    """16 GB more capacity is that much more room in every mesh, less the margin kept free."""
    cluster = load_cluster("32xh100-sxm")
    group = cluster.nodes[0]
    bigger = msgspec.structs.replace(
        group.device, memory_bytes=group.device.memory_bytes + 16_000_000_000
    )
    roomy = msgspec.structs.replace(cluster, nodes=(msgspec.structs.replace(group, device=bigger),))
    before, after = _tables(moe, cluster), _tables(moe, roomy)
    room = after.real("capacity_bytes") - before.real("capacity_bytes")
    margin = values(read_constants()).memory_margin
    assert room == pytest.approx(16e9 * (1.0 - margin), rel=1e-9)
    assert np.array_equal(after.layers, before.layers)


def test_meshes_together_equal_meshes_alone(moe: ModelSpec) -> None:
    """300 meshes at once and one by one, bit for bit."""
    cost = CostModel(moe, load_cluster("32xh100-sxm"), WORK)
    meshes = _many()
    together = cost.tables(meshes)
    for k in range(len(meshes)):
        alone = cost.tables(meshes.take(np.array([k])))
        assert np.array_equal(alone.layers[0], together.layers[k])
        assert np.array_equal(alone.reals[0], together.reals[k])
        assert np.array_equal(alone.ints[0], together.ints[k])


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp8", "fp32"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_more_recomputation_keeps_less(moe: ModelSpec, framework: str, dtype: Dtype) -> None:
    """Whole, selective, nothing: in every layer of every mesh and layout."""
    work = msgspec.structs.replace(WORK, framework=framework, dtype=dtype, dropout=True)
    tables = CostModel(moe, load_cluster("32xh100-sxm"), work).tables(_many())
    whole, some, all_ = (
        tables.field(name) for name in ("held_full_bytes", "held_selective_bytes", "held_bytes")
    )
    assert np.all(whole > 0.0)
    assert np.all(whole[:, 1:-1] <= some[:, 1:-1])
    assert np.all(some <= all_)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_each_way_of_sharding_and_of_training_less_saves_memory(
    moe: ModelSpec, framework: str
) -> None:
    """Stage 1 less than 0, 3 the least of all, adapters less than everything."""
    work = msgspec.structs.replace(WORK, framework=framework)
    cost = CostModel(moe, load_cluster("32xh100-sxm"), work)
    many = msgspec.structs.replace(_many(), shard_group=np.zeros(300, np.int64))
    states = [
        cost.tables(msgspec.structs.replace(many, zero_stage=np.full(300, zero))).field(
            "state_bytes"
        )
        for zero in range(4)
    ]
    assert np.all(states[1] <= states[0])
    assert all(np.all(states[3] <= one) for one in states)
    adapters = msgspec.structs.replace(work, lora_rank=8)
    tuned = CostModel(moe, load_cluster("32xh100-sxm"), adapters).tables(many)
    plain = cost.tables(many)
    assert np.all(tuned.field("state_bytes")[:, 1] <= plain.field("state_bytes")[:, 1])
