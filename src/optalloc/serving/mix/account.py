"""What binds a fleet, what more load would cost, and which fleets come next."""

from __future__ import annotations

from fractions import Fraction

import msgspec

from optalloc.serving.mix.arrays import FleetArrays
from optalloc.serving.mix.infeasible import limit_use
from optalloc.serving.mix.problem import FleetProblem, scenarios
from optalloc.serving.mix.relax import Relaxation
from optalloc.serving.mix.route import route
from optalloc.serving.mix.search import Search
from optalloc.stop import StopRule

_NEAR = 1e-6


class Other(msgspec.Struct, frozen=True, kw_only=True):
    """Another fleet, and what it costs more than the answer; None: there is none."""

    what: str
    counts: tuple[int, ...] | None
    price_usd_per_h: float | None
    more_usd_per_h: float | None


class Scarce(msgspec.Struct, frozen=True, kw_only=True):
    """A limit that is used up, and what one more of it would save."""

    what: str
    saves_usd_per_h: float


class FleetAccount(msgspec.Struct, frozen=True, kw_only=True):
    """Why a fleet is what it is.

    Parameters
    ----------
    binds : tuple of str
        What is full: the time of which offers, in which scenario.
    marginal_usd_per_h : float
        What one per cent more load adds to the cheapest broken fleet (the linear programme's
        shadow price of demand).
    next_load : Other
        The cheapest fleet for a load just above what this one serves.
    scarce : tuple of Scarce
        Limits that are used up.
    others : tuple of Other
        The cheapest fleet that is neither this one nor more of it, and the cheapest of each kind
        of device alone.
    """

    binds: tuple[str, ...]
    marginal_usd_per_h: float
    next_load: Other
    scarce: tuple[Scarce, ...]
    others: tuple[Other, ...]


def account_of(
    problem: FleetProblem, counts: tuple[int, ...], *, stop: StopRule | None = None
) -> FleetAccount:
    """Explain a fleet by solving neighbouring problems, each to its proof unless stopped."""
    price = problem.price_usd_per_h(counts)
    normal, *failures = scenarios(problem)
    found = route(problem, counts, normal)
    binds, worst = [], found.busy
    if found.busy > 1.0 - _NEAR:
        names = [problem.offers[g].name for g, worth in enumerate(found.prices) if worth > 0.0]
        binds.append(f"the time of {', '.join(names)} in normal operation")
    for scenario in failures:
        busy = route(problem, counts, scenario).busy
        worst = max(worst, busy)
        if busy > 1.0 - _NEAR:
            binds.append(f"what is left when {scenario.name}")
    if not binds:
        binds.append(
            f"whole replicas: {1.0 / worst - 1.0:.1%} more load fits" if worst else "nothing"
        )
    return FleetAccount(
        binds=tuple(binds),
        marginal_usd_per_h=_marginal(problem),
        next_load=_after(problem, price, worst, stop),
        scarce=tuple(_scarce(problem, counts, price, stop)),
        others=(_next_best(problem, counts, price, stop), *_alone(problem, price, stop)),
    )


def _solved(problem: FleetProblem, stop: StopRule | None) -> tuple[int, ...] | None:
    arrays = FleetArrays(problem)
    if arrays.unserved:
        return None
    search = Search(arrays, stop)
    search.run()
    return None if search.counts is None else tuple(search.counts.tolist())


def _other(problem: FleetProblem, what: str, counts: tuple[int, ...] | None, price: float) -> Other:
    cost = None if counts is None else problem.price_usd_per_h(counts)
    more = None if cost is None else cost - price
    return Other(what=what, counts=counts, price_usd_per_h=cost, more_usd_per_h=more)


def _scaled(problem: FleetProblem, factor: float) -> FleetProblem:
    exact = Fraction(factor)
    buckets = tuple(
        msgspec.structs.replace(b, rate_per_s=float(Fraction(b.rate_per_s) * exact))
        for b in problem.buckets
    )
    return msgspec.structs.replace(problem, buckets=buckets)


def _marginal(problem: FleetProblem) -> float:
    """One hundredth of what the load is worth at the root's prices."""
    arrays = FleetArrays(problem)
    found = Relaxation(arrays).box(*arrays.root(), float("inf"))
    total = 0.0
    for entry in found.proof.prices:
        for j in range(len(arrays.first) - 1):
            part = slice(arrays.first[j], arrays.first[j + 1])
            total += min(
                entry.prices[k] * load
                for k, load in zip(arrays.serving[part], arrays.load[part], strict=True)
            )
    return float(total) / 100.0 if found.proof.weight else 0.0


def _after(problem: FleetProblem, price: float, worst: float, stop: StopRule | None) -> Other:
    growth = (1.0 / worst if worst > 0.0 else 1.0) * (1.0 + 1e-4)
    counts = _solved(_scaled(problem, growth), stop)
    return _other(problem, f"{growth - 1.0:.2%} more load", counts, price)


def _scarce(
    problem: FleetProblem, counts: tuple[int, ...], price: float, stop: StopRule | None
) -> list[Scarce]:
    found = []
    for index, limit in enumerate(problem.limits):
        devices = [o.devices for o in problem.offers if limit.covers(o)]
        if devices and limit_use(problem, counts, limit) + min(devices) > limit.devices:
            more = msgspec.structs.replace(limit, devices=limit.devices + min(devices))
            limits = tuple(more if i == index else p for i, p in enumerate(problem.limits))
            other = msgspec.structs.replace(problem, limits=limits)
            found.append(_saving(other, f"the limit of {limit}", price, stop))
    for g, (offer, count) in enumerate(zip(problem.offers, counts, strict=True)):
        if offer.at_most is not None and count == offer.at_most:
            raised = msgspec.structs.replace(offer, at_most=count + 1)
            offers = tuple(raised if i == g else o for i, o in enumerate(problem.offers))
            other = msgspec.structs.replace(problem, offers=offers)
            found.append(_saving(other, f"at most {count} of {offer.name}", price, stop))
    return [entry for entry in found if entry.saves_usd_per_h > 0.0]


def _saving(problem: FleetProblem, what: str, price: float, stop: StopRule | None) -> Scarce:
    counts = _solved(problem, stop)
    cost = price if counts is None else problem.price_usd_per_h(counts)
    return Scarce(what=what, saves_usd_per_h=max(0.0, price - cost))


def _next_best(
    problem: FleetProblem, counts: tuple[int, ...], price: float, stop: StopRule | None
) -> Other:
    """The cheapest fleet that has fewer of something than the answer."""
    import numpy as np

    search = Search(FleetArrays(problem), stop)
    search.run(avoid=np.array(counts, dtype=np.int64))
    other = None if search.counts is None else tuple(search.counts.tolist())
    return _other(problem, "the next-best mix", other, price)


def _alone(problem: FleetProblem, price: float, stop: StopRule | None) -> list[Other]:
    """The cheapest fleet of each kind of device alone."""
    kinds = list(dict.fromkeys(offer.device for offer in problem.offers))
    found = []
    for device in kinds if len(kinds) > 1 else ():
        offers = tuple(
            o if o.device == device or o.at_least else msgspec.structs.replace(o, at_most=0)
            for o in problem.offers
        )
        counts = _solved(msgspec.structs.replace(problem, offers=offers), stop)
        found.append(_other(problem, f"{device} alone", counts, price))
    return found
