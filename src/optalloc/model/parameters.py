"""Parameters: how many numbers a layer, an end of the model and the whole model hold, exactly.

A matrix shared by embedding and head is counted once, with the embedding. Buffers that are not
trained (for example the selection bias of DeepSeek-V3's router) and multi-token-prediction layers
are not counted.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from optalloc.model.spec import (
    Attention,
    Experts,
    LatentAttention,
    Layer,
    LinearAttention,
    Mlp,
    ModelSpec,
)


class LayerParameters(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of one layer by part.

    ``routed`` are all routed experts, ``routed_active`` the ones a token visits. ``attention``
    includes its biases, query and key norms, sinks and position table.
    """

    attention: int
    cross_attention: int
    feed_forward: int
    router: int
    shared: int
    routed: int
    routed_active: int
    norms: int

    @property
    def total(self) -> int:
        """Every parameter of the layer."""
        return self._always + self.routed

    @property
    def active(self) -> int:
        """Parameters that take part in the computation of one token."""
        return self._always + self.routed_active

    @property
    def _always(self) -> int:
        return (
            self.attention
            + self.cross_attention
            + self.feed_forward
            + self.router
            + self.shared
            + self.norms
        )


@lru_cache(maxsize=1024)
def layer_parameters(layer: Layer) -> LayerParameters:
    """Parameters of one layer.

    Returns
    -------
    LayerParameters
        Counts by part. ``feed_forward`` is the dense MLP and zero in an expert layer.

    Complexity: O(1).
    """
    h = layer.hidden
    if isinstance(layer.attention, LatentAttention):
        attention = _latent_attention(layer.attention, h)
    elif isinstance(layer.attention, LinearAttention):
        attention = _linear_attention(layer.attention, h)
    else:
        attention = _attention(layer.attention, h)
    cross = 0 if layer.cross_attention is None else _attention(layer.cross_attention, h)
    dense = router = shared = routed = routed_active = 0
    if isinstance(layer.feed_forward, Experts):
        moe = layer.feed_forward
        one = _mlp(Mlp(width=moe.width, gated=moe.gated, bias=moe.bias), h)
        routed, routed_active = moe.num_experts * one, moe.top_k * one
        router = moe.num_experts * (h + moe.router_bias)
        if moe.shared_width:
            shared = _mlp(Mlp(width=moe.shared_width, gated=moe.gated), h) + h * moe.shared_gate
    else:
        dense = _mlp(layer.feed_forward, h)
    return LayerParameters(
        attention=attention,
        cross_attention=cross,
        feed_forward=dense,
        router=router,
        shared=shared,
        routed=routed,
        routed_active=routed_active,
        norms=layer.norm.count * h * (2 if layer.norm.kind == "layer" else 1),
    )


def embedding_parameters(model: ModelSpec) -> int:
    """Token embedding and the tables beside it (positions, types, their norm); no vision tower."""
    return model.vocabulary * model.hidden + model.embedding_extra


def head_parameters(model: ModelSpec) -> int:
    """Head matrix (zero where it is the embedding's), its biases, and the final norms of stacks."""
    own = model.has_head and not model.tied_embeddings
    matrix = model.vocabulary * model.hidden if own else 0
    return matrix + model.head_extra + model.final_norm + model.encoder_final_norm


def vision_parameters(model: ModelSpec) -> int:
    """Vision tower and projector; zero for a text model."""
    return model.vision_extra + sum(
        count * layer_parameters(layer).total for layer, count in _runs(model) if _sees(layer)
    )


def total_parameters(model: ModelSpec) -> int:
    """Every parameter of the model, each shared matrix once.

    >>> from optalloc.model.load import load_model
    >>> total_parameters(load_model("llama-3.1-8b"))
    8030261248
    """
    layers = sum(
        count * layer_parameters(layer).total for layer, count in _runs(model) if not _sees(layer)
    )
    return embedding_parameters(model) + layers + head_parameters(model) + vision_parameters(model)


def active_parameters(model: ModelSpec) -> int:
    """Parameters one text token uses: ``top_k`` routed experts a layer, no vision tower.

    Both vocabulary matrices are kept; vendors sometimes leave the embedding out.
    """
    layers = sum(
        count * layer_parameters(layer).active for layer, count in _runs(model) if not _sees(layer)
    )
    return embedding_parameters(model) + layers + head_parameters(model)


def _runs(model: ModelSpec) -> list[tuple[Layer, int]]:
    types = {layer.name: layer for layer in model.layer_types}
    return [(types[run.layer], run.count) for run in model.layers]


def _sees(layer: Layer) -> bool:
    return layer.stack == "vision"


def _attention(attention: Attention, h: int) -> int:
    q = attention.heads * attention.head_dim
    kv = attention.kv_heads * attention.head_dim
    count = h * (q + 2 * kv) + q * h * (1 + attention.output_gate) + attention.extra_parameters
    if attention.qkv_bias:
        count += q + 2 * kv
    if attention.output_bias:
        count += h
    if attention.qk_norm == "head":
        count += 2 * attention.head_dim
    elif attention.qk_norm == "width":
        count += q + kv
    return count + attention.heads * attention.sinks


def _latent_attention(mla: LatentAttention, h: int) -> int:
    a, c = mla.heads, mla.kv_lora_rank
    qk = mla.nope_head_dim + mla.rope_head_dim
    query = h * a * qk
    if mla.q_lora_rank is not None:  # down, norm, up; only the down projection may have a bias
        query = mla.q_lora_rank * (h + 1 + a * qk + mla.bias)
    down = (h + mla.bias) * (c + mla.rope_head_dim)
    up = c + c * a * (mla.nope_head_dim + mla.value_head_dim)
    out = (a * mla.value_head_dim + mla.bias) * h
    count = query + down + up + out
    if mla.indexer_heads:
        d = mla.indexer_head_dim
        source = h if mla.q_lora_rank is None else mla.q_lora_rank
        # queries, key, layer norm of the key, one weight a head
        count += source * mla.indexer_heads * d + h * d + 2 * d + h * mla.indexer_heads
    return count


def _linear_attention(linear: LinearAttention, h: int) -> int:
    keys = linear.key_heads * linear.key_head_dim
    values = linear.value_heads * linear.value_head_dim
    # one decay and one step bias a head; the norm of the gated values is shared by the heads
    small = linear.convolution * (2 * keys + values) + 2 * linear.value_heads
    return h * linear.projected + small + linear.value_head_dim + values * h


def _mlp(mlp: Mlp, h: int) -> int:
    up = 2 if mlp.gated else 1
    count = (up + 1) * h * mlp.width
    return count + (up * mlp.width + h if mlp.bias else 0)
