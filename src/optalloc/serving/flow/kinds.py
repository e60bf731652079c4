"""Nodes with equal tables counted together: what bounds and stage patterns work on."""

from __future__ import annotations

from collections.abc import Iterable

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


def useful_lengths(table: tuple[float, ...], flow: float) -> list[int]:
    """Numbers of layers at which no longer range passes as much of ``flow``."""
    kept: list[int] = []
    best = 0.0
    for k in range(len(table), 0, -1):
        if min(table[k - 1], flow) > best:
            best = min(table[k - 1], flow)
            kept.append(k)
    return kept[::-1]
