"""Why no fleet serves: which limits conflict, and the cheapest relaxation of each."""

from __future__ import annotations

import time

import msgspec

from optalloc.result import Fix
from optalloc.serving.mix.arrays import FleetArrays
from optalloc.serving.mix.problem import FleetProblem, Limit, Offer
from optalloc.serving.mix.search import Search
from optalloc.stop import Progress, StopRule

_FEW = 3  # buckets that are named
_NODES = 100  # of a search for the least price; a raise that it does not prove says "at most"
_MANY_NODES = 1000  # of a search for any fleet


class _Found(msgspec.Struct, frozen=True):
    """A fleet, or none; ``proven``: there is none cheaper, or none at all."""

    counts: tuple[int, ...] | None
    proven: bool

    def costs(self, problem: FleetProblem) -> str:
        """What the fleet that was found costs, or nothing."""
        if self.counts is None:
            return ""
        price = f"{problem.price_usd_per_h(self.counts):,.2f} USD/h"
        return f"the fleet then costs {'' if self.proven else 'at most '}{price}"


class _Trials:
    """Searches of neighbouring problems, none of them long, and no more once the user stops."""

    def __init__(self, stop: StopRule | None) -> None:
        self._stop, self._begin = stop, time.perf_counter()
        self._ended = False

    def any(self, problem: FleetProblem) -> _Found:
        """Some fleet that serves."""
        return self._searched(problem, _MANY_NODES, first=True)

    def cheapest(self, problem: FleetProblem) -> _Found:
        """The cheapest fleet, or the best that a short search meets."""
        return self._searched(problem, _NODES, first=False)

    def _searched(self, problem: FleetProblem, most: int, *, first: bool) -> _Found:
        if self._ended:
            return _Found(None, proven=False)
        said_so = False

        def stop(progress: Progress) -> bool:
            nonlocal said_so
            elapsed_s = time.perf_counter() - self._begin
            if self._stop is not None and self._stop(Progress(elapsed_s=elapsed_s)):
                self._ended = True
            met = first and progress.incumbent is not None
            said_so = self._ended or met or progress.nodes >= most
            return said_so

        search = Search(FleetArrays(problem), stop)
        search.run()
        self._ended |= search.stopped and not said_so  # Ctrl-C
        counts = None if search.counts is None else tuple(search.counts.tolist())
        return _Found(counts, proven=search.bound >= search.value)


def why_infeasible(
    problem: FleetProblem, stop: StopRule | None = None
) -> tuple[tuple[str, ...], tuple[Fix, ...]]:
    """A set of limits that cannot hold together, and what was tried and helps.

    Every limit and cap is lifted in turn, and put back unless the rest is infeasible without it;
    what is left conflicts. It is irreducible, and lifting any one of it helps, unless ``stop``
    ended it early.
    """
    trials = _Trials(stop)
    arrays = FleetArrays(problem)
    if arrays.unserved:
        return _no_server(problem, arrays.unserved)
    names: list[int | str] = [*range(len(problem.limits))]
    names += [offer.name for offer in problem.offers if offer.at_most is not None]
    lifted: list[int | str] = []
    kept: list[int | str] = []
    for name in names:
        found = trials.any(_without(problem, [*lifted, name]))
        if found.counts is None and found.proven:
            lifted.append(name)
        else:
            kept.append(name)
    conflict = tuple(_words(problem, name) for name in kept)
    if not kept:
        what = (
            "the load does not fit whatever is rented: a failure takes away everything that serves "
            "some of it"
        )
        return (what,), (Fix(what="ask for less redundancy, or offers in another region"),)
    fixes = [fix for name in kept if (fix := _raised(problem, name, trials)) is not None]
    if not fixes:
        fixes.append(_all_raised(problem, names, trials))
    return conflict, tuple(fixes + _other_rules(problem, trials))


def _no_server(
    problem: FleetProblem, unserved: list[int]
) -> tuple[tuple[str, ...], tuple[Fix, ...]]:
    sizes = [problem.buckets[j] for j in unserved]
    listed = ", ".join(f"{b.input_len} + {b.output_len} tokens" for b in sizes[:_FEW])
    more = f" and {len(sizes) - _FEW} more" if len(sizes) > _FEW else ""
    rate = sum(bucket.rate_per_s for bucket in sizes)
    return (
        (f"no offer serves the requests of {listed}{more} within the target",),
        (
            Fix(
                what="add an offer that serves them, or relax the latency target",
                cost=f"{rate:.4g} requests/s are concerned",
            ),
        ),
    )


def _without(problem: FleetProblem, names: list[int | str]) -> FleetProblem:
    limits = tuple(p for i, p in enumerate(problem.limits) if i not in names)
    offers = tuple(
        msgspec.structs.replace(o, at_most=None) if o.name in names else o for o in problem.offers
    )
    return msgspec.structs.replace(problem, limits=limits, offers=offers)


def _words(problem: FleetProblem, name: int | str) -> str:
    if isinstance(name, int):
        return f"at most {problem.limits[name]}"
    offer = next(offer for offer in problem.offers if offer.name == name)
    return f"at most {offer.at_most} replicas of {name}"


def _raised(problem: FleetProblem, name: int | str, trials: _Trials) -> Fix | None:
    """The least that one limit has to be raised by, all others as they are."""
    alone = _without(problem, [name])
    counted = tuple(_priced_by(problem, offer, name) for offer in alone.offers)
    found = trials.cheapest(msgspec.structs.replace(alone, offers=counted))
    if (counts := found.counts) is None:
        return None
    if isinstance(name, int):
        limit = problem.limits[name]
        used = limit_use(problem, counts, limit)
        raised = msgspec.structs.replace(limit, devices=used)
        limits = tuple(raised if i == name else p for i, p in enumerate(problem.limits))
        fixed = msgspec.structs.replace(problem, limits=limits)
        what = f"raise the limit of {limit} to {used}"
        more = used - limit.devices
    else:
        g = next(i for i, offer in enumerate(problem.offers) if offer.name == name)
        offer = problem.offers[g]
        raised_offer = msgspec.structs.replace(offer, at_most=counts[g])
        offers = tuple(raised_offer if i == g else o for i, o in enumerate(problem.offers))
        fixed = msgspec.structs.replace(problem, offers=offers)
        what = f"allow {counts[g]} replicas of {name} instead of {offer.at_most}"
        more = (counts[g] - (offer.at_most or 0)) * offer.devices
    size = f"{'' if found.proven else 'at most '}{more} more {'device' if more == 1 else 'devices'}"
    price = trials.cheapest(fixed).costs(fixed)
    return Fix(what=what, cost="; ".join(filter(None, (size, price))))


def _all_raised(problem: FleetProblem, names: list[int | str], trials: _Trials) -> Fix:
    """What the cheapest fleet without limits takes more than there is: no one limit is enough."""
    free = _without(problem, names)
    found = trials.cheapest(free)
    if (counts := found.counts) is None:
        return Fix(what="raise the limits and ask for less redundancy")
    over = [
        f"{count} of {offer.name} instead of {offer.at_most}"
        for offer, count in zip(problem.offers, counts, strict=True)
        if offer.at_most is not None and count > offer.at_most
    ]
    over += [
        f"{used} devices where there are {limit}"
        for limit in problem.limits
        if (used := limit_use(problem, counts, limit)) > limit.devices
    ]
    return Fix(what=f"allow {' and '.join(over)}", cost=found.costs(free))


def _priced_by(problem: FleetProblem, offer: Offer, name: int | str) -> Offer:
    """The offer at the price of one a device that the limit counts, and 0 otherwise."""
    counts = problem.limits[name].covers(offer) if isinstance(name, int) else offer.name == name
    return msgspec.structs.replace(offer, price_usd_per_h=float(offer.devices * counts))


def _other_rules(problem: FleetProblem, trials: _Trials) -> list[Fix]:
    """Whether full use of the time, or no redundancy, would do."""
    found, tries = [], []
    if problem.redundancy != "none":
        alone = msgspec.structs.replace(problem, redundancy="none")
        tries.append(("do without redundancy", alone))
    if problem.utilization < 1.0:
        full = msgspec.structs.replace(problem, utilization=1.0)
        tries.append(("plan for all of the time", full))
    for what, other in tries:
        if cost := trials.cheapest(other).costs(other):
            found.append(Fix(what=what, cost=cost))
    return found


def limit_use(problem: FleetProblem, counts: tuple[int, ...], limit: Limit) -> int:
    """Devices of a fleet that a limit counts."""
    return sum(
        n * o.devices for o, n in zip(problem.offers, counts, strict=True) if limit.covers(o)
    )
