"""optalloc.model.parameters: counts worked out by hand."""

from __future__ import annotations

import pytest

from optalloc.model.load import load_model
from optalloc.model.parameters import (
    embedding_parameters,
    head_parameters,
    layer_parameters,
    total_parameters,
)
from optalloc.model.spec import (
    Attention,
    Experts,
    LatentAttention,
    Layer,
    LayerRun,
    LinearAttention,
    Mlp,
    ModelSpec,
    Norm,
)


def test_a_llama_8b_layer_has_218_112_000_parameters() -> None:
    """Query and output 2 x 4096 x 4096 = 33,554,432; key and value 2 x 4096 x 1024 = 8,388,608;
    MLP 3 x 4096 x 14336 = 176,160,768; norms 8,192."""
    layer = Layer(
        name="decoder",
        stack="decoder",
        hidden=4096,
        attention=Attention(heads=32, kv_heads=8, head_dim=128),
        feed_forward=Mlp(width=14336),
    )
    sizes = layer_parameters(layer)
    assert sizes.attention == 41_943_040
    assert sizes.feed_forward == 176_160_768
    assert sizes.norms == 8_192
    assert sizes.total == sizes.active == 218_112_000


def test_a_bert_layer_counts_every_bias() -> None:
    """4 x (1024 x 1024 + 1024) + 2 x 1024 x 4096 + 4096 + 1024 + 2 x 2048 = 12,596,224."""
    layer = Layer(
        name="encoder",
        stack="encoder",
        hidden=1024,
        attention=Attention(
            heads=16, kv_heads=16, head_dim=64, causal=False, qkv_bias=True, output_bias=True
        ),
        feed_forward=Mlp(width=4096, gated=False, bias=True),
        norm=Norm(kind="layer"),
    )
    assert layer_parameters(layer).total == 12_596_224


def test_norms_of_queries_and_keys_and_sinks_are_counted() -> None:
    """4 heads and 2 key-value heads of 8 on a width of 16: 16 x (32 + 32) + 32 x 16 = 1,536;
    per head 16 more, over the width 48 more, sinks 4 more, biases 64 and 16 more."""

    def count(attention: Attention) -> int:
        layer = Layer(
            name="decoder",
            stack="decoder",
            hidden=16,
            attention=attention,
            feed_forward=Mlp(width=1),
        )
        return layer_parameters(layer).attention

    assert count(Attention(heads=4, kv_heads=2, head_dim=8)) == 1_536
    assert count(Attention(heads=4, kv_heads=2, head_dim=8, qk_norm="head")) == 1_552
    assert count(Attention(heads=4, kv_heads=2, head_dim=8, qk_norm="width")) == 1_584
    assert count(Attention(heads=4, kv_heads=2, head_dim=8, sinks=True)) == 1_540
    assert count(Attention(heads=4, kv_heads=2, head_dim=8, qkv_bias=True)) == 1_600
    assert count(Attention(heads=4, kv_heads=2, head_dim=8, output_bias=True)) == 1_552


def test_a_deepseek_v3_layer_matches_the_hand_count() -> None:
    """Query 1536 x (7168 + 1 + 24576) = 48,760,320; key and value 7168 x 576 + 512 + 512 x 32768 =
    20,906,496; output 16384 x 7168 = 117,440,512: 187,107,328 in all. Router 256 x 7168 =
    1,835,008; an expert 3 x 7168 x 2048 = 44,040,192, eight of 256 active, one shared."""
    layer = Layer(
        name="decoder_moe",
        stack="decoder",
        hidden=7168,
        attention=LatentAttention(
            heads=128,
            q_lora_rank=1536,
            kv_lora_rank=512,
            nope_head_dim=128,
            rope_head_dim=64,
            value_head_dim=128,
        ),
        feed_forward=Experts(num_experts=256, top_k=8, width=2048, shared_width=2048),
    )
    sizes = layer_parameters(layer)
    assert sizes.attention == 187_107_328
    assert sizes.router == 1_835_008
    assert sizes.shared == 44_040_192
    assert sizes.routed == 256 * 44_040_192
    assert sizes.routed_active == 8 * 44_040_192
    assert sizes.total == 187_107_328 + 1_835_008 + 257 * 44_040_192 + 14_336
    assert sizes.active == 187_107_328 + 1_835_008 + 9 * 44_040_192 + 14_336


def test_a_gpt_oss_expert_layer_counts_biases_of_experts_and_router() -> None:
    """An expert 3 x 2880 x 2880 + 2 x 2880 + 2880 = 24,891,840; router 32 x 2881 = 92,192."""
    layer = Layer(
        name="decoder_moe",
        stack="decoder",
        hidden=2880,
        attention=Attention(heads=64, kv_heads=8, head_dim=64),
        feed_forward=Experts(num_experts=32, top_k=4, width=2880, bias=True, router_bias=True),
    )
    sizes = layer_parameters(layer)
    assert sizes.router == 92_192
    assert sizes.routed == 32 * 24_891_840


def test_a_t5_decoder_layer_holds_cross_attention_and_the_position_table() -> None:
    """T5-3B: self and cross attention 4 x 1024 x 4096 each; the first layer's table 32 x 32."""
    attention = Attention(heads=32, kv_heads=32, head_dim=128, extra_parameters=1024)
    layer = Layer(
        name="decoder_first",
        stack="decoder",
        hidden=1024,
        attention=attention,
        cross_attention=Attention(heads=32, kv_heads=32, head_dim=128, causal=False),
        feed_forward=Mlp(width=16384, gated=False),
        norm=Norm(count=3),
    )
    sizes = layer_parameters(layer)
    assert sizes.attention == 16_777_216 + 1_024
    assert sizes.cross_attention == 16_777_216
    assert sizes.total == 67_111_936 + 1_024


def test_a_tied_matrix_is_counted_once_and_a_missing_head_not_at_all() -> None:
    """A vocabulary of 10 on a width of 4, three layers of 32 + 24 + 8 parameters, a norm of 4."""
    layer = Layer(
        name="decoder",
        stack="decoder",
        hidden=4,
        attention=Attention(heads=1, kv_heads=1, head_dim=2),  # 4 x 4 x 2 = 32
        feed_forward=Mlp(width=2, bias=False),  # 3 x 4 x 2 = 24
    )

    def model(*, tied: bool, has_head: bool) -> ModelSpec:
        return ModelSpec(
            name="tiny",
            family="llama",
            hidden=4,
            vocabulary=10,
            layer_types=(layer,),
            layers=(LayerRun("decoder", 3),),
            tied_embeddings=tied,
            has_head=has_head,
            final_norm=4,
        )

    own = model(tied=False, has_head=True)
    assert embedding_parameters(own) == 40
    assert head_parameters(own) == 44
    assert total_parameters(own) == 40 + 3 * 64 + 44
    assert total_parameters(model(tied=True, has_head=True)) == 40 + 3 * 64 + 4
    assert total_parameters(model(tied=False, has_head=False)) == 40 + 3 * 64 + 4


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("gpt-j-6b", 6_050_882_784),
        ("tiiuae/falcon-180B", 179_522_565_120),
        ("mistralai/Mistral-7B-v0.1", 7_241_732_096),
    ],
)
def test_bundled_models_hold_what_their_vendors_count(name: str, total: int) -> None:
    """Totals of the published checkpoints."""
    assert total_parameters(load_model(name)) == total


def test_a_linear_attention_layer_matches_the_hand_count() -> None:
    """Qwen3.5-397B, h = 4096: 16 key and 64 value heads of 128.

    In: queries and keys 2 * 2048, values and gate 2 * 8192, decay and step 2 * 64 columns; a
    convolution of 4 over 2 * 2048 + 8192 channels; 2 * 64 biases; a norm of 128; out 8192 * h.
    """
    model = load_model("qwen3.5-397b-a17b")
    linear = next(t for t in model.layer_types if isinstance(t.attention, LinearAttention))
    hand = 4096 * (4096 + 16384 + 128) + 4 * 12288 + 128 + 128 + 8192 * 4096
    assert layer_parameters(linear).attention == hand
    gated = next(t for t in model.layer_types if isinstance(t.attention, Attention))
    assert layer_parameters(gated).attention == 4096 * 256 * (32 * 3 + 2 * 2) + 2 * 256
