"""Sweeps as CSV, as a table, and as points on the terminal."""

from __future__ import annotations

import csv
import io
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from optalloc.errors import InputError
from optalloc.plan.cell import Row
from optalloc.plan.cells import AnyRow
from optalloc.plan.front import axes, points
from optalloc.records import read_cells
from optalloc.report.table import Cell, Table
from optalloc.units import format_seconds

R = TypeVar("R", bound=AnyRow)

_WIDTH, _HEIGHT = 64, 14


def csv_text(rows: Sequence[R], kind: type[R]) -> str:
    """Rows of a kind in plain numbers; what is not known is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(kind.__struct_fields__)
    for row in rows:
        values = [getattr(row, name) for name in kind.__struct_fields__]
        writer.writerow(["yes" if v is True else "" if v in (None, False) else v for v in values])
    return out.getvalue()


def read_csv(path: str | os.PathLike[str], kind: type[R]) -> tuple[R, ...]:
    """Rows of an earlier sweep of a kind; none where there is no file yet.

    Raises
    ------
    InputError
        If the file is something else, with the line that does not fit.
    """
    if not Path(path).exists():
        return ()
    lines = read_cells(path)
    if not lines:
        return ()
    columns = kind.__struct_fields__
    if tuple(lines[0]) != columns:
        raise InputError(
            "the file is not a sweep of this kind and release",
            path=str(path),
            fix="choose another name, or move the file away",
        )
    rows = []
    for number, line in enumerate(lines[1:], 2):
        given = {name: text for name, text in zip(columns, line, strict=False) if text}
        given["front"] = "true" if given.get("front") else "false"
        try:
            if len(line) != len(columns):
                raise msgspec.ValidationError(f"{len(line)} values for {len(columns)} columns")
            rows.append(msgspec.convert(given, kind, strict=False))
        except msgspec.ValidationError as error:
            raise InputError(
                f"not a row of a sweep: {error}",
                path=str(path),
                pointer=f"line {number}",
                fix="delete the line: its cell is then solved again",
            ) from error
    return tuple(rows)


def sweep_table(rows: Sequence[Row]) -> Table:
    """One row a cell: what was asked, and the best plan."""
    return Table(
        title="",
        columns=("device", "devices", "seq", "batch", "step", "tokens/s", "$/T tokens", "plan", ""),
        rows=tuple(_row(row) for row in rows),
        notes=tuple(_notes(rows)),
        right=("step", "tokens/s", "$/T tokens"),
    )


def _row(row: Row) -> tuple[Cell, ...]:
    asked = (row.device, row.devices, row.sequence_length, row.global_batch)
    if row.step_time_s is None or row.tokens_per_s is None:
        return (*asked, "-", "-", "-", row.status, "")
    usd = row.usd_per_trillion_tokens
    degrees = [f"{n} {getattr(row, n)}" for n in ("tp", "cp", "pp", "dp", "ep")]
    words = " ".join(word for word in degrees if not word.endswith(" 1")) or "one device"
    words = words if row.tp is not None else "unequal stages"
    return (
        *asked,
        format_seconds(row.step_time_s),
        f"{row.tokens_per_s:,.0f}",
        "-" if usd is None else f"{usd:,.0f}",
        words,
        ("* " if row.front else "") + ("" if row.status == "optimal" else f"gap {_gap(row)}"),
    )


def _gap(row: Row) -> str:
    return "unknown" if row.gap is None else f"{row.gap:.1%}"


def _notes(rows: Sequence[Row]) -> list[str]:
    """What ``*`` means, and why cells have no plan: each reason once, with the first such cell."""
    first: dict[str, Row] = {}
    count: Counter[str] = Counter()
    for row in rows:
        if row.status in ("error", "infeasible"):
            first.setdefault(row.reason, row)
            count[row.reason] += 1
    notes = []
    if any(row.front for row in rows):
        notes.append("* on the front: no other is both faster and cheaper.")
    for reason, row in first.items():
        more = f" and {count[reason] - 1} more" if count[reason] > 1 else ""
        cell = f"{row.devices} {row.device}, {row.sequence_length} tokens, batch {row.global_batch}"
        notes.append(f"{cell}{more}: {row.status}: {reason}")
    return notes


def front_text(rows: Sequence[Row]) -> str:
    """The rows as points, price to the right and speed upwards; ``*`` is on the front."""
    which = axes(rows)
    found = points(rows, which)
    if not found:
        return "No row has both a plan and a price: there is no front to draw.\n"
    cost = [math.log(c) for c, _, _ in found]
    speed = [math.log(s) * (1 if which.more_is_better else -1) for _, s, _ in found]
    cells = [[" "] * _WIDTH for _ in range(_HEIGHT)]
    for x, y, (_, _, row) in sorted(
        zip(cost, speed, found, strict=True), key=lambda point: point[2][2].front
    ):
        column, line = _place(x, cost, _WIDTH), _HEIGHT - 1 - _place(y, speed, _HEIGHT)
        cells[line][column] = "*" if row.front else "o"
    low, high = min(c for c, _, _ in found), max(c for c, _, _ in found)
    slow, fast = (f(s for _, s, _ in found) for f in (min, max))
    if not which.more_is_better:
        slow, fast = fast, slow
    lines = [f"{plain_number(fast):>12} |{''.join(cells[0])}"]
    lines += [f"{'':12} |{''.join(line)}" for line in cells[1:-1]]
    lines += [f"{plain_number(slow):>12} |{''.join(cells[-1])}", f"{'':13}+{'-' * _WIDTH}"]
    left, right = plain_number(low), plain_number(high)
    lines.append(f"{'':14}{left}{right:>{_WIDTH - len(left)}}")
    title = f"{which.speed_words} (up is faster) against {which.cost_words}; logarithmic"
    return "\n".join([title, *(line.rstrip() for line in lines)]) + "\n"


def plain_number(value: float) -> str:
    """Four digits, or all before the point."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _place(value: float, all_: list[float], size: int) -> int:
    low, high = min(all_), max(all_)
    return size // 2 if high == low else round((value - low) / (high - low) * (size - 1))
