"""Parts: the tensor groups of a model that are placed as one, with what a pass does to them.

A layer has its ``attention`` (with norms, router and small tables), its ``kv`` cache (the state, of
linear attention), and a dense ``ffn`` or ``experts`` and ``shared`` experts; the ends are
``embedding`` (with the vision tower) and ``head``. Where the vocabulary matrix is tied it belongs
to the head.

Of E experts, top_k a token, ``tokens`` routed alike and independently touch
E (1 - (1 - top_k / E)^tokens); their weights are read. Real routing is skewed: this is an upper
estimate.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from optalloc.errors import InputError
from optalloc.model.facts import attended_positions, kv_cache_bytes_per_token
from optalloc.model.lower import lower
from optalloc.model.parameters import (
    embedding_parameters,
    head_parameters,
    layer_parameters,
    vision_parameters,
)
from optalloc.model.spec import Attention, Experts, Layer, LinearAttention, Mlp, ModelSpec
from optalloc.serving.offload.generation import BITS, KV_BITS, Generation
from optalloc.units import FLOPS_PER_MULTIPLY_ADD

Kind = Literal["attention", "kv", "ffn", "shared", "experts", "embedding", "head"]

#: Bytes of one value of the stream between layers.
_VALUE_BYTES = 2


class Work(msgspec.Struct, frozen=True):
    """What one pass of a phase does to a part.

    ``read_bytes`` are read from where the part is held, ``moved_bytes`` cross a link where that is
    not where it is computed, ``flops`` are computed, in each of ``passes``.
    """

    passes: int
    read_bytes: float
    moved_bytes: float
    flops: float


class Part(msgspec.Struct, frozen=True):
    """A tensor group: equal parts are interchangeable."""

    kind: Kind
    size_bytes: int
    prefill: Work
    decode: Work


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """A model as places in a row: embedding, layers, head; each holds parts.

    ``hop_bytes`` are what passes between two places in one pass of prefill and of decoding;
    ``workspace_bytes`` what a device that computes needs beside parts: the values of one chunk and
    the logits.
    """

    model: str
    places: tuple[tuple[Part, ...], ...]
    names: tuple[str, ...]
    prefill_passes: int
    decode_passes: int
    hop_bytes: tuple[int, int]
    workspace_bytes: int


def chain_of(model: ModelSpec, generation: Generation) -> Chain:
    """The places and parts of a model at work.

    Raises
    ------
    InputError
        If the model does not generate text token by token from a decoder alone, or the context is
        longer than it knows positions.
    """
    types = {layer.name: layer for layer in model.layer_types}
    decoders = [(types[r.layer], r.count) for r in model.layers if types[r.layer].stack != "vision"]
    if not model.has_head or any(layer.stack != "decoder" for layer, _ in decoders):
        raise InputError(
            f"{model.name} is not a decoder-only language model",
            path=model.name,
            fix="offload plans generation; give a model such as llama-3.1-8b",
        )
    if model.max_positions is not None and generation.context_tokens > model.max_positions:
        raise InputError(
            f"the context of {generation.context_tokens} tokens is longer than the "
            f"{model.max_positions} positions of {model.name}",
            path="context",
            fix=f"give at most {model.max_positions}",
        )
    held = {layer.name: _layer(model, layer, generation) for layer, _ in decoders}
    layers = [layer.name for layer, count in decoders for _ in range(count)]
    first, last = _ends(model, generation)
    widest = max(_width(layer) for layer, _ in decoders)
    tokens = generation.chunk * generation.batch
    return Chain(
        model=model.name,
        places=(first, *(held[name] for name in layers), last),
        names=("embedding", *(f"layer {k}" for k in range(len(layers))), "head"),
        prefill_passes=generation.prefill_passes,
        decode_passes=generation.output_tokens - 1,
        hop_bytes=(
            model.hidden * _VALUE_BYTES * generation.prefill_tokens,
            model.hidden * _VALUE_BYTES * generation.batch,
        ),
        workspace_bytes=tokens * (6 * model.hidden + 2 * widest) * _VALUE_BYTES
        + 4 * generation.batch * model.vocabulary,
    )


def _layer(model: ModelSpec, layer: Layer, generation: Generation) -> tuple[Part, ...]:
    sizes = layer_parameters(layer)
    g = generation
    dense = sizes.attention + sizes.norms + sizes.router
    parts = [_weights("attention", dense, g.dtype, g), _cache(model, layer, g)]
    if isinstance(layer.feed_forward, Experts):
        moe = layer.feed_forward
        parts.append(_experts(moe, sizes.routed, g))
        parts.append(_weights("shared", sizes.shared, g.dtype, g))
    else:
        parts.append(_weights("ffn", sizes.feed_forward, g.dtype, g))
    return tuple(part for part in parts if part.size_bytes)


def _weights(kind: Kind, parameters: int, dtype: str, g: Generation) -> Part:
    size = stored_bytes(parameters, dtype)
    flops = float(FLOPS_PER_MULTIPLY_ADD * parameters)
    return Part(
        kind,
        size,
        Work(g.prefill_passes, float(size), float(size), flops * g.prefill_tokens),
        Work(g.output_tokens - 1, float(size), float(size), flops * g.batch),
    )


def _experts(moe: Experts, parameters: int, g: Generation) -> Part:
    size = stored_bytes(parameters, g.expert_dtype or g.dtype)
    active = FLOPS_PER_MULTIPLY_ADD * parameters * moe.top_k / moe.num_experts

    def work(passes: int, tokens: int) -> Work:
        touched = size * (1.0 - (1.0 - moe.top_k / moe.num_experts) ** tokens)
        return Work(passes, touched, touched, active * tokens)

    return Part(
        "experts",
        size,
        work(g.prefill_passes, g.prefill_tokens),
        work(g.output_tokens - 1, g.batch),
    )


def _cache(model: ModelSpec, layer: Layer, g: Generation) -> Part:
    """The KV cache of one layer, and the attention core that reads it; or its state."""
    if isinstance(layer.attention, LinearAttention):
        return _state(layer.attention, g)
    values = kv_cache_bytes_per_token(layer, value_bytes=1)
    attention = layer.attention
    window = attention.window if isinstance(attention, Attention) else None
    per_token = values * KV_BITS[g.kv_dtype] / 8.0

    def held(tokens: float) -> float:
        return g.batch * per_token * (tokens if window is None else min(tokens, window))

    ops = next(one for one in lower(model).layers if one.name == layer.name).ops
    core = next(op for op in ops if op.kind == "attention")
    pair = float(FLOPS_PER_MULTIPLY_ADD * core.heads * (core.qk_dim + core.v_dim))
    pairs = attended_positions(core, g.prompt_tokens, g.prompt_tokens)
    middle = g.prompt_tokens + g.output_tokens / 2.0  # of the context that decoding reads
    before = held(g.prompt_tokens / 2.0)
    context = held(middle)
    seen = middle if window is None else min(middle, window)
    return Part(
        "kv",
        math.ceil(held(g.context_tokens)),
        Work(g.prefill_passes, before, before, g.batch * pair * pairs / g.prefill_passes),
        Work(g.output_tokens - 1, context, context, g.batch * pair * seen),
    )


def _state(attention: LinearAttention, g: Generation) -> Part:
    """The state of linear attention in 32 bits, which a pass reads and writes."""
    size = 4 * g.batch * attention.state
    flops = 6.0 * attention.state  # of a token: three products with the state
    both = 2.0 * size
    return Part(
        "kv",
        size,
        Work(g.prefill_passes, both, both, flops * g.prefill_tokens),
        Work(g.output_tokens - 1, both, both, flops * g.batch),
    )


def _ends(model: ModelSpec, g: Generation) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    matrix = model.vocabulary * model.hidden
    table = embedding_parameters(model) - (matrix if model.tied_embeddings else 0)
    size = stored_bytes(table + vision_parameters(model), g.dtype)
    row = model.hidden * BITS[g.dtype] / 8.0
    embedding = Part(
        "embedding",
        size,
        Work(g.prefill_passes, row * g.prefill_tokens, float(size), 0.0),
        Work(g.output_tokens - 1, row * g.batch, float(size), 0.0),
    )
    parameters = head_parameters(model) + (matrix if model.tied_embeddings else 0)
    last = _weights("head", parameters, g.dtype, g)
    flops = float(FLOPS_PER_MULTIPLY_ADD * parameters * g.batch)
    # Only the last token of a prompt gets logits.
    last = msgspec.structs.replace(
        last, prefill=Work(1, float(last.size_bytes), float(last.size_bytes), flops)
    )
    return ((embedding,) if size else ()), (last,)


def _width(layer: Layer) -> int:
    """Values a token has between the matrices of the feed-forward part."""
    block = layer.feed_forward
    if isinstance(block, Mlp):
        return block.width * (2 if block.gated else 1)
    return (block.width * block.top_k + block.shared_width) * (2 if block.gated else 1)


def stored_bytes(parameters: int, dtype: str) -> int:
    """Bytes of so many numbers with the scales of their blocks, rounded up."""
    return math.ceil(parameters * BITS[dtype] / 8.0)
