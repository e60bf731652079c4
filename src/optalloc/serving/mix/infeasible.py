"""Why no fleet serves: which limits conflict, and the cheapest relaxation of each."""

from __future__ import annotations

import msgspec

from optalloc.result import Fix
from optalloc.serving.mix.arrays import FleetArrays
from optalloc.serving.mix.problem import FleetProblem, Limit, Offer
from optalloc.serving.mix.search import Search

_FEW = 3  # buckets that are named


def why_infeasible(problem: FleetProblem) -> tuple[tuple[str, ...], tuple[Fix, ...]]:
    """An irreducible set of limits that cannot hold together, and what was tried and helps.

    Every limit and cap is lifted in turn and put back only where the rest is feasible without it;
    what is left conflicts, and lifting any one of it helps.
    """
    arrays = FleetArrays(problem)
    if arrays.unserved:
        return _no_server(problem, arrays.unserved)
    names: list[int | str] = [*range(len(problem.limits))]
    names += [offer.name for offer in problem.offers if offer.at_most is not None]
    lifted: list[int | str] = []
    kept: list[int | str] = []
    for name in names:
        if _cheapest(_without(problem, [*lifted, name])) is None:
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
    fixes = [fix for name in kept if (fix := _raised(problem, name)) is not None]
    if not fixes:
        fixes.append(_all_raised(problem, names))
    return conflict, tuple(fixes + _other_rules(problem))


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


def _cheapest(problem: FleetProblem) -> tuple[int, ...] | None:
    search = Search(FleetArrays(problem))
    search.run()
    return None if search.counts is None else tuple(search.counts.tolist())


def _words(problem: FleetProblem, name: int | str) -> str:
    if isinstance(name, int):
        return f"at most {problem.limits[name]}"
    offer = next(offer for offer in problem.offers if offer.name == name)
    return f"at most {offer.at_most} replicas of {name}"


def _raised(problem: FleetProblem, name: int | str) -> Fix | None:
    """The least that one limit has to be raised by, all others as they are."""
    alone = _without(problem, [name])
    counted = tuple(_priced_by(problem, offer, name) for offer in alone.offers)
    counts = _cheapest(msgspec.structs.replace(alone, offers=counted))
    if counts is None:
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
    found = _cheapest(fixed)
    price = (
        "" if found is None else f"; the fleet then costs {fixed.price_usd_per_h(found):,.2f} USD/h"
    )
    return Fix(what=what, cost=f"{more} more {'device' if more == 1 else 'devices'}{price}")


def _all_raised(problem: FleetProblem, names: list[int | str]) -> Fix:
    """What the cheapest fleet without limits takes more than there is: no one limit is enough."""
    free = _without(problem, names)
    counts = _cheapest(free)
    if counts is None:
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
    cost = f"the fleet then costs {free.price_usd_per_h(counts):,.2f} USD/h"
    return Fix(what=f"allow {' and '.join(over)}", cost=cost)


def _priced_by(problem: FleetProblem, offer: Offer, name: int | str) -> Offer:
    """The offer at the price of one a device that the limit counts, and 0 otherwise."""
    counts = problem.limits[name].covers(offer) if isinstance(name, int) else offer.name == name
    return msgspec.structs.replace(offer, price_usd_per_h=float(offer.devices * counts))


def _other_rules(problem: FleetProblem) -> list[Fix]:
    """Whether full use of the time, or no redundancy, would do."""
    found, tries = [], []
    if problem.redundancy != "none":
        alone = msgspec.structs.replace(problem, redundancy="none")
        tries.append(("do without redundancy", alone))
    if problem.utilization < 1.0:
        full = msgspec.structs.replace(problem, utilization=1.0)
        tries.append(("plan for all of the time", full))
    for what, other in tries:
        counts = _cheapest(other)
        if counts is not None:
            cost = f"the fleet then costs {other.price_usd_per_h(counts):,.2f} USD/h"
            found.append(Fix(what=what, cost=cost))
    return found


def limit_use(problem: FleetProblem, counts: tuple[int, ...], limit: Limit) -> int:
    """Devices of a fleet that a limit counts."""
    return sum(
        n * o.devices for o, n in zip(problem.offers, counts, strict=True) if limit.covers(o)
    )
