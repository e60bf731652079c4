"""Plans written by hand, whose figures come from the native evaluation of the same cost model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from optalloc import _native
from optalloc.cluster.load import load_cluster
from optalloc.cost.meshes import SCHEDULES, Meshes
from optalloc.cost.model import CostModel
from optalloc.model.load import load_model
from optalloc.training.plan import Chunk, Degrees, StagePlan, TrainingPlan
from optalloc.training.strategy import Strategy
from optalloc.workload import Training

MakePlan = Callable[..., TrainingPlan]


@pytest.fixture(scope="session")
def make_plan() -> MakePlan:
    """``make_plan(strategy, model=, cluster=)``: a plan of that strategy."""
    return _plan


def _plan(
    strategy: Strategy, *, model: str = "gpt2", cluster: str = "16xa100-sxm-80g", batch: int = 64
) -> TrainingPlan:
    spec, devices = load_model(model), load_cluster(cluster)
    workload = Training(global_batch=batch, sequence_length=512)
    cost = CostModel(spec, devices, workload)
    value, bytes_, _ = _evaluate(cost, strategy)
    num_microbatches = batch // (strategy.dp * strategy.micro_batch)
    fixed_s = cost.constants.fixed_s
    return TrainingPlan(
        tool_version="0",
        model=spec,
        cluster=devices,
        workload=workload,
        digests={},
        cost_model=cost.name,
        degrees=Degrees(
            tp=strategy.tp,
            cp=strategy.cp,
            pp=strategy.pp,
            dp=strategy.dp,
            ep=strategy.ep,
            virtual_stages=strategy.virtual_stages,
        ),
        sequence_parallel=strategy.sequence_parallel,
        micro_batch=strategy.micro_batch,
        num_microbatches=num_microbatches,
        zero_stage=strategy.zero_stage,
        shard_group=strategy.shard_group,
        schedule=strategy.schedule,
        num_devices=strategy.num_devices,
        idle_devices=devices.num_devices - strategy.num_devices,
        stages=_stages(strategy, bytes_, cost),
        step_time_s=value + fixed_s,
        mfu=0.5,
        tokens_per_s=batch * 512 / (value + fixed_s),
        price_usd_per_step=None,
        energy_j_per_step=1.0,
        breakdown_s={"pipeline": value, "fixed": fixed_s},
    )


def _evaluate(cost: CostModel, strategy: Strategy) -> tuple[float, list[float], list[float]]:
    numbers = {
        "tp": strategy.tp,
        "sequence": int(strategy.sequence_parallel),
        "cp": strategy.cp,
        "pp": strategy.pp,
        "dp": strategy.dp,
        "ep": strategy.ep,
        "micro_batch": strategy.micro_batch,
        "zero_stage": strategy.zero_stage,
        "shard_group": strategy.shard_group,
        "virtual_stages": strategy.virtual_stages,
        "schedule": SCHEDULES.index(strategy.schedule),
        "recompute_rule": 0,
    }
    tables = cost.tables(Meshes(**{k: np.array([n], np.int64) for k, n in numbers.items()}))
    value, bytes_, ends = _native.evaluate_mesh(
        tables.ints,
        tables.reals,
        tables.layers,
        cost.sequence,
        cost.boundary,
        list(strategy.layers_per_chunk),
        [rule.full for rule in strategy.recompute],
        [rule.selective for rule in strategy.recompute],
    )
    buffers = cost.device.memory_bytes - cost.reserve_bytes
    buffers -= float(tables.real("capacity_bytes")[0])
    return value, [one + buffers for one in bytes_], ends


def _stages(strategy: Strategy, bytes_: list[float], cost: CostModel) -> tuple[StagePlan, ...]:
    firsts = np.concatenate([[0], np.cumsum(strategy.layers_per_chunk)]).tolist()
    each = strategy.num_devices // strategy.pp
    last = len(strategy.layers_per_chunk) - 1
    return tuple(
        StagePlan(
            index=i,
            num_layers={"dense": sum(strategy.layers_per_chunk[i :: strategy.pp])},
            chunks=tuple(
                Chunk(
                    first_layer=firsts[c],
                    num_layers=strategy.layers_per_chunk[c],
                    embedding=c == 0,
                    head=c == last,
                )
                for c in range(i, last + 1, strategy.pp)
            ),
            num_devices=each,
            devices=((i * each, (i + 1) * each),),
            memory_bytes={"total": round(bytes_[i])},
            capacity_bytes=round(cost.device.memory_bytes),
            recompute=strategy.recompute[i],
            forward_s=0.0,
            backward_s=0.0,
        )
        for i in range(strategy.pp)
    )
