"""Small random training problems, and every mesh that the rules accept for one."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import msgspec
import numpy as np

from optalloc.cluster.load import load_cluster
from optalloc.cluster.topology import Cluster
from optalloc.cost.meshes import SCHEDULES, Meshes
from optalloc.cost.model import CostModel
from optalloc.errors import InputError
from optalloc.model.load import load_model
from optalloc.model.spec import ModelSpec
from optalloc.training.space import divisors
from optalloc.training.strategy import Schedule, Strategy
from optalloc.training.valid import check_strategy


def random_model(random: np.random.Generator, folder: Path) -> ModelSpec:
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


def random_cluster(random: np.random.Generator, model_bytes: float) -> Cluster:
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


def every_mesh(cost: CostModel, zeros: list[int], schedules: list[Schedule]) -> Meshes:
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
