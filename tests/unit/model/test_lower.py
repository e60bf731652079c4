"""optalloc.model.lower: the graph holds every parameter and the layer types of the model."""

from __future__ import annotations

import pytest

from optalloc.model.load import bundled_models, load_model
from optalloc.model.lower import lower
from optalloc.model.parameters import total_parameters


@pytest.mark.parametrize("name", bundled_models())
def test_operations_hold_every_parameter_of_the_model_once(name: str) -> None:
    """Embedding + layers + head, less the matrix that is the embedding's, is the total."""
    model = load_model(name)
    graph = lower(model)
    types = {layer.name: layer for layer in graph.layers}
    layers = sum(run.count * types[run.layer].parameters for run in graph.sequence)
    whole = graph.embedding.parameters + layers + graph.head.parameters - graph.tied_parameters
    assert whole == total_parameters(model)
    assert all(op.parameters >= 0 for layer in graph.types for op in layer.ops)


def test_an_encoder_decoder_model_keeps_its_kinds_of_layers_apart() -> None:
    """T5: both stacks, cross-attention in the decoder alone, encoders not causal."""
    graph = lower(load_model("t5-3b"))
    assert graph.encoder_decoder
    assert [(run.layer, run.count) for run in graph.sequence] == [
        ("encoder_first", 1),
        ("encoder", 23),
        ("decoder_first", 1),
        ("decoder", 23),
    ]
    cores = {
        layer.name: [(op.name, op.causal) for op in layer.ops if op.kind == "attention"]
        for layer in graph.layers
    }
    assert cores["encoder"] == [("self_attention", False)]
    assert cores["decoder"] == [("self_attention", True), ("cross_attention", False)]


def test_expert_layers_route_and_dense_layers_do_not() -> None:
    """DeepSeek-V3: 3 dense layers, then 58 with 256 experts, eight a token."""
    graph = lower(load_model("deepseek-v3"))
    dense, sparse = graph.layers
    assert not [op for op in dense.ops if op.shard == "expert"]
    routed = [op for op in sparse.ops if op.shard == "expert" and op.kind == "gemm"]
    assert {(op.experts, op.copies) for op in routed} == {(256, 8)}


def test_a_vision_tower_rides_with_the_embedding() -> None:
    """Gemma 3: 62 text layers; the embedding holds 423,060,336 parameters of the tower."""
    graph = lower(load_model("gemma-3-27b"))
    assert graph.num_layers == 62
    assert graph.embedding.parameters == 1_409_630_208 + 423_060_336
