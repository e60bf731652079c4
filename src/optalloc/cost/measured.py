"""Published training measurements: one row of a table as a problem of the cost model.

Every value that a row leaves out is filled in by a stated rule, and every name that is not known is
replaced by its nearest relative; ``Problem.remarks`` says where. A row without model dimensions is
the only one that cannot be predicted.
"""

from __future__ import annotations

import csv
import itertools
import math
import os
import re
from functools import lru_cache
from typing import Literal

import msgspec
import numpy as np

from optalloc.cluster.catalog import device, is_device
from optalloc.cluster.device import DeviceSpec
from optalloc.cluster.topology import Cluster, Link, NodeGroup
from optalloc.cost.compute import peak_flops_per_s
from optalloc.cost.model import Meshes
from optalloc.errors import InputError, nearest
from optalloc.model.spec import (
    Attention,
    Experts,
    LatentAttention,
    Layer,
    LayerRun,
    Mlp,
    ModelSpec,
    Norm,
)
from optalloc.workload import Dtype, Training

Row = dict[str, str]

MemoryKind = Literal["device", "reserved", "allocated", "analytic"]
"""What a peak counts: all of the device, what the allocator reserved or handed out, or the states
and activations of the first stage alone."""

COLUMNS = ("layers", "hidden", "gpu", "n_gpus", "seq_len")
"""The columns without which a table holds no training measurements."""

# A pipeline that interleaves without saying how: chunks a stage that are tried.
_CHUNKS = (2, 3, 4, 5, 6, 7, 8)
_MICRO_BATCHES = (1, 2, 4, 8)
_GEMM_OVER = {"fp8": "bf16", "fp4": "fp8", "bf16": "fp16", "fp16": "bf16"}


class Unsupported(Exception):
    """A row that the cost model cannot express; the text is the reason."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One row as a problem, with several meshes where it leaves a choice open.

    ``clusters`` holds one cluster a stage where the stages run on different devices, else one.
    ``layers`` are the layers of every chunk where the row says so. ``recompute`` is "none",
    "selective", "operators" (every other matrix product and all else but attention), "full", or ""
    where it is not published. ``share`` is the published batch over the one predicted.
    """

    row: Row
    model: ModelSpec
    clusters: tuple[Cluster, ...]
    workload: Training
    meshes: Meshes
    layers: tuple[int, ...]
    recompute: str
    share: float
    remarks: tuple[str, ...]

    @property
    def row_id(self) -> str:
        return self.row.get("row_id", "")

    @property
    def source(self) -> str:
        return self.row.get("source", "") or "unnamed"

    @property
    def measured_s(self) -> float | None:
        """Published step time, seconds, where there is one that can be compared."""
        value = _real(self.row, "step_time_s")
        return value if value and self.row.get("suspect", "") != "1" else None


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a table of measurements, each with the model that ran (:func:`reconciled`).

    Raises
    ------
    InputError
        If the file cannot be read or has none of the columns of such a table.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = [{k: (v or "").strip() for k, v in row.items() if k} for row in reader]
            names = reader.fieldnames or ()
    except OSError as error:
        raise InputError(
            f"cannot read the file: {error.strerror}",
            path=str(path),
            fix="give a CSV of measurements",
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"the file is no CSV text: {error}", path=str(path), fix="save it as UTF-8 with commas"
        ) from error
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise InputError(
            f"the file has no column {', '.join(missing)}",
            path=str(path),
            fix="name the columns in the first line as docs/reference/training-rows.md does",
        )
    return reconciled(rows)


def reconciled(rows: list[Row]) -> list[Row]:
    """The rows, with the model that ran where the notes of a row contradict its dimensions.

    A row whose notes deal out another number of layers than its model has (with or without
    embedding and head) takes the dimensions of the model of its source that has as many.
    """
    models: dict[tuple[str, int], Row] = {}
    for row in rows:
        models.setdefault((row.get("source", ""), _whole(row, "layers")), row)
    result = []
    for row in rows:
        count, sizes = _whole(row, "layers"), _noted_layers(row)
        other = models.get((row.get("source", ""), sum(sizes) - 2))
        whole = len(sizes) == max(1, _whole(row, "pp", 1))
        if whole and other is not None and sum(sizes) not in (count, count + 2):
            row = row | {name: other.get(name, "") for name in _DIMENSIONS}
        result.append(row)
    return result


_DIMENSIONS = [
    "arch",
    "n_params_b",
    "layers",
    "hidden",
    "ffn",
    "heads",
    "kv_heads",
    "head_dim",
    "vocab",
    "gated_mlp",
    "n_experts",
    "topk",
    "moe_ffn",
    "n_shared_experts",
    "n_dense_layers",
]


def problem_of(row: Row) -> Problem:
    """The problem of a row.

    Raises
    ------
    Unsupported
        If the row does not give the dimensions of the model.
    """
    remarks: list[str] = []
    if _whole(row, "layers") < 1 or _whole(row, "hidden") < 1:
        raise Unsupported("no model dimensions")
    model = _model(row, remarks)
    degrees = _degrees(row, remarks)
    stages = _stage_devices(row, degrees, remarks)
    specs = stages or [_device(row.get("gpu", ""), _real(row, "gpu_mem_gb"), remarks)]
    clusters = tuple(_cluster(row, spec, degrees) for spec in specs)
    dtype = _dtype(_precision(row, remarks), specs, remarks)
    batch, meshes = _meshes(row, degrees, model, remarks)
    lora = row.get("task", "").lower() in ("lora", "peft", "qlora")
    workload = Training(
        global_batch=batch,
        sequence_length=max(1, _whole(row, "seq_len", 2048)),
        dtype=dtype,
        gradient_dtype=_gradient_dtype(row, dtype),
        attention_kernel=_attention_kernel(row),
        activation_kernel=_activation_kernel(row),
        dropout=_framework(row) in _UNFUSED and not _is_sailor(row),
        framework=_framework(row),
        release=_release(row),
        lora_rank=16 if lora else 0,
    )
    published = _real(row, "gbs")
    return Problem(
        row=row,
        model=model,
        clusters=clusters,
        workload=workload,
        meshes=meshes,
        layers=_layers(row, model, degrees["pp"]),
        recompute=_recompute(row),
        share=published / batch if published else 1.0,
        remarks=tuple(remarks),
    )


# -- cells ---------------------------------------------------------------------------------------


def _real(row: Row, key: str) -> float:
    """The number of a cell; 0 where there is none above it."""
    try:
        value = float(row.get(key, "") or 0.0)
    except ValueError:
        return 0.0
    return value if np.isfinite(value) and value > 0.0 else 0.0


def _whole(row: Row, key: str, default: int = 0) -> int:
    return round(_real(row, key)) or default


# -- model ---------------------------------------------------------------------------------------


def _model(row: Row, remarks: list[str]) -> ModelSpec:
    gated = row.get("gated_mlp", "") != "0"
    hidden, count = _whole(row, "hidden"), _whole(row, "layers")
    heads = _whole(row, "heads")
    if not heads:
        heads = max(1, hidden // 128)
        remarks.append(f"heads not given, taken as {heads}")
    head_dim = _whole(row, "head_dim", max(1, hidden // heads))
    experts = _whole(row, "n_experts")
    width = _whole(row, "ffn")
    if not width:
        width = 4 * hidden if not gated else -(-8 * hidden // 3 // 128) * 128
        if not experts:
            remarks.append(f"width of the MLP not given, taken as {width}")
    attention: Attention | LatentAttention = Attention(
        heads=heads, kv_heads=_whole(row, "kv_heads", heads), head_dim=head_dim
    )
    if row.get("arch", "") == "moe_mla":
        # Ranks and head sizes of DeepSeek-V3, which later models with latent attention share.
        attention = LatentAttention(
            heads=heads,
            q_lora_rank=1536,
            kv_lora_rank=512,
            nope_head_dim=128,
            rope_head_dim=64,
            value_head_dim=128,
        )
    norm = Norm(kind="rms" if gated else "layer")

    def layer(name: str, feed: Mlp | Experts) -> Layer:
        return Layer(
            name=name,
            stack="decoder",
            hidden=hidden,
            attention=attention,
            feed_forward=feed,
            norm=norm,
        )

    dense = min(count, _whole(row, "n_dense_layers")) if experts else count
    types, runs = [], []
    if dense:
        types.append(layer("dense", Mlp(width=width, gated=gated)))
        runs.append(LayerRun("dense", dense))
    if count > dense:
        expert_width = _whole(row, "moe_ffn", width)
        feed = Experts(
            num_experts=experts,
            top_k=min(experts, _whole(row, "topk", 2)),
            width=expert_width,
            shared_width=expert_width * _whole(row, "n_shared_experts"),
            gated=gated,
        )
        types.append(layer("moe", feed))
        runs.append(LayerRun("moe", count - dense))
    tied = not gated and not experts
    return ModelSpec(
        name=row.get("model", "") or "measured",
        family="measured",
        hidden=hidden,
        vocabulary=_whole(row, "vocab", 1 if row.get("task") == "single_layer" else 50257),
        layer_types=tuple(types),
        layers=tuple(runs),
        tied_embeddings=tied,
        embedding_extra=_whole(row, "seq_len", 2048) * hidden if tied else 0,
        has_head=row.get("task") != "single_layer",
    )


def _noted_layers(row: Row) -> list[int]:
    return [int(word) for word in re.findall(r"\d+", _noted(row, "layers/stage"))]


def _layers(row: Row, model: ModelSpec, pp: int) -> tuple[int, ...]:
    """Layers a stage from the notes, which may count embedding and head as layers."""
    sizes = _noted_layers(row)
    total = sum(run.count for run in model.layers)
    if len(sizes) != pp:
        return ()
    if sum(sizes) == total + 2:
        sizes[0] -= 1
        sizes[-1] -= 1
    return tuple(sizes) if sum(sizes) == total and min(sizes) >= 0 else ()


def _noted(row: Row, name: str) -> str:
    """The bracketed list behind a name in the notes."""
    found = re.search(re.escape(name) + r"\s*\[([^\]]*)\]", row.get("notes", ""))
    return found.group(1) if found else ""


# -- devices and software ------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _named(gpu: str, memory_gb: float) -> tuple[DeviceSpec, str]:
    """The catalogue's device of a name, or its nearest relative and a remark that says so."""
    key = gpu.strip().lower().replace("_", "-").replace(" ", "-")
    sized = f"{key}-{memory_gb:.0f}g"
    for name in (key, sized, key.replace("-", ""), re.sub(r"gb$", "g", key)):
        if is_device(name):
            return device(name), ""
    known = ("gb300", "gb200", "b300", "b200", "gh200", "h200", "h100", "a100", "v100")
    relatives = [name for name in known if name in key]
    relatives += [name for name in nearest(key, [*known], count=1) if name not in relatives]
    name = relatives[0] if relatives else ("h100" if memory_gb > 64 or not memory_gb else "a100")
    found = device(name)
    if memory_gb:
        found = msgspec.structs.replace(found, memory_bytes=int(memory_gb * 2**30))
    return found, f"device {gpu or '(none)'} taken as {name}"


def _device(gpu: str, memory_gb: float, remarks: list[str]) -> DeviceSpec:
    first = gpu.split("+")[0]
    found, remark = _named(first, memory_gb)
    if remark or "+" in gpu:
        remarks.append(remark or f"mixed devices {gpu} taken as {first}")
    return found


def _stage_devices(row: Row, degrees: dict[str, int], remarks: list[str]) -> list[DeviceSpec]:
    """One device a stage where the row mixes them and its notes say which; else none.

    The notes place one replica. Devices that it has none of are in the others, for which every
    step waits: a stage is then as slow as the slowest of these.
    """
    gpu, pp = row.get("gpu", ""), degrees["pp"]
    if "+" not in gpu:
        return []
    kinds = [kind for kind in gpu.split("+") if kind]
    names = [word.strip(" '\"") for word in _noted(row, "stage gpu types").split(",")]
    if len(names) != pp or not all(names):
        names = [kinds[i * len(kinds) // pp] for i in range(pp)]
        remarks.append("stage devices not given, taken in the order named")
    found = []
    for name in names:
        spec, remark = _named(name, 0.0)
        found.append(spec)
        if remark:
            remarks.append(remark)
    placed = {spec.name for spec in found}
    others = [spec for spec, _ in (_named(kind, 0.0) for kind in kinds) if spec.name not in placed]
    if others and degrees["dp"] > 1:
        remarks.append("devices without a stage in the notes taken to be in other replicas")
        found = [min((spec, *others), key=_speed) for spec in found]
    return found


def _speed(spec: DeviceSpec) -> tuple[float, float]:
    """What devices without NVLink differ by first: their link, then their products."""
    return spec.link_bandwidth_bytes_per_s, peak_flops_per_s(spec, "fp16")


def _cluster(row: Row, spec: DeviceSpec, degrees: dict[str, int]) -> Cluster:
    total = degrees["tp"] * degrees["cp"] * degrees["pp"] * degrees["dp"]
    per_node = min(total, _whole(row, "gpus_per_node", spec.devices_per_node))
    count = -(-total // per_node)
    gbps = _real(row, "internode_gbps_per_gpu")
    group = NodeGroup(
        device=spec,
        count=count,
        devices=per_node,
        domain=min(spec.domain_devices or per_node, count * per_node),
        node_link=Link(
            bandwidth_bytes_per_s=spec.link_bandwidth_bytes_per_s, latency_s=spec.link_latency_s
        ),
        network=Link(
            bandwidth_bytes_per_s=gbps / 8 * 1e9 if gbps else spec.network_bandwidth_bytes_per_s,
            latency_s=spec.network_latency_s,
        ),
    )
    return Cluster(name=f"{total}x{spec.name}", nodes=(group,))


def _dtype(precision: str, specs: list[DeviceSpec], remarks: list[str]) -> Dtype:
    word = precision.upper()
    dtype: Dtype = "bf16"
    for part, name in (("FP4", "fp4"), ("FP8", "fp8"), ("BF16", "bf16"), ("FP16", "fp16")):
        if part in word:
            dtype = name  # type: ignore[assignment]
            break
    else:
        if "32" in word:
            dtype = "fp32"
        elif word and "16" not in word:
            remarks.append(f"precision {precision} taken as bf16")
    peaks = [spec.peak_flops_per_s for spec in specs]
    while not all(dtype in p or (dtype in ("bf16", "fp16", "fp32")) for p in peaks):
        remarks.append(f"{specs[0].name} has no {dtype}, taken as {_GEMM_OVER[dtype]}")
        dtype = _GEMM_OVER[dtype]  # type: ignore[assignment]
    return dtype


_FRAMEWORKS = (
    ("torchtitan", "fsdp2"),
    ("automodel", "fsdp2"),
    ("fsdp2", "fsdp2"),
    ("fsdp", "fsdp"),
    ("megatron-deepspeed", "megatron-deepspeed"),
    ("sailor", "megatron-deepspeed"),
    ("deepspeed", "deepspeed"),
    ("zero", "deepspeed"),
    ("megatron", "megatron"),
    ("nemo", "megatron"),
    ("torch", "fsdp2"),
    ("meta", "fsdp2"),
)


def _framework(row: Row) -> str:
    """The family of software; Megatron-LM before its core library is a family of its own."""
    word = row.get("framework", "").lower()
    family = next((name for part, name in _FRAMEWORKS if part in word), "megatron")
    old = row.get("gpu", "").upper().startswith(("A100", "V100"))
    if family == "megatron" and old and "lm" in word:
        return "megatron-lm"
    compiled = "compile" in row.get("notes", "").lower() or "8" in row.get("precision", "")
    if family == "fsdp2" and compiled:  # fp8 is slower than 16 bits unless compiled
        return "fsdp2-compiled"
    return family


def _release(row: Row) -> str:
    """As published, or the year and month in the name of the file that it is from."""
    found = re.search(r"20(\d\d)-?([01]\d)\D", row.get("source_ref", "").rpartition("/")[2])
    return row.get("release", "") or (".".join(found.groups()) if found else "")


def _attention_kernel(row: Row) -> Literal["fused", "unfused"]:
    """Software for devices before Hopper computed the whole softmax, but for FSDP's."""
    return "unfused" if _framework(row) in _UNFUSED else "fused"


def _activation_kernel(row: Row) -> Literal["fused", "unfused"]:
    """Eager SwiGLU is two kernels; Sailor's copy of Megatron builds GELU from its parts."""
    eager = _framework(row) in ("fsdp", "fsdp2") and row.get("gated_mlp", "") != "0"
    return "unfused" if eager or _is_sailor(row) else "fused"


def _is_sailor(row: Row) -> bool:
    return "sailor" in row.get("framework", "").lower()


_UNFUSED = ("megatron-deepspeed", "megatron-lm", "deepspeed")


def _precision(row: Row, remarks: list[str]) -> str:
    """As published; Megatron-DeepSpeed's default where the row says that it is assumed."""
    notes = row.get("notes", "")
    if "precision" in notes and "assumed" in notes and _framework(row) == "megatron-deepspeed":
        remarks.append("assumed precision taken as FP16")
        return "FP16"
    return row.get("precision", "")


def _gradient_dtype(row: Row, dtype: Dtype) -> Literal["fp32", "bf16"]:
    """Megatron accumulates in fp32, but not in NVIDIA's recipes for speed; DeepSpeed's fp16
    optimizer and FSDP work in 16 bits.
    """
    family, word = _framework(row), row.get("framework", "").lower()
    half = (dtype == "fp16" and family != "megatron-lm") or family == "fsdp"
    half = half or (family == "megatron" and ("bridge" in word or "nemo" in word))
    return "bf16" if half else "fp32"


def memory_kind(row: Row) -> MemoryKind:
    """What the published peak memory counts."""
    word = row.get("mem_kind", "").lower()
    if "params" in word and "activations" in word:
        return "analytic"
    if "reserved" in word:
        return "reserved"
    return "allocated" if "allocated" in word else "device"


def _recompute(row: Row) -> str:
    word = row.get("recompute", "").lower()
    if word.startswith("selective"):
        return "operators" if "op" in word else "selective"
    return word if word in ("none", "full") else ""


# -- parallel degrees ----------------------------------------------------------------------------


def _degrees(row: Row, remarks: list[str]) -> dict[str, int]:
    found = {name: max(1, _whole(row, name, 1)) for name in ("tp", "cp", "pp", "ep")}
    inner = found["tp"] * found["cp"] * found["pp"]
    total = _whole(row, "n_gpus")
    given = _whole(row, "dp")
    found["dp"] = given or max(1, total // inner)
    if total and given * inner != total:
        if total % inner == 0 and not given:
            return found
        remarks.append(f"tp x cp x pp x dp = {inner * found['dp']} on {total} devices")
    return found


def _meshes(
    row: Row, degrees: dict[str, int], model: ModelSpec, remarks: list[str]
) -> tuple[int, Meshes]:
    """The batch predicted and a mesh for each choice that the row leaves open."""
    pp, dp = degrees["pp"], degrees["dp"]
    named = _whole(row, "mbs")
    batch = _whole(row, "gbs") or dp * (named or 1)
    local = max(1, round(batch / dp))
    if named:
        sizes = {min(named, local)}
        local = -(-local // min(sizes)) * min(sizes)
    else:
        sizes = {max(d for d in range(1, size + 1) if local % d == 0) for size in _MICRO_BATCHES}
    if local * dp != batch:
        remarks.append(f"a batch of {batch} taken as {local * dp}")
    layers = sum(run.count for run in model.layers)
    if not named and pp > 1 and _framework(row).startswith("fsdp2"):
        sizes = {max(1, local // pp)}  # PyTorch's pipelines cut a local batch into one a stage
    named_v = _whole(row, "vpp")
    chunks = [1]
    if pp > 1 and (row.get("schedule", "").startswith("interleaved") or named_v > 1):
        chunks = (
            [named_v]
            if named_v > 1
            else [v for v in _CHUNKS if layers % (pp * v) == 0 or (layers + 2) % (pp * v) == 0]
        )
        chunks = [v for v in chunks if v * pp <= layers + 2] or [1]
    open_choices = [
        (size, v if (local // size) % pp == 0 else 1)
        for size, v in itertools.product(sorted(sizes), chunks)
    ]
    choices = sorted(set(open_choices))
    zero = max(0, min(3, _whole(row, "zero_stage", 1)))
    if row.get("source", "") == "bigscience":
        # Its tables say 0 for small models too, whose memory falls with dp as stage 1 makes it.
        zero = max(1, zero)
    elif row.get("zero_stage", "") == "0" or dp * degrees["cp"] == 1:
        zero = 0
    group = dp * degrees["cp"]
    # Context-parallel ranks join the group that shards over all replicas.
    shard = _whole(row, "fsdp") if zero >= 2 and _whole(row, "fsdp") != dp else 0
    tp = degrees["tp"]
    ep = degrees["ep"] if (tp * group) % degrees["ep"] == 0 else 1
    experts = _whole(row, "n_experts")
    if ep == 1 and experts and "deepep" in row.get("notes", "").lower():
        ep = math.gcd(experts, tp * group)
        remarks.append(f"dispatch by DeepEP without expert parallelism taken as ep {ep}")
    sequence = int(tp > 1 and (row.get("sp", "") == "1" or bool(_whole(row, "n_experts"))))

    def column(value: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        return np.full(len(choices), value, np.int64)

    return local * dp, Meshes(
        tp=column(tp),
        sequence=column(sequence),
        cp=column(degrees["cp"]),
        pp=column(pp),
        dp=column(dp),
        ep=column(ep),
        micro_batch=np.array([size for size, _ in choices], np.int64),
        zero_stage=column(zero),
        shard_group=column(shard if 1 < shard < group and group % shard == 0 else 0),
        virtual_stages=np.array([v for _, v in choices], np.int64),
        schedule=np.array([2 if v > 1 else 1 for _, v in choices], np.int64),
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
