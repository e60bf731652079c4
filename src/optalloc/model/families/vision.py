"""Vision-language models: the tower and projector of Gemma 3 and Qwen2.5-VL before their
decoder."""

from __future__ import annotations

import msgspec

from optalloc.model.families.chain import decoder_model, gather
from optalloc.model.families.dense import gemma3_text, qwen2_layers
from optalloc.model.families.keys import Keys
from optalloc.model.spec import Attention, Layer, LayerRun, Mlp, ModelSpec, Norm


def gemma3(keys: Keys, name: str) -> ModelSpec:
    """Gemma 3 with its SigLIP tower; a norm and one matrix project into the decoder."""
    text = gemma3_text(keys.section("text_config"), name)
    if not keys.has("vision_config"):
        return text
    see = keys.section("vision_config")
    h = see.whole("hidden_size")
    patch, width = see.whole("patch_size"), see.whole("intermediate_size")
    positions = (see.whole("image_size") // patch) ** 2
    patches = see.whole("num_channels", 3) * patch**2 * h + h
    extra = patches + positions * h + 2 * h  # final layer norm of the tower
    if see.flag("vision_use_head", True):  # probe, attention with biases, norm, MLP
        extra += h + 4 * (h * h + h) + 2 * h + 2 * h * width + width + h
    extra += h + h * text.hidden  # projector
    heads = see.whole("num_attention_heads")
    layer = Layer(
        name="",
        stack="vision",
        hidden=h,
        attention=Attention(
            heads=heads,
            kv_heads=heads,
            head_dim=see.divided("hidden_size", "num_attention_heads"),
            causal=False,
            qkv_bias=True,
            output_bias=True,
        ),
        feed_forward=Mlp(width=width, gated=False, bias=True),
        norm=Norm(kind="layer"),
    )
    seeing = [layer] * see.layers()
    return _with_tower(text, seeing, extra, family="gemma3")


def qwen2_5_vl(keys: Keys, name: str) -> ModelSpec:
    """Qwen2.5-VL, in the flat form of its first release and with a ``text_config``."""
    words = keys.section("text_config") if keys.has("text_config") else keys
    tied = keys.flag("tie_word_embeddings", False)
    text = decoder_model(words, name, qwen2_layers(words), tied=tied, family="qwen2_5_vl")
    see = keys.section("vision_config")
    h, patch = see.whole("hidden_size"), see.whole("patch_size|spatial_patch_size", 14)
    frames = see.whole("temporal_patch_size", 2)
    merged = h * see.whole("spatial_merge_size", 2) ** 2
    out = see.whole("out_hidden_size")
    patches = see.whole("in_chans|in_channels", 3) * frames * patch**2 * h
    merger = h + merged * merged + merged + merged * out + out
    full = set(see.wholes("fullatt_block_indexes")) or {7, 15, 23, 31}
    window = (see.whole("window_size", 112) // patch) ** 2
    heads = see.whole("num_heads")
    seeing = [
        Layer(
            name="",
            stack="vision",
            hidden=h,
            attention=Attention(
                heads=heads,
                kv_heads=heads,
                head_dim=see.divided("hidden_size", "num_heads"),
                causal=False,
                window=None if index in full else window,
                qkv_bias=True,
                output_bias=True,
            ),
            feed_forward=Mlp(width=see.whole("intermediate_size"), bias=True),
        )
        for index in range(see.layers("depth"))
    ]
    return _with_tower(text, seeing, patches + merger, family="qwen2_5_vl")


def _with_tower(
    text: ModelSpec, seeing: list[Layer], vision_extra: int, *, family: str
) -> ModelSpec:
    types, runs = gather(seeing)
    chain: tuple[LayerRun, ...] = (*runs, *text.layers)
    return msgspec.structs.replace(
        text,
        family=family,
        layer_types=(*types, *text.layer_types),
        layers=chain,
        vision_extra=vision_extra,
    )
