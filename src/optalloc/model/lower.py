"""Lower a ModelSpec to its Graph: one list of operations for each layer type.

The blocks of a layer are in :mod:`optalloc.model.blocks`; here are the norms and sums around them,
the embedding and the head.
"""

from __future__ import annotations

from functools import lru_cache

from optalloc.errors import InputError
from optalloc.model.blocks import (
    attention_ops,
    experts_ops,
    latent_attention_ops,
    linear_attention_ops,
    mlp_ops,
)
from optalloc.model.graph import Graph, LayerGraph, Op
from optalloc.model.parameters import embedding_parameters, head_parameters, layer_parameters
from optalloc.model.spec import Experts, LatentAttention, Layer, LinearAttention, Mlp, ModelSpec

# Values moved per value normalised or added: read the input (and the residual), write the output.
_NORM_MOVES = 2.0
_ADD_MOVES = 3.0


@lru_cache(maxsize=64)
def lower(model: ModelSpec) -> Graph:
    """The graph of a model.

    The vision tower, if any, rides with the embedding: its parameters count, its operations do not,
    because a training batch is text here.

    Complexity: O(number of layer types).
    """
    text = [run for run in model.layers if _layer(model, run.layer).stack != "vision"]
    names = dict.fromkeys(run.layer for run in text)
    vision = model.vision_extra + sum(
        run.count * layer_parameters(_layer(model, run.layer)).total
        for run in model.layers
        if _layer(model, run.layer).stack == "vision"
    )
    h = model.hidden
    embedding = LayerGraph(
        name="embedding",
        stack="embedding",
        hidden=h,
        tp_reduces=1,
        ops=(
            Op(
                name="lookup",
                kind="lookup",
                shard="tensor",
                elements=2.0 * h,
                parameters=model.vocabulary * h,
            ),
            Op(
                name="tables",
                kind="elementwise",
                shard="sequence",
                parameters=embedding_parameters(model) - model.vocabulary * h + vision,
            ),
        ),
    )
    matrix = model.vocabulary * h if model.has_head else 0
    head_total = head_parameters(model)
    tied = matrix if model.tied_embeddings else 0
    head_ops: tuple[Op, ...] = (
        Op(
            name="final_norm",
            kind="elementwise",
            shard="sequence",
            elements=_NORM_MOVES * h,
            saved=2.0 * h,
            parameters=head_total - (matrix - tied),
        ),
    )
    if model.has_head:
        head_ops += (
            Op(
                name="logits",
                kind="gemm",
                shard="column",
                k=h,
                n=model.vocabulary,
                parameters=matrix,
            ),
            Op(name="loss", kind="loss", shard="column", n=model.vocabulary),
        )
    head = LayerGraph(name="head", stack="head", hidden=h, tp_reduces=0, ops=head_ops)
    layers = tuple(_lower_layer(_layer(model, name)) for name in names)
    return Graph(
        model=model.name,
        embedding=embedding,
        layers=layers,
        head=head,
        sequence=tuple(text),
        tied_parameters=tied,
        encoder_decoder={layer.stack for layer in layers} >= {"encoder", "decoder"},
    )


def _layer(model: ModelSpec, name: str) -> Layer:
    found = next((layer for layer in model.layer_types if layer.name == name), None)
    if found is None:
        raise InputError(
            f"the model has layers of a type {name!r} that it does not describe",
            path=model.name,
            pointer="$.layers",
            fix=f"name one of {', '.join(layer.name for layer in model.layer_types)}",
        )
    return found


def _lower_layer(layer: Layer) -> LayerGraph:
    h = layer.hidden
    # Norms and residual sums; the input of every norm and the outputs feeding a matrix are stored.
    stored_norms = 2.0 * h * min(layer.norm.count, 2 if layer.cross_attention is None else 3)
    stored_norms += h * max(0, layer.norm.count - 2) * (layer.cross_attention is None)
    num_blocks = 2 if layer.cross_attention is None else 3
    moved = (_NORM_MOVES * layer.norm.count + _ADD_MOVES * num_blocks) * h
    ops: list[Op] = []
    if isinstance(layer.attention, LatentAttention):
        ops += latent_attention_ops(layer.attention, h)
    elif isinstance(layer.attention, LinearAttention):
        ops += linear_attention_ops(layer.attention, h)
    else:
        ops += attention_ops(layer.attention, h, "self")
    if layer.cross_attention is not None:
        ops += attention_ops(layer.cross_attention, h, "cross")
    if isinstance(layer.feed_forward, Experts):
        ops += experts_ops(layer.feed_forward, h)
    else:
        ops += mlp_ops(layer.feed_forward, h, "mlp")
    rest = layer_parameters(layer).total - sum(op.parameters for op in ops)
    norm = Op(
        name="norms",
        kind="elementwise",
        shard="sequence",
        elements=moved,
        saved=stored_norms,
        inputs=stored_norms / 2.0,
        kept=float(h),
        parameters=rest,  # norms, biases and small tables: repeated on every tensor-parallel rank
    )
    return LayerGraph(
        name=layer.name,
        stack=layer.stack,
        hidden=h,
        ops=(norm, *ops),
        # Routed experts work on whole tokens where they lie, so their block has no sum of its own.
        tp_reduces=num_blocks - _only_routed(layer.feed_forward),
    )


def _only_routed(feed_forward: Mlp | Experts) -> bool:
    return isinstance(feed_forward, Experts) and not feed_forward.shared_width
