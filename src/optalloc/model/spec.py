"""ModelSpec: a Transformer as runs of typed layers, with exact parameter counts.

A model is a chain ``embedding, layers..., head``. Each layer is one of a few :class:`Layer` types;
the types are told apart by their stack (encoder, decoder, vision) and by what they hold
(self-attention, multi-head latent or linear attention, cross-attention, a dense MLP or experts).
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Stack = Literal["encoder", "decoder", "vision"]

# Beyond any model, and well within 64 bits; and layers.
MOST, MOST_LAYERS = 2**40, 10_000
Count = Annotated[int, msgspec.Meta(ge=1, le=MOST)]
"""How many there are of something that has to be there."""
Extra = Annotated[int, msgspec.Meta(ge=0, le=MOST)]
"""How many there are of something that may be missing."""


class Attention(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="attention"
):
    """Softmax attention with ``heads`` query heads and ``kv_heads`` key and value heads.

    ``qk_norm``: "head" has one weight vector of ``head_dim`` each for queries and keys, "width" one
    over all heads (``heads * head_dim`` and ``kv_heads * head_dim``). ``window`` limits attention
    to that many tokens; ``sinks`` adds one learned logit a head; ``output_gate`` a product beside
    the queries that gates the output. ``extra_parameters``: tables owned
    by this attention (for example the relative-position buckets of T5's first layers).
    """

    heads: Count
    kv_heads: Count
    head_dim: Count
    causal: bool = True
    window: Count | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: Literal["none", "head", "width"] = "none"
    sinks: bool = False
    output_gate: bool = False
    extra_parameters: Extra = 0


class LatentAttention(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="mla"
):
    """Multi-head latent attention (DeepSeek-V2/V3), optionally with a sparse-attention indexer."""

    heads: Count
    q_lora_rank: Count | None
    kv_lora_rank: Count
    nope_head_dim: Count
    rope_head_dim: Count
    value_head_dim: Count
    bias: bool = False
    indexer_heads: Extra = 0
    indexer_head_dim: Extra = 0
    indexer_top_k: Extra = 0


class LinearAttention(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="linear"
):
    """Gated delta-rule attention (Qwen3-Next, Qwen3.5): a state of fixed size in place of a cache.

    Each of ``value_heads`` keeps a matrix ``key_head_dim x value_head_dim``. ``convolution`` is the
    width of the short convolution over queries, keys and values. Values pass an output gate.
    """

    key_heads: Count
    value_heads: Count
    key_head_dim: Count
    value_head_dim: Count
    convolution: Count = 4

    @property
    def heads(self) -> int:
        """Heads that tensor parallelism divides: each key head serves as many value heads."""
        return self.key_heads

    @property
    def projected(self) -> int:
        """Columns of the first product: queries, keys, values, their gate, two numbers a head."""
        keys = self.key_heads * self.key_head_dim
        return 2 * keys + 2 * self.value_heads * self.value_head_dim + 2 * self.value_heads

    @property
    def state(self) -> int:
        """Numbers of the state of one sequence; kept in 32 bits."""
        return self.value_heads * self.key_head_dim * self.value_head_dim


class Mlp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="mlp"):
    """Dense feed-forward: two matrices of width ``width``, three when ``gated``."""

    width: Count
    gated: bool = True
    bias: bool = False


class Experts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="experts"):
    """Mixture of experts: ``num_experts`` routed MLPs of ``width``, ``top_k`` a token, plus one
    shared MLP of ``shared_width`` (0: none). ``bias`` adds biases to the experts; ``router_bias``
    to the router.
    """

    num_experts: Count
    top_k: Count
    width: Count
    shared_width: Extra = 0
    shared_gate: bool = False
    gated: bool = True
    bias: bool = False
    router_bias: bool = False


class Norm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Normalisations of one layer: an RMS norm has ``hidden`` weights, a layer norm twice that."""

    kind: Literal["rms", "layer"] = "rms"
    count: Extra = 2


class Layer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One type of layer; ``name`` is unique in its model, for example ``decoder_moe``."""

    name: str
    stack: Stack
    hidden: Count
    attention: Attention | LatentAttention | LinearAttention
    cross_attention: Attention | None = None
    feed_forward: Mlp | Experts
    norm: Norm = Norm()


class LayerRun(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``count`` consecutive layers of the type named ``layer``."""

    layer: str
    count: Annotated[int, msgspec.Meta(ge=0, le=MOST_LAYERS)]


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A Transformer: facts only, no weights.

    ``layers`` runs from input to output over all stacks: vision, encoder, decoder.
    ``embedding_extra`` and ``head_extra`` count parameters beside the vocabulary matrices (position
    tables, final norms, biases, projections). ``vision_extra`` are vision parameters outside its
    layers (patch embedding, projector).
    """

    name: str
    family: str
    hidden: Count
    vocabulary: Count
    layer_types: tuple[Layer, ...]
    layers: tuple[LayerRun, ...]
    tied_embeddings: bool = False
    has_head: bool = True
    embedding_extra: Extra = 0
    encoder_final_norm: Extra = 0
    final_norm: Extra = 0
    head_extra: Extra = 0
    vision_extra: Extra = 0
    max_positions: Count | None = None
    source: str = ""
    date: str = ""
