"""account.py: parts that sum to their cause, what is hidden, and what a stage waits for."""

from __future__ import annotations

import math

import msgspec
import pytest

from optalloc.cluster.load import load_cluster
from optalloc.cost.model import CostModel
from optalloc.model.load import load_model
from optalloc.plan.account import Part, account
from optalloc.training.estimate import build_plan, estimate
from optalloc.training.plan import TrainingPlan
from optalloc.training.strategy import Recompute, Strategy
from optalloc.workload import Training

CASES = [
    ("gpt2", "1xh100-sxm", 16, Strategy(micro_batch=4)),
    ("gpt2", "8xh100-sxm", 16, Strategy(pp=2, layers_per_chunk=(9, 3), dp=2, zero_stage=2)),
    ("gpt2", "8xh100-sxm", 16, Strategy(tp=2, cp=2, dp=2, zero_stage=3, sequence_parallel=True)),
    (
        "gpt2",
        "16xa100-sxm-80g",
        16,
        Strategy(
            pp=2, dp=4, virtual_stages=2, schedule="interleaved", recompute=(Recompute(2, 1),) * 2
        ),
    ),
    ("gpt2", "8xh100-sxm", 16, Strategy(pp=4, dp=2, schedule="zb-h1", zero_stage=1)),
    ("mixtral-8x7b", "64xh100-sxm", 64, Strategy(pp=4, dp=16, ep=8, zero_stage=1)),
    ("deepseek-v3", "256xh100-sxm", 256, Strategy(pp=8, dp=32, ep=32, zero_stage=1)),
    ("bert-large-uncased", "8xa100-sxm-80g", 16, Strategy(dp=8)),
    ("t5-3b", "8xh100-sxm", 16, Strategy(tp=2, pp=2, dp=2)),
]


def planned(model: str, cluster: str, batch: int, strategy: Strategy) -> TrainingPlan:
    workload = Training(global_batch=batch, sequence_length=512)
    return estimate(load_model(model), load_cluster(cluster), workload, strategy)


def cost_of(plan: TrainingPlan) -> CostModel:
    return CostModel(plan.model, plan.cluster, plan.workload, name=plan.cost_model)


def parts_of(plan: TrainingPlan) -> dict[str, Part]:
    return {part.name: part for part in account(cost_of(plan), plan)}


@pytest.mark.parametrize(("model", "cluster", "batch", "strategy"), CASES)
def test_parts_sum_to_their_cause_and_to_the_step(
    model: str, cluster: str, batch: int, strategy: Strategy
) -> None:
    """Nothing is left over, nothing is negative, and no name stands twice."""
    plan = planned(model, cluster, batch, strategy)
    parts = account(cost_of(plan), plan)
    assert math.fsum(p.time_s for p in parts) == pytest.approx(plan.step_time_s, rel=1e-12)
    for cause, seconds in plan.breakdown_s.items():
        mine = [p.time_s for p in parts if p.cause == cause]
        assert math.fsum(mine) == pytest.approx(seconds, abs=1e-11 * plan.step_time_s)
    assert [p.name for p in parts if p.name.startswith("other_")] == []
    assert min(p.time_s for p in parts) >= -1e-12 * plan.step_time_s
    assert len({p.name for p in parts}) == len(parts)
    assert all(p.share == p.time_s / plan.step_time_s for p in parts)


def test_experts_and_dense_layers_are_apart() -> None:
    """Mixtral has experts and no MLP, GPT-2 no experts."""
    mixtral, gpt2 = parts_of(planned(*CASES[5])), parts_of(planned(*CASES[0]))
    assert {"experts", "expert_parallel"} < set(mixtral)
    assert "mlp" not in mixtral
    assert "experts" not in gpt2


def test_a_device_twice_as_fast_halves_the_matrices_alone() -> None:
    """Without the overheads of launches and tiles; what moves memory alone takes as long."""
    plan = planned("gpt2", "1xh100-sxm", 8, Strategy(micro_batch=8))
    constants = cost_of(plan).constants
    overheads = ("host_s", "launch_s", "micro_s", "tile_s")
    names = [name for name in constants.__struct_fields__ if name.endswith(overheads)]
    constants = msgspec.structs.replace(constants, **dict.fromkeys(names, 0.0))
    times = []
    for factor in (1.0, 2.0):
        device = plan.cluster.nodes[0].device
        peaks = {name: factor * peak for name, peak in device.peak_flops_per_s.items()}
        faster = msgspec.structs.replace(device, peak_flops_per_s=peaks)
        group = msgspec.structs.replace(plan.cluster.nodes[0], device=faster)
        cluster = msgspec.structs.replace(plan.cluster, nodes=(group,))
        cost = CostModel(plan.model, cluster, plan.workload, constants=constants)
        made = build_plan(cost, plan.strategy)
        times.append({p.name: p.time_s for p in account(cost, made)})
    slow, fast = times
    assert fast["norms_and_sums"] == pytest.approx(slow["norms_and_sums"], rel=1e-12)
    assert fast["mlp"] < 0.7 * slow["mlp"]


def test_the_host_is_what_its_floor_adds() -> None:
    """A host twice as slow adds to its own part alone, and that is what the step grows by."""
    plan = planned("gpt2", "1xh100-sxm", 1, Strategy())
    cost = cost_of(plan)
    twice = msgspec.structs.replace(cost.constants, layer_host_s=2 * cost.constants.layer_host_s)
    slow = CostModel(plan.model, plan.cluster, plan.workload, constants=twice)
    slower = build_plan(slow, plan.strategy)
    before, after = parts_of(plan), {p.name: p for p in account(slow, slower)}
    growth = slower.step_time_s - plan.step_time_s
    assert growth > 0.3 * plan.step_time_s
    assert after["host"].time_s - before["host"].time_s == pytest.approx(growth, rel=1e-9)
    for name, part in before.items():
        if name != "host":
            assert after[name].time_s == pytest.approx(part.time_s, rel=1e-9)


def test_hidden_and_exposed_reduction_are_the_whole_of_it() -> None:
    """Without overlap the same plan shows all of what reduction and gathering take."""
    plan = planned(*CASES[5])
    cost = cost_of(plan)
    bare = CostModel(
        plan.model,
        plan.cluster,
        plan.workload,
        constants=msgspec.structs.replace(cost.constants, data_overlap=0.0),
    )
    open_ = {p.name: p for p in account(bare, build_plan(bare, plan.strategy))}
    for name in ("gradient_reduction", "weight_gathering"):
        part = parts_of(plan)[name]
        assert part.hidden_s is not None
        assert part.time_s + part.hidden_s == pytest.approx(open_[name].time_s, rel=1e-9)
        assert open_[name].hidden_s == pytest.approx(0.0, abs=1e-12)


def test_a_slower_stage_is_waited_for_once_a_microbatch() -> None:
    """Stage 0 of 2 layers ends last under 1F1B; stage 1 of 10 works longer, eight times over."""
    plan = planned("gpt2", "2xh100-sxm", 8, Strategy(pp=2, layers_per_chunk=(2, 10)))
    tau = [stage.forward_s + stage.backward_s for stage in plan.stages]
    parts = parts_of(plan)
    assert parts["imbalance"].time_s == pytest.approx(8 * (tau[1] - tau[0]), rel=1e-9)
    # One micro-batch of stage 0 is left: its first forward and last backward are alone.
    assert parts["bubble"].time_s == pytest.approx(tau[0], rel=1e-9)


def test_transfers_are_what_links_without_time_would_save() -> None:
    """The step less the same step over links that are hardly there; what a send costs beside its
    link is a transfer as well.
    """
    plan = planned("gpt2", "2xh100-sxm", 8, Strategy(pp=2, layers_per_chunk=(6, 6)))
    group = plan.cluster.nodes[0]
    link = msgspec.structs.replace(group.node_link, bandwidth_bytes_per_s=1e21, latency_s=0.0)
    cluster = msgspec.structs.replace(
        plan.cluster, nodes=(msgspec.structs.replace(group, node_link=link),)
    )
    constants = cost_of(plan).constants
    sends = [name for name in constants.__struct_fields__ if name == "hop_s"]
    constants = msgspec.structs.replace(constants, **dict.fromkeys(sends, 0.0))
    free = build_plan(
        CostModel(plan.model, cluster, plan.workload, constants=constants), plan.strategy
    )
    saved = plan.step_time_s - free.step_time_s
    tied = plan.breakdown_s["data_parallel"] - free.breakdown_s["data_parallel"]
    assert parts_of(plan)["pipeline_transfers"].time_s == pytest.approx(saved - tied, rel=1e-6)
