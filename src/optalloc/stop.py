"""When a solver stops: one tiny class a rule, one protocol, composed by :class:`Either`.

Solvers know the protocol alone. They report :class:`Progress`; a rule answers whether to stop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What a solver knows while it runs.

    ``incumbent`` and ``bound`` are in the unit of the objective; None until one is known.
    """

    elapsed_s: float
    incumbent: float | None = None
    bound: float | None = None
    nodes: int = 0

    @property
    def gap(self) -> float:
        """Relative gap between incumbent and bound; infinite until both are known."""
        return relative_gap(self.incumbent, self.bound)


OnProgress = Callable[[Progress], None]


class StopRule(Protocol):
    """Anything that looks at the progress and says whether to stop."""

    def __call__(self, progress: Progress) -> bool: ...


class TimeLimit(msgspec.Struct, frozen=True):
    """Stop after so many wall-clock seconds."""

    seconds: float

    def __call__(self, progress: Progress) -> bool:
        return progress.elapsed_s >= self.seconds


class NodeLimit(msgspec.Struct, frozen=True):
    """Stop after so many search nodes: unlike a clock, it gives equal answers on every machine."""

    nodes: int

    def __call__(self, progress: Progress) -> bool:
        return progress.nodes >= self.nodes


class Gap(msgspec.Struct, frozen=True):
    """Stop once the relative gap is at most ``relative``."""

    relative: float

    def __call__(self, progress: Progress) -> bool:
        return progress.gap <= self.relative


class Either:
    """Stop as soon as one of several rules says so."""

    def __init__(self, *rules: StopRule) -> None:
        self.rules = rules

    def __call__(self, progress: Progress) -> bool:
        return any(rule(progress) for rule in self.rules)


class Never(msgspec.Struct, frozen=True):
    """Never stop early: run to the proof."""

    def __call__(self, progress: Progress) -> bool:  # noqa: ARG002
        return False


def relative_gap(primal: float | None, dual: float | None) -> float:
    """``|primal - dual| / max(|primal|, |dual|)``; 0 when equal, infinite when one is unknown."""
    if primal is None or dual is None:
        return float("inf")
    if primal == dual:
        return 0.0
    return abs(primal - dual) / max(abs(primal), abs(dual))
