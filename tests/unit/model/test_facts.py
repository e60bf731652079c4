"""optalloc.model.facts: FLOPs, caches and activations worked out by hand."""

from __future__ import annotations

import pytest

from optalloc.model.facts import (
    activation_bytes_per_token,
    attended_positions,
    cross_kv_cache_bytes_per_source_token,
    facts,
    forward_flops,
    kv_cache_bytes,
    kv_cache_bytes_per_token,
    weight_bytes,
)
from optalloc.model.graph import LayerGraph, Op
from optalloc.model.load import load_model
from optalloc.model.lower import lower
from optalloc.model.spec import Layer


def graph_of(model: str, layer: str) -> LayerGraph:
    """One layer of a bundled model's graph."""
    return next(found for found in lower(load_model(model)).layers if found.name == layer)


def layer_of(model: str, layer: str) -> Layer:
    """One layer type of a bundled model."""
    return next(found for found in load_model(model).layer_types if found.name == layer)


def test_a_llama_8b_layer_takes_469_770_240_flops_a_token_at_4096() -> None:
    """Matrices 2 x (41,943,040 + 176,160,768) = 436,207,616; attention: 2048.5 positions on
    average, 2 x 32 heads x (128 + 128) x 2048.5 = 33,562,624."""
    flops = forward_flops(graph_of("llama-3.1-8b", "decoder"), 4096)
    assert flops == 4096 * (436_207_616 + 33_562_624)


def test_a_deepseek_v3_expert_layer_takes_1_338_417_152_flops_a_token_at_4096() -> None:
    """Attention matrices 187,105,280; router 1,835,008; eight routed and one shared expert
    9 x 44,040,192 = 396,361,728: 2 x 585,302,016 = 1,170,604,032. Core: 128 heads, 192 + 128
    wide, 2 x 128 x 320 x 2048.5 = 167,813,120."""
    flops = forward_flops(graph_of("deepseek-v3", "decoder_moe"), 4096)
    assert flops == 4096 * (1_170_604_032 + 167_813_120)


def test_a_t5_3b_decoder_layer_reads_the_encoder() -> None:
    """512 target and 256 source tokens. A target token: self q, k, v, o 16,777,216, cross q, o
    8,388,608, MLP 33,554,432, doubled: 117,440,512. A source token: cross k, v 2 x 8,388,608 =
    16,777,216. Cores: 2 x 32 x 256 = 16,384 a pair, 512 x 513 / 2 = 131,328 pairs with itself and
    512 x 256 = 131,072 with the source."""
    flops = forward_flops(graph_of("t5-3b", "decoder"), 512, source_length=256)
    assert flops == 512 * 117_440_512 + 256 * 16_777_216 + 16_384 * (131_328 + 131_072)


@pytest.mark.parametrize(
    ("causal", "window", "pairs"),
    [(True, 0, 10), (False, 0, 16), (True, 2, 7), (False, 2, 8), (True, 4, 10), (True, 9, 10)],
)
def test_pairs_of_four_tokens_are_counted(causal: bool, window: int, pairs: int) -> None:
    """Causal 1+2+3+4; all 4 x 4; causal within two 1+2+2+2; a window of four or more is none."""
    op = Op(name="core", kind="attention", shard="tensor", causal=causal, window=window)
    assert attended_positions(op, 4, 4) == pairs


def test_the_cache_of_llama_8b_is_128_kib_a_token() -> None:
    """Keys and values of 8 heads of 128 in 16 bits: 4,096 bytes a layer, 32 layers."""
    assert kv_cache_bytes_per_token(layer_of("llama-3.1-8b", "decoder")) == 4_096
    assert kv_cache_bytes(load_model("llama-3.1-8b"), 1) == 131_072
    assert kv_cache_bytes(load_model("llama-3.1-8b"), 8192, value_bytes=1) == 8192 * 65_536


def test_the_latent_cache_of_deepseek_v3_is_70_272_bytes_a_token() -> None:
    """512 + 64 values in 16 bits, 61 layers."""
    assert kv_cache_bytes_per_token(layer_of("deepseek-v3", "decoder_moe")) == 1_152
    assert kv_cache_bytes(load_model("deepseek-v3"), 1) == 70_272


def test_the_cache_of_a_windowed_layer_stops_at_its_window() -> None:
    """gpt-oss-20b at 1,000 tokens: 12 layers of 128 tokens and 12 of 1,000, 2,048 bytes each."""
    assert kv_cache_bytes(load_model("gpt-oss-20b"), 1000) == 12 * 2_048 * (128 + 1000)


def test_t5_caches_source_tokens_apart_and_encoders_none() -> None:
    """32 heads of 128, keys and values in 16 bits: 16,384 bytes in each of 24 decoder layers."""
    assert kv_cache_bytes_per_token(layer_of("t5-3b", "encoder")) == 0
    assert kv_cache_bytes_per_token(layer_of("t5-3b", "decoder")) == 16_384
    assert cross_kv_cache_bytes_per_source_token(layer_of("t5-3b", "decoder")) == 16_384
    assert kv_cache_bytes(load_model("t5-3b"), 10, source_tokens=7) == 24 * 16_384 * 17


def test_a_bert_has_no_cache() -> None:
    """An encoder generates nothing."""
    assert facts(load_model("bert-large-uncased")).kv_cache_bytes_per_token == 0


def test_a_llama_8b_layer_keeps_139_392_bytes_a_token() -> None:
    """Two norms, input and output: 4 x 4096; queries, output 2 x 4096, keys, values 2 x 1024; gate,
    up and product 3 x 14336: 69,632 values of 2 bytes, and 4 bytes for each of 32 heads."""
    assert activation_bytes_per_token(graph_of("llama-3.1-8b", "decoder")) == 139_392


def test_a_gpt3_layer_keeps_32_bytes_a_value_of_its_width() -> None:
    """Korthikanti et al. 2022, section 4.1: 34 s b h, less two bytes of dropout masks that a
    network trained without dropout has not, plus 4 bytes of log-sum-exp for each of 96 heads."""
    layer = graph_of("gpt3-175b", "decoder")
    assert activation_bytes_per_token(layer) == 32 * 12_288 + 4 * 96


def test_bytes_by_type_are_those_of_all_parameters() -> None:
    """gpt2: 124,439,808 parameters."""
    assert weight_bytes(load_model("gpt2")) == {
        "fp32": 497_759_232,
        "bf16": 248_879_616,
        "fp8": 124_439_808,
        "fp4": 62_219_904,
    }


def test_rows_and_vision_parameters_add_up_to_the_model() -> None:
    """Gemma 3: rows times counts, and what of the tower is no layer."""
    known = facts(load_model("gemma-3-27b"))
    rows = sum(row.count * row.parameters for row in known.layer_types)
    assert rows + 11_593_728 == known.total_parameters == 27_432_406_640
    assert known.num_layers == 62
    vision = known.layer_types[1]
    assert (vision.name, vision.forward_flops_per_token) == ("vision", None)


def test_flops_are_averaged_over_no_more_positions_than_there_are() -> None:
    """gpt2 has 1,024."""
    assert facts(load_model("gpt2")).sequence_length == 1024
    assert facts(load_model("llama-3.1-8b")).sequence_length == 4096
