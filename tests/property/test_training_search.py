"""The whole search equals brute force over every strategy that the rules allow."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import pytest

from optalloc.cluster.load import load_cluster
from optalloc.cluster.topology import Cluster
from optalloc.cost.model import SCHEDULES, CostModel, Meshes
from optalloc.errors import InputError
from optalloc.model.load import load_model
from optalloc.model.spec import ModelSpec
from optalloc.result import Termination
from optalloc.training.enumerate import best_of_tables
from optalloc.training.solve import plan_training
from optalloc.training.space import divisors
from optalloc.training.strategy import Schedule, Strategy
from optalloc.training.valid import check_strategy
from optalloc.workload import Training


def _model(random: np.random.Generator, folder: Path) -> ModelSpec:
    """A dense or expert decoder of up to 4 layers, wide enough that parallelism pays."""
    heads = int(random.choice([2, 4]))
    keys = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": int(random.choice([1024, 4096])),
        "num_hidden_layers": int(random.integers(1, 5)),
        "num_attention_heads": heads,
        "num_key_value_heads": int(random.choice([1, heads])),
        "intermediate_size": int(random.choice([2048, 12288])),
        "vocab_size": int(random.choice([1000, 64000])),
        "max_position_embeddings": 4096,
        "tie_word_embeddings": bool(random.random() < 0.5),
    }
    if random.random() < 0.4:
        keys |= {
            "model_type": "mixtral",
            "architectures": ["MixtralForCausalLM"],
            "num_local_experts": int(random.choice([2, 4])),
            "num_experts_per_tok": 2,
        }
    (folder / "config.json").write_text(json.dumps(keys), encoding="utf-8")
    return load_model(folder / "config.json")


def _cluster(random: np.random.Generator, model_bytes: float) -> Cluster:
    """Up to 4 devices on nodes of 1, 2 or 4, with memory from too little to plenty."""
    name = str(random.choice(["2xa100-sxm-80g", "3xa100-sxm-80g", "4xa100-pcie-80g"]))
    cluster = load_cluster(name)
    group = cluster.nodes[0]
    device = msgspec.structs.replace(
        group.device,
        memory_bytes=int(2e9 + model_bytes * random.choice([0.2, 0.5, 0.8, 1.5, 6.0])),
    )
    group = msgspec.structs.replace(group, device=device)
    if group.devices == 4 and random.random() < 0.5:
        group = msgspec.structs.replace(group, devices=2, count=2, domain=2)
    if random.random() < 0.3:  # slower than the network
        link = group.node_link
        slow = msgspec.structs.replace(link, bandwidth_bytes_per_s=1e9, latency_s=1e-4)
        group = msgspec.structs.replace(group, node_link=slow)
    return msgspec.structs.replace(cluster, nodes=(group,))


def _every_mesh(cost: CostModel, zeros: list[int], schedules: list[Schedule]) -> Meshes:
    """All degrees up to their largest value, kept where the rules accept the strategy."""
    total, batch = cost.cluster.num_devices, cost.workload.global_batch
    most = range(1, total + 1)
    rows: list[tuple[int, ...]] = []
    for tp, cp, pp, dp in itertools.product(most, repeat=4):
        if tp * cp * pp * dp > total or pp > cost.num_layers + 2 or batch % dp:
            continue
        nodes = max(1, cost.cluster.nodes[0].domain // tp)
        for sequence, ep, micro, zero, shard, v, schedule in itertools.product(
            (False, True),
            range(1, 5),
            divisors(batch // dp),
            zeros,
            (0, nodes),
            range(1, cost.num_layers + 3),
            schedules,
        ):
            if shard and (not zero or shard == 1 or shard >= dp * cp):
                continue  # the same as sharding over all replicas, or over none
            if pp * v > cost.num_layers + 2:
                continue  # a chunk would be empty
            strategy = Strategy(
                tp=tp,
                sequence_parallel=sequence,
                cp=cp,
                pp=pp,
                virtual_stages=v,
                dp=dp,
                ep=ep,
                zero_stage=zero,
                shard_group=shard,
                micro_batch=micro,
                schedule=schedule,
                layers_per_chunk=_any_cut(cost.num_layers, pp * v),
            )
            try:
                check_strategy(cost, strategy)
            except InputError:
                continue
            rows.append(
                (tp, sequence, cp, pp, dp, ep, micro, zero, shard, v, SCHEDULES.index(schedule), 0)
            )
    columns = np.array(rows, np.int64).reshape(-1, len(Meshes.__struct_fields__)).T
    return Meshes(**dict(zip(Meshes.__struct_fields__, columns, strict=True)))


def _any_cut(layers: int, chunks: int) -> tuple[int, ...]:
    """One that leaves no middle chunk empty."""
    if chunks == 1:
        return (layers,)
    return (layers - (chunks - 2), *[1] * (chunks - 2), 0)


def _compare(seed: int, count: int, folder: Path) -> None:
    random = np.random.default_rng(seed)
    solved = 0
    for number in range(count):
        model = _model(random, folder)
        workload = Training(
            global_batch=int(random.choice([1, 2, 4, 6])),
            sequence_length=int(random.choice([256, 1024])),
            framework=str(random.choice(["megatron", "megatron-deepspeed", "fsdp2"])),
            attention_kernel="fused" if random.random() < 0.5 else "unfused",
            lora_rank=int(random.choice([0, 0, 8])),
        )
        whole = CostModel(model, load_cluster("1xa100-sxm-80g"), workload)
        one = Meshes(**{name: np.ones(1, np.int64) for name in Meshes.__struct_fields__})
        states = sum(float(v[0] @ whole.type_counts) for v in whole.state_bytes(one).values())
        cluster = _cluster(random, states)
        names = set(random.choice(SCHEDULES, random.integers(2, 4), replace=False).tolist())
        schedules: list[Schedule] = [s for s in get_args(Schedule) if s in names]
        zeros = sorted(random.choice(4, 2, replace=False).tolist())
        cost = CostModel(model, cluster, workload)
        meshes = _every_mesh(cost, zeros, schedules)
        tables = cost.tables(meshes)
        fixed = tables.real("fixed_s")
        goal = str(random.choice(["step_time", "energy", "price"]))
        rate = {
            "step_time": 1.0 / meshes.num_devices,
            "energy": np.full(len(meshes), cost.watts_per_device),
            "price": np.full(len(meshes), cost.usd_per_device_s),
        }[goal] * meshes.num_devices
        best = min(
            (
                float(rate[k] * (optimum.step_s + fixed[k]))
                for k, optimum in best_of_tables(tables, cost, meshes)
            ),
            default=None,
        )
        words = ["schedule=" + ",".join(schedules), "zero_stage=" + ",".join(map(str, zeros))]
        result = plan_training(model, cluster, workload, objective=goal, pin=words)
        name = f"instance {number} of seed {seed}"
        assert result.termination in (Termination.OPTIMAL, Termination.INFEASIBLE), name
        assert (result.bounds.primal is None) == (best is None), name
        if best is not None:
            solved += 1
            assert result.bounds.primal == pytest.approx(best, rel=1e-8), name
    assert 0.3 * count < solved < count


@pytest.mark.slow
def test_search_equals_brute_force(tmp_path: Path) -> None:
    """The same least time, energy or price of a step, or no plan, on 120 problems of up to 4 layers
    and 4 devices, in three layouts of states, with all weights or adapters alone trained.
    """
    _compare(1, 120, tmp_path)
