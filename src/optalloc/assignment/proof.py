"""The proof log of an assignment: what a file holds, how it is written and read.

A proof is JSON lines, gzipped where its name ends in ``.gz``: a header, then the events of one
search tree in depth-first order.

    {"format": "optalloc.assignment-proof/1", ...}     header, see :class:`ProofHeader`
    ["fix", tasks, multipliers]    pairs are removed by the price of forcing them in
    ["branch", unit, task, in]     the child with x = in (1 or 0) follows, then the other child
    ["leaf", tasks, multipliers]   the bound at these multipliers exceeds the target
    ["leaf"]                       the removals left a task without a unit, or every task has one

Multipliers are integers, ``scale`` times a cost of ``problem.integer_form()``; a task that is not
named keeps the last one given for it. The checker that believes nothing of this is
:mod:`optalloc.assignment.check_proof`.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from optalloc.assignment.problem import AssignmentProblem
from optalloc.errors import FormatVersionError, InputError
from optalloc.files import replacing

FORMAT = "optalloc.assignment-proof/1"

Event = list[Any]


class ProofHeader(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the tree claims: no assignment has an integer cost of at most ``target``.

    Attributes
    ----------
    format : str
    instance : str
        SHA-256 of the instance's numbers, see :func:`instance_digest`.
    num_tasks, num_units : int
    scale : int
        Of the multipliers.
    target : int
        In the unit of ``problem.integer_form().costs``.
    without_costs : bool
        The tree is of the same instance with all costs 0, and the target is 0: if it holds, nothing
        is feasible.
    assignment : tuple of int or None
        The best plan found: the unit of each task.
    """

    format: str
    instance: str
    num_tasks: int
    num_units: int
    scale: int
    target: int
    without_costs: bool = False
    assignment: tuple[int, ...] | None = None


def instance_digest(problem: AssignmentProblem) -> str:
    """SHA-256 over shape, sense, costs, loads, capacities and allowed pairs."""
    total = hashlib.sha256(f"{problem.costs.shape} {problem.sense}".encode())
    for array in (problem.costs, problem.loads, problem.capacities, problem.allowed):
        total.update(f" {array.shape} {array.dtype.str} ".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def write_proof(
    path: str | os.PathLike[str], header: ProofHeader, rows: np.ndarray[Any, np.dtype[np.int64]]
) -> None:
    """Write the rows of native/assignment/record.hpp as a proof file, whole or not at all."""
    with contextlib.ExitStack() as stack:
        out: Any = stack.enter_context(stack.enter_context(replacing(path)).open("wb"))
        if Path(path).suffix == ".gz":
            # No name and no time: equal proofs are equal bytes.
            out = stack.enter_context(gzip.GzipFile("", "wb", fileobj=out, mtime=0))
        out.write(json.dumps(msgspec.to_builtins(header)).encode() + b"\n")
        for event in _events_of(rows):
            out.write(json.dumps(event, separators=(",", ":")).encode() + b"\n")


def _events_of(rows: np.ndarray[Any, np.dtype[np.int64]]) -> Iterator[Event]:
    at, end = 0, len(rows)
    while at < end:
        kind = int(rows[at])
        if kind == 0:
            yield ["leaf"]
            at += 1
        elif kind == 3:
            yield ["branch", *rows[at + 1 : at + 4].tolist()]
            at += 4
        else:
            count = int(rows[at + 1])
            pairs = rows[at + 2 : at + 2 + 2 * count]
            yield ["leaf" if kind == 1 else "fix", pairs[0::2].tolist(), pairs[1::2].tolist()]
            at += 2 + 2 * count


def read_proof(path: str | os.PathLike[str]) -> tuple[ProofHeader, Iterator[Event]]:
    """The header and the events, which are read as they are asked for.

    Raises
    ------
    InputError
        If the file cannot be read or holds something else; also while the events are read.
    """
    lines = _lines(Path(path))
    first = _parsed(next(lines, ""), 1, path)
    if not isinstance(first, dict) or "format" not in first:
        raise InputError("the file is no proof of an assignment", path=str(path), fix=_HOW)
    if first["format"] != FORMAT:
        raise FormatVersionError(
            f"the format is {first['format']!r}, not {FORMAT!r}", path=str(path), fix=_HOW
        )
    try:
        header = msgspec.convert(first, ProofHeader)
    except msgspec.ValidationError as error:
        raise InputError(str(error), path=str(path), pointer="line 1", fix=_HOW) from error
    return header, (_parsed(line, number, path) for number, line in enumerate(lines, start=2))


_HOW = "write one with 'optalloc assign INSTANCE --proof PROOF'"


def _parsed(line: str, number: int, path: str | os.PathLike[str]) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(
            f"not valid JSON: {error.msg}", path=str(path), pointer=f"line {number}", fix=_HOW
        ) from error


def _lines(path: Path) -> Iterator[str]:
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8") as text:
            yield from text
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read the proof: {error}", path=str(path), fix="check the path; " + _HOW
        ) from error
