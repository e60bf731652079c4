"""Names of the modules of transformers' models that hold the tensor groups of a plan."""

from __future__ import annotations

import msgspec

from optalloc.errors import ExportError
from optalloc.model.parameters import vision_parameters
from optalloc.model.spec import Layer, LinearAttention, ModelSpec


class Modules(msgspec.Struct, frozen=True, kw_only=True):
    """Names below ``stem``, and in a layer; ``tables`` lie with the embedding, ``vision`` too.

    ``norms`` are those of a layer, by their number. ``shared`` and ``router`` lie in ``mlp``.
    """

    stem: str = "model"
    embedding: str = "embed_tokens"
    tables: tuple[str, ...] = ()
    vision: tuple[str, ...] = ()
    rotary: str = "rotary_emb"
    layers: str = "layers"
    norm: str = "norm"
    attention: str = "self_attn"
    norms: tuple[tuple[str, ...], ...] = (
        ("input_layernorm",),
        ("input_layernorm", "post_attention_layernorm"),
        (
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
        ),
    )
    router: str = "gate"
    shared: tuple[str, ...] = ("shared_experts",)

    def attention_of(self, layer: Layer) -> str:
        """The module of a layer's attention."""
        return "linear_attn" if isinstance(layer.attention, LinearAttention) else self.attention

    def norms_of(self, layer: Layer) -> tuple[str, ...]:
        """The norms of a layer; none if its number of norms is not known."""
        return next((names for names in self.norms if len(names) == layer.norm.count), ())


_GPT2 = Modules(
    stem="transformer",
    embedding="wte",
    tables=("wpe",),
    rotary="",
    layers="h",
    norm="ln_f",
    attention="attn",
    norms=(("ln_1",), ("ln_1", "ln_2")),
)
_FAMILIES = {
    "gpt2": _GPT2,
    "gptj": msgspec.structs.replace(_GPT2, tables=()),
    "falcon": msgspec.structs.replace(
        _GPT2,
        embedding="word_embeddings",
        tables=(),
        rotary="rotary_emb",
        attention="self_attention",
        norms=(("input_layernorm",), ("ln_attn", "ln_mlp")),
    ),
    "gemma3": Modules(
        stem="model.language_model", vision=("model.vision_tower", "model.multi_modal_projector")
    ),
    "gpt_oss": Modules(router="router"),
    "qwen2_5_vl": Modules(stem="model.language_model", vision=("model.visual",)),
    "qwen3_5_moe": Modules(shared=("shared_expert", "shared_expert_gate")),
}


def modules_of(model: ModelSpec) -> Modules:
    """The names of a model's modules.

    Raises
    ------
    ExportError
        For a vision tower or a feed-forward block whose modules are not known.
    """
    found = _FAMILIES.get(model.family, Modules())
    sees = vision_parameters(model) > 0
    if (sees and not found.vision) or model.family == "llama4":
        raise ExportError(
            "accelerate", f"the modules of {model.family}", fix="plan with --for llama.cpp"
        )
    if found.vision and not sees:  # the language model alone
        return msgspec.structs.replace(found, stem="model", vision=())
    return found
