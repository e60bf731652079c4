"""Graph: the operations of each layer type, with the facts a cost model needs and no cost in it."""

from __future__ import annotations

from typing import Literal

import msgspec

from optalloc.model.spec import LayerRun, Stack

OpKind = Literal["gemm", "attention", "elementwise", "lookup", "dispatch", "bias", "loss"]
Shard = Literal["column", "row", "tensor", "sequence", "replicated", "expert"]
OpClass = Literal["projections", "attention", "mlp", "experts", "norms", "embedding", "head"]


class Op(msgspec.Struct, frozen=True, kw_only=True):
    """One operation, described per token.

    Parameters
    ----------
    kind : OpKind
        ``gemm`` multiplies ``[tokens, k] x [k, n]``; ``attention`` is the softmax core;
        ``elementwise`` moves ``elements`` values through memory; ``lookup`` reads embedding rows;
        ``dispatch`` sends tokens to experts and back; ``bias`` adds ``n`` biases to the products of
        experts, which no fused kernel does; ``loss`` is the softmax cross entropy over
        ``n`` logits.
    shard : Shard
        How tensor parallelism divides it: ``column`` divides n, ``row`` divides k, ``tensor``
        divides the width of its values, ``sequence`` divides its tokens where sequence parallelism
        is on, ``replicated`` repeats it on every rank, ``expert`` is divided over the
        expert-parallel group.
    n_kv, kv_heads : int
        Further output columns that belong to key and value heads: a rank holds
        ``max(1, kv_heads / tp)`` of ``kv_heads`` heads.
    elements : float
        Values read and written per token by the forward pass.
    saved : float
        16-bit values per token kept for the backward pass.
    inputs : float
        Those of them that only a matrix product reads, which keeps them in its own type; less than
        zero where it keeps a copy beside one that is needed anyway.
    eager : float
        Further ones where it is not one kernel.
    kept : float
        Those that recomputation operator by operator keeps: it repeats all but the attention core
        and every other matrix product, and stores what these give.
    again : float
        Share of the forward pass that it repeats.
    copies : int
        How many experts a token visits (1 for everything else).
    source : bool
        True if the op runs over the encoder's tokens inside a decoder layer (cross-attention keys).
    parameters : int
        Trainable parameters of the op over all ranks.
    """

    name: str
    kind: OpKind
    shard: Shard
    k: int = 0
    n: int = 0
    n_kv: int = 0
    kv_heads: int = 0
    heads: int = 0
    qk_dim: int = 0
    v_dim: int = 0
    causal: bool = True
    window: int = 0
    cross: bool = False
    experts: int = 0
    copies: int = 1
    elements: float = 0.0
    saved: float = 0.0
    inputs: float = 0.0
    eager: float = 0.0
    kept: float = 0.0
    again: float = 1.0
    source: bool = False
    parameters: int = 0


class LayerGraph(msgspec.Struct, frozen=True, kw_only=True):
    """The operations of one layer type in the order they run.

    ``tp_reduces`` counts the sums over the tensor-parallel group in the forward pass (one after
    each row-sharded matrix or sharded lookup).
    """

    name: str
    stack: Stack | Literal["embedding", "head"]
    hidden: int
    ops: tuple[Op, ...]
    tp_reduces: int

    @property
    def parameters(self) -> int:
        return sum(op.parameters for op in self.ops)

    def op_class(self, op: Op) -> OpClass:
        """The kind of work that an account of time puts the op under.

        Router, shared experts and the sorting of tokens belong to ``experts``; rotary embedding to
        ``attention``; the final norm and the loss to ``head``.
        """
        if self.stack in ("embedding", "head"):
            return "head" if self.stack == "head" else "embedding"
        if op.kind == "attention":
            return "attention"
        if op.shard == "expert" or op.name == "router" or op.name.startswith("shared_"):
            return "experts"
        if op.name.startswith("mlp_"):
            return "mlp"
        return "projections" if op.kind == "gemm" else "norms"


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    """A model as a chain ``embedding, layers..., head`` of typed layers.

    ``sequence`` lists the runs between embedding and head; ``tied_parameters`` of the head are
    those of the embedding and live on both ends of a pipeline.
    """

    model: str
    embedding: LayerGraph
    layers: tuple[LayerGraph, ...]
    head: LayerGraph
    sequence: tuple[LayerRun, ...]
    tied_parameters: int
    encoder_decoder: bool

    @property
    def types(self) -> tuple[LayerGraph, ...]:
        """Embedding, every layer type, head: the order used by cost tables."""
        return (self.embedding, *self.layers, self.head)

    @property
    def num_layers(self) -> int:
        return sum(run.count for run in self.sequence)
