"""Traces of requests: CSV or JSON lines with a time, the length of the prompt and of the answer.

Columns are found by name: ``arrival_s``, ``input_tokens`` and ``output_tokens``, or the names that
published traces use (the Azure, BurstGPT, Mooncake, Bailian and Vidur ones). What prompts share is
told by ``hash_ids``, the ids of the blocks of each (JSON lines), or by ``group`` and
``prefix_tokens``. Times are seconds, those of ``timestamp`` milliseconds (not with a ``chat_id``,
as in the Bailian traces), those of ``TIMESTAMP`` dates. Requests need not be sorted, and times
begin at the earliest.
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
from optalloc.simulate.requests.prefixes import HASH_BLOCK_TOKENS, BlockHashes, hashes_of

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
_HASHES = "hash_ids"
_BAILIAN = "chat_id"
"""A column that only traces with times in seconds and blocks of 16 tokens have."""
_BAILIAN_BLOCK_TOKENS = 16


def read_trace(
    path: str | os.PathLike[str],
    *,
    num_requests: int | None = None,
    hash_block_tokens: int | None = None,
) -> Requests:
    """The requests of a trace file, or the first ``num_requests`` of them.

    Parameters
    ----------
    path : path
        JSON lines (one object a line) or CSV with a header.
    num_requests : int, optional
        How many of them, the earliest; default: all.
    hash_block_tokens : int, optional
        Tokens of a block that has one of the ``hash_ids``; default: 512, with a ``chat_id`` 16.

    Raises
    ------
    InputError
        If a column is missing, or a value makes no sense, with its line.

    Complexity: O(n log n) for n requests and ids.
    """
    if num_requests is not None and num_requests < 1:
        raise InputError(
            f"{num_requests:,} requests are to be read",
            path="num_requests",
            fix="read at least one, or leave it out to read all",
        )
    lines, rows = _rows(path)
    if not rows:
        raise InputError("the trace has no requests", path=str(path), fix="give one a line")
    columns = {ours: _column(ours, rows[0], str(path)) for ours in NAMES}
    arrival, *lengths = columns.values()
    table = np.array(
        [
            [_number(row, arrival, str(path), line)]
            + [_tokens(row, name, str(path), line) for name in lengths]
            for line, row in zip(lines, rows, strict=True)
        ]
    )
    order = np.argsort(table[:, 0], kind="stable")[:num_requests]
    arrival_s, input_tokens, output_tokens = table[order].T
    group, prefix = _prefixes(rows, order.tolist(), str(path), lines)
    hashes = None
    if any(_HASHES in row for row in rows):
        size = _BAILIAN_BLOCK_TOKENS if _BAILIAN in rows[0] else HASH_BLOCK_TOKENS
        if hash_block_tokens is not None:
            size = hash_block_tokens
        hashes = _hashes(rows, table[:, 1], size, str(path), lines).take(order)
    try:
        return make_requests(
            arrival_s - arrival_s[0],
            input_tokens.astype(np.int64),
            output_tokens.astype(np.int64),
            group=group,
            prefix_tokens=prefix,
            hashes=hashes,
        )
    except InputError as error:
        raise InputError(error.what, path=str(path), fix=error.fix) from error


def _rows(path: str | os.PathLike[str]) -> tuple[list[int], list[Mapping[str, object]]]:
    """Line numbers and records."""
    text = files.read_text(path)
    if text.lstrip().startswith("["):
        raise InputError(
            "the trace is one JSON list",
            path=str(path),
            fix=f"write one object a line: jq -c '.[]' {path} > trace.jsonl",
        )
    if Path(path).suffix == ".jsonl" or text.lstrip().startswith("{"):
        found = list(_objects(text, str(path)))
        return [line for line, _ in found], [row for _, row in found]
    records = read_records(path)[1]
    return list(range(2, len(records) + 2)), [*records]


def _objects(text: str, path: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = files.parse_json(line, path=path)
        except InputError as error:
            raise InputError(
                error.what, path=path, pointer=f"line {number}", fix="correct or remove that line"
            ) from error
        if not isinstance(value, dict):
            raise InputError(
                "a line is no JSON object", path=path, pointer=f"line {number}", fix="write {...}"
            )
        yield number, value


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
        scale = 1.0 if _BAILIAN in row else _SCALES.get(name, 1.0)
        number = float(value) * scale  # type: ignore[arg-type]
        if abs(number) < 2.0**53:
            return number
        raise ValueError(name)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name} is {value!r}", path=path, pointer=f"line {line}", fix="write a number"
        ) from error


def _tokens(row: Mapping[str, object], name: str, path: str, line: int) -> float:
    number = _number(row, name, path, line)
    if number >= 1.0 and number == int(number):
        return number
    raise InputError(
        f"{name} is {row.get(name)!r}",
        path=path,
        pointer=f"line {line}",
        fix="write a whole number of at least 1, or leave the request out",
    )


def _hashes(
    rows: list[Mapping[str, object]],
    input_tokens: np.ndarray,
    block_tokens: int,
    path: str,
    lines: list[int],
) -> BlockHashes:
    """The ids of each request's blocks, numbered anew; a request without shares nothing."""
    if block_tokens < 1:
        raise InputError(
            f"a block of {block_tokens} tokens holds none",
            path="hash_block_tokens",
            fix="give at least 1; the Mooncake traces have 512",
        )
    numbers: dict[int | str, int] = {}
    lists: list[list[int]] = []
    blocks = -(-input_tokens.astype(np.int64) // block_tokens)
    for line, row, tokens, most in zip(lines, rows, input_tokens, blocks.tolist(), strict=True):
        ids = row.get(_HASHES)
        if ids is None:
            ids = []
        if not isinstance(ids, list) or not all(type(one) in (int, str) for one in ids):
            raise InputError(
                f"{_HASHES} is {_short(ids)}, no list of whole numbers or words",
                path=path,
                pointer=f"line {line}",
                fix="write [1, 2, 3] in JSON lines, an id for each block of the prompt",
            )
        if len(ids) > most:
            raise InputError(
                f"{len(ids)} {_HASHES} for a prompt of {tokens:.0f} tokens, which are {most} "
                f"blocks of {block_tokens}",
                path=path,
                pointer=f"line {line}",
                fix="give one id for each block; if blocks have other tokens, say how many "
                "(--hash-block-tokens)",
            )
        lists.append([numbers.setdefault(one, len(numbers)) for one in ids])
    return hashes_of(lists, block_tokens)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _prefixes(
    rows: list[Mapping[str, object]], order: list[int], path: str, lines: list[int]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The group of each request, numbered anew, and the length of each group's prefix."""
    if not all(name in rows[0] for name in _SHARED):
        return None, None
    numbers: dict[str, int] = {}
    lengths: list[int] = []
    groups: list[int] = []
    for index in order:
        row, line = rows[index], lines[index]
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
