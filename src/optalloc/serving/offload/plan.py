"""OffloadPlan: where every part of a model lives on one machine, complete and self-contained."""

from __future__ import annotations

import os

import msgspec

from optalloc import files
from optalloc.model.spec import ModelSpec
from optalloc.result import Result
from optalloc.serving.offload.generation import Generation
from optalloc.serving.offload.machine import Machine
from optalloc.serving.offload.placement import Placed, Use
from optalloc.serving.offload.problem import Limits

FORMAT_VERSION = "1.0"


class OffloadProof(msgspec.Struct, frozen=True, kw_only=True):
    """Why nothing is faster: a bound, seconds, after so many chains and fills.

    ``root_bound_s`` is that with CPU memory at a price, before any was visited.
    """

    bound_s: float
    root_bound_s: float
    nodes: int
    checked: bool = False


class OffloadPlan(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="offload"):
    """A placement with everything needed to check, explain and export it.

    Times are estimates of one request (all its sequences): ``ttft_s`` until the first token,
    ``tpot_s`` for each further one of every sequence; ``breakdown_s`` splits ``request_s`` by cause
    and sums to it. ``limits`` are those of ``runtime``.
    """

    format_version: str = FORMAT_VERSION
    tool_version: str
    model: ModelSpec
    machine: Machine
    generation: Generation
    digests: dict[str, str]
    runtime: str
    limits: Limits
    placement: tuple[Placed, ...]
    request_s: float
    ttft_s: float
    tpot_s: float
    output_tokens_per_s: float
    breakdown_s: dict[str, float]
    memory: tuple[Use, ...]
    proof: OffloadProof | None = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``plan.json`` in canonical form."""
        files.write_json(path, self)


class OffloadResult(Result, frozen=True, kw_only=True):
    """The answer of :func:`~optalloc.serving.offload.solve.plan_offload`; bounds in seconds."""

    best: OffloadPlan | None = None

    @property
    def plan(self) -> OffloadPlan:
        """The best plan.

        Raises
        ------
        NoPlan
            If there is none.
        """
        return self._planned(self.best, "offload")
