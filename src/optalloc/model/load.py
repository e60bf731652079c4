"""Load a model by bundled name, from a ``config.json`` or its folder, or from our own compact file.

The compact file (TOML, format ``optalloc.model/1``) says what a ModelSpec says with little writing:
a table for each layer type, whose name begins with its stack, and the chain as text, for example
``"27 vision, 10 (5 decoder_window, 1 decoder), 2 decoder_window"``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal, get_args

import msgspec

from optalloc.errors import InputError, nearest
from optalloc.files import read_toml
from optalloc.model.huggingface import read_config
from optalloc.model.spec import (
    Attention,
    Count,
    Experts,
    Extra,
    LatentAttention,
    Layer,
    LayerRun,
    LinearAttention,
    Mlp,
    ModelSpec,
    Norm,
    Stack,
)

_FOLDER = Path(__file__).parent / "configs"

# Other names of bundled models, beside spelling variants: same shape under another name.
_ALIASES = {
    "bert-large": "bert-large-uncased",
    "deepseek": "deepseek-v3",
    "deepseek-r1": "deepseek-v3",
    "deepseek-v3-0324": "deepseek-v3",
    "deepseek-v3.1": "deepseek-v3",
    "gpt-3": "gpt3-175b",
    "kimi-k2.5": "kimi-k2",
    "llama-4-maverick-17b-128e": "llama-4-maverick",
    "llama-4-scout-17b-16e": "llama-4-scout",
    "gpt2-small": "gpt2",
    "qwen3-coder": "qwen3-coder-480b-a35b",
    "qwen3-coder-480b": "qwen3-coder-480b-a35b",
    "qwen3-235b": "qwen3-235b-a22b",
    "qwen3-30b": "qwen3-30b-a3b",
}

# Endings that name a fine-tuned or converted release of the same shape.
_VARIANT = re.compile(
    r"(-(instruct|chat|it|pt|base|hf|bf16|fp8|nvfp4|fp4|v0\.\d|\d{4}|instruct-\d{4}|thinking-\d{4}))+$"
)


class _Type(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One layer type of a compact file."""

    hidden: Count | None = None
    attention: Attention | None = None
    latent_attention: LatentAttention | None = None
    linear_attention: LinearAttention | None = None
    cross_attention: Attention | None = None
    mlp: Mlp | None = None
    experts: Experts | None = None
    norm: Norm = Norm()


class ModelFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A compact file; the fields not named here are those of ModelSpec."""

    format: Literal["optalloc.model/1"]
    source: str
    date: str
    family: str
    hidden: Count
    vocabulary: Count
    layers: str
    types: dict[str, _Type]
    tied_embeddings: bool = False
    has_head: bool = True
    embedding_extra: Extra = 0
    encoder_final_norm: Extra = 0
    final_norm: Extra = 0
    head_extra: Extra = 0
    vision_extra: Extra = 0
    max_positions: Count | None = None


def bundled_models() -> tuple[str, ...]:
    """Names of the models that ship with the package, sorted."""
    return tuple(sorted(file.stem for file in _FOLDER.glob("*.toml")))


def load_model(source: str | os.PathLike[str]) -> ModelSpec:
    """The model of a name or a path.

    Parameters
    ----------
    source : str or path
        A bundled name in any spelling (``llama-3.1-70b``, ``meta-llama/Llama-3.1-70B-Instruct``), a
        ``config.json``, a folder that holds one, or a compact ``.toml`` file. A bundled name wins
        over a folder of the same name; write ``./name`` for the folder.

    Raises
    ------
    InputError
        Nothing of that name, or a file with a mistake.
    UnsupportedModel
        A ``config.json`` of an architecture without a reader.

    Examples
    --------
    >>> load_model("Llama-3.1-8B-Instruct").name
    'llama-3.1-8b'
    """
    text = os.fspath(source)
    path = Path(text)
    bundled = None if text.startswith((".", os.sep)) else _bundled(text)
    if bundled is not None and not (os.sep in text and os.path.exists(text)):
        return _read_compact(bundled)
    if os.path.isdir(text):  # unlike Path's, False for a name too long for a file
        file = path / "config.json"
        if not file.is_file():
            raise InputError(
                "the folder holds no config.json",
                path=text,
                fix="give the folder of a model, or its config.json",
            )
        return read_config(file)
    if path.suffix == ".toml":
        return _read_compact(path)
    if os.path.isfile(text) or path.suffix == ".json":
        return read_config(path)
    word, known = text.rsplit("/", 1)[-1], bundled_models()
    near = nearest(word, known) or [name for name in known if word and name.startswith(word)]
    hint = f"did you mean {' or '.join(repr(name) for name in near)}? " if near else ""
    raise InputError(
        f"no model of the name {text!r} is bundled and no file or folder of that name exists",
        path="model",
        fix=f"{hint}'optalloc inspect models' lists all; or give the path of a config.json",
    )


def _bundled(text: str) -> Path | None:
    """The compact file a name means, ignoring vendor, case, separators and variant endings."""
    word = text.lower().rsplit("/", 1)[-1].replace("_", "-").replace(":", "-")
    bare = _VARIANT.sub("", word)
    files = {_squeezed(name): name for name in bundled_models()}
    files |= {_squeezed(alias): name for alias, name in _ALIASES.items()}
    for candidate in (word, bare, bare.removeprefix("meta-")):
        if (name := files.get(_squeezed(candidate))) is not None:
            return _FOLDER / f"{name}.toml"
    return None


def _squeezed(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name)


def _read_compact(path: Path) -> ModelSpec:
    file = read_toml(path, ModelFile)
    return ModelSpec(
        name=path.stem,
        family=file.family,
        hidden=file.hidden,
        vocabulary=file.vocabulary,
        layer_types=tuple(_layer(path, file, name) for name in file.types),
        layers=_chain(path, file),
        tied_embeddings=file.tied_embeddings,
        has_head=file.has_head,
        embedding_extra=file.embedding_extra,
        encoder_final_norm=file.encoder_final_norm,
        final_norm=file.final_norm,
        head_extra=file.head_extra,
        vision_extra=file.vision_extra,
        max_positions=file.max_positions,
        source=file.source,
        date=file.date,
    )


def _layer(path: Path, file: ModelFile, name: str) -> Layer:
    pointer = f"$.types.{name}"
    part = file.types[name]
    stacks: dict[str, Stack] = {stack: stack for stack in get_args(Stack)}
    if (stack := stacks.get(name.split("_")[0])) is None:
        raise InputError(
            f"the layer type {name!r} does not begin with its stack",
            path=str(path),
            pointer=pointer,
            fix=f"begin it with one of {', '.join(stacks)}",
        )
    kinds = (part.attention, part.latent_attention, part.linear_attention)
    given = [kind for kind in kinds if kind is not None]
    feeds = part.mlp or part.experts
    if len(given) != 1 or feeds is None or (part.mlp and part.experts):
        raise InputError(
            f"the layer type {name!r} needs one kind of attention and one feed-forward",
            path=str(path),
            pointer=pointer,
            fix="give attention, latent_attention or linear_attention, and mlp or experts",
        )
    for key, attend in (("attention", part.attention), ("cross_attention", part.cross_attention)):
        if attend is not None and attend.heads % attend.kv_heads:
            raise InputError(
                f"{attend.heads} heads are no multiple of {attend.kv_heads} kv_heads",
                path=str(path),
                pointer=f"{pointer}.{key}",
                fix="correct one of the two",
            )
    if part.experts is not None and part.experts.top_k > part.experts.num_experts:
        raise InputError(
            f"{part.experts.top_k} experts a token are chosen of {part.experts.num_experts}",
            path=str(path),
            pointer=f"{pointer}.experts",
            fix="choose at most as many as there are",
        )
    return Layer(
        name=name,
        stack=stack,
        hidden=part.hidden or file.hidden,
        attention=given[0],
        cross_attention=part.cross_attention,
        feed_forward=feeds,
        norm=part.norm,
    )


def _chain(path: Path, file: ModelFile) -> tuple[LayerRun, ...]:
    """Runs of ``"3 decoder, 29 (1 a, 1 b)"``; brackets repeat and do not nest."""
    runs: list[LayerRun] = []
    item = r"\s*(\d+)\s+(\w+)\s*"
    group = rf"\s*(\d+)\s*\(({item}(?:,{item})*)\)\s*"
    rest = file.layers
    while rest:
        found: list[LayerRun] = []
        if match := re.match(rf"{group}(,|$)", rest):
            found = _items(match[2]) * int(match[1])
        elif match := re.match(rf"{item}(,|$)", rest):
            found = _items(match[0].rstrip(","))
        if match is None or any(run.layer not in file.types for run in found):
            raise InputError(
                f"the chain of layers is not understood at {rest!r}",
                path=str(path),
                pointer="$.layers",
                fix=f"write counts and types ({', '.join(file.types)}), as in '2 (1 a, 1 b), 3 a'",
            )
        runs += found
        rest = rest[match.end() :]
    if not any(run.count for run in runs):
        raise InputError(
            "the model has no layer", path=str(path), pointer="$.layers", fix="write '12 decoder'"
        )
    return tuple(runs)


def _items(text: str) -> list[LayerRun]:
    words = [part.split() for part in text.split(",")]
    return [LayerRun(name, int(count)) for count, name in words]
