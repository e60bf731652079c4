"""Facts: forward FLOPs, key-value cache and stored activations of layers, per token and exactly.

FLOPs are those of matrix multiplications and of the softmax core (2 a multiply-add); element-wise
operations, lookups and the softmax itself are left out, as is usual.
"""

from __future__ import annotations

import msgspec

from optalloc.model.graph import LayerGraph, Op
from optalloc.model.lower import lower
from optalloc.model.parameters import (
    active_parameters,
    embedding_parameters,
    layer_parameters,
    total_parameters,
    vision_parameters,
)
from optalloc.model.spec import Attention, LatentAttention, Layer, LinearAttention, ModelSpec
from optalloc.units import FLOPS_PER_MULTIPLY_ADD

#: bits of one number as stored, by type
DTYPE_BITS = {"fp32": 32, "bf16": 16, "fp8": 8, "fp4": 4}

# A fused attention kernel keeps one fp32 log-sum-exp a head and token.
_LOG_SUM_EXP_BYTES = 4


class LayerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a model: embedding, a layer type, or the head.

    Every figure is of one layer; ``count`` says how many there are. The vision tower has none per
    token, because a batch is text here, and counts no active parameters. The vision parameters
    outside its layers are in none of the rows.
    """

    name: str
    count: int
    parameters: int
    active_parameters: int
    forward_flops_per_token: float | None
    kv_cache_bytes_per_token: int | None
    cross_kv_cache_bytes_per_source_token: int
    activation_bytes_per_token: int | None


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What can be said of a model without hardware; see :func:`facts`."""

    name: str
    family: str
    source: str
    date: str
    total_parameters: int
    active_parameters: int
    vision_parameters: int
    num_layers: int
    hidden: int
    vocabulary: int
    max_positions: int | None
    tied_embeddings: bool
    sequence_length: int
    forward_flops_per_token: float
    kv_cache_bytes_per_token: int
    cross_kv_cache_bytes_per_source_token: int
    weight_bytes: dict[str, int]
    layer_types: tuple[LayerFacts, ...]


def forward_flops(
    layer: LayerGraph, sequence_length: int, *, source_length: int | None = None
) -> int:
    """FLOPs of one layer's forward pass over one whole sequence.

    Parameters
    ----------
    layer : LayerGraph
        A layer of :func:`optalloc.model.lower.lower`'s graph.
    sequence_length : int
        Tokens that pass the layer.
    source_length : int, optional
        Encoder tokens that cross-attention reads; default: as many.

    Returns
    -------
    int
        FLOPs; divide by ``sequence_length`` for the mean of a token.
    """
    source = sequence_length if source_length is None else source_length
    return sum(_op_flops(op, sequence_length, source) for op in layer.ops)


def attended_positions(op: Op, sequence_length: int, source_length: int) -> int:
    """Query-key pairs an attention core computes over one sequence."""
    s, w = sequence_length, op.window
    if op.cross:
        return s * source_length
    if w and w < s:
        return w * s - (w * (w - 1) // 2 if op.causal else 0)
    return s * (s + 1) // 2 if op.causal else s * s


def kv_cache_bytes_per_token(layer: Layer, *, value_bytes: int = 2) -> int:
    """Bytes one generated token adds to the self-attention cache of one layer.

    A windowed layer stops growing once its window is full. Encoders and vision towers keep none.
    Latent attention keeps the compressed vector and the rotary part (and the indexer's key); linear
    attention keeps a state that does not grow.
    """
    attention = layer.attention
    if isinstance(attention, LatentAttention):
        index = attention.indexer_head_dim if attention.indexer_heads else 0
        return value_bytes * (attention.kv_lora_rank + attention.rope_head_dim + index)
    if isinstance(attention, LinearAttention):
        return 0
    return _kv_bytes(attention, value_bytes) if attention.causal else 0


def cross_kv_cache_bytes_per_source_token(layer: Layer, *, value_bytes: int = 2) -> int:
    """Bytes each encoder token adds to the cross-attention cache of one layer."""
    return 0 if layer.cross_attention is None else _kv_bytes(layer.cross_attention, value_bytes)


def kv_cache_bytes(
    model: ModelSpec, num_tokens: int, *, source_tokens: int = 0, value_bytes: int = 2
) -> int:
    """Cache of one whole sequence over all layers, bytes, windows taken into account."""
    types = {layer.name: layer for layer in model.layer_types}
    total = 0
    for run in model.layers:
        layer = types[run.layer]
        held = num_tokens
        if isinstance(layer.attention, Attention) and layer.attention.window is not None:
            held = min(num_tokens, layer.attention.window)
        own = held * kv_cache_bytes_per_token(layer, value_bytes=value_bytes)
        if isinstance(layer.attention, LinearAttention):
            own = 4 * layer.attention.state
        cross = cross_kv_cache_bytes_per_source_token(layer, value_bytes=value_bytes)
        total += run.count * (own + source_tokens * cross)
    return total


def activation_bytes_per_token(layer: LayerGraph, *, value_bytes: int = 2) -> int:
    """Bytes one layer keeps of a token for the backward pass, without recomputation or sharding.

    Attention runs in a fused kernel; in cross-attention there are as many encoder tokens.
    """
    values = 0.0
    statistics = 0
    for op in layer.ops:
        values += op.saved * (op.copies if op.shard == "expert" else 1)
        if op.kind == "attention" and op.v_dim:
            statistics += _LOG_SUM_EXP_BYTES * op.heads
    return round(value_bytes * values) + statistics


def weight_bytes(model: ModelSpec) -> dict[str, int]:
    """Bytes of all parameters by type, scales of block formats not counted."""
    total = total_parameters(model)
    return {name: -(-total * bits // 8) for name, bits in DTYPE_BITS.items()}


def facts(model: ModelSpec, *, sequence_length: int | None = None) -> ModelFacts:
    """All facts of a model.

    Parameters
    ----------
    sequence_length : int, optional
        Tokens of the sequence over which FLOPs a token are averaged; default 4096, or the most
        positions the model has where that is less.
    """
    length = sequence_length or min(4096, model.max_positions or 4096)
    graph = lower(model)
    rows = [_end_facts(graph.embedding, length, parameters=embedding_parameters(model))]
    lowered = {layer.name: layer for layer in graph.layers}
    counts: dict[str, int] = {}
    for run in model.layers:
        counts[run.layer] = counts.get(run.layer, 0) + run.count
    rows += [
        _layer_facts(layer, counts[layer.name], lowered.get(layer.name), length)
        for layer in model.layer_types
    ]
    own_head = graph.head.parameters - graph.tied_parameters
    rows.append(_end_facts(graph.head, length, parameters=own_head))
    return ModelFacts(
        name=model.name,
        family=model.family,
        source=model.source,
        date=model.date,
        total_parameters=total_parameters(model),
        active_parameters=active_parameters(model),
        vision_parameters=vision_parameters(model),
        num_layers=sum(run.count for run in graph.sequence),
        hidden=model.hidden,
        vocabulary=model.vocabulary,
        max_positions=model.max_positions,
        tied_embeddings=model.tied_embeddings,
        sequence_length=length,
        forward_flops_per_token=sum(
            row.count * row.forward_flops_per_token
            for row in rows
            if row.forward_flops_per_token is not None
        ),
        kv_cache_bytes_per_token=sum(
            row.count * row.kv_cache_bytes_per_token
            for row in rows
            if row.kv_cache_bytes_per_token is not None
        ),
        cross_kv_cache_bytes_per_source_token=sum(
            row.count * row.cross_kv_cache_bytes_per_source_token for row in rows
        ),
        weight_bytes=weight_bytes(model),
        layer_types=tuple(rows),
    )


def _layer_facts(layer: Layer, count: int, graph: LayerGraph | None, length: int) -> LayerFacts:
    sizes = layer_parameters(layer)
    return LayerFacts(
        name=layer.name,
        count=count,
        parameters=sizes.total,
        active_parameters=sizes.active if graph else 0,
        forward_flops_per_token=forward_flops(graph, length) / length if graph else None,
        kv_cache_bytes_per_token=kv_cache_bytes_per_token(layer) if graph else None,
        cross_kv_cache_bytes_per_source_token=cross_kv_cache_bytes_per_source_token(layer),
        activation_bytes_per_token=activation_bytes_per_token(graph) if graph else None,
    )


def _end_facts(layer: LayerGraph, length: int, *, parameters: int) -> LayerFacts:
    return LayerFacts(
        name=layer.name,
        count=1,
        parameters=parameters,
        active_parameters=parameters,
        forward_flops_per_token=forward_flops(layer, length) / length,
        kv_cache_bytes_per_token=0,
        cross_kv_cache_bytes_per_source_token=0,
        activation_bytes_per_token=activation_bytes_per_token(layer),
    )


def _kv_bytes(attention: Attention, value_bytes: int) -> int:
    return value_bytes * 2 * attention.kv_heads * attention.head_dim


def _op_flops(op: Op, s: int, source: int) -> int:
    if op.kind == "gemm":
        tokens = (source if op.source else s) * op.copies
        return FLOPS_PER_MULTIPLY_ADD * tokens * op.k * (op.n + op.n_kv)
    if op.kind == "attention":
        pairs = attended_positions(op, s, source)
        return FLOPS_PER_MULTIPLY_ADD * op.heads * (op.qk_dim + op.v_dim) * pairs
    return 0
