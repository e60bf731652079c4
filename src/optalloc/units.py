"""Parse and print quantities: the only module that knows prefixes.

Four facts have their one home here: 1 GiB is 2**30 bytes and 1 GB is 10**9 bytes; link speeds are
per direction and per device; a multiply-add is 2 FLOPs; money is US dollars, stored as integer
micro-dollars where it must be exact.
"""

from __future__ import annotations

import re
from decimal import Decimal

from optalloc.errors import InputError

KIB, MIB, GIB, TIB = 2**10, 2**20, 2**30, 2**40
KB, MB, GB, TB = 10**3, 10**6, 10**9, 10**12
FLOPS_PER_MULTIPLY_ADD = 2

_DECIMAL = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}
_TIME = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}

_BYTES = {f"{p}B": f for p, f in {**_DECIMAL, **_BINARY}.items()}
_BITS = {f"{p}{b}": f / 8 for p, f in _DECIMAL.items() for b in ("b", "bit")}
_RATE = {f"{u}/s": f for u, f in {**_BYTES, **_BITS}.items()} | {
    f"{p}bps": f / 8 for p, f in _DECIMAL.items()
}

#: ending of a key -> (units accepted, unit of the stored number)
DIMENSIONS: dict[str, tuple[dict[str, float], str]] = {
    "_bytes_per_s": (_RATE, "B/s"),
    "_flops_per_s": (
        {f"{p}{w}": f for p, f in _DECIMAL.items() for w in ("FLOPS", "FLOP/s", "FLOPs/s")},
        "FLOP/s",
    ),
    "_usd_per_h": ({"USD/h": 1.0, "$/h": 1.0, "USD/s": 3600.0}, "USD/h"),
    "_bytes": (_BYTES, "B"),
    "_flops": ({f"{p}{w}": f for p, f in _DECIMAL.items() for w in ("FLOP", "FLOPs")}, "FLOP"),
    "_tokens": ({f"{p}{w}": f for p, f in _DECIMAL.items() for w in ("", "tokens")}, "tokens"),
    "_usd": ({"USD": 1.0, "$": 1.0}, "USD"),
    "_w": ({"W": 1.0, "kW": 1e3, "MW": 1e6}, "W"),
    "_j": ({"J": 1.0, "kJ": 1e3, "MJ": 1e6, "kWh": 3.6e6}, "J"),
    "_s": (_TIME, "s"),
}

_QUANTITY = re.compile(r"\s*([-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(.*?)\s*")


def dimension_of(key: str) -> str | None:
    """The ending of ``key`` that names a dimension, or None."""
    for ending in DIMENSIONS:  # longest endings come first
        if key.endswith(ending) or f"_{key}" == ending:
            return ending
    return None


def parse_quantity(text: str, ending: str, *, path: str = "", pointer: str = "") -> float:
    """Parse ``"450 GB/s"`` into the unit that ``ending`` names.

    Parameters
    ----------
    text : str
        A number with an optional unit.
    ending : str
        A key of :data:`DIMENSIONS`, for example ``"_bytes_per_s"``.

    Returns
    -------
    float
        The number in the stored unit.

    Raises
    ------
    InputError
        If the text is no number or its unit is of another dimension.
    """
    units, stored = DIMENSIONS[ending]
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise InputError(
            f"{text!r} is not a number with a unit",
            path=path,
            pointer=pointer,
            fix=f"write a number in {stored} or for example '1 {stored}'",
        )
    number, unit = match.groups()
    if unit and unit not in units:
        shown = ", ".join(list(units)[:8])
        raise InputError(
            f"{unit!r} is not a unit for a key ending in {ending!r}",
            path=path,
            pointer=pointer,
            fix=f"use one of {shown}, ... or a plain number in {stored}",
        )
    scale = units[unit] if unit else 1.0
    return float(Decimal(number.replace("_", "")) * Decimal(repr(scale)))  # "1.9 us" is 1.9e-06


def parse_duration(text: str, *, path: str = "") -> float:
    """Seconds of ``"30s"``, ``"5 min"`` or a plain number."""
    return parse_quantity(text, "_s", path=path)


def parse_share(text: str, *, path: str = "") -> float:
    """``"5 %"`` or ``"0.05"`` as 0.05."""
    number = text.strip().removesuffix("%").strip()
    try:
        share = float(number) / (100.0 if "%" in text else 1.0)
    except ValueError:
        raise InputError(f"{text!r} is no share", path=path, fix="write 5% or 0.05") from None
    return share


def _scaled(value: float, steps: list[tuple[float, str]], digits: int) -> str:
    for factor, unit in steps:
        if abs(value) >= factor:
            return f"{value / factor:.{digits}f} {unit}"
    factor, unit = steps[-1]
    return f"{value / factor:.{digits}f} {unit}"


def format_bytes(value: float, *, digits: int = 1) -> str:
    """``"70.2 GiB"``."""
    return _scaled(
        value, [(TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"), (1, "B")], digits
    )


def format_rate(value: float, *, digits: int = 0) -> str:
    """``"450 GB/s"``."""
    return _scaled(
        value, [(TB, "TB/s"), (GB, "GB/s"), (MB, "MB/s"), (KB, "kB/s"), (1, "B/s")], digits
    )


def format_flops_rate(value: float, *, digits: int = 1) -> str:
    """``"989.4 TFLOP/s"``."""
    steps = [
        (1e18, "EFLOP/s"),
        (1e15, "PFLOP/s"),
        (1e12, "TFLOP/s"),
        (1e9, "GFLOP/s"),
        (1, "FLOP/s"),
    ]
    return _scaled(value, steps, digits)


def format_seconds(value: float, *, digits: int = 2) -> str:
    """``"7.42 s"``, ``"13.10 ms"``."""
    if value == 0:
        return f"{0:.{digits}f} s"
    return _scaled(value, [(1, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")], digits)


def format_amount(value: float, *, digits: int = 3) -> str:
    """``"66,667"``, ``"4.68"``: so many figures, and every one before the point."""
    short = f"{value:.{digits}g}"
    return f"{value:,.0f}" if abs(float(short)) >= 10**digits else short


def format_count(value: float, *, digits: int = 1) -> str:
    """``"70.6B"`` for parameters and other counts."""
    steps = [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")]
    for factor, unit in steps:
        if abs(value) >= factor:
            return f"{value / factor:.{digits}f}{unit}"
    return f"{value:g}"
