"""The constants of the engine model: readable, with unit and source, read from a data file.

A constant may be shifted for one software, device, model, type of weights or a pair of them; shifts
add up on the scale of the constant's link, and a key without shifts takes the common value. So the
model answers for any device and model, and is closer where measurements exist.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc import files
from optalloc.cost.constants import (
    Constant,
    Table,
    check_names,
    linked,
    read_shipped,
    unlinked,
)

DEFAULT = "serving-2"
"""The engine model of this version."""

Value = float | NDArray[np.float64]


class EngineConstants(msgspec.Struct, frozen=True, kw_only=True):
    """The values alone, as the formulas use them; the data file says what each one means.

    Every field is a number, or an array of one entry a row where many setups are computed at once.
    """

    gemm_efficiency: Value
    gemm_efficiency_fp8: Value
    gemm_efficiency_fp4: Value
    expert_efficiency: Value
    attention_efficiency: Value
    memory_efficiency: Value
    expert_memory_efficiency: Value
    idle_experts: Value
    kv_efficiency: Value
    link_efficiency: Value
    sharpness: Value
    layer_s: Value
    expert_layer_s: Value
    reduce_s: Value
    exchange_s: Value
    network_s: Value
    step_s: Value
    sequence_s: Value
    prompt_s: Value
    prompt_token_s: Value
    decode: Value
    prefill: Value
    bubble: Value
    interference: Value
    apart: Value
    outside: Value
    lag: Value
    rank_wait: Value
    burst: Value
    queue: Value
    handover_s: Value
    split_lag: Value
    split_burst: Value
    split_queue: Value
    reserve_bytes: Value


class Errors(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Relative errors that 90 % of the measurements that were not fitted do not exceed.

    They are predicted as a plan is: without knowing the release or how the series was measured.
    ``level`` and ``key`` say for which setups; both empty: for any.
    """

    level: str = ""
    key: str = ""
    rows: int
    ttft: float
    tpot: float
    throughput: float


#: Levels whose setups have errors of their own, the narrowest first.
ERROR_LEVELS = ("software, device", "device")
#: Level of the cell of models without rows; what it states is the least for them.
NEW_MODEL = "new model"


class EngineFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The form of ``cost/fitted/serving-2.toml``.

    ``shifts`` move a constant, on the scale of its link, for one key of a level (see ``keys.py``);
    ``spreads`` say how far a fit may plausibly move each. ``errors`` are ordered from narrow to
    wide.
    """

    name: str
    date: str
    constants: dict[str, Constant]
    spreads: dict[str, dict[str, float]] = {}
    shifts: Table = {}
    errors: tuple[Errors, ...] = ()

    @property
    def levels(self) -> tuple[str, ...]:
        """Levels of shifts and of errors, each once."""
        named = [*ERROR_LEVELS, *self.spreads, *self.shifts]
        return tuple(dict.fromkeys(named))


@lru_cache(maxsize=8)
def read_engine_constants(name: str = DEFAULT) -> EngineFile:
    """The data file of an engine model: one shipped with the package, or the path of a TOML file.

    Raises
    ------
    InputError
        If there is no such file, or it lacks a constant.
    """
    if name.endswith(".toml"):
        file = files.read_toml(name, EngineFile)
    else:
        file = read_shipped(name, EngineFile, f"there is no engine model {name!r}", DEFAULT)
    check_names(file.constants, EngineConstants.__struct_fields__, name)
    return file


def resolved(file: EngineFile, keys: dict[str, str]) -> EngineConstants:
    """The constants for one setup; ``keys`` holds the key of each level of shifts."""
    moved: dict[str, float] = {}
    for level, key in keys.items():
        for name, shift in file.shifts.get(level, {}).get(key, {}).items():
            moved[name] = moved.get(name, 0.0) + shift
    plain = {
        name: (
            unlinked(linked(c.value, c.link) + moved[name], c.link) if name in moved else c.value
        )
        for name, c in file.constants.items()
    }
    return EngineConstants(**plain)


def expected_errors(file: EngineFile, keys: dict[str, str]) -> Errors:
    """The errors of the first level that has a cell for this setup; the last cell fits any.

    For a model that no shift of the file is for, at least those of models left out of the fit.
    """
    cells = [cell for cell in file.errors if cell.level != NEW_MODEL]
    fitting = (cell for cell in cells if not cell.level or keys.get(cell.level) == cell.key)
    found = next(fitting, Errors(rows=0, ttft=1.0, tpot=0.5, throughput=0.5))
    least = next((cell for cell in file.errors if cell.level == NEW_MODEL), None)
    if least is None or keys.get("model") in file.shifts.get("model", {}):
        return found
    return msgspec.structs.replace(
        found,
        ttft=max(found.ttft, least.ttft),
        tpot=max(found.tpot, least.tpot),
        throughput=max(found.throughput, least.throughput),
    )
