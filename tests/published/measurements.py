"""Published training measurements as problems of the cost model, and what it predicts for them.

Everything a row does not publish is filled in by a stated rule: recomputation unknown means the
least that fits; a micro-batch size unknown means the best of 1, 2, 4, 8; chunks unknown, the best
of 1 to 6 that divide. Layers that do not divide evenly leave the end stages one layer short.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import msgspec
import numpy as np

from optalloc import _native
from optalloc.cluster.catalog import device
from optalloc.cluster.device import DeviceSpec
from optalloc.cluster.topology import Cluster, Link, NodeGroup
from optalloc.cost.constants import Constants, read_constants, values
from optalloc.cost.model import SCHEDULES, CostModel, Meshes
from optalloc.model.load import load_model
from optalloc.model.spec import Attention, Experts, Layer, LayerRun, Mlp, ModelSpec, Norm
from optalloc.workload import Dtype, Training

Row = dict[str, str]

DEVICES = {
    "A100-40GB": "a100-sxm-40g",
    "A100-80GB": "a100-sxm-80g",
    "H100": "h100-sxm",
    "H100-96GB": "h100-sxm",
    "H200": "h200-sxm",
    "GH200": "h200-sxm",
    "B200": "b200",
    "B300": "b300",
    "GB200": "gb200",
    "GB300": "gb300",
    "V100-16GB": "v100-sxm-16g",
    "V100-32GB": "v100-sxm-32g",
}
# Sources whose software computed the whole softmax; the others ran a fused kernel.
UNFUSED = ("vtrain_single", "vtrain_multi", "bigscience", "megatron_sc21", "seqsel", "sailor")


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One row as a problem; several meshes where the row leaves a choice open."""

    row: Row
    model: ModelSpec
    cluster: Cluster
    workload: Training
    meshes: Meshes
    recompute: str

    @property
    def source(self) -> str:
        return self.row["source"]


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """Step time in seconds and the fullest device in bytes."""

    step_time_s: float
    memory_bytes: float


def read_cases(path: Path) -> list[Case]:
    """The rows that the cost model can express."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [case for row in rows if (case := _case(row)) is not None]


def _number(row: Row, key: str, default: int = 0) -> int:
    return int(float(row[key])) if row[key] else default


def _dtype(precision: str) -> Dtype | None:
    if precision in ("FP16", "BF16", "FP32"):
        return {"FP16": "fp16", "BF16": "bf16", "FP32": "fp32"}[precision]  # type: ignore[return-value]
    return "fp8" if "FP8" in precision else None


def _case(row: Row) -> Case | None:
    dtype = _dtype(row["precision"])
    unusable = (
        row["suspect"] == "1"
        or row["task"] not in ("pretrain", "sft")
        or row["gpu"] not in DEVICES
        or row["layers"] == ""
        or dtype is None
    )
    if unusable or dtype is None:
        return None
    cluster = _cluster(row)
    if dtype == "fp8" and "fp8" not in cluster.nodes[0].device.peak_flops_per_s:
        return None
    workload = Training(
        global_batch=_number(row, "gbs"),
        sequence_length=_number(row, "seq_len"),
        dtype=dtype,
        gradient_dtype="bf16" if dtype == "fp16" or row["source"] == "llm_foundry" else "fp32",
        attention_kernel="unfused" if row["source"].startswith(UNFUSED) else "fused",
    )
    meshes = _meshes(row)
    if meshes is None:
        return None
    return Case(
        row=row,
        model=_model(row),
        cluster=cluster,
        workload=workload,
        meshes=meshes,
        recompute=row["recompute"].partition("(")[0],
    )


def _model(row: Row) -> ModelSpec:
    if row["arch"] == "moe_mla":
        return load_model("deepseek-v3")
    gated = row["gated_mlp"] == "1"
    hidden, count = _number(row, "hidden"), _number(row, "layers")
    attention = Attention(
        heads=_number(row, "heads"),
        kv_heads=_number(row, "kv_heads"),
        head_dim=_number(row, "head_dim"),
    )
    experts = _number(row, "n_experts")
    feed: Mlp | Experts = Mlp(width=_number(row, "ffn"), gated=gated)
    if experts:
        feed = Experts(
            num_experts=experts, top_k=_number(row, "topk"), width=_number(row, "moe_ffn")
        )
    layer = Layer(
        name="layer",
        stack="decoder",
        hidden=hidden,
        attention=attention,
        feed_forward=feed,
        norm=Norm(kind="rms" if gated else "layer"),
    )
    return ModelSpec(
        name=row["model"],
        family="measured",
        hidden=hidden,
        vocabulary=_number(row, "vocab"),
        layer_types=(layer,),
        layers=(LayerRun("layer", count),),
        tied_embeddings=not gated,
        embedding_extra=0 if gated else _number(row, "seq_len") * hidden,
    )


@lru_cache(maxsize=32)
def _device(gpu: str) -> DeviceSpec:
    found = device(DEVICES[gpu])
    if gpu == "H100-96GB":  # 500 W: clocks, and so peaks, at about 0.75; HBM2e
        peaks = {k: 0.75 * v for k, v in found.peak_flops_per_s.items()}
        return msgspec.structs.replace(
            found,
            name="h100-96g-500w",
            memory_bytes=96 * 2**30,
            memory_bandwidth_bytes_per_s=2.4e12,
            peak_flops_per_s=peaks,
        )
    if gpu == "GH200":
        return msgspec.structs.replace(
            found, name="gh200", memory_bytes=96 * 2**30, memory_bandwidth_bytes_per_s=4.0e12
        )
    return found


def _cluster(row: Row) -> Cluster:
    spec, total = _device(row["gpu"]), _number(row, "n_gpus")
    per_node = min(total, _number(row, "gpus_per_node"))
    count = -(-total // per_node)
    group = NodeGroup(
        device=spec,
        count=count,
        devices=per_node,
        domain=min(spec.domain_devices or per_node, count * per_node),
        node_link=Link(
            bandwidth_bytes_per_s=spec.link_bandwidth_bytes_per_s, latency_s=spec.link_latency_s
        ),
        network=Link(
            bandwidth_bytes_per_s=float(row["internode_gbps_per_gpu"] or 200) / 8 * 1e9,
            latency_s=spec.network_latency_s,
        ),
    )
    return Cluster(name=f"{total}x{spec.name}", nodes=(group,))


def _meshes(row: Row) -> Meshes | None:
    pp, dp, batch = _number(row, "pp", 1), _number(row, "dp", 1), _number(row, "gbs")
    layers = _number(row, "layers")
    if batch % dp:
        return None
    local = batch // dp
    named = _number(row, "mbs")
    wanted = [named] if named else [1, 2, 4, 8]
    sizes = {max(d for d in range(1, size + 1) if local % d == 0) for size in wanted}
    interleaved = row["schedule"] == "interleaved" and pp > 1
    chunks = [1]
    if interleaved:
        chunks = [_number(row, "vpp")] if _number(row, "vpp") > 1 else [2, 3, 4, 5, 6, 7, 8]
        if not row["vpp"]:
            chunks = [v for v in chunks if layers % (pp * v) == 0 or (layers + 2) % (pp * v) == 0]
    fits = [
        (size, v)
        for size, v in itertools.product(sorted(sizes), chunks or [1])
        if not interleaved or (local // size) % pp == 0
    ]
    if not fits:
        return None
    zero = _number(row, "zero_stage", 1)
    if zero and zero != 3 and _number(row, "tp", 1) * pp == _number(row, "n_gpus"):
        zero = 0
    shard = _number(row, "fsdp") if zero == 3 else 0
    group = dp * _number(row, "cp", 1)
    n = len(fits)

    def column(value: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        return np.full(n, value, np.int64)

    return Meshes(
        tp=column(_number(row, "tp", 1)),
        sequence=column(_number(row, "sp") if _number(row, "tp", 1) > 1 else 0),
        cp=column(_number(row, "cp", 1)),
        pp=column(pp),
        dp=column(dp),
        ep=column(_number(row, "ep", 1)),
        micro_batch=np.array([size for size, _ in fits], np.int64),
        zero_stage=column(zero),
        shard_group=column(shard if 1 < shard < group else 0),
        virtual_stages=np.array([v for _, v in fits], np.int64),
        schedule=np.array([2 if v > 1 else 1 for _, v in fits], np.int64),
        recompute_rule=column(0),
    )


def split(layers: int, chunks: int) -> list[int]:
    """Layers of each chunk; where they do not divide, the ends are short first."""
    base, rest = divmod(layers, chunks)
    sizes = [base] * chunks
    order = [*range(1, chunks - 1), *([0] if chunks > 1 else []), chunks - 1]
    for k in order[:rest]:
        sizes[k] += 1
    return sizes


def predict(case: Case, constants: Constants | None = None) -> Prediction:
    """The prediction for a row, the best of the choices it leaves open."""
    # The measured runs force balanced routing.
    even = msgspec.structs.replace(constants or values(read_constants()), expert_imbalance=1.0)
    cost = CostModel(case.model, case.cluster, case.workload, constants=even)
    tables = cost.tables(case.meshes)
    best = Prediction(step_time_s=float("inf"), memory_bytes=float("inf"))
    for k in range(len(case.meshes)):
        pp, v = int(case.meshes.pp[k]), int(case.meshes.virtual_stages[k])
        layers = split(cost.graph.num_layers, pp * v)
        capacity = float(tables.real("capacity_bytes")[k])
        for full, selective in _recomputation(case.recompute, max(layers)):
            value, stage_bytes, _ = _native.evaluate_mesh(
                np.ascontiguousarray(tables.ints[k : k + 1]),
                np.ascontiguousarray(tables.reals[k : k + 1]),
                np.ascontiguousarray(tables.layers[k : k + 1]),
                cost.sequence,
                cost.boundary,
                layers,
                [full] * pp,
                [selective] * pp,
            )
            time_s = value + float(tables.real("fixed_s")[k])
            used = max(stage_bytes) + case.cluster.nodes[0].device.memory_bytes - capacity
            fits = max(stage_bytes) <= capacity
            if time_s < best.step_time_s and (fits or best.step_time_s == float("inf")):
                best = Prediction(step_time_s=time_s, memory_bytes=used)
            if fits:
                break
    return best


def _recomputation(rule: str, most: int) -> Iterator[tuple[int, int]]:
    if rule == "none":
        yield 0, 0
    elif rule == "full":
        yield most, 0
    elif rule == "selective":
        yield 0, most
    else:
        yield 0, 0
        yield 0, most
        for full in range(1, most + 1):
            yield full, 0


assert SCHEDULES[1:3] == ("1f1b", "interleaved")
