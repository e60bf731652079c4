"""Bytes on one device: model states by framework and ZeRO stage, stored activations, logits.

What a device allocates is counted tensor by tensor. The peak that a monitor shows is more by two
fitted constants: the allocator's fragmentation, a share of what is allocated, and what lies outside
it (the device's context, communication buffers, libraries), a fixed size:

    peak = runtime + fragmentation * (states + activations + logits + working set)

References: Rajbhandari et al., "ZeRO" (2020), section 3.1; Korthikanti et al., "Reducing Activation
Recomputation in Large Transformer Models" (2022), section 4; the layouts of Megatron-LM, DeepSpeed
and PyTorch's FSDP as their sources allocate them.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cost.constants import Constants
from optalloc.cost.meshes import Meshes
from optalloc.model.graph import Op
from optalloc.workload import Training

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

# Bytes a logit at the peak of the loss. A fused cross entropy over 16-bit logits is a constant of
# the cost model; software without it holds the 16-bit logits, their fp32 copy, the softmax (2 + 4 +
# 4), and of its gradient the 16-bit form, or in eager PyTorch the fp32 one. A compiled loss keeps
# the 16-bit logits and their gradient alone; before 2025 only the layers were compiled. So does the
# fused loss of MPT, which all published runs under the first FSDP are of.
_LOGIT_BYTES = {
    "megatron-lm": 8.0,
    "megatron-deepspeed": 8.0,
    "deepspeed": 8.0,
    "fsdp": 4.0,
    "fsdp2": 14.0,
    "fsdp2-compiled": 4.0,
}

# Values of one bucket of DeepSpeed's reductions and gathers (its default).
_BUCKET = 5e8


class StateBytes(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes per parameter of weights, gradients, and optimizer (master copy and moments).

    With ``sharded_parameters`` the optimizer's master copy is the only one at rest: ZeRO stage 3
    keeps no 16-bit weights beside it, and below it gradients of the whole weights are accumulated
    before their shards are. ``reduced`` are the bytes of a gradient that travels.
    """

    weights: float
    gradients: float
    optimizer: float
    reduced: float
    sharded_parameters: bool = False

    @staticmethod
    def of(workload: Training, constants: Constants) -> StateBytes:
        """The layout of a framework.

        16-bit gradients under fp16 loss scaling are copied to fp32 by the optimizer; DeepSpeed's
        bf16 optimizer accumulates fp32 gradients beside the 16-bit ones.
        """
        size = 4.0 if workload.moment_dtype == "fp32" else 2.0
        moments = size * (2.0 if workload.optimizer == "adamw" else 1.0)
        if workload.dtype == "fp32":
            return StateBytes(weights=4.0, gradients=4.0, optimizer=moments, reduced=4.0)
        gradients = 4.0 if workload.gradient_dtype == "fp32" else 2.0
        weights, optimizer = 2.0, 4.0 + moments
        if workload.sharded_parameters:
            return StateBytes(
                weights=weights,
                gradients=4.0,
                optimizer=optimizer,
                reduced=gradients,
                sharded_parameters=True,
            )
        if workload.dtype == "fp16" and gradients == 2.0:
            optimizer += 4.0
        elif workload.dtype == "bf16" and workload.framework == "megatron-deepspeed":
            weights += 2.0
        if workload.dtype == "fp8":  # 8-bit weights are the primary ones, 16-bit ones not kept
            weights = constants.fp8_cache_bytes
        elif workload.dtype == "fp4":
            weights += 0.5 * constants.fp8_cache_bytes
        return StateBytes(
            weights=weights, gradients=gradients, optimizer=optimizer, reduced=gradients
        )

    def split(self, zero_stage: Array, shards: Array) -> tuple[Array, Array, Array]:
        """Weights, gradients and optimizer per parameter after sharding over ``shards`` devices."""
        weights = self.weights / np.where(zero_stage >= 3, shards, 1.0)
        gradients = self.gradients / np.where(zero_stage >= 2, shards, 1.0)
        if self.sharded_parameters:  # with nothing to shard all stages are alike
            shared = shards > 1.0
            weights = np.where(shared & (zero_stage >= 3), 0.0, weights)
            both = shared & (zero_stage == 2)
            gradients = np.where(both, self.gradients + gradients, gradients)
        return weights, gradients, self.optimizer / np.where(zero_stage >= 1, shards, 1.0)

    def total(self, zero_stage: Array, shards: Array) -> Array:
        """Bytes per parameter after sharding."""
        weights, gradients, optimizer = self.split(zero_stage, shards)
        total: Array = weights + gradients + optimizer
        return total

    def frozen(self, zero_stage: Array, shards: Array) -> Array:
        """Bytes per parameter that is not trained: its weights alone."""
        kept: Array = self.weights / np.where(zero_stage >= 3, shards, 1.0)
        return kept


def element_bytes(workload: Training) -> float:
    """Bytes of one stored activation value."""
    return 4.0 if workload.dtype == "fp32" else 2.0


def fragmentation(workload: Training, constants: Constants) -> float:
    """Bytes that the allocator reserves over those handed out, at the peak.

    Megatron-Core's launchers let segments grow in place, which leaves few gaps.
    """
    grown = workload.framework == "megatron"
    return constants.fragmentation_expandable if grown else constants.fragmentation


def matrix_input_bytes(workload: Training) -> float:
    """Bytes of a stored value that only a matrix product reads.

    Transformer Engine keeps it as it multiplied it; other software casts what it stored.
    """
    if workload.framework == "megatron" and workload.dtype in ("fp8", "fp4"):
        return 1.0 if workload.dtype == "fp8" else 0.5
    return element_bytes(workload)


def logit_bytes(workload: Training, constants: Constants, tp: Array | Ints) -> Array:
    """Bytes of one logit on the last stage at the peak of the loss.

    A loss over a sharded vocabulary is not compiled.
    """
    each = _LOGIT_BYTES.get(workload.framework, constants.logit_bytes)
    if workload.framework != "fsdp2-compiled":
        return np.full(len(tp), each)
    old = "" < workload.release < "25"
    return np.where(tp > 1, _LOGIT_BYTES["fsdp2"], 12.0 if old else each)


def core_bytes_per_token(op: Op, heads: Array, source_tokens: float, workload: Training) -> Array:
    """Bytes per token that recomputing the attention core saves.

    The fused kernel keeps one fp32 log-sum-exp a head; the unfused one keeps the softmax of every
    head over all source tokens, and under dropout a mask of one byte and what it leaves.
    """
    if op.kind != "attention" or op.v_dim == 0:
        return np.zeros_like(heads)
    if workload.attention_kernel == "fused":
        return 4.0 * heads
    size = element_bytes(workload)
    return (2.0 * size + 1.0 if workload.dropout else size) * heads * source_tokens


def working_bytes(
    workload: Training,
    states: StateBytes,
    meshes: Meshes,
    parameters: Array,
    *,
    each_stage: Array,
    block_values: Array,
) -> Array:
    """What comes and goes with the layers: gathered weights and gathered activations.

    ZeRO-3 has gathered two layers at once, or one and an end of the model, and FSDP holds the
    whole gradients of one besides. Sequence parallelism gathers the input of a block, and in
    the backward pass its gradient. DeepSpeed copies gradients and weights through buckets.

    Parameters
    ----------
    parameters : ndarray of float64, shape (n, types)
        Of each layer type on one device.
    each_stage, block_values : ndarray of float64, shape (n,)
        Parameters of a device, and values of the whole input of a block for one micro-batch.
    """
    layer = np.max(parameters[:, 1:-1], axis=1)
    end = np.maximum(parameters[:, 0], parameters[:, -1])
    weights = (layer + np.maximum(layer, end)) * states.weights
    if workload.sharded_parameters:
        weights += layer * states.reduced
    working: Array = np.where(meshes.zero_stage >= 3, weights, 0.0)
    if workload.framework in ("megatron-deepspeed", "deepspeed"):
        working += np.minimum(_BUCKET, each_stage) * states.reduced
    gathered = 2.0 * element_bytes(workload) * block_values
    return working + np.where((meshes.sequence > 0) & (meshes.tp > 1), gathered, 0.0)
