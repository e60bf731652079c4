"""CSV files: the cells of each line, or records named by the first line."""

from __future__ import annotations

import csv
import io
import os

from optalloc.errors import InputError
from optalloc.files import read_text


def read_cells(path: str | os.PathLike[str]) -> list[list[str]]:
    """The cells of each line; an empty line has none.

    Raises
    ------
    InputError
        If the file cannot be read or is no CSV text.
    """
    try:
        return list(csv.reader(io.StringIO(read_text(path), newline="")))
    except csv.Error as error:
        raise InputError(
            f"the file is no CSV text: {error}", path=str(path), fix="save it as UTF-8 with commas"
        ) from error


def read_records(path: str | os.PathLike[str]) -> tuple[list[str], list[dict[str, str]]]:
    """The names of the columns, and a record for each further line that is not empty.

    A cell that a line lacks is empty; one beyond the columns is left out.

    Raises
    ------
    InputError
        As :func:`read_cells`.
    """
    head, *lines = read_cells(path) or [[]]
    width = len(head)
    return head, [
        dict(zip(head, [*line[:width], *[""] * (width - len(line))], strict=True))
        for line in lines
        if line
    ]
