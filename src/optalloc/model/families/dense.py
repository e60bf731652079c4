"""Dense decoders: Llama, Mistral, Qwen 2 and 3, Phi-3, Gemma 2 and 3 (text), GPT-2."""

from __future__ import annotations

from optalloc.model.families.chain import (
    attention,
    decoder_layer,
    decoder_model,
    gather,
    windowed,
    with_window,
)
from optalloc.model.families.keys import Keys
from optalloc.model.spec import Attention, Layer, Mlp, ModelSpec, Norm


def llama(keys: Keys, name: str) -> ModelSpec:
    """Llama 1 to 3.x."""
    bias = keys.flag("attention_bias", False)
    layer = decoder_layer(
        keys,
        attention(
            keys, kv_heads=keys.whole("num_attention_heads"), qkv_bias=bias, output_bias=bias
        ),
        _mlp(keys, bias=keys.flag("mlp_bias", False)),
    )
    return decoder_model(keys, name, [layer] * keys.layers())


def mistral(keys: Keys, name: str) -> ModelSpec:
    """Mistral; a file without ``sliding_window`` means full attention, as null does."""
    attend = attention(keys, window=keys.maybe("sliding_window", minimum=1))
    layer = decoder_layer(keys, attend, _mlp(keys))
    return decoder_model(keys, name, [layer] * keys.layers())


def qwen2(keys: Keys, name: str) -> ModelSpec:
    """Qwen 2 and 2.5: biases on queries, keys and values alone."""
    return decoder_model(keys, name, qwen2_layers(keys))


def qwen2_layers(keys: Keys) -> list[Layer]:
    """The layers of a Qwen 2 decoder, also inside Qwen2.5-VL."""
    return _qwen(keys, attention(keys, qkv_bias=True))


def qwen3(keys: Keys, name: str) -> ModelSpec:
    """Qwen 3: a norm on the queries and keys of each head, no biases."""
    bias = keys.flag("attention_bias", False)
    attend = attention(keys, head_dim=128, qkv_bias=bias, output_bias=bias, qk_norm="head")
    return decoder_model(keys, name, _qwen(keys, attend))


def phi3(keys: Keys, name: str) -> ModelSpec:
    """Phi-3 and Phi-4: no biases anywhere."""
    attend = attention(
        keys,
        kv_heads=keys.whole("num_attention_heads"),
        window=keys.maybe("sliding_window", minimum=1),
    )
    layer = decoder_layer(keys, attend, _mlp(keys))
    return decoder_model(keys, name, [layer] * keys.layers())


def gemma2(keys: Keys, name: str) -> ModelSpec:
    """Gemma 2: four norms a layer, every second layer within a window, tied head."""
    bias = keys.flag("attention_bias", False)
    attend = attention(keys, head_dim=256, qkv_bias=bias, output_bias=bias)
    window = keys.whole("sliding_window", 4096)
    layers = [
        decoder_layer(keys, with_window(attend, window if slides else None), _mlp(keys), norms=4)
        for slides in windowed(keys, every=2)
    ]
    return decoder_model(keys, name, layers, tied=True)


def gemma3_text(keys: Keys, name: str) -> ModelSpec:
    """Gemma 3: as Gemma 2, with norms of queries and keys and five windowed layers to one full.

    Published files leave out the head sizes where they are those of the class (8 heads, 4 key-value
    heads, 256 a head, a vocabulary of 262,208).
    """
    filled = {"num_attention_heads": 8, "vocab_size": 262208, "model_type": "gemma3_text"}
    data = filled | {key: value for key, value in keys.data.items() if value is not None}
    keys = Keys(data, path=keys.path, pointer=keys.pointer)
    bias = keys.flag("attention_bias", False)
    attend = attention(
        keys, kv_heads=4, head_dim=256, qkv_bias=bias, output_bias=bias, qk_norm="head"
    )
    window = keys.whole("sliding_window", 4096)
    every = keys.whole("sliding_window_pattern|_sliding_window_pattern", 6)
    layers = [
        decoder_layer(keys, with_window(attend, window if slides else None), _mlp(keys), norms=4)
        for slides in windowed(keys, every=every)
    ]
    return decoder_model(keys, name, layers, tied=True)


def gpt2(keys: Keys, name: str) -> ModelSpec:
    """GPT-2 and GPT-3: layer norms, biases, learned positions, tied head."""
    hidden, heads = keys.whole("n_embd|hidden_size"), keys.whole("n_head|num_attention_heads")
    positions = keys.whole("n_positions|max_position_embeddings")
    if hidden % heads:
        raise keys.error(
            "n_embd", f"'n_embd' is {hidden}, no multiple of {heads} heads", "correct one of them"
        )
    layer = Layer(
        name="",
        stack="decoder",
        hidden=hidden,
        attention=Attention(
            heads=heads, kv_heads=heads, head_dim=hidden // heads, qkv_bias=True, output_bias=True
        ),
        feed_forward=Mlp(width=keys.whole("n_inner", 4 * hidden), gated=False, bias=True),
        norm=Norm(kind="layer"),
    )
    types, runs = gather([layer] * keys.layers("n_layer|num_hidden_layers"))
    return ModelSpec(
        name=name,
        family="gpt2",
        hidden=hidden,
        vocabulary=keys.whole("vocab_size"),
        layer_types=types,
        layers=runs,
        tied_embeddings=keys.flag("tie_word_embeddings", True),
        embedding_extra=positions * hidden,
        final_norm=2 * hidden,
        max_positions=positions,
    )


def _mlp(keys: Keys, *, bias: bool = False) -> Mlp:
    return Mlp(width=keys.whole("intermediate_size"), bias=bias)


def _qwen(keys: Keys, attend: Attention) -> list[Layer]:
    number = keys.layers()
    window = None
    slides = [False] * number
    if keys.flag("use_sliding_window", False):
        window = keys.whole("sliding_window", 4096)
        first = keys.whole("max_window_layers", 28, minimum=0)
        slides = [index >= first for index in range(number)]
        if keys.has("layer_types"):
            slides = windowed(keys, every=number)
    return [
        decoder_layer(keys, with_window(attend, window if inside else None), _mlp(keys))
        for inside in slides
    ]
