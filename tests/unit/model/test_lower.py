"""lower.py: the operations of every layer type, their parameters, products and stored values."""

from __future__ import annotations

import pytest

from optalloc.model.graph import Graph, LayerGraph, Op
from optalloc.model.load import bundled_models, load_model
from optalloc.model.lower import lower
from optalloc.model.parameters import active_parameters, total_parameters


def _op(layer: LayerGraph, name: str) -> Op:
    return next(op for op in layer.ops if op.name == name)


def _layer(graph: Graph, name: str) -> LayerGraph:
    return next(layer for layer in graph.layers if layer.name == name)


def _stored(layer: LayerGraph) -> float:
    return sum(op.saved * op.copies for op in layer.ops)


def _kinds(layer: LayerGraph) -> list[str]:
    return [op.kind for op in layer.ops]


@pytest.mark.parametrize("name", bundled_models())
def test_operations_hold_every_parameter(name: str) -> None:
    """Embedding, layers and head sum to the model's total; a tied head counts apart."""
    model = load_model(name)
    graph = lower(model)
    by_name = {layer.name: layer.parameters for layer in graph.layers}
    total = graph.embedding.parameters + graph.head.parameters - graph.tied_parameters
    total += sum(run.count * by_name[run.layer] for run in graph.sequence)
    assert total == total_parameters(model)
    assert all(op.parameters >= 0 for layer in graph.types for op in layer.ops)


@pytest.mark.parametrize("name", bundled_models())
def test_products_use_every_active_matrix(name: str) -> None:
    """Multiply-adds of a token are the active matrix parameters: within 2 % of the active count.

    The difference is norms, biases, position tables, and the token embedding, which is only read.
    """
    model = load_model(name)
    graph = lower(model)

    def products(layer: LayerGraph) -> int:
        matrices = [op for op in layer.ops if op.kind == "gemm" and op.parameters]
        return sum(op.copies * op.k * (op.n + op.n_kv) for op in matrices)

    by_name = {layer.name: products(layer) for layer in graph.layers}
    total = products(graph.head) + sum(run.count * by_name[run.layer] for run in graph.sequence)
    read = model.vocabulary * model.hidden
    expected = active_parameters(model) - read
    if model.tied_embeddings and model.has_head:
        expected += read  # one matrix, read by the embedding and multiplied by the head
    assert total == pytest.approx(expected, rel=0.02)
    assert total <= expected


def test_a_llama_layer() -> None:
    """Llama 3.1 8B: h = 4096, 32 and 8 heads of 128, f = 14336.

    Stored values of a token: 8h/2 + 4g(a+k)/2 + 6f/2 = 16384 + 10240 + 43008.
    """
    graph = lower(load_model("llama-3.1-8b"))
    (layer,) = graph.layers
    assert _kinds(layer) == [
        "elementwise",
        "gemm",
        "attention",
        "gemm",
        "gemm",
        "elementwise",
        "gemm",
    ]
    qkv, up = _op(layer, "qkv"), _op(layer, "mlp_up")
    assert (qkv.k, qkv.n, qkv.n_kv, qkv.kv_heads) == (4096, 4096, 2048, 8)
    assert (up.k, up.n) == (4096, 28672)
    assert _stored(layer) == 16_384 + 10_240 + 43_008
    assert layer.tp_reduces == 2
    assert graph.num_layers == 32


def test_a_gpt_layer_stores_sixteen_values_of_its_width() -> None:
    """32 s b h bytes: GPT-3 175B, h = 12288."""
    (layer,) = lower(load_model("gpt3-175b")).layers
    assert _stored(layer) == 16 * 12_288


def test_a_latent_attention_layer() -> None:
    """DeepSeek-V3: queries 1536 -> 128 x 192, keys and values 512 + 64 -> 128 x (128 + 128).

    The core multiplies 192 wide and sums 128 wide; down projections are not divided by tp.
    """
    graph = lower(load_model("deepseek-v3"))
    layer = _layer(graph, graph.sequence[0].layer)
    sizes = {op.name: (op.k, op.n) for op in layer.ops if op.kind == "gemm"}
    assert sizes["q_down"] == (7168, 1536)
    assert sizes["q_up"] == (1536, 24576)
    assert sizes["kv_down"] == (7168, 576)
    assert sizes["kv_up"] == (512, 32768)
    assert sizes["self_out"] == (16384, 7168)
    core = _op(layer, "self_attention")
    assert (core.heads, core.kv_heads, core.qk_dim, core.v_dim) == (128, 128, 192, 128)
    assert _op(layer, "q_down").shard == _op(layer, "kv_down").shard == "replicated"


def test_an_expert_layer_dispatches_each_token_to_its_experts() -> None:
    """DeepSeek-V3: 8 of 256 experts of 2048, and one shared expert of 2048.

    Stored per token and expert: h dispatched, 3 f.
    """
    graph = lower(load_model("deepseek-v3"))
    layer = _layer(graph, graph.sequence[-1].layer)
    up, act, sent = _op(layer, "experts_up"), _op(layer, "experts_act"), _op(layer, "dispatch")
    assert (up.k, up.n, up.copies, up.experts) == (7168, 4096, 8, 256)
    assert up.parameters == 256 * 7168 * 4096
    assert sent.saved + act.saved == 7168 + 3 * 2048
    assert _op(layer, "shared_up").n == 4096


def test_routed_experts_alone_add_no_sum_over_tensor_parallel_ranks() -> None:
    """Mixtral sums after attention alone; DeepSeek's shared expert is divided and sums too."""
    mixtral = lower(load_model("mixtral-8x7b"))
    assert [layer.tp_reduces for layer in mixtral.layers] == [1]
    deepseek = lower(load_model("deepseek-v3"))
    assert [layer.tp_reduces for layer in deepseek.layers] == [2, 2]


def test_cross_attention_reads_the_source() -> None:
    """BART: a decoder layer sums three times, and its keys and values run over source tokens."""
    graph = lower(load_model("bart-large"))
    assert graph.encoder_decoder
    encoder, decoder = graph.layers
    assert (encoder.stack, decoder.stack) == ("encoder", "decoder")
    assert (encoder.tp_reduces, decoder.tp_reduces) == (2, 3)
    assert _op(decoder, "cross_kv").source
    assert not _op(decoder, "cross_q").source
    core = _op(decoder, "cross_attention")
    assert core.cross
    assert not core.causal
    assert not _op(encoder, "self_attention").causal
    assert _op(decoder, "self_attention").causal


def test_windows_alternate_as_the_model_says() -> None:
    """Gemma 2: half of the layers see 4096 tokens."""
    graph = lower(load_model("gemma-2-9b"))
    windows = {layer.name: _op(layer, "self_attention").window for layer in graph.layers}
    seen = [windows[run.layer] for run in graph.sequence for _ in range(run.count)]
    assert seen == [4096, 0] * 21


def test_an_encoder_alone_has_no_logits() -> None:
    """BERT ends in its pooled output: no vocabulary product where the file names no head."""
    model = load_model("bert-large-uncased")
    names = [op.name for op in lower(model).head.ops]
    assert ("logits" in names) == model.has_head


def test_a_vision_tower_rides_with_the_embedding() -> None:
    """Its parameters count there, its layers are not in the chain."""
    graph = lower(load_model("gemma-3-27b"))
    assert all(layer.stack == "decoder" for layer in graph.layers)
    tables = _op(graph.embedding, "tables")
    assert tables.parameters > 4e8


def test_equal_models_share_a_graph() -> None:
    """Lowering is remembered."""
    model = load_model("llama-3.1-8b")
    assert lower(model) is lower(model)


@pytest.mark.parametrize("name", bundled_models())
def test_every_operation_has_a_class(name: str) -> None:
    """Matrices of attention, of the MLP and of experts are apart; the ends stand alone."""
    graph = lower(load_model(name))
    for layer in graph.layers:
        for op in layer.ops:
            found = layer.op_class(op)
            if op.kind == "gemm":
                words = ("mlp_", "shared_", "experts_", "router")
                assert (found == "projections") == (not op.name.startswith(words))
                assert (found == "mlp") == op.name.startswith("mlp_")
            assert (found == "attention") == (op.kind == "attention")
            assert (found == "norms") == (op.name == "norms")
    for layer, word in ((graph.embedding, "embedding"), (graph.head, "head")):
        assert {layer.op_class(op) for op in layer.ops} == {word}
