"""Nodes with equal tables counted together: what bounds and stage patterns work on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from optalloc.serving.flow.problem import FlowProblem


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """Nodes of one table; ``nodes`` are their indices, ``table[k - 1]`` is ``T(k)`` tokens/s."""

    table: tuple[float, ...]
    nodes: tuple[int, ...]


def kinds_of(problem: FlowProblem, nodes: Iterable[int] | None = None) -> tuple[Kind, ...]:
    """Kinds among ``nodes`` (default: all), in order of first appearance."""
    found: dict[tuple[float, ...], list[int]] = {}
    for index in range(len(problem.nodes)) if nodes is None else nodes:
        table = problem.nodes[index].throughput_tokens_per_s
        if table:
            found.setdefault(table, []).append(index)
    return tuple(Kind(table=table, nodes=tuple(members)) for table, members in found.items())


def joined_kinds(kinds: Sequence[Kind], most: int) -> tuple[Kind, ...]:
    """About ``most`` kinds at most: those of near throughput and equal length joined.

    A joined kind has the least throughput of its members, so what it passes each of them passes.
    """
    if len(kinds) <= most:
        return tuple(kinds)
    row = sorted(kinds, key=lambda kind: (len(kind.table), kind.table[0]))
    joined: list[list[Kind]] = []
    for kind in row:
        full = len(joined[-1]) * most >= len(row) if joined else True
        if full or len(joined[-1][0].table) != len(kind.table):
            joined.append([])
        joined[-1].append(kind)
    return tuple(
        Kind(
            table=tuple(map(min, zip(*(kind.table for kind in members), strict=True))),
            nodes=tuple(node for kind in members for node in kind.nodes),
        )
        for members in joined
    )


def useful_lengths(table: tuple[float, ...], flow: float) -> list[int]:
    """Numbers of layers at which no longer range passes as much of ``flow``."""
    kept: list[int] = []
    best = 0.0
    for k in range(len(table), 0, -1):
        if min(table[k - 1], flow) > best:
            best = min(table[k - 1], flow)
            kept.append(k)
    return kept[::-1]
