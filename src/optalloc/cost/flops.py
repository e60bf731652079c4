"""Matrix FLOPs of a model: what its mathematics needs, apart from how fast anything runs.

Two conventions are in use for causal attention: the half of the score matrix that is computed, or
the full square (Chowdhery et al., "PaLM" (2022), appendix B, which most frameworks print). Backward
is twice forward; recomputation is never counted here.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.model.graph import Graph, LayerGraph, Op
from optalloc.workload import Training

Array = NDArray[np.float64]
Convention = Literal["causal", "square"]


def forward_flops(
    graph: Graph, workload: Training, convention: Convention = "causal"
) -> tuple[Array, Array]:
    """Forward FLOPs of one layer and one sequence, and the attention core's part of them.

    Returns
    -------
    tuple of two ndarrays of float64, shape (types,)
        In the order of ``graph.types``.
    """
    whole, core = np.zeros(len(graph.types)), np.zeros(len(graph.types))
    for k, layer in enumerate(graph.types):
        for op in layer.ops:
            flops = _op_flops(layer, op, graph, workload, convention)
            whole[k] += flops
            core[k] += flops * (op.kind == "attention")
    return whole, core


def tokens_of(layer: LayerGraph, graph: Graph, workload: Training) -> tuple[int, int]:
    """Tokens of one sequence that pass the layer, and those its cross-attention reads."""
    source = workload.sequence_length
    if not graph.encoder_decoder:
        return source, source
    target = workload.decoder_sequence_length or source
    if layer.stack == "embedding":
        return source + target, source
    return (source if layer.stack == "encoder" else target), source


def attended(op: Op, length: Array | float) -> Array | float:
    """Mean number of the ``length`` positions of its own sequence that a token attends to.

    A causal window of w positions is still growing over the first w tokens: w - w (w-1) / (2 s).
    """
    window = np.minimum(np.where(np.equal(op.window, 0), length, op.window), length)
    mean: Array | float = window
    if op.causal:
        mean = window - window * (window - 1.0) / (2.0 * length)
    return mean


def _op_flops(
    layer: LayerGraph, op: Op, graph: Graph, workload: Training, convention: Convention
) -> float:
    own, source = tokens_of(layer, graph, workload)
    tokens = source if op.source else own
    if op.kind == "gemm":
        return 2.0 * tokens * op.copies * op.k * (op.n + op.n_kv)
    if op.kind != "attention":
        return 0.0
    seen = op if convention == "causal" else msgspec.structs.replace(op, causal=False)
    span = source if op.cross else float(attended(seen, own))
    return 2.0 * tokens * op.heads * span * (op.qk_dim + op.v_dim)
