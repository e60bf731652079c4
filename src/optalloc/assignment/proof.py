"""The proof log of an assignment: what a file holds, how it is written and read.

A proof is JSON lines, gzipped where its name ends in ``.gz``: a header, then the events of one
search tree after the other, each in depth-first order.

    {"format": "optalloc.assignment-proof/3", ...}     header, see :class:`ProofHeader`
    ["fix", numbers, multipliers]  pairs are removed by the price of forcing them in
    ["branch", unit, task, in]     the child with x = in (1 or 0) follows, then the other child;
                                   where x = 0, the task leaves the unit's twins too
    ["leaf", numbers, multipliers] the bound at these multipliers exceeds the target
    ["cover", numbers, multipliers] no sets of tasks, one a unit, reach the target with them
    ["leaf"]                       the removals left a task without a unit, or every task has one

Tasks that stay together count as one task; tasks are numbered in the order of their first member.
The last unit, number ``num_units``, takes what is left out, where something may be left out.

Costs are *normal*: each task's cheapest pair costs 0, and the costs have no common divisor, over
the pairs that fit into the empty unit within the tree's largest relative load. Multipliers are
integers, ``scale`` times a normal cost. With N tasks, W units and R resources, number j is the
reward of task j, N + r W + i the price of the whole of resource r on unit i, and N + R W + g W + i
the price of the tree's group g on unit i. Each is 0 at first and keeps the last value given. The
checker that believes nothing of this is :mod:`optalloc.assignment.check_proof`.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from optalloc.assignment.problem import AssignmentProblem
from optalloc.errors import FormatVersionError, InputError
from optalloc.files import parse_json, replacing

FORMAT = "optalloc.assignment-proof/3"

Event = list[Any]

#: Rows of native/assignment/record.hpp that hold multipliers.
_KINDS = {1: "leaf", 2: "fix", 5: "cover"}


class Tree(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one tree claims: no assignment within ``share`` has a normal cost of at most ``target``.

    Attributes
    ----------
    target : int
    scale, shift : int
        A scaled cost is the floor of cost * scale / 2**shift.
    without_costs : bool
        The tree is of the same instance with all costs 0: if it holds at a target of at least 0,
        nothing within ``share`` is feasible.
    share : str, optional
        The claim is of assignments whose largest relative load is ``"<p/q"`` or ``"<=p/q"``.
    kept : tuple of int
        The resource that the knapsack of each unit keeps; empty where there is one resource.
    classes : tuple of tuple of int
        Tasks of which each knapsack takes at most one: disjoint, and to stay apart.
    groups : tuple of tuple of int
        Groups of tasks that stay apart, which have a price. Over pools each is a further resource,
        numbered after the others, of which a task of the group takes 1 and a pool holds as many as
        it has units.
    pools : tuple of tuple of int
        The tree is of the problem where each group of identical units is one unit of their summed
        capacity, in this order, each unit in one group; empty: of the units.
    cells : int, optional
        Knapsacks of larger capacities count their loads in this many cells, rounded down.
    """

    target: int
    scale: int = 1
    shift: int = 0
    without_costs: bool = False
    share: str | None = None
    kept: tuple[int, ...] = ()
    classes: tuple[tuple[int, ...], ...] = ()
    groups: tuple[tuple[int, ...], ...] = ()
    pools: tuple[tuple[int, ...], ...] = ()
    cells: int | None = None


class Grown(NamedTuple):
    """A tree and its events, as rows of native/assignment/record.hpp."""

    tree: Tree
    rows: np.ndarray[Any, np.dtype[np.int64]]


def one_leaf(*, is_infeasible: bool) -> Grown:
    """The tree of a problem without tasks, or with one that has no unit."""
    leaf = np.zeros(1, dtype=np.int64)
    return Grown(Tree(target=0 if is_infeasible else -1, without_costs=is_infeasible), leaf)


class ProofHeader(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the file is about.

    Attributes
    ----------
    format : str
    instance : str
        SHA-256 of the instance's numbers, see :func:`instance_digest`.
    trees : tuple of Tree
        In the order of their events.
    assignment : tuple of int or None
        The best plan found: the unit of each task, -1 for a task left out.
    """

    format: str
    instance: str
    trees: tuple[Tree, ...]
    assignment: tuple[int, ...] | None = None


def instance_digest(problem: AssignmentProblem) -> str:
    """SHA-256 over all that the constructor of a problem takes."""
    groups = (problem.together, problem.apart)
    words = f"{problem.costs.shape} {problem.sense} {problem.objective} {groups}"
    total = hashlib.sha256(words.encode())
    arrays = (problem.costs, problem.loads, problem.capacities, problem.allowed)
    for array in (*arrays, problem.optional, problem.skip_costs):
        total.update(f" {array.shape} {array.dtype.str} ".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def write_proof(
    path: str | os.PathLike[str],
    problem: AssignmentProblem,
    assignment: tuple[int, ...] | None,
    trees: Sequence[Grown],
) -> None:
    """Write a proof file, whole or not at all."""
    header = ProofHeader(
        format=FORMAT,
        instance=instance_digest(problem),
        trees=tuple(grown.tree for grown in trees),
        assignment=assignment,
    )
    with contextlib.ExitStack() as stack:
        out: Any = stack.enter_context(stack.enter_context(replacing(path)).open("wb"))
        if Path(path).suffix == ".gz":
            # No name and no time: equal proofs are equal bytes.
            out = stack.enter_context(gzip.GzipFile("", "wb", fileobj=out, mtime=0))
        out.write(json.dumps(msgspec.to_builtins(header)).encode() + b"\n")
        for grown in trees:
            for event in _events_of(grown.rows):
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
            yield [_KINDS[kind], pairs[0::2].tolist(), pairs[1::2].tolist()]
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
        return parse_json(line, path=str(path))
    except InputError as error:
        raise InputError(error.what, path=str(path), pointer=f"line {number}", fix=_HOW) from error


def _lines(path: Path) -> Iterator[str]:
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8") as text:
            yield from text
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read the proof: {error}", path=str(path), fix="check the path; " + _HOW
        ) from error
