"""The formal problem: which replicas to rent so that every bucket of requests is served.

Bucket ``j`` brings ``d_j`` requests/s; one replica of offer ``g`` serves at most ``R_gj`` of them a
second within the latency target when it serves nothing else (0: never). Counts ``y_g`` are whole,
a bucket may be shared among replicas. A fleet serves the load at utilization ``u`` if there are
flows ``f_gj >= 0`` with

    sum_g f_gj = d_j                             every request of bucket j is served
    sum_j f_gj / R_gj <= u (1 - q_g) y_g         time of the replicas of g; q_g share interrupted

and costs ``sum_g p_g y_g``, subject to counts (``at_least``, ``at_most``) and to limits on devices
that offers share. With redundancy the load must also fit, at ``utilization_after_failure``, into
what is left after each failure of :func:`scenarios`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from optalloc.errors import InputError

#: Requests a second of a bucket at most.
MOST_PER_S = 1e7

Market = Literal["on-demand", "spot", "reserved"]
Redundancy = Literal["none", "replica", "replica-of-each", "region"]


class Bucket(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Requests of about one size.

    Parameters
    ----------
    input_len, output_len : int
        Tokens of the prompt and of the answer.
    rate_per_s : float
        Requests a second.
    """

    input_len: int
    output_len: int
    rate_per_s: float


class Offer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A replica that can be rented, and what it serves.

    Parameters
    ----------
    name : str
        For reports; no two offers have one name.
    device : str
        Kind of its GPUs; limits speak of it.
    devices : int
        GPUs of one replica: four for an engine of ``tp = 4``.
    region, market : str
        Where and how it is rented.
    price_usd_per_h : float
        Of one replica.
    interruption : float
        Share of the time for which a replica is away (spot), 0 to below 1.
    at_least, at_most : int
        Of the count; None: as many as wanted.
    requests_per_s : tuple of float
        ``R_gj`` by bucket; 0 where the latency target cannot be met.
    """

    name: str
    device: str = ""
    devices: int = 1
    region: str = ""
    market: Market = "on-demand"
    price_usd_per_h: float
    interruption: float = 0.0
    at_least: int = 0
    at_most: int | None = None
    requests_per_s: tuple[float, ...]


class Limit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """At most ``devices`` GPUs over all offers that match; None matches all."""

    devices: int
    device: str | None = None
    region: str | None = None
    market: Market | None = None

    def covers(self, offer: Offer) -> bool:
        """Whether the GPUs of an offer count."""
        return all(
            wanted is None or wanted == has
            for wanted, has in (
                (self.device, offer.device),
                (self.region, offer.region),
                (self.market, offer.market),
            )
        )

    def __str__(self) -> str:
        words = [word for word in (self.market, self.device, self.region) if word]
        return f"{self.devices} {' '.join(words) or 'devices in all'}"


class FleetProblem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Load, offers and rules.

    Parameters
    ----------
    buckets : tuple of Bucket
    offers : tuple of Offer
    limits : tuple of Limit
    utilization : float
        Share of a replica's time that may be planned, above 0 to 1; what is left is headroom for
        bursts.
    redundancy : {"none", "replica", "replica-of-each", "region"}
        What may fail with the load still served: any one replica; one replica of every offer at
        once; all replicas of any one region.
    utilization_after_failure : float, optional
        The same share while something has failed (default: as ``utilization``).
    """

    name: str = ""
    buckets: tuple[Bucket, ...]
    offers: tuple[Offer, ...]
    limits: tuple[Limit, ...] = ()
    utilization: float = 1.0
    redundancy: Redundancy = "none"
    utilization_after_failure: float | None = None

    def __post_init__(self) -> None:
        _check_buckets(self.buckets)
        for index, offer in enumerate(self.offers):
            _check_offer(offer, index, len(self.buckets))
        names = [offer.name for offer in self.offers]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise _wrong(f"two offers are named {name!r}", f"$.offers[{index}]", "rename one")
        for index, limit in enumerate(self.limits):
            if limit.devices < 0:
                raise _wrong(
                    "a limit is negative", f"$.limits[{index}].devices", "give 0 or more devices"
                )
        for name in ("utilization", "utilization_after_failure"):
            share = getattr(self, name)
            if share is not None and not 0.0 < share <= 1.0:
                raise _wrong(f"{name} is {share}", f"$.{name}", "give a share above 0, at most 1")

    def price_usd_per_h(self, counts: tuple[int, ...]) -> float:
        """What a fleet costs."""
        return sum(o.price_usd_per_h * n for o, n in zip(self.offers, counts, strict=True))


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """What fails, and the share of the remaining time that may then be used.

    One replica of every offer in ``each`` that is rented; one replica in all of the offers in
    ``any``, which serve alike; and all replicas of those in ``whole``.
    """

    name: str
    utilization: float
    each: tuple[int, ...] = ()
    any: tuple[int, ...] = ()
    whole: tuple[int, ...] = ()


def scenarios(problem: FleetProblem) -> tuple[Scenario, ...]:
    """Normal operation, then every failure that the redundancy asks for.

    Of offers that serve alike it does not matter which one loses a replica.
    """
    share = problem.utilization_after_failure or problem.utilization
    everything = tuple(range(len(problem.offers)))
    found = [Scenario(name="normal", utilization=problem.utilization)]
    if problem.redundancy == "replica":
        for alike in _alike(problem.offers):
            names = " or ".join(problem.offers[g].name for g in alike)
            found.append(Scenario(name=f"one {names} lost", utilization=share, any=alike))
    elif problem.redundancy == "replica-of-each":
        found.append(Scenario(name="one of each lost", utilization=share, each=everything))
    elif problem.redundancy == "region":
        for region in dict.fromkeys(offer.region for offer in problem.offers):
            lost = tuple(g for g in everything if problem.offers[g].region == region)
            name = f"region {region or 'without a name'} lost"
            found.append(Scenario(name=name, utilization=share, whole=lost))
    return tuple(found)


def _alike(offers: tuple[Offer, ...]) -> list[tuple[int, ...]]:
    """Offers of equal throughputs and interruption."""
    kinds: dict[tuple[tuple[float, ...], float], list[int]] = {}
    for g, offer in enumerate(offers):
        kinds.setdefault((offer.requests_per_s, offer.interruption), []).append(g)
    return [tuple(alike) for alike in kinds.values()]


def _check_buckets(buckets: tuple[Bucket, ...]) -> None:
    if not buckets:
        raise _wrong("there is no bucket of requests", "$.buckets", "give at least one")
    for index, bucket in enumerate(buckets):
        where = f"$.buckets[{index}]"
        if bucket.input_len < 0 or bucket.output_len < 0:
            raise _wrong("a length is negative", where, "give tokens of 0 or more")
        if not 0.0 <= bucket.rate_per_s <= MOST_PER_S:
            fix = f"give requests/s from 0 to {MOST_PER_S:,.0f}"
            raise _wrong(f"the rate is {bucket.rate_per_s:g}", where, fix)


def _check_offer(offer: Offer, index: int, num_buckets: int) -> None:
    where = f"$.offers[{index}]"
    if len(offer.requests_per_s) != num_buckets:
        raise _wrong(
            f"{len(offer.requests_per_s)} throughputs are given for {num_buckets} buckets",
            f"{where}.requests_per_s",
            "give one number a bucket, 0 where a bucket cannot be served in time",
        )
    if not all(0.0 <= rate < float("inf") for rate in offer.requests_per_s):
        raise _wrong(
            "a throughput is negative or not finite", f"{where}.requests_per_s", "give requests/s"
        )
    if not 0.0 <= offer.price_usd_per_h < float("inf"):
        raise _wrong("a price is negative or not finite", f"{where}.price_usd_per_h", "give USD/h")
    if not 0.0 <= offer.interruption < 1.0:
        raise _wrong(
            f"interruption is {offer.interruption}",
            f"{where}.interruption",
            "give the share of time away, 0 to below 1",
        )
    if offer.devices < 1:
        raise _wrong(f"devices is {offer.devices}", f"{where}.devices", "give at least 1")
    if offer.at_least < 0 or (offer.at_most is not None and offer.at_most < offer.at_least):
        raise _wrong(
            f"the count is asked to be {offer.at_least} to {offer.at_most}",
            where,
            "give 0 <= at_least <= at_most",
        )


def _wrong(what: str, pointer: str, fix: str) -> InputError:
    return InputError(what, pointer=pointer, fix=fix)
