"""The answer of a layer placement: ranges, routes, bound and what proves it."""

from __future__ import annotations

from typing import Literal

import msgspec

from optalloc.errors import InputError, NoPlan
from optalloc.result import Fix, Result
from optalloc.serving.flow.network import Cut
from optalloc.serving.flow.witness import Witness

Objective = Literal["flow", "latency"]


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """Nodes a token meets from source to sink, how many tokens/s go this way, and its seconds."""

    nodes: tuple[int, ...]
    tokens_per_s: float
    latency_s: float


class FlowResult(Result, frozen=True, kw_only=True):
    """Where layers go and how much flows.

    ``bounds`` are in tokens/s, or in seconds where ``objective`` is "latency"; ``cut`` is what
    stops this placement from passing more, ``witness`` proves that no placement passes more than
    the bound (or is faster). ``latency_s`` is that of one token on the slowest route in use,
    ``link_latency_s`` what it spends on links at most. ``routes`` are listed where latency
    matters: under ``latency_limit_s``, and the one of least latency.
    """

    objective: Objective = "flow"
    latency_limit_s: float | None = None
    latency_s: float | None = None
    routes: tuple[Route, ...] = ()
    placed: dict[int, tuple[int, int]] | None = None
    partial_inference: bool = False
    cut: Cut | None = None
    link_latency_s: float | None = None
    witness: Witness | None = None
    message: str = ""

    @property
    def placement(self) -> dict[int, tuple[int, int]]:
        """Node index to first and end layer (exclusive); unused nodes are left out.

        Raises
        ------
        NoPlan
            If there is none.
        """
        if self.placed is None:
            raise NoPlan(f"There is no placement: {self.message}", self)
        return self.placed


class FlowAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What is saved of an answer, and enough to check its claim against the instance.

    ``objective`` and ``bound`` are tokens/s, or seconds where the ``goal`` is "latency";
    ``placement`` maps the number of a node to its first and end layer (exclusive).
    """

    format_version: str = "1.1"
    termination: str
    goal: Objective = "flow"
    latency_limit_s: float | None = None
    latency_s: float | None = None
    routes: tuple[Route, ...] = ()
    objective: float | None
    bound: float | None
    gap: float | None
    placement: dict[str, tuple[int, int]]
    partial_inference: bool = False
    cut: Cut | None = None
    link_latency_s: float | None = None
    witness: Witness | None = None
    conflict: tuple[str, ...] = ()
    fixes: tuple[Fix, ...] = ()
    message: str = ""
    cpu_s: float = 0.0


def answer_of(result: FlowResult) -> FlowAnswer:
    """The published form of a result."""
    gap = result.bounds.gap
    return FlowAnswer(
        termination=result.termination.value,
        goal=result.objective,
        latency_limit_s=result.latency_limit_s,
        latency_s=result.latency_s,
        routes=result.routes,
        objective=result.bounds.primal,
        bound=result.bounds.dual,
        gap=gap if gap < float("inf") else None,
        placement={str(node): held for node, held in (result.placed or {}).items()},
        partial_inference=result.partial_inference,
        cut=result.cut,
        link_latency_s=result.link_latency_s,
        witness=result.witness,
        conflict=result.conflict,
        fixes=result.fixes,
        message=result.message,
        cpu_s=result.stats.cpu_s,
    )


def placement_of(answer: FlowAnswer, path: str) -> dict[int, tuple[int, int]]:
    """Node number to range; raises InputError where a key is no number."""
    found = {}
    for key, held in answer.placement.items():
        if not key.isdigit():
            raise InputError(
                f"{key!r} is no number of a node", path=path, pointer="$.placement", fix="use 0, 1"
            )
        found[int(key)] = held
    return found
