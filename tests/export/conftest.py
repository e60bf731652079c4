"""Plans written by hand, one a shape, over a small llama-like model."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from optalloc.cluster.device import DeviceSpec
from optalloc.cluster.topology import Cluster, Link, NodeGroup
from optalloc.model.spec import Attention, Experts, Layer, LayerRun, Mlp, ModelSpec
from optalloc.training.plan import Chunk, Degrees, StagePlan, TrainingPlan
from optalloc.training.strategy import Recompute, Schedule
from optalloc.workload import Training

MakePlan = Callable[..., TrainingPlan]

DENSE = Layer(
    name="decoder",
    stack="decoder",
    hidden=64,
    attention=Attention(heads=8, kv_heads=4, head_dim=16),
    feed_forward=Mlp(width=128),
)
SPARSE = Layer(
    name="decoder_moe",
    stack="decoder",
    hidden=64,
    attention=Attention(heads=8, kv_heads=4, head_dim=16),
    feed_forward=Experts(num_experts=8, top_k=2, width=32, shared_width=32),
)


def make_cluster(num_devices: int = 8, per_node: int = 8) -> Cluster:
    device = DeviceSpec(
        name="test",
        title="Test device",
        kind="gpu",
        memory_bytes=2**34,
        memory_bandwidth_bytes_per_s=1e12,
        peak_flops_per_s={"bf16": 1e14, "fp32": 1e13},
        num_multiprocessors=100,
        link="test",
        link_bandwidth_bytes_per_s=1e11,
        link_latency_s=1e-6,
        devices_per_node=per_node,
        host_bandwidth_bytes_per_s=1e10,
        network_bandwidth_bytes_per_s=1e10,
        network_latency_s=1e-5,
        power_w=300.0,
    )
    group = NodeGroup(
        device=device,
        count=-(-num_devices // per_node),
        devices=per_node,
        domain=per_node,
        node_link=Link(bandwidth_bytes_per_s=1e11, latency_s=1e-6),
        network=Link(bandwidth_bytes_per_s=1e10, latency_s=1e-5),
    )
    return Cluster(name="test", nodes=(group,))


def make_plan(
    *,
    layers: tuple[int, ...] = (4,),
    tp: int = 1,
    cp: int = 1,
    pp: int = 1,
    dp: int = 1,
    ep: int = 1,
    virtual_stages: int = 1,
    sequence_parallel: bool = False,
    zero_stage: int = 1,
    shard_group: int = 0,
    micro_batch: int = 1,
    num_microbatches: int = 4,
    schedule: Schedule = "1f1b",
    recompute: tuple[Recompute, ...] | None = None,
    moe: bool = False,
    dense_first: int = 0,
    model: ModelSpec | None = None,
    tied: bool = False,
    per_node: int = 8,
    idle_devices: int = 0,
) -> TrainingPlan:
    """A plan with ``layers`` in each chunk, in model order; times are one second a layer."""
    total = sum(layers)
    if model is None:
        name = "decoder_moe" if moe else "decoder"
        runs = (LayerRun("decoder", dense_first), LayerRun(name, total - dense_first))
        model = ModelSpec(
            name="tiny",
            family="llama",
            hidden=64,
            vocabulary=128,
            layer_types=(DENSE, SPARSE) if moe else (DENSE,),
            layers=tuple(run for run in runs if run.count),
            tied_embeddings=tied,
            final_norm=64,
        )
    used = tp * cp * pp * dp
    starts = [sum(layers[:c]) for c in range(len(layers))]
    names = [run.layer for run in model.layers for _ in range(run.count)]
    stages = []
    for i in range(pp):
        numbers = range(i, pp * virtual_stages, pp)
        own = [name for c in numbers for name in names[starts[c] : starts[c] + layers[c]]]
        stages.append(
            StagePlan(
                index=i,
                num_layers={name: own.count(name) for name in dict.fromkeys(own)},
                chunks=tuple(
                    Chunk(
                        first_layer=starts[c],
                        num_layers=layers[c],
                        embedding=c == 0,
                        head=c == pp * virtual_stages - 1,
                    )
                    for c in numbers
                ),
                num_devices=used // pp,
                devices=((i * used // pp, (i + 1) * used // pp),),
                memory_bytes={"total": 2**30},
                capacity_bytes=2**34,
                recompute=recompute[i] if recompute else Recompute(),
                forward_s=float(len(own)),
                backward_s=2.0 * len(own),
            )
        )
    return TrainingPlan(
        tool_version="0",
        model=model,
        cluster=make_cluster(used + idle_devices, per_node),
        workload=Training(
            global_batch=dp * micro_batch * num_microbatches,
            sequence_length=64,
            dtype="bf16",
        ),
        digests={},
        cost_model="roofline-2",
        degrees=Degrees(tp=tp, cp=cp, pp=pp, dp=dp, ep=ep, virtual_stages=virtual_stages),
        sequence_parallel=sequence_parallel,
        micro_batch=micro_batch,
        num_microbatches=num_microbatches,
        zero_stage=zero_stage,
        shard_group=shard_group,
        schedule=schedule,
        num_devices=used,
        idle_devices=idle_devices,
        stages=tuple(stages),
        step_time_s=1.0,
        mfu=0.5,
        tokens_per_s=1e5,
        price_usd_per_step=None,
        energy_j_per_step=1.0,
        breakdown_s={"compute": 1.0},
    )


@pytest.fixture(name="make_plan")
def make_plan_fixture() -> MakePlan:
    return make_plan
