"""The cells of a row of measurements: numbers as people write them, and answers of yes or no."""

from __future__ import annotations

import math
import re

Row = dict[str, str]
"""One line of a table: the text of each column, without blanks around it."""

_NUMBER = re.compile(
    r"(?:~|≈|[a-z]+[ =:-]*)?\s*(\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d+\.?\d*|\.\d+)(e[-+]?\d+)?(.*)",
    re.IGNORECASE,
)

# Words behind a number that are another unit than the column's; every other word is the column's.
_UNITS = {
    "k": 2.0**10,
    "m": 2.0**20,
    "gb/s": 8.0,
    "tb": 2.0**10,
    "tib": 2.0**10,
    "mb": 2.0**-10,
    "mib": 2.0**-10,
    "ms": 1e-3,
    "min": 60.0,
    "h": 3600.0,
}

# More than this is no measurement: the cell then counts as empty.
_MOST = dict.fromkeys(("layers", "pp", "vpp"), 1e4) | {"seq_len": 1e9}
_MOST_OTHER = 1e7

_YES = ("yes", "true", "on", "y", "t")


def real(row: Row, key: str) -> float:
    """The number of a cell, in the unit of its column.

    0 where there is none above it, or one beyond any measurement. "1,024", "80 GB", "4k" tokens
    (4096), "950 ms" and "ZeRO-3" are numbers.
    """
    found = _NUMBER.fullmatch(row.get(key, ""))
    if found is None:
        return 0.0
    digits, exponent, unit = found.groups()
    word = next(iter(unit.split()), "")
    scale = 1.0 if word == "Gb/s" else _UNITS.get(word.lower(), 1.0)
    value = float(digits.replace(",", "") + (exponent or "")) * scale
    return value if 0.0 < value <= _MOST.get(key, _MOST_OTHER) else 0.0


def whole(row: Row, key: str, default: int = 0) -> int:
    """The nearest whole number to that of a cell, and the default where it holds none above 0."""
    return round(real(row, key)) or default


def flag(row: Row, key: str) -> bool | None:
    """The answer of a cell: a number that is not 0, or a word; None where it is neither."""
    text = row.get(key, "").lower()
    try:
        return None if math.isnan(value := float(text)) else value != 0.0
    except ValueError:
        return True if text in _YES else False if text in _NO else None


_NO = ("no", "false", "off", "n", "f", "none")
