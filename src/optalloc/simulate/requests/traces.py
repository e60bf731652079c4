"""Traces of requests: CSV or JSON lines with a time, the length of the prompt and of the answer.

Columns are found by name: ``arrival_s``, ``input_tokens`` and ``output_tokens``, or the names that
published traces use (the Azure, BurstGPT, Mooncake and Vidur ones); ``group`` and ``prefix_tokens``
may follow. Times are seconds, those of ``timestamp`` milliseconds, those of ``TIMESTAMP`` dates.
Requests need not be sorted, and times begin at the earliest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from optalloc import files
from optalloc.errors import InputError, nearest
from optalloc.records import read_records
from optalloc.simulate.requests.load import Requests, make_requests

#: Our column -> what else it is called.
NAMES = {
    "arrival_s": ("arrival_s", "arrived_at", "Timestamp", "timestamp", "TIMESTAMP"),
    "input_tokens": (
        *("input_tokens", "num_prefill_tokens"),
        *("Request tokens", "input_length", "ContextTokens"),
    ),
    "output_tokens": (
        *("output_tokens", "num_decode_tokens"),
        *("Response tokens", "output_length", "GeneratedTokens"),
    ),
}
_SCALES = {"timestamp": 1e-3}
_SHARED = ("group", "prefix_tokens")


def read_trace(path: str | os.PathLike[str], *, num_requests: int | None = None) -> Requests:
    """The requests of a trace file, or the first ``num_requests`` of them.

    Parameters
    ----------
    path : path
        ``.jsonl`` (one object a line) or CSV with a header.

    Raises
    ------
    InputError
        If a column is missing, or a value is no number, with its line.

    Complexity: O(n log n) for n requests.
    """
    jsonl = Path(path).suffix == ".jsonl"
    rows: list[Mapping[str, object]] = (
        list(_objects(files.read_text(path), str(path))) if jsonl else [*read_records(path)[1]]
    )
    if not rows:
        raise InputError("the trace has no requests", path=str(path), fix="give one a line")
    columns = {ours: _column(ours, rows[0], str(path)) for ours in NAMES}
    first_line = 1 if jsonl else 2
    table = np.array(
        [
            [_number(row, name, str(path), line) for name in columns.values()]
            for line, row in enumerate(rows, first_line)
        ]
    )
    order = np.argsort(table[:, 0], kind="stable")[:num_requests]
    arrival_s, input_tokens, output_tokens = table[order].T
    group, prefix = _prefixes(rows, order.tolist(), str(path), first_line)
    try:
        return make_requests(
            arrival_s - arrival_s[0],
            input_tokens.astype(np.int64),
            output_tokens.astype(np.int64),
            group=group,
            prefix_tokens=prefix,
        )
    except InputError as error:
        raise InputError(error.what, path=str(path), fix=error.fix) from error


def _objects(text: str, path: str) -> Iterator[Mapping[str, object]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        value = files.parse_json(line, path=f"{path}, line {number}")
        if not isinstance(value, dict):
            raise InputError(
                "a line is no JSON object", path=path, pointer=f"line {number}", fix="write {...}"
            )
        yield value


def _column(ours: str, row: Mapping[str, object], path: str) -> str:
    known = [str(name) for name in row]
    for name in NAMES[ours]:
        if name in known:
            return name
    used = {name for names in NAMES.values() for name in names}
    near = nearest(ours, [name for name in known if name not in used], count=1)
    raise InputError(
        f"the trace has no column {ours!r}",
        path=path,
        pointer="line 1",
        fix=f"rename {near[0]!r} to {ours!r}" if near else f"name a column {ours!r}",
    )


def _number(row: Mapping[str, object], name: str, path: str, line: int) -> float:
    value = row.get(name)
    try:
        if name == "TIMESTAMP":
            return datetime.fromisoformat(str(value)).replace(tzinfo=UTC).timestamp()
        number = float(value) * _SCALES.get(name, 1.0)  # type: ignore[arg-type]
        if abs(number) < 2.0**53:
            return number
        raise ValueError(name)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name} is {value!r}", path=path, pointer=f"line {line}", fix="write a number"
        ) from error


def _prefixes(
    rows: list[Mapping[str, object]], order: list[int], path: str, first_line: int
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The group of each request, numbered anew, and the length of each group's prefix."""
    if not all(name in rows[0] for name in _SHARED):
        return None, None
    numbers: dict[str, int] = {}
    lengths: list[int] = []
    groups: list[int] = []
    for index in order:
        row, line = rows[index], first_line + index
        label = str(row.get("group") or "")
        tokens = int(_number(row, "prefix_tokens", path, line)) if label else 0
        if label and label not in numbers:
            numbers[label] = len(lengths)
            lengths.append(tokens)
        groups.append(numbers[label] if label else -1)
        if label and lengths[numbers[label]] != tokens:
            raise InputError(
                f"group {label!r} has prefixes of {lengths[numbers[label]]} and {tokens} tokens",
                path=path,
                pointer=f"line {line}",
                fix="give all requests of a group the same prefix_tokens",
            )
    return np.array(groups, np.int64), np.array(lengths, np.int64)
