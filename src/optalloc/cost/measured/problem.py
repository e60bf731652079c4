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
from optalloc.cost.measured.cells import Row, flag, real, whole
from optalloc.cost.measured.devices import cluster_of, device_of, site_of, stage_devices
from optalloc.cost.measured.rows import noted_layers
from optalloc.cost.measured.shape import model_of, sized
from optalloc.cost.measured.software import (
    UNFUSED,
    activation_kernel,
    attention_kernel,
    dtype_of,
    framework_of,
    gradient_dtype,
    is_sailor,
    lora_modules,
    precision_of,
    recompute_of,
    release_of,
)
from optalloc.cost.meshes import Meshes
from optalloc.model.spec import ModelSpec
from optalloc.workload import Training

# A pipeline that interleaves without saying how: chunks a stage that are tried.
_CHUNKS = (2, 3, 4, 5, 6, 7, 8)
_MICRO_BATCHES = (1, 2, 4, 8)
_MOST_DEVICES = 10**6


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
        return value if value and not flag(self.row, "suspect") else None


def problem_of(row: Row) -> Problem:
    """The problem of a row.

    Raises
    ------
    Unsupported
        If the row does not give the dimensions of the model.
    """
    remarks: list[str] = []
    row = sized(row, remarks)
    if not (whole(row, "layers") and whole(row, "hidden")):
        raise Unsupported("no model dimensions")
    model = model_of(row, remarks)
    degrees = _degrees(row, remarks)
    stages = stage_devices(row, degrees, remarks)
    specs = stages or [device_of(row.get("gpu", ""), real(row, "gpu_mem_gb"), remarks)]
    clusters = tuple(cluster_of(row, spec, degrees) for spec in specs)
    dtype = dtype_of(precision_of(row, remarks), specs, remarks)
    if len(clusters) > 1:
        row = row | {"vpp": "1", "schedule": "1f1b"}  # the one schedule of unequal stages
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
    total, given = whole(row, "n_gpus"), whole(row, "dp")
    inner = found["tp"] * found["cp"] * found["pp"]
    if inner * max(1, given, found["ep"]) > _MOST_DEVICES:
        remarks.append(f"degrees of over {_MOST_DEVICES:,} devices left out")
        found, inner, given = dict.fromkeys(found, 1), 1, 0
        total = min(total, _MOST_DEVICES)
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
    if pp > 1 and ("interleaved" in row.get("schedule", "").lower() or named_v > 1):
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
    if flag(row, "zero_stage") is False or dp * degrees["cp"] == 1:
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
    sequence = int(tp > 1 and bool(flag(row, "sp") or whole(row, "n_experts")))

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
