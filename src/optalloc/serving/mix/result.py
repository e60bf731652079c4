"""The answer of a fleet: counts, shares of the load, headroom, bound and what proves it."""

from __future__ import annotations

import msgspec

from optalloc.errors import NoPlan
from optalloc.result import Fix, Result
from optalloc.serving.mix.problem import FleetProblem, Redundancy
from optalloc.serving.mix.route import Routes, Share
from optalloc.serving.mix.witness import FleetWitness


class FleetResult(Result, frozen=True, kw_only=True):
    """Which replicas to rent; ``bounds`` are in USD/h.

    ``headroom`` is how much more load the fleet serves at the planned utilization (0.1: ten per
    cent), ``busiest`` the share of all its time that the busiest offer works.
    """

    rented: tuple[int, ...] | None = None
    routes: Routes | None = None
    headroom: float | None = None
    busiest: float | None = None
    witness: FleetWitness | None = None
    message: str = ""

    @property
    def counts(self) -> tuple[int, ...]:
        """Replicas by offer.

        Raises
        ------
        NoPlan
            If there is no fleet.
        """
        if self.rented is None:
            raise NoPlan(f"There is no fleet: {self.message}", self)
        return self.rented


class Rented(msgspec.Struct, frozen=True, kw_only=True):
    """Replicas of one offer; ``busy`` is the share of all their time that they work."""

    offer: str
    count: int
    price_usd_per_h: float
    busy: float


class FleetAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What is saved of an answer, and enough to check its claim against the problem.

    ``price_usd_per_h`` and ``bound_usd_per_h`` are of the whole fleet; ``counts`` are by offer of
    the problem; ``shares`` are what part of each bucket an offer serves. The rules it was planned
    with are those of the problem, or what was asked for instead.
    """

    format_version: str = "1.0"
    termination: str
    price_usd_per_h: float | None
    bound_usd_per_h: float | None
    gap: float | None
    fleet: tuple[Rented, ...]
    counts: tuple[int, ...] | None
    utilization: float = 1.0
    redundancy: Redundancy = "none"
    utilization_after_failure: float | None = None
    headroom: float | None = None
    busiest: float | None = None
    shares: tuple[Share, ...] = ()
    witness: FleetWitness | None = None
    conflict: tuple[str, ...] = ()
    fixes: tuple[Fix, ...] = ()
    message: str = ""
    cpu_s: float = 0.0


def answer_of(problem: FleetProblem, result: FleetResult) -> FleetAnswer:
    """The published form of a result."""
    gap, routes = result.bounds.gap, result.routes
    rented = []
    for g, count in enumerate(result.rented or ()):
        if count and routes is not None:
            offer = problem.offers[g]
            busy = routes.busy_by_offer[g] * problem.utilization * (1.0 - offer.interruption)
            rented.append(
                Rented(
                    offer=offer.name,
                    count=count,
                    price_usd_per_h=count * offer.price_usd_per_h,
                    busy=busy,
                )
            )
    return FleetAnswer(
        termination=result.termination.value,
        price_usd_per_h=result.bounds.primal,
        bound_usd_per_h=result.bounds.dual,
        gap=gap if gap < float("inf") else None,
        fleet=tuple(rented),
        counts=result.rented,
        utilization=problem.utilization,
        redundancy=problem.redundancy,
        utilization_after_failure=problem.utilization_after_failure,
        headroom=result.headroom,
        busiest=result.busiest,
        shares=() if routes is None else routes.shares,
        witness=result.witness,
        conflict=result.conflict,
        fixes=result.fixes,
        message=result.message,
        cpu_s=result.stats.cpu_s,
    )
