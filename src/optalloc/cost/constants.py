"""The constants of a cost model: named, with unit and source, read from a versioned data file."""

from __future__ import annotations

import importlib.resources
from functools import lru_cache

import msgspec

from optalloc import files


class Constant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One number with its unit and where it comes from."""

    value: float
    unit: str
    source: str


class ConstantsFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The form of ``cost/fitted/NAME.toml``."""

    name: str
    date: str
    constants: dict[str, Constant]


class Constants(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The values alone, as the formulas use them; the data file says what each one means."""

    gemm_efficiency: float
    gemm_efficiency_fp8: float
    gemm_efficiency_fp4: float
    gemm_efficiency_fp32: float
    gemm_tile_s: float
    gemm_tile: float
    wave_share: float
    cast_passes: float
    attention_efficiency: float
    attention_backward_ratio: float
    attention_backward_efficiency: float
    attention_head_dim: float
    softmax_passes: float
    softmax_fallback: float
    fallback_host_s: float
    unaligned: float
    accumulate_bytes: float
    memory_efficiency: float
    launch_s: float
    layer_host_s: float
    backward_host: float
    layer_gap_s: float
    tp_host_s: float
    expert_host_s: float
    expert_imbalance: float
    expert_overlap: float
    micro_s: float
    hop_s: float
    collective_s: float
    tp_overlap: float
    node_link_efficiency: float
    host_link_efficiency: float
    network_efficiency: float
    data_overlap: float
    context_overlap: float
    workspace_bytes: float
    fragmentation: float
    fragmentation_expandable: float
    memory_error: float
    memory_margin: float
    logit_bytes: float
    fp8_cache_bytes: float
    optimizer_bytes: float
    update_host_s: float
    fixed_s: float
    straggler: float
    power_share: float


@lru_cache(maxsize=8)
def read_constants(name: str = "roofline-1") -> ConstantsFile:
    """The data file of a cost model shipped with the package."""
    resource = importlib.resources.files("optalloc.cost") / "fitted" / f"{name}.toml"
    with importlib.resources.as_file(resource) as path:
        return files.read_toml(path, ConstantsFile)


def values(file: ConstantsFile) -> Constants:
    """The numbers of a constants file."""
    plain = {name: constant.value for name, constant in file.constants.items()}
    return msgspec.convert(plain, Constants)  # as written: no rounding of bytes or FLOPs
