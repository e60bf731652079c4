"""Models with an encoder: BERT (encoder alone), BART and T5 (encoder and decoder)."""

from __future__ import annotations

from optalloc.model.families.chain import gather
from optalloc.model.families.keys import Keys
from optalloc.model.spec import Attention, Layer, Mlp, ModelSpec, Norm, Stack

# BART's position tables keep two rows before the first position.
_BART_OFFSET = 2


def bert(keys: Keys, name: str) -> ModelSpec:
    """BERT with the heads ``architectures`` names: masked LM (the default), pre-training, none."""
    h, vocabulary = keys.whole("hidden_size"), keys.whole("vocab_size")
    heads = keys.whole("num_attention_heads")
    positions = keys.whole("max_position_embeddings", 512)
    layer = Layer(
        name="",
        stack="encoder",
        hidden=h,
        attention=_biased(heads, keys.divided("hidden_size", "num_attention_heads")),
        feed_forward=Mlp(width=keys.whole("intermediate_size"), gated=False, bias=True),
        norm=Norm(kind="layer"),
    )
    types, runs = gather([layer] * keys.layers())
    kinds = keys.words("architectures") or ["BertForMaskedLM"]
    pooler = h * h + h
    masked = h * h + h + 2 * h + vocabulary  # transform, its norm, bias of the matrix
    extra = masked
    if "BertModel" in kinds:
        extra = pooler
    elif "BertForPreTraining" in kinds:
        extra = masked + pooler + 2 * h + 2  # next-sentence classifier
    return ModelSpec(
        name=name,
        family="bert",
        hidden=h,
        vocabulary=vocabulary,
        layer_types=types,
        layers=runs,
        tied_embeddings=keys.flag("tie_word_embeddings", True),
        has_head="BertModel" not in kinds,
        embedding_extra=(positions + keys.whole("type_vocab_size", 2) + 2) * h,
        head_extra=extra,
        max_positions=positions,
    )


def bart(keys: Keys, name: str) -> ModelSpec:
    """BART: learned positions and a norm of the embedding in each stack, tied head."""
    h = keys.whole("d_model")
    positions = keys.whole("max_position_embeddings", 1024)

    def layers(stack: Stack) -> list[Layer]:
        heads = keys.whole(f"{stack}_attention_heads")
        if h % heads:
            raise keys.error(
                f"{stack}_attention_heads",
                f"'d_model' {h} is no multiple of {heads} heads",
                "correct one of them",
            )
        decodes = stack == "decoder"
        layer = Layer(
            name="",
            stack=stack,
            hidden=h,
            attention=_biased(heads, h // heads, causal=decodes),
            cross_attention=_biased(heads, h // heads) if decodes else None,
            feed_forward=Mlp(width=keys.whole(f"{stack}_ffn_dim"), gated=False, bias=True),
            norm=Norm(kind="layer", count=3 if decodes else 2),
        )
        return [layer] * keys.layers(f"{stack}_layers")

    types, runs = gather(layers("encoder") + layers("decoder"))
    return ModelSpec(
        name=name,
        family="bart",
        hidden=h,
        vocabulary=keys.whole("vocab_size"),
        layer_types=types,
        layers=runs,
        tied_embeddings=keys.flag("tie_word_embeddings", True),
        embedding_extra=2 * (positions + _BART_OFFSET) * h + 2 * 2 * h,
        max_positions=positions,
    )


def t5(keys: Keys, name: str) -> ModelSpec:
    """T5, T5 v1.1, Flan-T5 and mT5: relative positions owned by each stack's first layer."""
    h, heads, size = keys.whole("d_model"), keys.whole("num_heads"), keys.whole("d_kv")
    table = keys.whole("relative_attention_num_buckets", 32) * heads
    gated = keys.word("feed_forward_proj", "relu").startswith("gated-")
    mlp = Mlp(width=keys.whole("d_ff"), gated=gated)

    def layer(stack: Stack, extra: int) -> Layer:
        decodes = stack == "decoder"
        cross = Attention(heads=heads, kv_heads=heads, head_dim=size, causal=False)
        return Layer(
            name="",
            stack=stack,
            hidden=h,
            attention=Attention(
                heads=heads,
                kv_heads=heads,
                head_dim=size,
                causal=decodes,
                extra_parameters=extra,
            ),
            cross_attention=cross if decodes else None,
            feed_forward=mlp,
            norm=Norm(count=3 if decodes else 2),
        )

    num_encoder = keys.layers("num_layers")
    num_decoder = keys.layers("num_decoder_layers", num_encoder)
    chain = [layer("encoder", 0 if index else table) for index in range(num_encoder)]
    chain += [layer("decoder", 0 if index else table) for index in range(num_decoder)]
    types, runs = gather(chain)
    return ModelSpec(
        name=name,
        family=keys.word("model_type"),
        hidden=h,
        vocabulary=keys.whole("vocab_size"),
        layer_types=types,
        layers=runs,
        tied_embeddings=keys.flag("tie_word_embeddings", keys.word("model_type") == "t5"),
        encoder_final_norm=h,
        final_norm=h,
    )


def _biased(heads: int, head_dim: int, *, causal: bool = False) -> Attention:
    return Attention(
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        causal=causal,
        qkv_bias=True,
        output_bias=True,
    )
