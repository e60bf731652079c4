"""memory.py: bytes per parameter under every ZeRO stage, and what the attention core keeps."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
import pytest

from optalloc.cost.constants import read_constants, values
from optalloc.cost.memory import StateBytes, core_bytes_per_token, element_bytes
from optalloc.model.graph import Op
from optalloc.workload import Dtype, Training

CONSTANTS = values(read_constants())
WORK = Training(global_batch=8, sequence_length=1024)
CORE = Op(name="core", kind="attention", shard="tensor", heads=16, qk_dim=64, v_dim=64)


@pytest.mark.parametrize(
    ("dtype", "gradients", "optimizer", "total"),
    [
        ("bf16", "bf16", "adamw", 16.0),  # 2 + 2 + 12
        ("bf16", "fp32", "adamw", 18.0),  # 2 + 4 + 12
        ("fp32", "fp32", "adamw", 16.0),  # 4 + 4 + 8
        ("bf16", "fp32", "sgd", 14.0),  # 2 + 4 + 8
        ("fp32", "fp32", "sgd", 12.0),  # 4 + 4 + 4
    ],
)
def test_unsharded_states(
    dtype: Dtype,
    gradients: Literal["fp32", "bf16"],
    optimizer: Literal["adamw", "sgd"],
    total: float,
) -> None:
    """Weights, gradients, optimizer, in bytes per parameter."""
    work = msgspec.structs.replace(WORK, dtype=dtype, gradient_dtype=gradients, optimizer=optimizer)
    states = StateBytes.of(work, CONSTANTS)
    assert states.total(np.array(0), np.array(8.0)) == total


@pytest.mark.parametrize(("zero", "total"), [(0, 18.0), (1, 7.5), (2, 4.0), (3, 2.25)])
def test_each_zero_stage_shards_one_part_more(zero: int, total: float) -> None:
    """Over 8: 2+4+12; 2+4+12/8; 2+(4+12)/8; 18/8."""
    states = StateBytes.of(WORK, CONSTANTS)
    assert states.total(np.array(zero), np.array(8.0)) == total
    assert sum(float(x) for x in states.split(np.array(zero), np.array(8.0))) == total


def test_fp8_caches_its_weights() -> None:
    """2 bytes and the cached copies."""
    states = StateBytes.of(msgspec.structs.replace(WORK, dtype="fp8"), CONSTANTS)
    assert states.weights == 2.0 + CONSTANTS.fp8_cache_bytes


def test_stored_values_have_16_bits_but_in_fp32() -> None:
    """fp8 multiplications store 16-bit values."""
    sizes = {d: element_bytes(msgspec.structs.replace(WORK, dtype=d)) for d in ("bf16", "fp8")}
    assert sizes == {"bf16": 2.0, "fp8": 2.0}
    assert element_bytes(msgspec.structs.replace(WORK, dtype="fp32")) == 4.0


def test_a_fused_core_keeps_one_number_a_head() -> None:
    """16 fp32 log-sum-exps are 64 bytes a token."""
    assert core_bytes_per_token(CORE, np.array([16.0]), 1024.0, WORK) == [64.0]


def test_an_unfused_core_keeps_its_softmax() -> None:
    """16 heads x 1024 positions x 2 bytes = 32 KiB a token."""
    work = msgspec.structs.replace(WORK, attention_kernel="unfused")
    assert core_bytes_per_token(CORE, np.array([16.0]), 1024.0, work) == [32768.0]
