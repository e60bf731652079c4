"""Tables for the terminal, and the same answer as JSON or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from optalloc.files import canonical_json
from optalloc.result import Fix

Format = Literal["table", "json", "csv"]
Cell = str | int | float | None


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A titled table.

    ``notes`` are sentences printed below it; ``right`` names columns of text that are aligned to
    the right, as numbers are.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    right: tuple[str, ...] = ()


def render(tables: list[Table], data: Any, format: Format, *, color: bool = False) -> str:
    """Text of an answer: ``tables`` for people and CSV, ``data`` for JSON.

    Numbers in cells are right-aligned. CSV holds the first table alone.
    """
    if format == "json":
        return canonical_json(data)
    if format == "csv":
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(tables[0].columns)
        writer.writerows(tables[0].rows)
        return out.getvalue()
    last = len(tables) - 1
    return "".join(
        _rich(table, color) + ("\n" if table.notes and number < last else "")
        for number, table in enumerate(tables)
    )


def _rich(table: Table, color: bool) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    rich_table = RichTable(box=box.SIMPLE_HEAD)
    for index, name in enumerate(table.columns):
        numeric = name in table.right or all(
            isinstance(row[index], int | float | None) for row in table.rows
        )
        rich_table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in table.rows:
        rich_table.add_row(*(cell_text(cell) for cell in row))
    out = io.StringIO()
    console = Console(
        file=out, width=100, force_terminal=color, no_color=not color, highlight=False
    )
    if table.title:  # not rich's own title, which wraps at the width of the table
        console.print(table.title, style="italic", markup=False)
    console.print(rich_table)
    for note in table.notes:
        console.print(note, markup=False, soft_wrap=False)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    if table.title and "" in lines:
        lines.remove("")  # between the title and the names of the columns
    return "\n".join(lines) + "\n"


def cell_text(value: Cell) -> str:
    """A cell as people read it."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return value


def no_answer(title: str, conflict: Iterable[str], fixes: Iterable[Fix], otherwise: str) -> Table:
    """Why there is no answer (``otherwise``, where nothing conflicts), and what would help."""
    return Table(
        title=title,
        columns=("why",),
        rows=tuple((text,) for text in conflict) or ((otherwise,),),
        notes=tuple(f"To fix: {fix_text(fix)}." for fix in fixes),
    )


def fix_text(fix: Fix) -> str:
    """A relaxation with its size, where it has one."""
    return f"{fix.what} ({fix.cost})" if fix.cost else fix.what
