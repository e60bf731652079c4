"""The software of a row: family and release, types, kernels, recomputation, what a peak counts."""

from __future__ import annotations

import re
from typing import Literal

from optalloc.cluster.device import DeviceSpec
from optalloc.cost.compute import computes_in
from optalloc.cost.measured.cells import Row, flag
from optalloc.workload import Dtype

MemoryKind = Literal["device", "reserved", "allocated", "analytic"]
"""What a peak counts: all of the device, what the allocator reserved or handed out, or the states
and activations of the first stage alone."""

# In the order tried: an 8-bit type that names the one it falls back to is an 8-bit type.
_PRECISIONS = (
    ("FP4", "fp4"),
    ("FP8", "fp8"),
    ("E4M3", "fp8"),
    ("E5M2", "fp8"),
    ("BF16", "bf16"),
    ("FP16", "fp16"),
    ("HALF", "fp16"),
    ("32", "fp32"),
)
_GEMM_OVER: dict[Dtype, Dtype] = {
    "fp4": "fp8",
    "fp8": "bf16",
    "fp32": "bf16",
    "bf16": "fp16",
    "fp16": "bf16",
}


def dtype_of(precision: str, specs: list[DeviceSpec], remarks: list[str]) -> Dtype:
    word = precision.upper().replace("FLOAT", "FP").replace("BFP", "BF")
    dtype: Dtype = "bf16"
    for part, name in _PRECISIONS:
        if part in word:
            dtype = name  # type: ignore[assignment]
            break
    else:
        if word and "16" not in word:
            remarks.append(f"precision {precision} taken as bf16")
    while lacking := [spec.name for spec in specs if not computes_in(spec, dtype)]:
        remarks.append(f"{lacking[0]} has no {dtype}, taken as {_GEMM_OVER[dtype]}")
        dtype = _GEMM_OVER[dtype]
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


def framework_of(row: Row) -> str:
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


def release_of(row: Row) -> str:
    """As published, or the year and month in the name of the file or paper that it is from.

    A fork goes by its name: its own Python runs between the kernels.
    """
    if is_sailor(row):
        return "sailor"
    name = row.get("source_ref", "").rpartition("/")[2]
    found = re.search(r"20(\d\d)-?([01]\d)\D", name) or re.match(r"arXiv:(\d\d)(\d\d)\.", name)
    return row.get("release", "") or (".".join(found.groups()) if found else "")


def attention_kernel(row: Row) -> Literal["fused", "unfused"]:
    """Software for devices before Hopper computed the whole softmax, but for FSDP's."""
    return "unfused" if framework_of(row) in UNFUSED else "fused"


def activation_kernel(row: Row) -> Literal["fused", "unfused"]:
    """Eager SwiGLU is two kernels; Sailor's copy of Megatron builds GELU from its parts."""
    eager = framework_of(row) in ("fsdp", "fsdp2") and flag(row, "gated_mlp") is not False
    return "unfused" if eager or is_sailor(row) else "fused"


def is_sailor(row: Row) -> bool:
    return "sailor" in row.get("framework", "").lower()


UNFUSED = ("megatron-deepspeed", "megatron-lm", "deepspeed")


def precision_of(row: Row, remarks: list[str]) -> str:
    """As published; Megatron-DeepSpeed's default where the row says that it is assumed."""
    notes = row.get("notes", "")
    if "precision" in notes and "assumed" in notes and framework_of(row) == "megatron-deepspeed":
        remarks.append("assumed precision taken as FP16")
        return "FP16"
    return row.get("precision", "")


def gradient_dtype(row: Row, dtype: Dtype) -> Literal["fp32", "bf16"]:
    """Megatron accumulates in fp32, but not in NVIDIA's recipes for speed; DeepSpeed's fp16
    optimizer and FSDP work in 16 bits.
    """
    family, word = framework_of(row), row.get("framework", "").lower()
    half = (dtype == "fp16" and family != "megatron-lm") or family == "fsdp"
    half = half or (family == "megatron" and ("bridge" in word or "nemo" in word))
    return "bf16" if half else "fp32"


def lora_modules(row: Row) -> Literal["all", "qkv"]:
    """NVIDIA's recipes adapt the projections of queries, keys and values."""
    return "qkv" if framework_of(row) == "megatron" else "all"


def has_expert_biases(row: Row) -> bool:
    """Whether the experts of the row's model have biases, which its dimensions do not tell."""
    return "gptoss" in re.sub(r"[^a-z]", "", row.get("model", "").lower())


def memory_kind(row: Row) -> MemoryKind:
    """What the published peak memory counts."""
    word = row.get("mem_kind", "").lower()
    if "params" in word and "activations" in word:
        return "analytic"
    if "reserved" in word:
        return "reserved"
    return "allocated" if "allocated" in word else "device"


def recompute_of(row: Row) -> str:
    word = row.get("recompute", "").lower()
    if word.startswith("selective"):
        return "operators" if "(op" in word else "selective"
    if any(part in word for part in ("full", "block", "uniform")):
        return "full"
    stated = flag(row, "recompute")
    return "" if stated is None else "full" if stated else "none"
