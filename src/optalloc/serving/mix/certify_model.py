"""A fleet problem in rational numbers, for the check of an answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import msgspec
import numpy as np
import numpy.typing as npt

from optalloc.errors import CertificateError
from optalloc.serving.mix.problem import FleetProblem
from optalloc.serving.mix.route import Share

#: Prices are read in units of 1 / ONE.
ONE = 2**60
_FULL = 1 + Fraction(1, 10**8)
_LITTLE = 1e-13  # of the value of all buckets
Reals = npt.NDArray[np.float64]


class Failure(msgspec.Struct, frozen=True):
    """The share of time that may be used when one of each offer of ``one``, one replica in all of
    the offers of ``kind``, and all replicas of the offers of ``whole`` are lost.
    """

    share: Fraction
    one: frozenset[int] = frozenset()
    whole: frozenset[int] = frozenset()
    kind: int | None = None


class Model:
    """The problem in rational numbers."""

    def __init__(self, problem: FleetProblem) -> None:
        offers = problem.offers
        self.problem = problem
        self.price = [Fraction(repr(o.price_usd_per_h)) for o in offers]
        whole = [p * 10**18 for p in self.price]
        exact = all(p.denominator == 1 for p in whole)
        self.step = Fraction(math.gcd(*map(int, whole)) if exact else 0, 10**18)
        kinds = list(dict.fromkeys((o.requests_per_s, o.interruption) for o in offers))
        self.kind = [kinds.index((o.requests_per_s, o.interruption)) for o in offers]
        self.kind_stays = [1 - Fraction(repr(interruption)) for _, interruption in kinds]
        self.stays = [self.kind_stays[k] for k in self.kind]
        self.buckets = [j for j, b in enumerate(problem.buckets) if b.rate_per_s > 0.0]
        rates = [Fraction(repr(problem.buckets[j].rate_per_s)) for j in self.buckets]
        loads = {
            table: [
                rate / Fraction(repr(table[j])) if table[j] > 0.0 else None
                for j, rate in zip(self.buckets, rates, strict=True)
            ]
            for table in dict.fromkeys(table for table, _ in kinds)
        }
        self.load = [loads[table] for table, _ in kinds]
        #: Of all buckets, in replicas, rounded up to 1 / ONE.
        self._whole_load = [
            Fraction(sum(math.ceil(x * ONE) for x in row if x is not None), ONE)
            for row in self.load
        ]
        self._floats = np.array(
            [[math.inf if x is None else float(x) for x in row] for row in self.load]
        ).reshape(len(kinds), len(self.buckets))
        self._serves = np.isfinite(self._floats)
        self._filled = np.where(self._serves, self._floats, 0.0)
        after = problem.utilization_after_failure or problem.utilization
        normal, failed = Fraction(repr(problem.utilization)), Fraction(repr(after))
        everyone = frozenset(range(len(offers)))
        self.scenarios = [Failure(normal)]
        if problem.redundancy == "replica":
            self.scenarios += [Failure(failed, kind=k) for k in range(len(kinds))]
        elif problem.redundancy == "replica-of-each":
            self.scenarios.append(Failure(failed, one=everyone))
        elif problem.redundancy == "region":
            regions = list(dict.fromkeys(o.region for o in offers))
            groups = [frozenset(g for g in everyone if offers[g].region == r) for r in regions]
            self.scenarios += [Failure(failed, whole=group) for group in groups]

        time = [[f.share * stays for stays in self.kind_stays] for f in self.scenarios]
        parts = [p.denominator for p in self.price]
        parts += [t.denominator for row in time for t in row]
        #: Bounds are whole multiples of USD/h / (ONE unit).
        self.unit = math.lcm(*parts)
        #: A replica's time by scenario and kind, and its price, in parts of ``unit``.
        self.time = [[int(t * self.unit) for t in row] for row in time]
        self.price_units = [int(p * self.unit) for p in self.price]

    def unserved(self) -> bool:
        """Whether some bucket is served by no offer."""
        return any(all(row[j] is None for row in self.load) for j in range(len(self.buckets)))

    def one_lost(self, counts: Sequence[int], failure: Failure) -> frozenset[int]:
        """The offers that lose a replica; of a kind, where all serve alike, the first there is."""
        there = [g for g, k in enumerate(self.kind) if k == failure.kind and counts[g] > 0]
        return failure.one | frozenset(there[:1])

    def check_counts(self, counts: Sequence[int]) -> None:
        """At least, at most, and shared limits."""
        offers = self.problem.offers
        for offer, count in zip(offers, counts, strict=True):
            if count < offer.at_least or (offer.at_most is not None and count > offer.at_most):
                raise CertificateError(f"{count} of {offer.name} are not to be had")
        for limit in self.problem.limits:
            used = sum(
                n * o.devices for o, n in zip(offers, counts, strict=True) if limit.covers(o)
            )
            if used > limit.devices:
                raise CertificateError(f"{used} devices are used where there are {limit}")

    def check_shares(
        self,
        counts: Sequence[int],
        shares: list[Share],
        failure: Failure,
    ) -> None:
        """Every bucket is shared out, to what serves it, and no offer is overfull."""
        one = self.one_lost(counts, failure)
        place = {j: i for i, j in enumerate(self.buckets)}
        total = [Fraction(0)] * len(self.buckets)
        used = [Fraction(0)] * len(counts)
        for share in shares:
            if share.part < 0.0 or share.bucket not in place:
                raise CertificateError("a share is negative or of no bucket with requests")
            load = self.load[self.kind[share.offer]][place[share.bucket]]
            if load is None:
                raise CertificateError("a share goes to an offer that does not serve the bucket")
            total[place[share.bucket]] += Fraction(share.part)
            used[share.offer] += Fraction(share.part) * load
        if any(abs(part - 1) > Fraction(1, 10**9) for part in total):
            raise CertificateError("the shares of a bucket do not add up to one")
        for g, (time, count) in enumerate(zip(used, counts, strict=True)):
            left = 0 if g in failure.whole else count - (g in one and count > 0)
            if time > failure.share * self.stays[g] * left * _FULL:
                raise CertificateError(f"{self.problem.offers[g].name} is used beyond its time")

    def least_price(self, prices: Sequence[int], *, exact: bool) -> int:
        """At most the cost of serving every bucket where it is cheapest, in units of 1 / ONE."""
        if not exact:
            rows = np.array([float(price) for price in prices])[:, None]
            with np.errstate(invalid="ignore"):
                cost = np.where(np.isinf(self._floats), np.inf, rows * self._floats)
            low = float(cost.min(axis=0, initial=math.inf).sum()) if self.buckets else 0.0
            # Three roundings a product and one an addition, each of at most 2^-53 of its result.
            return math.floor(Fraction(low) * (1 - Fraction(len(self.buckets) + 8, 2**52)))
        total = 0
        for j in range(len(self.buckets)):
            total += min(
                price * x.numerator // x.denominator
                for price, row in zip(prices, self.load, strict=True)
                if (x := row[j]) is not None
            )
        return total

    def most_profit(
        self, prices: Sequence[int], values: Sequence[int], share: Fraction, *, exact: bool
    ) -> int:
        """At least what whole replicas of all kinds earn beyond their prices, in units of 1 / ONE.

        ``n`` replicas of time ``u`` each earn at most ``v u n + sum_j max(0, value_j - v load_j)``
        at any price ``v`` of time. Less their price, that is greatest for the most of some
        replicas at ``v >= price`` and for the least at ``v <= price``: every ``split`` will do.
        """
        if not self.buckets:
            return 0
        worth = np.array([float(value) for value in values])
        paid = np.array([[float(price)] for price in prices])
        plain = np.where(self._serves, worth - paid * self._filled, 0.0).clip(0.0).sum(axis=1)
        total = 0
        for k, price in enumerate(prices):
            if plain[k] <= _LITTLE * worth.sum():  # broken replicas earn next to nothing, too
                total += math.ceil(self._earned(k, price, values, worth, exact=exact))
                continue
            ratio = worth / self._floats[k]
            order = np.argsort(-ratio, kind="stable")
            ratio, used = ratio[order], np.cumsum(self._filled[k][order])
            unit = share * self.kind_stays[k]
            dear = int(np.searchsorted(-ratio, -float(price)))  # buckets worth more than the price
            split = math.floor((used[dear - 1] if dear else 0.0) / float(unit) + 1e-9)
            most = Fraction(0)
            for n, above in ((split, True), (split + 1, False)):
                i = int(np.searchsorted(used, n * float(unit)))
                at = int(ratio[i]) if i < len(self.buckets) else 0
                v = max(at, price) if above else min(at, price)
                earned = self._earned(k, v, values, worth, exact=exact)
                most = max(most, (v - price) * unit * n + earned)
            total += math.ceil(most)
        return total

    def _earned(
        self, k: int, v: int, values: Sequence[int], worth: Reals, *, exact: bool
    ) -> Fraction:
        """At least ``sum_j max(0, value_j - v load_j)``."""
        if exact:
            pairs = zip(values, self.load[k], strict=True)
            return sum(
                (max(Fraction(0), w - v * x) for w, x in pairs if x is not None), Fraction(0)
            )
        cost = float(v) * self._filled[k]
        earned = worth - cost
        positive = (earned > 0.0) & self._serves[k]
        # Every term and every addition is off by at most a few 2^-53 of what it is made of.
        noise = float((worth + cost)[positive].sum()) * (len(self.buckets) + 8) * 2.0**-51
        return Fraction(float(earned[positive].sum())) + Fraction(noise)

    def most(self, g: int) -> int:
        """Replicas of an offer beyond which no fleet has a use for more."""
        offer = self.problem.offers[g]
        everything, most = self._whole_load[self.kind[g]], 0
        for failure in self.scenarios:
            if g not in failure.whole:
                one = g in failure.one or self.kind[g] == failure.kind
                most = max(most, math.ceil(everything / (failure.share * self.stays[g])) + one)
        if offer.at_most is not None:
            most = min(most, offer.at_most)
        shared = [limit.devices for limit in self.problem.limits if limit.covers(offer)]
        most = min([most, *(devices // offer.devices for devices in shared)])
        return max(most, offer.at_least)
