"""Bytes on one device: model states by ZeRO stage, stored activations, logits.

States: Rajbhandari et al., "ZeRO" (2020), section 3.1, and the layouts of Megatron-LM. Activations:
Korthikanti et al. (2022), section 4.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cost.constants import Constants
from optalloc.model.graph import Op
from optalloc.workload import Training

Array = NDArray[np.float64]


class StateBytes(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes per parameter of weights, gradients, and optimizer (master copy and moments)."""

    weights: float
    gradients: float
    optimizer: float

    @staticmethod
    def of(workload: Training, constants: Constants) -> StateBytes:
        moments = 8.0 if workload.optimizer == "adamw" else 4.0
        if workload.dtype == "fp32":
            return StateBytes(weights=4.0, gradients=4.0, optimizer=moments)
        cache = constants.fp8_cache_bytes if workload.dtype in ("fp8", "fp4") else 0.0
        gradients = 4.0 if workload.gradient_dtype == "fp32" else 2.0
        return StateBytes(weights=2.0 + cache, gradients=gradients, optimizer=4.0 + moments)

    def split(self, zero_stage: Array, shards: Array) -> tuple[Array, Array, Array]:
        """Weights, gradients and optimizer per parameter after sharding over ``shards`` devices."""
        return (
            self.weights / np.where(zero_stage >= 3, shards, 1.0),
            self.gradients / np.where(zero_stage >= 2, shards, 1.0),
            self.optimizer / np.where(zero_stage >= 1, shards, 1.0),
        )

    def total(self, zero_stage: Array, shards: Array) -> Array:
        """Bytes per parameter after sharding."""
        weights, gradients, optimizer = self.split(zero_stage, shards)
        total: Array = weights + gradients + optimizer
        return total


def element_bytes(workload: Training) -> float:
    """Bytes of one stored activation value."""
    return 4.0 if workload.dtype == "fp32" else 2.0


def core_bytes_per_token(op: Op, heads: Array, source_tokens: float, workload: Training) -> Array:
    """Bytes per token that recomputing the attention core saves.

    The fused kernel keeps one fp32 log-sum-exp a head; the unfused one keeps the softmax of every
    head over all source tokens.
    """
    if op.kind != "attention" or op.v_dim == 0:
        return np.zeros_like(heads)
    if workload.attention_kernel == "fused":
        return 4.0 * heads
    return element_bytes(workload) * heads * source_tokens
