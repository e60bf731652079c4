"""The model of a row: its dimensions, and rules for those that it leaves out."""

from __future__ import annotations

import math

from optalloc.cost.measured.cells import Row, flag, real, whole
from optalloc.cost.measured.software import has_expert_biases
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


def sized(row: Row, remarks: list[str]) -> Row:
    """The row with its layers and its width, where the rest of a row tells the one it lacks.

    The width is that of the heads together. A dense model of P parameters has about 12 h^2 of them
    in each layer of width h, beside its embedding.
    """
    layers, hidden = whole(row, "layers"), whole(row, "hidden")
    if not hidden:
        hidden = whole(row, "heads") * whole(row, "head_dim")
    parameters = 0.0 if whole(row, "n_experts") else real(row, "n_params_b") * 1e9
    if layers and not hidden and parameters:
        vocabulary = whole(row, "vocab", 50257)
        root = math.sqrt(vocabulary**2 + 48 * layers * parameters)
        hidden = max(64, 64 * round((root - vocabulary) / (24 * layers) / 64))
    if hidden and not layers and parameters:
        layers = max(1, round((parameters / hidden - whole(row, "vocab", 50257)) / (12 * hidden)))
    sizes = {"layers": layers, "hidden": hidden}
    missing = {name: str(size) for name, size in sizes.items() if size and not whole(row, name)}
    if not (layers and hidden):
        return row
    remarks += [f"{name} not given, taken as {size}" for name, size in missing.items()]
    return row | missing


def model_of(row: Row, remarks: list[str]) -> ModelSpec:
    """The model of a row that has layers and a width; whatever else is missing by its rule."""
    hidden, count = whole(row, "hidden"), whole(row, "layers")
    gated = flag(row, "gated_mlp")
    if gated is None:
        gated = bool(whole(row, "n_experts")) or whole(row, "ffn") != 4 * hidden
    heads = whole(row, "heads")
    if not heads:
        heads = max(1, hidden // 128)
        remarks.append(f"heads not given, taken as {heads}")
    head_dim = whole(row, "head_dim", max(1, hidden // heads))
    experts = whole(row, "n_experts")
    width = whole(row, "ffn")
    if not width:
        width = 4 * hidden if not gated else -(-8 * hidden // 3 // 128) * 128
        if not experts:
            remarks.append(f"width of the MLP not given, taken as {width}")
    attention: Attention | LatentAttention = Attention(
        heads=heads, kv_heads=whole(row, "kv_heads", heads), head_dim=head_dim
    )
    if "mla" in row.get("arch", "").lower():
        # Ranks and head sizes of DeepSeek-V3, which later models with latent attention share.
        attention = LatentAttention(
            heads=heads,
            q_lora_rank=1536,
            kv_lora_rank=512,
            nope_head_dim=128,
            rope_head_dim=64,
            value_head_dim=128,
        )
    norm = Norm(kind="rms" if gated else "layer")

    def layer(name: str, feed: Mlp | Experts) -> Layer:
        return Layer(
            name=name,
            stack="decoder",
            hidden=hidden,
            attention=attention,
            feed_forward=feed,
            norm=norm,
        )

    dense = min(count, whole(row, "n_dense_layers")) if experts else count
    types, runs = [], []
    if dense:
        types.append(layer("dense", Mlp(width=width, gated=gated)))
        runs.append(LayerRun("dense", dense))
    if count > dense:
        expert_width = whole(row, "moe_ffn", width)
        feed = Experts(
            num_experts=experts,
            top_k=min(experts, whole(row, "topk", 2)),
            width=expert_width,
            shared_width=expert_width * whole(row, "n_shared_experts"),
            gated=gated,
            bias=has_expert_biases(row),
        )
        types.append(layer("moe", feed))
        runs.append(LayerRun("moe", count - dense))
    tied = not gated and not experts
    return ModelSpec(
        name=row.get("model", "") or "measured",
        family="measured",
        hidden=hidden,
        vocabulary=whole(row, "vocab", 1 if _is_layer(row) else 50257),
        layer_types=tuple(types),
        layers=tuple(runs),
        tied_embeddings=tied,
        embedding_extra=whole(row, "seq_len", 2048) * hidden if tied else 0,
        has_head=not _is_layer(row),
    )


def _is_layer(row: Row) -> bool:
    return row.get("task", "").lower() == "single_layer"
