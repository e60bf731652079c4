"""The constants of a cost model: named, with unit and source, read from a versioned data file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import msgspec

from optalloc import files
from optalloc.errors import InputError

FileT = TypeVar("FileT")

DEFAULT = "roofline-2"
"""The cost model of this version."""

FITTED = Path(__file__).with_name("fitted")
"""The data files that ship with the package."""


class Constant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One number with its unit and where it comes from.

    A fitted one has a ``prior``, the value that other publications give, and a ``spread``, how far
    a fit may plausibly leave it: of its logarithm (link "log": any positive number), or of its log
    odds (link "share": between 0 and 1).
    """

    value: float
    unit: str
    source: str
    link: Literal["log", "share"] = "log"
    prior: float | None = None
    spread: float = 0.0


class Cell(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Errors of the step time on rows that were not fitted: a part of the measurements.

    ``gpu``, ``framework`` and ``precision`` are empty where the cell holds all of them. ``bias`` is
    the median of predicted over measured less one, ``error_90`` the relative error that 90 % of the
    rows do not exceed.
    """

    gpu: str = ""
    framework: str = ""
    precision: str = ""
    rows: int
    bias: float
    error_90: float


# level ("gpu", "framework", "precision", "release", "site") -> key -> constant -> number
Table = dict[str, dict[str, dict[str, float]]]


class ConstantsFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The form of ``cost/fitted/NAME.toml``.

    ``shifts`` move a constant, on the scale of its link, for one device, framework, precision,
    release or site; they add up. ``spreads`` say how far a fit may plausibly move each, and ``set``
    holds values that a document gives and no fit may change. ``errors`` are the cells of the
    residuals.
    """

    name: str
    date: str
    constants: dict[str, Constant]
    spreads: dict[str, dict[str, float]] = {}
    shifts: Table = {}
    set: Table = {}
    errors: tuple[Cell, ...] = ()


class Constants(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The values alone, as the formulas use them; the data file says what each one means."""

    gemm_efficiency: float
    gemm_efficiency_fp8: float
    gemm_efficiency_fp4: float
    gemm_efficiency_fp32: float
    gemm_tile_s: float
    gemm_tile: float
    wave_share: float
    cast_passes: float
    attention_efficiency: float
    attention_backward_ratio: float
    attention_backward_efficiency: float
    attention_head_dim: float
    softmax_passes: float
    softmax_fallback: float
    fallback_host_s: float
    unaligned: float
    unaligned_product: float
    accumulate_bytes: float
    memory_efficiency: float
    launch_s: float
    layer_host_s: float
    backward_host: float
    layer_gap_s: float
    tp_host_s: float
    expert_host_s: float
    router_host_s: float
    expert_imbalance: float
    expert_overlap: float
    bias_passes: float
    micro_s: float
    hop_s: float
    collective_s: float
    tp_overlap: float
    node_link_efficiency: float
    host_link_efficiency: float
    network_efficiency: float
    send_efficiency: float
    data_overlap: float
    context_overlap: float
    workspace_bytes: float
    fragmentation: float
    fragmentation_expandable: float
    memory_error: float
    memory_margin: float
    logit_bytes: float
    fp8_cache_bytes: float
    optimizer_bytes: float
    update_host_s: float
    fixed_s: float
    power_share: float


def read_constants(name: str = DEFAULT) -> ConstantsFile:
    """The data file of a cost model: one shipped with the package, or the path of a TOML file.

    Raises
    ------
    InputError
        If there is no such file, or it lacks a constant.
    """
    return _read_path(name) if name.endswith(".toml") else _read_shipped(name)


@lru_cache(maxsize=8)
def _read_shipped(name: str) -> ConstantsFile:
    return read_shipped(name, ConstantsFile, f"there is no cost model {name!r}", DEFAULT)


def _read_path(path: str) -> ConstantsFile:
    file = files.read_toml(path, ConstantsFile)
    check_names(file.constants, Constants.__struct_fields__, path)
    return file


def read_shipped(name: str, form: type[FileT], refusal: str, default: str) -> FileT:
    """A data file that ships with the package; InputError with ``refusal`` if there is none."""
    path = FITTED / f"{name}.toml"
    if not path.is_file():
        raise InputError(
            refusal,
            path="calibration",
            fix=f"use {default}, or the path of a .toml file that 'optalloc calibrate' wrote",
        )
    return files.read_toml(path, form)


def check_names(constants: Iterable[str], fields: Iterable[str], path: str) -> None:
    """Raise InputError where a file lacks a constant or has one that is not known."""
    have, wanted = dict.fromkeys(constants), dict.fromkeys(fields)
    missing = [name for name in wanted if name not in have]
    unknown = [name for name in have if name not in wanted]
    if missing or unknown:
        raise InputError(
            f"the constants {', '.join(missing or unknown)} are "
            + ("missing" if missing else "unknown"),
            path=path,
            pointer="$.constants",
            fix="write the file with 'optalloc calibrate' of this version",
        )


def values(file: ConstantsFile) -> Constants:
    """The numbers of a constants file, without its shifts."""
    plain = {name: constant.value for name, constant in file.constants.items()}
    return msgspec.convert(plain, Constants)  # as written: no rounding of bytes or FLOPs


def keys_of(
    device: str, framework: str, release: str, dtype: str, site: str = ""
) -> dict[str, str]:
    """The key of each level of shifts for one problem; most sites have no key of their own."""
    return {
        "gpu": device,
        "framework": framework,
        "precision": dtype,
        "release": _generation(framework, release),
        "site": site,
    }


def _generation(framework: str, release: str) -> str:
    """Half-years of Megatron-Core's containers, the name of a fork; empty where none is stated."""
    try:
        number = float(release.lstrip("v")[:5])
    except ValueError:
        return release
    if framework != "megatron" or not 20.0 <= number < 100.0:
        return ""
    half = 1 if number % 1.0 < 0.055 else 2
    return f"20{int(number)}-{half}"


def resolved(file: ConstantsFile, keys: dict[str, str]) -> Constants:
    """The constants for one device, framework, precision, release and site."""
    plain = {name: constant.value for name, constant in file.constants.items()}
    moved: dict[str, float] = {}
    for level, key in keys.items():
        for name, shift in file.shifts.get(level, {}).get(key, {}).items():
            moved[name] = moved.get(name, 0.0) + shift
    for name, shift in moved.items():
        constant = file.constants[name]
        plain[name] = unlinked(linked(constant.value, constant.link) + shift, constant.link)
    for level, key in keys.items():
        plain |= file.set.get(level, {}).get(key, {})
    return msgspec.convert(plain, Constants)


def linked(value: float, link: str) -> float:
    """A constant on the scale on which it is fitted and shifted."""
    return math.log(value) if link == "log" else math.log(value / (1.0 - value))


def unlinked(value: float, link: str) -> float:
    """The constant back from that scale."""
    return math.exp(value) if link == "log" else 1.0 / (1.0 + math.exp(-value))


def expected_error(file: ConstantsFile, keys: dict[str, str]) -> Cell | None:
    """The cell of at least ten rows that says what to expect of a problem; none without residuals.

    Rows of its device, framework and precision say it. Where these were not measured together it is
    the wider of the cells of its device and of its framework, and where one of the two was not
    measured at all that of sources left out of the fit, which names nothing.
    """
    cells = {(c.gpu, c.framework, c.precision): c for c in file.errors if c.rows >= _LEAST_ROWS}
    gpu, framework = keys["gpu"], keys["framework"]
    together = cells.get((gpu, framework, keys["precision"]))
    apart = [cells.get((gpu, "", "")), cells.get(("", framework, ""))]
    known = [cell for cell in apart if cell is not None]
    if together is not None or len(known) < len(apart):
        return together or cells.get(("", "", ""))
    return max(known, key=lambda cell: cell.error_90)


_LEAST_ROWS = 10


class Written(Protocol):
    """What the files of constants have in common when they are written."""

    @property
    def name(self) -> str: ...
    @property
    def date(self) -> str: ...
    @property
    def constants(self) -> Mapping[str, Constant]: ...
    @property
    def spreads(self) -> Mapping[str, Mapping[str, float]]: ...
    @property
    def shifts(self) -> Table: ...
    @property
    def errors(self) -> Sequence[msgspec.Struct]: ...


def to_toml(file: Written, heading: str) -> str:
    """The text of a file of constants; ``heading`` becomes comments."""
    lines = [f"# {line}" for line in heading.splitlines()]
    lines += [f"name = {_text(file.name)}", f"date = {_text(file.date)}"]
    for name, constant in file.constants.items():
        lines += ["", f"[constants.{name}]"]
        for field in constant.__struct_fields__:
            value = getattr(constant, field)
            if field in ("link", "spread") and constant.prior is None:
                continue
            if value is not None:
                lines.append(f"{field} = {_text(value)}")
    for level, spreads in file.spreads.items():
        lines += ["", f"[spreads.{_key(level)}]"]
        lines += [f"{k} = {_text(v)}" for k, v in spreads.items()]
    tables = {"shifts": file.shifts}
    if isinstance(file, ConstantsFile):
        tables["set"] = file.set
    for title, table in tables.items():
        for level, keys in table.items():
            for key, numbers in keys.items():
                lines += ["", f"[{title}.{_key(level)}.{_text(key)}]"]
                lines += [f"{k} = {_text(v)}" for k, v in numbers.items()]
    for cell in file.errors:
        pairs = [f"{f} = {_text(getattr(cell, f))}" for f in cell.__struct_fields__]
        lines += ["", "[[errors]]", *(pair for pair in pairs if not pair.endswith('= ""'))]
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    """A key of a table, in quotes where it is not one word."""
    return name if name.replace("_", "").isalnum() else _text(name)


def _text(value: str | float) -> str:
    """A TOML value: numbers as Python prints them, strings in double quotes."""
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return repr(value)
