"""Names in tables of served loads: models, types of weights and software, or their nearest kin.

A model that is not bundled is taken as a bundled one: the one whose parameters are nearest in
number to those that the name states (``13B``, ``30B-A3B``), of the same series where that has one
within a factor of four; without a number, the most similar name of the series.
"""

from __future__ import annotations

import difflib
import math
import re
from functools import lru_cache

from optalloc.cost.engine.cells import Cells
from optalloc.cost.engine.setup import Software, WeightDtype
from optalloc.errors import InputError
from optalloc.model.load import bundled_models, load_model
from optalloc.model.parameters import active_parameters, total_parameters
from optalloc.model.spec import ModelSpec


def model_of(cells: Cells) -> ModelSpec:
    """The model of a line.

    Raises
    ------
    InputError
        If the name is unknown and tells neither a series nor a number of parameters.
    """
    text = cells.text("model")
    found, is_kin = _model(text)
    if found is None:
        raise InputError(
            f"no model of the name {text[:40]!r} is known",
            path=cells.text("id") or "a row",
            pointer="model",
            fix="give a name of 'optalloc inspect models', or the path of a config.json",
        )
    if is_kin:
        cells.remarks.append(f"model {text[:40]!r} taken as {found.name}")
    return found


@lru_cache(maxsize=256)
def _model(text: str) -> tuple[ModelSpec | None, bool]:
    """The model of a name, and whether it is only akin."""
    try:
        return load_model(text), False
    except InputError:
        name = _kin(text.lower().rsplit("/", 1)[-1].replace("_", "-").removeprefix("meta-"))
        return (load_model(name) if name else None), True


def _kin(word: str) -> str:
    """The bundled decoder that is nearest to a name; empty if nothing is known of it."""
    series = [name for name in _sizes() if _letters(name) and _letters(name) == _letters(word)]
    if not (asked := _stated(word)):
        return next(iter(difflib.get_close_matches(word, series, n=1, cutoff=0.0)), "")

    def apart(name: str) -> float:
        return sum(abs(math.log(a / b)) for a, b in zip(asked, _sizes()[name], strict=True))

    close = [name for name in series if apart(name) < 2.0 * math.log(4.0)]
    return min(close or _sizes(), key=apart)


def _letters(word: str) -> str:
    found = re.match(r"[a-z]+", word)
    return found[0] if found else ""


def _stated(word: str) -> tuple[float, float] | None:
    """Parameters in all and of a token that a name states (``8x7b``, ``30b-a3b``)."""
    total = re.search(r"(?:(\d+)x)?(?<![\d.a])(\d+(?:\.\d+)?)b(?![a-z])", word)
    active = re.search(r"a(\d+(?:\.\d+)?)b(?![a-z])", word)
    if total is None or not float(total[2]):
        return None
    count = int(total[1] or 1) * float(total[2]) * 1e9
    used = float(active[1]) * 1e9 if active else 2.0 * float(total[2]) * 1e9
    return count, min(count, used or count)


@lru_cache(maxsize=1)
def _sizes() -> dict[str, tuple[float, float]]:
    """Parameters of each bundled model that decodes, in all and of a token."""
    models = [load_model(name) for name in bundled_models()]
    return {
        model.name: (float(total_parameters(model)), float(active_parameters(model)))
        for model in models
        if any(layer.stack == "decoder" for layer in model.layer_types)
    }


# -- types and software ----------------------------------------------------------------------------

# The first part that a word holds decides.
_DTYPES: tuple[tuple[str, WeightDtype], ...] = (
    ("mxfp4", "mxfp4"),
    ("fp4", "nvfp4"),
    ("fp8-block", "fp8-block"),
    ("int4", "int4"),
    ("awq", "int4"),
    ("gptq", "int4"),
    ("w4", "int4"),
    ("q4", "int4"),
    ("8", "fp8"),
    ("e4m3", "fp8"),
    ("16", "bf16"),
    ("bf", "bf16"),
    ("half", "bf16"),
)
_SOFTWARE: tuple[tuple[str, Software], ...] = (
    ("vllm", "vllm"),
    ("sglang", "sglang"),
    ("trt", "trtllm"),
    ("tensorrt", "trtllm"),
)


def dtype_of(cells: Cells, *columns: str) -> WeightDtype:
    """The type of weights in the first of the columns that has one; 16 bits if none has."""
    text = next((text for name in columns if (text := cells.text(name))), "")
    word = text.lower().replace("_", "-")
    for part, dtype in _DTYPES:
        if part in word:
            return dtype
    if text:
        cells.remarks.append(f"type {text[:40]!r} taken as bf16")
    return "bf16"


def software_of(cells: Cells) -> Software:
    """The software of a line."""
    text = cells.text("engine")
    word = text.lower()
    for part, software in _SOFTWARE:
        if part in word:
            return software
    cells.remarks.append(f"engine {text[:40] or '(none)'!r} taken as vllm")
    return "vllm"
