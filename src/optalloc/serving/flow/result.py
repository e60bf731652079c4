"""The answer of a layer placement: ranges, routes, bound and what proves it."""

from __future__ import annotations

import msgspec

from optalloc.errors import NoPlan
from optalloc.result import Result
from optalloc.serving.flow.network import Cut
from optalloc.serving.flow.witness import Witness


class FlowResult(Result, frozen=True, kw_only=True):
    """Where layers go and how much flows.

    ``bounds`` are in tokens/s, or in seconds where the objective is latency; ``cut`` is what stops
    this placement from passing more.
    """

    objective: str = "flow"
    placed: dict[int, tuple[int, int]] | None = None
    path: tuple[int, ...] = ()
    cut: Cut | None = None
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
    """What is saved of an answer, and enough to check its claim against the instance."""

    format_version: str = "1.0"
    kind: str = "layer-placement"
    objective: str
    termination: str
    value: float | None
    bound: float | None
    gap: float | None
    placement: dict[str, tuple[int, int]]
    witness: Witness | None = None
