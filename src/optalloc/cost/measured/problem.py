"""Published training measurements: one row of a table as a problem of the cost model.

Every value that a row leaves out is filled in by a stated rule, and every name that is not known is
replaced by its nearest relative; ``Problem.remarks`` says where. A row without model dimensions is
the only one that cannot be predicted.
"""

from __future__ import annotations

import itertools
import math

import msgspec
import numpy as np

from optalloc.cluster.topology import Cluster
from optalloc.cost.measured.devices import cluster_of, device_of, site_of, stage_devices
from optalloc.cost.measured.rows import Row, noted_layers, real, whole
from optalloc.cost.measured.software import (
    UNFUSED,
    activation_kernel,
    attention_kernel,
    dtype_of,
    framework_of,
    gradient_dtype,
    has_expert_biases,
    is_sailor,
    lora_modules,
    precision_of,
    recompute_of,
    release_of,
)
from optalloc.cost.meshes import Meshes
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
from optalloc.workload import Training

# A pipeline that interleaves without saying how: chunks a stage that are tried.
_CHUNKS = (2, 3, 4, 5, 6, 7, 8)
_MICRO_BATCHES = (1, 2, 4, 8)


class Unsupported(Exception):
    """A row that the cost model cannot express; the text is the reason."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One row as a problem, with several meshes where it leaves a choice open.

    ``clusters`` holds one cluster a stage where the stages run on different devices, else one.
    ``layers`` are the layers of every chunk where the row says so. ``recompute`` is "none",
    "selective", "operators" (every other matrix product and all else but attention), "full", or ""
    where it is not published. ``share`` is the published batch over the one predicted, ``site``
    where it ran if what is known of the place sets its runs apart.
    """

    row: Row
    model: ModelSpec
    clusters: tuple[Cluster, ...]
    workload: Training
    meshes: Meshes
    layers: tuple[int, ...]
    recompute: str
    share: float
    site: str
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
        value = real(self.row, "step_time_s")
        return value if value and self.row.get("suspect", "") != "1" else None


def problem_of(row: Row) -> Problem:
    """The problem of a row.

    Raises
    ------
    Unsupported
        If the row does not give the dimensions of the model.
    """
    remarks: list[str] = []
    if whole(row, "layers") < 1 or whole(row, "hidden") < 1:
        raise Unsupported("no model dimensions")
    model = _model(row, remarks)
    degrees = _degrees(row, remarks)
    stages = stage_devices(row, degrees, remarks)
    specs = stages or [device_of(row.get("gpu", ""), real(row, "gpu_mem_gb"), remarks)]
    clusters = tuple(cluster_of(row, spec, degrees) for spec in specs)
    dtype = dtype_of(precision_of(row, remarks), specs, remarks)
    batch, meshes = _meshes(row, degrees, model, remarks)
    lora = row.get("task", "").lower() in ("lora", "peft", "qlora")
    workload = Training(
        global_batch=batch,
        sequence_length=max(1, whole(row, "seq_len", 2048)),
        dtype=dtype,
        gradient_dtype=gradient_dtype(row, dtype),
        attention_kernel=attention_kernel(row),
        activation_kernel=activation_kernel(row),
        dropout=framework_of(row) in UNFUSED and not is_sailor(row),
        framework=framework_of(row),
        release=release_of(row),
        lora_rank=16 if lora else 0,
        lora_modules=lora_modules(row),
    )
    published = real(row, "gbs")
    return Problem(
        row=row,
        model=model,
        clusters=clusters,
        workload=workload,
        meshes=meshes,
        layers=_layers(row, model, degrees["pp"]),
        recompute=recompute_of(row),
        share=published / batch if published else 1.0,
        site=site_of(row),
        remarks=tuple(remarks),
    )


def _model(row: Row, remarks: list[str]) -> ModelSpec:
    gated = row.get("gated_mlp", "") != "0"
    hidden, count = whole(row, "hidden"), whole(row, "layers")
    heads = whole(row, "heads")
    if not heads:
        heads = max(1, hidden // 128)
        remarks.append(f"heads not given, taken as {heads}")
    head_dim = whole(row, "head_dim", max(1, hidden // heads))
    experts = whole(row, "n_experts")
    width = whole(row, "ffn")
    if not width:
        width = 4 * hidden if not gated else -(-8 * hidden // 3 // 128) * 128
        if not experts:
            remarks.append(f"width of the MLP not given, taken as {width}")
    attention: Attention | LatentAttention = Attention(
        heads=heads, kv_heads=whole(row, "kv_heads", heads), head_dim=head_dim
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

    dense = min(count, whole(row, "n_dense_layers")) if experts else count
    types, runs = [], []
    if dense:
        types.append(layer("dense", Mlp(width=width, gated=gated)))
        runs.append(LayerRun("dense", dense))
    if count > dense:
        expert_width = whole(row, "moe_ffn", width)
        feed = Experts(
            num_experts=experts,
            top_k=min(experts, whole(row, "topk", 2)),
            width=expert_width,
            shared_width=expert_width * whole(row, "n_shared_experts"),
            gated=gated,
            bias=has_expert_biases(row),
        )
        types.append(layer("moe", feed))
        runs.append(LayerRun("moe", count - dense))
    tied = not gated and not experts
    return ModelSpec(
        name=row.get("model", "") or "measured",
        family="measured",
        hidden=hidden,
        vocabulary=whole(row, "vocab", 1 if row.get("task") == "single_layer" else 50257),
        layer_types=tuple(types),
        layers=tuple(runs),
        tied_embeddings=tied,
        embedding_extra=whole(row, "seq_len", 2048) * hidden if tied else 0,
        has_head=row.get("task") != "single_layer",
    )


def _layers(row: Row, model: ModelSpec, pp: int) -> tuple[int, ...]:
    """Layers a stage from the notes, which may count embedding and head as layers."""
    sizes = noted_layers(row)
    total = sum(run.count for run in model.layers)
    if len(sizes) != pp:
        return ()
    if sum(sizes) == total + 2:
        sizes[0] -= 1
        sizes[-1] -= 1
    return tuple(sizes) if sum(sizes) == total and min(sizes) >= 0 else ()


def _degrees(row: Row, remarks: list[str]) -> dict[str, int]:
    found = {name: max(1, whole(row, name, 1)) for name in ("tp", "cp", "pp", "ep")}
    if found["pp"] > (most := whole(row, "layers") + 2):  # embedding and head may stand alone
        remarks.append(f"pp {found['pp']} taken as {most}")
        found["pp"] = most
    inner = found["tp"] * found["cp"] * found["pp"]
    total = whole(row, "n_gpus")
    given = whole(row, "dp")
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
    named = whole(row, "mbs")
    batch = whole(row, "gbs") or dp * (named or 1)
    local = max(1, round(batch / dp))
    if named:
        sizes = {min(named, local)}
        local = -(-local // min(sizes)) * min(sizes)
    else:
        sizes = {max(d for d in range(1, size + 1) if local % d == 0) for size in _MICRO_BATCHES}
    if local * dp != batch:
        remarks.append(f"a batch of {batch} taken as {local * dp}")
    layers = sum(run.count for run in model.layers)
    if not named and pp > 1 and framework_of(row).startswith("fsdp2"):
        sizes = {max(1, local // pp)}  # PyTorch's pipelines cut a local batch into one a stage
    named_v = whole(row, "vpp")
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
    zero = max(0, min(3, whole(row, "zero_stage", 1)))
    if row.get("zero_stage", "") == "0" or dp * degrees["cp"] == 1:
        zero = 0
    group = dp * degrees["cp"]
    # Context-parallel ranks join the group that shards over all replicas.
    shard = whole(row, "fsdp") if zero >= 2 and whole(row, "fsdp") != dp else 0
    tp = degrees["tp"]
    ep = degrees["ep"] if (tp * group) % degrees["ep"] == 0 else 1
    experts = whole(row, "n_experts")
    if ep == 1 and experts and "deepep" in row.get("notes", "").lower():
        ep = math.gcd(experts, tp * group)
        remarks.append(f"dispatch by DeepEP without expert parallelism taken as ep {ep}")
    sequence = int(tp > 1 and (row.get("sp", "") == "1" or bool(whole(row, "n_experts"))))

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
