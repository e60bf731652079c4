"""What a solver claims: why it stopped, what is known, and what it cost.

Why it stopped (:class:`Termination`) is kept apart from what is known (:class:`Bounds`) and from
what it cost (:class:`Stats`). Each family extends :class:`Result` with its own plan.
"""

from __future__ import annotations

import enum
from typing import TypeVar

import msgspec

from optalloc.errors import NoPlan
from optalloc.stop import relative_gap

PlanT = TypeVar("PlanT")


class Termination(enum.Enum):
    """Why the solver stopped, and what that promises."""

    OPTIMAL = "optimal"
    """The plan is optimal for the stated model: the gap is zero within the stated tolerance, and
    the independent check agreed."""
    FEASIBLE = "feasible"
    """The method ran to its end and has a feasible plan, but no proof; the gap says how far off
    it may be."""
    INFEASIBLE = "infeasible"
    """Proven: no plan exists. ``conflict`` names what conflicts and ``fixes`` what would help."""
    LIMIT = "limit"
    """A limit or an interrupt stopped the search; the best plan and bound so far are kept."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about the optimum, in the unit of the objective.

    ``primal`` is the value of the best plan (None: no plan); ``dual`` is proven: no plan is better.
    """

    primal: float | None = None
    dual: float | None = None

    @property
    def gap(self) -> float:
        """Relative gap; 0.0 when proven, infinite while one side is unknown."""
        return relative_gap(self.primal, self.dual)


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """What the answer cost. ``pruned`` counts configurations by the bound or rule that removed
    them.
    """

    wall_s: float = 0.0
    cpu_s: float = 0.0
    nodes: int = 0
    configurations: int = 0
    pruned: dict[str, int] = {}


class Incumbent(msgspec.Struct, frozen=True, kw_only=True):
    """A plan value and when it was found."""

    elapsed_s: float
    value: float


class Fix(msgspec.Struct, frozen=True, kw_only=True):
    """A relaxation that was tried and makes the problem feasible; ``cost`` is its size in words."""

    what: str
    cost: str = ""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The part every family's answer has in common."""

    termination: Termination
    bounds: Bounds
    stats: Stats
    incumbents: tuple[Incumbent, ...] = ()
    conflict: tuple[str, ...] = ()
    fixes: tuple[Fix, ...] = ()

    def _planned(self, best: PlanT | None, kind: str) -> PlanT:
        """``best``, or NoPlan that says why there is no plan of this kind."""
        if best is None:
            why = "; ".join(self.conflict) or "the search was stopped before it found one"
            raise NoPlan(f"there is no {kind} plan: {why}", result=self)
        return best
