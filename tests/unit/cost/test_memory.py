"""memory.py: bytes per parameter under every ZeRO stage, and what the attention core keeps."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
import pytest

from optalloc.cost.constants import read_constants, values
from optalloc.cost.memory import StateBytes, core_bytes_per_token, element_bytes, logit_bytes
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


@pytest.mark.parametrize(
    ("framework", "dtype", "gradients", "zero", "total"),
    [
        ("megatron-lm", "fp16", "fp32", 0, 18.0),  # 2 + 4 + 12
        ("megatron-lm", "fp16", "bf16", 0, 20.0),  # 2 + 2 + 12, and an fp32 copy of gradients
        ("megatron-deepspeed", "fp16", "bf16", 1, 6.0),  # 4 + 16/8
        ("megatron-deepspeed", "bf16", "fp32", 1, 9.5),  # 2 + 2 + 4 + 12/8
        ("megatron", "fp8", "fp32", 1, 7.5),  # two copies of 8 bits, 4, 12/8
        ("megatron", "fp4", "bf16", 1, 6.5),  # 2 and two of 4 bits, 2, 12/8
        ("fsdp2", "bf16", "fp32", 3, 2.0),  # (4 + 4 + 8)/8: fp32 shards are the weights
        ("fsdp2", "bf16", "fp32", 2, 8.0),  # 2 + 4 whole, and 16/8
        ("fsdp2", "fp8", "fp32", 3, 2.0),
    ],
)
def test_layouts_of_frameworks(
    framework: str, dtype: Dtype, gradients: Literal["fp32", "bf16"], zero: int, total: float
) -> None:
    """Bytes per parameter over 8 devices."""
    work = msgspec.structs.replace(WORK, framework=framework, dtype=dtype, gradient_dtype=gradients)
    assert StateBytes.of(work, CONSTANTS).total(np.array(zero), np.array(8.0)) == total


def test_moments_may_be_halves_and_one() -> None:
    """bf16 moments: 2 + 4 + 4 + 4; Lion's one: 2 + 4 + 4 + 4."""
    for change in ({"moment_dtype": "bf16"}, {"optimizer": "lion"}):
        work = msgspec.structs.replace(WORK, **change)
        assert StateBytes.of(work, CONSTANTS).total(np.array(0), np.array(1.0)) == 14.0


@pytest.mark.parametrize(("zero", "total"), [(0, 2.0), (1, 2.0), (3, 0.25)])
def test_frozen_weights_have_no_other_state(zero: int, total: float) -> None:
    """2 bytes, over 8 devices under stage 3."""
    assert StateBytes.of(WORK, CONSTANTS).frozen(np.array(zero), np.array(8.0)) == total


def test_logits_depend_on_how_the_loss_is_computed() -> None:
    """Fused 6, in MPT 4; kept by Megatron-LM 8, eager PyTorch 14, a compiled loss 4, once 12."""
    cases = {
        ("megatron", ""): 6.0,
        ("megatron-lm", ""): 8.0,
        ("fsdp", ""): 4.0,
        ("fsdp2", ""): 14.0,
        ("fsdp2-compiled", ""): 4.0,
        ("fsdp2-compiled", "24.12"): 12.0,
    }
    for (framework, release), expected in cases.items():
        work = msgspec.structs.replace(WORK, framework=framework, release=release)
        assert logit_bytes(work, CONSTANTS, np.array([1.0])) == [expected]
    compiled = msgspec.structs.replace(WORK, framework="fsdp2-compiled")
    assert logit_bytes(compiled, CONSTANTS, np.array([1.0, 8.0])).tolist() == [4.0, 14.0]


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
