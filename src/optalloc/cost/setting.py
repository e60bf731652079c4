"""What a workload says about one micro-batch: the values that the formulas of a layer need."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cost.memory import element_bytes, matrix_input_bytes
from optalloc.model.graph import LayerGraph
from optalloc.workload import Training

Array = NDArray[np.float64]


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What a workload says about one micro-batch; numbers, or arrays of one entry a key.

    Tokens of one sequence of the encoder and of the decoder, bytes of a stored value, whether the
    attention kernel is fused, whether weights are frozen beside adapters of ``lora_rank``, and
    these beside the projections of queries, keys and values alone (``narrow``), whether selective
    recomputation goes by operators, what is stored besides (eager activations, dropout masks), and
    the bytes of a stored input of a matrix over those of another value. A gradient of
    ``gradient_bytes`` is added to that of the step inside its product where ``fused_gradient``,
    else by a kernel of its own; biases of experts are added by kernels of their own where
    ``biases_apart``. ``workload`` is None where only times are asked for.
    """

    source: Array | float
    target: Array | float
    element_bytes: Array | float
    fused: NDArray[np.bool_] | bool
    lora_rank: Array | float
    frozen: bool
    narrow: bool
    by_operator: bool
    eager: bool
    dropout: bool
    input_share: float
    gradient_bytes: Array | float
    fused_gradient: NDArray[np.bool_] | bool
    biases_apart: NDArray[np.bool_] | bool
    padded: NDArray[np.bool_] | bool
    workload: Training | None

    @staticmethod
    def of(workload: Training) -> Setting:
        """The setting of one workload."""
        source = workload.sequence_length
        return Setting(
            source=float(source),
            target=float(workload.decoder_sequence_length or source),
            element_bytes=element_bytes(workload),
            fused=workload.attention_kernel == "fused",
            lora_rank=float(workload.lora_rank),
            frozen=workload.lora_rank > 0,
            narrow=workload.lora_modules == "qkv",
            by_operator=workload.sharded_parameters,
            eager=workload.activation_kernel == "unfused",
            dropout=workload.dropout,
            input_share=matrix_input_bytes(workload) / element_bytes(workload),
            gradient_bytes=4.0 if workload.gradient_dtype == "fp32" else element_bytes(workload),
            fused_gradient=accumulates_in_product(workload),
            biases_apart=workload.framework == "megatron",
            padded=pads_vocabulary(workload),
            workload=workload,
        )

    def tokens(self, layer: LayerGraph, *, encoder_decoder: bool) -> Array | float:
        """Tokens of one sequence that pass the layer."""
        if not encoder_decoder:
            return self.source
        if layer.stack == "embedding":
            return self.source + self.target
        return self.source if layer.stack == "encoder" else self.target


UNPADDED = "unpadded"
"""The release of a fork of Megatron that leaves the vocabulary as it is (vTrain's, on one node)."""


def pads_vocabulary(workload: Training) -> bool:
    """Whether the software rounds the vocabulary up, as Megatron does to 128 for each rank."""
    return workload.framework.startswith("megatron") and workload.release != UNPADDED


def accumulates_in_product(workload: Training) -> bool:
    """Whether the product of a weight's gradient adds it to that of the step by itself.

    Megatron-LM does so from 2022 on, and what came of it (Megatron-Core, Transformer Engine).
    """
    if workload.framework == "megatron-lm":
        return not "" < workload.release < "22"
    return workload.framework == "megatron"
