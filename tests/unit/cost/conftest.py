"""Small models and a plain network whose costs can be worked out by hand."""

from __future__ import annotations

import pytest

from optalloc.model.spec import Attention, Experts, Layer, LayerRun, Mlp, ModelSpec, Norm


def _model(name: str, layer: Layer, *, count: int = 2, tied: bool = False) -> ModelSpec:
    return ModelSpec(
        name=name,
        family="toy",
        hidden=layer.hidden,
        vocabulary=32000,
        layer_types=(layer,),
        layers=(LayerRun(layer.name, count),),
        tied_embeddings=tied,
        final_norm=layer.hidden,
    )


GROUPED = Attention(heads=8, kv_heads=2, head_dim=128)


@pytest.fixture(scope="session")
def llama() -> ModelSpec:
    """Two layers, h = 1024, 8 query and 2 key heads of 128, gated MLP of 4096, V = 32000."""
    mlp = Mlp(width=4096)
    return _model(
        "llama",
        Layer(name="layer", stack="decoder", hidden=1024, attention=GROUPED, feed_forward=mlp),
    )


@pytest.fixture(scope="session")
def gpt() -> ModelSpec:
    """Two GPT layers, h = 1024, 8 heads of 128, MLP of 4096, tied embedding and head."""
    return _model(
        "gpt",
        Layer(
            name="layer",
            stack="decoder",
            hidden=1024,
            attention=Attention(heads=8, kv_heads=8, head_dim=128),
            feed_forward=Mlp(width=4096, gated=False),
            norm=Norm(kind="layer"),
        ),
        tied=True,
    )


@pytest.fixture(scope="session")
def moe() -> ModelSpec:
    """As llama, with 8 experts of 1024, two of them a token, no shared one."""
    experts = Experts(num_experts=8, top_k=2, width=1024)
    return _model(
        "moe",
        Layer(name="layer", stack="decoder", hidden=1024, attention=GROUPED, feed_forward=experts),
    )


@pytest.fixture(scope="session")
def translator() -> ModelSpec:
    """Two encoder and three decoder layers with cross-attention."""
    both = Attention(heads=8, kv_heads=8, head_dim=128, causal=False)
    mlp = Mlp(width=4096, gated=False)
    encoder = Layer(name="encoder", stack="encoder", hidden=1024, attention=both, feed_forward=mlp)
    decoder = Layer(
        name="decoder",
        stack="decoder",
        hidden=1024,
        attention=Attention(heads=8, kv_heads=8, head_dim=128),
        cross_attention=both,
        feed_forward=mlp,
        norm=Norm(count=3),
    )
    return ModelSpec(
        name="translator",
        family="toy",
        hidden=1024,
        vocabulary=32000,
        layer_types=(encoder, decoder),
        layers=(LayerRun("encoder", 2), LayerRun("decoder", 3)),
    )
