"""Hugging Face configurations: ``config.json`` read into a ModelSpec by the reader of its family.

Only the file is read: no remote code runs and no deep-learning library is imported. Keys that
describe storage (``quantization_config``), generation or unbuilt multi-token-prediction layers are
ignored.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from optalloc.errors import InputError, UnsupportedModel, nearest
from optalloc.files import parse_json, read_text
from optalloc.model.families.keys import Keys
from optalloc.model.spec import ModelSpec

#: model_type -> module and function that read it
READERS = {
    "bart": "encoders.bart",
    "bert": "encoders.bert",
    "deepseek_v2": "moe.deepseek",
    "deepseek_v3": "moe.deepseek",
    "deepseek_v32": "moe.deepseek_sparse",
    "gemma2": "dense.gemma2",
    "gemma3": "vision.gemma3",
    "gemma3_text": "dense.gemma3_text",
    "glm4_moe": "moe.glm4_moe",
    "glm_moe_dsa": "moe.deepseek_sparse",
    "gpt2": "dense.gpt2",
    "gpt_oss": "moe.gpt_oss",
    "kimi_k2": "moe.deepseek",
    "llama": "dense.llama",
    "minimax_m2": "moe.minimax_m2",
    "mistral": "dense.mistral",
    "mixtral": "moe.mixtral",
    "mt5": "encoders.t5",
    "phi3": "dense.phi3",
    "qwen2": "dense.qwen2",
    "qwen2_5_vl": "vision.qwen2_5_vl",
    "qwen2_moe": "moe.qwen2_moe",
    "qwen3": "dense.qwen3",
    "qwen3_moe": "moe.qwen3_moe",
    "t5": "encoders.t5",
}


def read_config(path: str | os.PathLike[str]) -> ModelSpec:
    """The model of a ``config.json``, named after its folder.

    Raises
    ------
    InputError
        Broken JSON (with its line), a missing key or a wrong value (with its pointer).
    UnsupportedModel
        An architecture without a reader.
    """
    file = Path(path)
    data = parse_json(read_text(file), path=str(path))
    if not isinstance(data, dict):
        raise InputError(
            "the file holds no JSON object",
            path=str(path),
            pointer="$",
            fix="give the config.json of a model",
        )
    name = file.resolve().parent.name if file.name == "config.json" else file.stem
    return from_config(data, name=name, path=str(path))


def from_config(data: Mapping[str, object], *, name: str, path: str = "config.json") -> ModelSpec:
    """The model of an already parsed configuration; ``path`` is named in errors."""
    keys = Keys(data, path=path)
    family = keys.word("model_type")
    if family not in READERS:
        near = nearest(family, READERS)
        known = ", ".join(READERS)
        raise UnsupportedModel(
            f"the model_type {family!r} is not supported",
            path=path,
            pointer="$.model_type",
            fix=f"the nearest supported ones are {', '.join(near)}" if near else f"use {known}",
        )
    module, function = READERS[family].split(".")
    reader: Callable[[Keys, str], ModelSpec] = getattr(
        importlib.import_module(f"optalloc.model.families.{module}"), function
    )
    return reader(keys, name)
