"""The cells of a line of a table of served loads: text, and numbers with what stands in for them.

A cell that is no number, or one that no engine has, counts as empty and is noted.
``docs/reference/serving-rows.md`` lists what an empty one stands for.
"""

from __future__ import annotations

import math

Row = dict[str, str]

MOST_DEVICES = 4096
MOST_REQUESTS = 1e6
MOST_TOKENS = 1e7
USUAL_TOKENS = 1024.0


class Cells:
    """One line of a table, and remarks on what was taken for something else."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.remarks: list[str] = []

    def text(self, name: str) -> str:
        """The cell, without the space around it; empty where the table has no such column."""
        return (self.row.get(name) or "").strip()

    def number(self, name: str, default: float, *, most: float) -> float:
        """The number of a cell, from 1 to ``most``."""
        text = self.text(name)
        value = _float(text)
        if 1.0 <= value <= most:
            return value
        if text and value != 0.0:
            self.remarks.append(f"{name} {text[:40]!r} left out")
        return default

    def width(self, name: str) -> int:
        """The whole number of a cell that counts devices or workers; 1 where there is none."""
        return int(self.number(name, 1.0, most=MOST_DEVICES))

    def length(self, name: str) -> float:
        """Tokens of a prompt or an answer; 1,024 where there is no number, which is noted."""
        value = self.number(name, 0.0, most=MOST_TOKENS)
        if not value:
            self.remarks.append(f"{name} taken as {USUAL_TOKENS:.0f}")
        return value or USUAL_TOKENS

    def measured(self, name: str) -> float | None:
        """A measured figure; None where there is no positive number."""
        value = _float(self.text(name))
        return value if 0.0 < value < math.inf else None


def _float(text: str) -> float:
    """The number, or nan."""
    try:
        return float(text)
    except ValueError:
        return math.nan
