"""Decoders with experts: Mixtral, Qwen MoE, DeepSeek and Kimi K2, GLM 4.5 to 5, gpt-oss,
MiniMax."""

from __future__ import annotations

from optalloc.model.families.chain import (
    attention,
    decoder_layer,
    decoder_model,
    experts,
    windowed,
    with_window,
)
from optalloc.model.families.keys import Keys
from optalloc.model.spec import Attention, Experts, LatentAttention, Layer, Mlp, ModelSpec


def mixtral(keys: Keys, name: str) -> ModelSpec:
    """Mixtral: experts in every layer."""
    attend = attention(keys, window=keys.maybe("sliding_window", minimum=1))
    moe = experts(keys, num_experts="num_local_experts|num_experts", width="intermediate_size")
    layer = decoder_layer(keys, attend, moe)
    return decoder_model(keys, name, [layer] * keys.layers())


def qwen2_moe(keys: Keys, name: str) -> ModelSpec:
    """Qwen 1.5 and 2 MoE: a gated shared expert, biases on queries, keys and values."""
    attend = attention(keys, qkv_bias=keys.flag("qkv_bias", True))
    moe = experts(
        keys,
        num_experts="num_experts|num_local_experts",
        width="moe_intermediate_size",
        shared_width=keys.whole("shared_expert_intermediate_size"),
        shared_gate=True,
    )
    return decoder_model(keys, name, _sparse_steps(keys, attend, moe))


def qwen3_moe(keys: Keys, name: str) -> ModelSpec:
    """Qwen 3 MoE: norms of queries and keys, no shared expert."""
    bias = keys.flag("attention_bias", False)
    attend = attention(keys, qkv_bias=bias, output_bias=bias, qk_norm="head")
    moe = experts(keys, num_experts="num_experts|num_local_experts", width="moe_intermediate_size")
    return decoder_model(keys, name, _sparse_steps(keys, attend, moe))


def glm4_moe(keys: Keys, name: str) -> ModelSpec:
    """GLM 4.5 to 4.7: dense first layers, biases on queries, keys and values alone."""
    attend = attention(
        keys,
        head_dim=128,
        qkv_bias=keys.flag("attention_bias", False),
        qk_norm="head" if keys.flag("use_qk_norm", False) else "none",
    )
    layers = [
        decoder_layer(keys, attend, _shared_experts(keys) if sparse else _dense(keys))
        for sparse in _sparse_after_first(keys, default=1)
    ]
    return decoder_model(keys, name, layers)


def gpt_oss(keys: Keys, name: str) -> ModelSpec:
    """gpt-oss: every second layer within a window, attention sinks, biases everywhere."""
    bias = keys.flag("attention_bias", True)
    attend = attention(keys, head_dim=64, qkv_bias=bias, output_bias=bias, sinks=True)
    moe = experts(
        keys,
        num_experts="num_local_experts|num_experts",
        top_k="num_experts_per_tok|experts_per_token",
        width="intermediate_size",
        bias=True,
        router_bias=True,
    )
    window = keys.whole("sliding_window", 128)
    layers = [
        decoder_layer(keys, with_window(attend, window if slides else None), moe)
        for slides in windowed(keys, every=2)
    ]
    return decoder_model(keys, name, layers)


def minimax_m2(keys: Keys, name: str) -> ModelSpec:
    """MiniMax M2: one norm over all query heads and one over all key heads."""
    norm = keys.flag("use_qk_norm", True)
    attend = attention(keys, head_dim=128, qk_norm="width" if norm else "none")
    moe = experts(
        keys,
        num_experts="num_local_experts|num_experts",
        width="intermediate_size",
        shared_width=keys.whole("shared_intermediate_size", 0, minimum=0),
    )
    layer = decoder_layer(keys, attend, moe)
    return decoder_model(keys, name, [layer] * keys.layers())


def deepseek(keys: Keys, name: str) -> ModelSpec:
    """DeepSeek V2, V3 and V3.1, Kimi K2: latent attention, dense first layers, shared experts."""
    first = 0 if keys.word("model_type") == "deepseek_v2" else 3
    attend = _latent(keys)
    layers = [
        _latent_layer(keys, attend, sparse) for sparse in _sparse_after_first(keys, default=first)
    ]
    return decoder_model(keys, name, layers)


def deepseek_sparse(keys: Keys, name: str) -> ModelSpec:
    """DeepSeek V3.2 and GLM-5: as DeepSeek V3, with an indexer that selects the tokens attended.

    Later GLM-5 files let some layers reuse the selection of the layer before; those own no indexer.
    """
    full = _latent(
        keys,
        indexer_heads=keys.whole("index_n_heads"),
        indexer_head_dim=keys.whole("index_head_dim"),
        indexer_top_k=keys.whole("index_topk"),
    )
    reused = _latent(keys, indexer_top_k=full.indexer_top_k)
    layers = [
        _latent_layer(keys, full if own else reused, sparse)
        for sparse, own in zip(
            _sparse_after_first(keys, default=3), _owns_indexer(keys), strict=True
        )
    ]
    return decoder_model(keys, name, layers)


def _latent(
    keys: Keys, *, indexer_heads: int = 0, indexer_head_dim: int = 0, indexer_top_k: int = 0
) -> LatentAttention:
    return LatentAttention(
        heads=keys.whole("num_attention_heads"),
        q_lora_rank=keys.maybe("q_lora_rank", minimum=1),
        kv_lora_rank=keys.whole("kv_lora_rank"),
        nope_head_dim=keys.whole("qk_nope_head_dim"),
        rope_head_dim=keys.whole("qk_rope_head_dim"),
        value_head_dim=keys.whole("v_head_dim"),
        bias=keys.flag("attention_bias", False),
        indexer_heads=indexer_heads,
        indexer_head_dim=indexer_head_dim,
        indexer_top_k=indexer_top_k,
    )


def _latent_layer(keys: Keys, attend: LatentAttention, sparse: bool) -> Layer:
    return Layer(
        name="",
        stack="decoder",
        hidden=keys.whole("hidden_size"),
        attention=attend,
        feed_forward=_shared_experts(keys) if sparse else _dense(keys),
    )


def _owns_indexer(keys: Keys) -> list[bool]:
    number = keys.layers()
    types = keys.words("indexer_types", length=number)
    if types is not None:
        return [word == "full" for word in types]
    if keys.has("index_topk_pattern"):
        pattern = keys.word("index_topk_pattern")
        if len(pattern) != number or set(pattern) - {"F", "S"}:
            raise keys.error(
                "index_topk_pattern",
                f"'index_topk_pattern' is {pattern!r}",
                f"give one letter F or S for each of the {number} layers",
            )
        return [letter == "F" for letter in pattern]
    period = keys.whole("index_topk_freq", 1)
    offset = keys.whole("index_skip_topk_offset", 2, minimum=0)
    return [max(index - offset + 1, 0) % period == 0 for index in range(number)]


def _dense(keys: Keys) -> Mlp:
    return Mlp(width=keys.whole("intermediate_size"))


def _shared_experts(keys: Keys) -> Experts:
    shared = keys.whole("n_shared_experts", 0, minimum=0)
    return experts(
        keys,
        num_experts="n_routed_experts|num_local_experts|num_experts",
        width="moe_intermediate_size",
        shared_width=shared * keys.whole("moe_intermediate_size"),
    )


def _sparse_after_first(keys: Keys, *, default: int) -> list[bool]:
    """True for each layer with experts: all after the first ``first_k_dense_replace``."""
    number = keys.layers()
    types = keys.words("mlp_layer_types", length=number)
    if types is not None:
        return [word == "sparse" for word in types]
    dense = keys.whole("first_k_dense_replace", default, minimum=0)
    return [index >= dense for index in range(number)]


def _sparse_steps(keys: Keys, attend: Attention, moe: Experts) -> list[Layer]:
    dense = set(keys.wholes("mlp_only_layers"))
    step = keys.whole("decoder_sparse_step", 1)
    window = keys.whole("sliding_window", 4096) if keys.flag("use_sliding_window", False) else None
    attend = with_window(attend, window)
    return [
        decoder_layer(
            keys,
            attend,
            moe if index not in dense and (index + 1) % step == 0 else _dense(keys),
        )
        for index in range(keys.layers())
    ]
