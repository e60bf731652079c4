"""Chain: name the types in a list of layers and gather it into runs; parts all families share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from optalloc.model.families.keys import Keys
from optalloc.model.spec import (
    Attention,
    Experts,
    LatentAttention,
    Layer,
    LayerRun,
    Mlp,
    ModelSpec,
    Norm,
)


def decoder_model(
    keys: Keys,
    name: str,
    layers: Sequence[Layer],
    *,
    tied: bool = False,
    final_norm: int | None = None,
    family: str | None = None,
) -> ModelSpec:
    """A decoder-only language model; ``tied`` is what an absent ``tie_word_embeddings`` means."""
    hidden = keys.whole("hidden_size")
    types, runs = gather(layers)
    return ModelSpec(
        name=name,
        family=family or keys.word("model_type"),
        hidden=hidden,
        vocabulary=keys.whole("vocab_size"),
        layer_types=types,
        layers=runs,
        tied_embeddings=keys.flag("tie_word_embeddings", tied),
        final_norm=hidden if final_norm is None else final_norm,
        max_positions=keys.maybe("max_position_embeddings"),
    )


def attention(
    keys: Keys,
    *,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    window: int | None = None,
    qkv_bias: bool = False,
    output_bias: bool = False,
    qk_norm: Literal["none", "head", "width"] = "none",
    sinks: bool = False,
) -> Attention:
    """Grouped-query attention under the usual keys.

    ``kv_heads`` and ``head_dim`` are what the class assumes where the file is silent; without them
    key-value heads are required and the width is divided by the heads.
    """
    heads = keys.whole("num_attention_heads")
    groups = keys.whole("num_key_value_heads", kv_heads)
    if heads % groups:
        raise keys.error(
            "num_key_value_heads",
            f"'num_key_value_heads' is {groups}, no divisor of the {heads} attention heads",
            "correct one of the two",
        )
    size = keys.maybe("head_dim", minimum=1) or head_dim
    return Attention(
        heads=heads,
        kv_heads=groups,
        head_dim=size or keys.divided("hidden_size", "num_attention_heads"),
        window=window,
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        qk_norm=qk_norm,
        sinks=sinks,
    )


def experts(
    keys: Keys,
    *,
    num_experts: str,
    width: str,
    top_k: str = "num_experts_per_tok",
    shared_width: int = 0,
    shared_gate: bool = False,
    bias: bool = False,
    router_bias: bool = False,
) -> Experts:
    """A mixture of experts under the given keys."""
    number, chosen = keys.whole(num_experts), keys.whole(top_k)
    if chosen > number:
        raise keys.error(
            top_k.split("|")[0],
            f"{chosen} experts a token are chosen of {number}",
            "choose at most as many as there are",
        )
    return Experts(
        num_experts=number,
        top_k=chosen,
        width=keys.whole(width),
        shared_width=shared_width,
        shared_gate=shared_gate,
        bias=bias,
        router_bias=router_bias,
    )


def decoder_layer(
    keys: Keys, attend: Attention, feed_forward: Mlp | Experts, *, norms: int = 2
) -> Layer:
    """A decoder layer with RMS norms; its name is given by :func:`gather`."""
    return Layer(
        name="",
        stack="decoder",
        hidden=keys.whole("hidden_size"),
        attention=attend,
        feed_forward=feed_forward,
        norm=Norm(count=norms),
    )


def windowed(keys: Keys, *, every: int) -> list[bool]:
    """Which layers attend within the sliding window: all but each ``every``-th.

    ``layer_types`` of the file, where given, decides instead.
    """
    number = keys.layers()
    types = keys.words("layer_types", length=number)
    if types is None:
        return [(index + 1) % every != 0 for index in range(number)]
    known = {"sliding_attention", "full_attention"}
    for index, word in enumerate(types):
        if word not in known:
            raise keys.error(
                f"layer_types[{index}]",
                f"the layer type {word!r} is not known",
                f"use one of {', '.join(sorted(known))}",
            )
    return [word == "sliding_attention" for word in types]


def with_window(attend: Attention, window: int | None) -> Attention:
    """The same attention within a window."""
    return msgspec.structs.replace(attend, window=window)


def gather(layers: Sequence[Layer]) -> tuple[tuple[Layer, ...], tuple[LayerRun, ...]]:
    """Name the distinct layers and run-length encode the chain.

    A name is the stack, then ``moe`` for experts, ``window`` where only some layers of the stack
    have one, ``first`` for the layer that owns the position table, ``shared`` for one that reuses
    the selection of the layer before.
    """
    names: dict[Layer, str] = {}
    for layer in dict.fromkeys(layers):
        same = [other for other in layers if other.stack == layer.stack]
        names[layer] = _name(layer, same)
    runs: list[LayerRun] = []
    for layer in layers:
        if runs and runs[-1].layer == names[layer]:
            runs[-1] = LayerRun(names[layer], runs[-1].count + 1)
        else:
            runs.append(LayerRun(names[layer], 1))
    types = tuple(msgspec.structs.replace(layer, name=name) for layer, name in names.items())
    assert len({layer.name for layer in types}) == len(types)
    return types, tuple(runs)


def _name(layer: Layer, same: list[Layer]) -> str:
    parts: list[str] = [layer.stack]
    if isinstance(layer.feed_forward, Experts):
        parts.append("moe")
    own = layer.attention
    if isinstance(own, Attention):
        attends = [other.attention for other in same]
        windows = {other.window for other in attends if isinstance(other, Attention)}
        if own.window is not None and len(windows) > 1:
            parts.append("window")
        if own.extra_parameters:
            parts.append("first")
    elif isinstance(own, LatentAttention) and own.indexer_top_k and not own.indexer_heads:
        parts.append("shared")
    return "_".join(parts)
