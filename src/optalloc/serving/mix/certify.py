"""Check a fleet and the bound on its price again, in rational numbers and with its own code.

Decimal numbers of the problem mean what is written (0.1 is one tenth). A fleet serves if its shares
fill no replica beyond one part in 10^8 of its planned time; shares after a failure are found here
by another linear programme and checked in the same way. A bound is checked from its witness: see
:mod:`optalloc.serving.mix.witness` for what prices prove. Sums over buckets are first taken in
floating point less a proven error, and in integers where that does not decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from optalloc.errors import CertificateError
from optalloc.serving.mix.certify_serves import least_busy_shares
from optalloc.serving.mix.problem import FleetProblem
from optalloc.serving.mix.route import Share
from optalloc.serving.mix.witness import FleetWitness, Proof

_FULL = 1 + Fraction(1, 10**8)
#: Relative: a bound this close to the claim proves it.
TOLERANCE = Fraction(1, 10**8)
_LITTLE = 1e-13  # of the value of all buckets
_ONE = 2**60  # prices are read in units of this
Reals = npt.NDArray[np.float64]
_Box = tuple[list[int], list[int]]


def certify_fleet(
    problem: FleetProblem,
    counts: Sequence[int] | None,
    shares: Iterable[Share] = (),
    *,
    value_usd_per_h: float | None = None,
    bound_usd_per_h: float | None = None,
    witness: FleetWitness | None = None,
) -> None:
    """Check that a fleet serves at its price and that none is cheaper than the bound.

    Parameters
    ----------
    counts : sequence of int, or None
        Replicas by offer; None claims that no fleet serves.
    shares : iterable of Share
        How the fleet splits the load in normal operation.
    value_usd_per_h, bound_usd_per_h : float
        Claimed price and bound.
    witness : FleetWitness, optional
        What proves the bound, or that there is no fleet; needed if either is claimed.

    Raises
    ------
    CertificateError
        If anything claimed is not so.
    """
    model = _Model(problem)
    if counts is not None:
        price = sum((p * n for p, n in zip(model.price, counts, strict=True)), Fraction(0))
        if value_usd_per_h is None or abs(price - Fraction(value_usd_per_h)) > TOLERANCE * price:
            raise CertificateError(f"the fleet costs {float(price):.9g}, not {value_usd_per_h}")
        model.check_counts(counts)
        model.check_shares(counts, list(shares), model.scenarios[0])
        for scenario in model.scenarios[1:]:
            model.check_shares(counts, least_busy_shares(problem, counts, *scenario), scenario)
        if bound_usd_per_h is None:
            return
        if bound_usd_per_h > value_usd_per_h * (1.0 + float(TOLERANCE)):
            raise CertificateError("the bound is above the price of the fleet")
    if witness is None:
        if counts is None and model.unserved():
            return
        raise CertificateError("a bound is claimed without anything that proves it")
    _check_tree(model, witness, None if counts is None else bound_usd_per_h)


class _Model:
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
        self.load = [
            [
                Fraction(repr(problem.buckets[j].rate_per_s)) / Fraction(repr(table[j]))
                if table[j] > 0.0
                else None
                for j in self.buckets
            ]
            for table, _ in kinds
        ]
        self._floats = np.array(
            [[math.inf if x is None else float(x) for x in row] for row in self.load]
        ).reshape(len(kinds), len(self.buckets))
        self._serves = np.isfinite(self._floats)
        self._filled = np.where(self._serves, self._floats, 0.0)
        after = problem.utilization_after_failure or problem.utilization
        normal, failed = Fraction(repr(problem.utilization)), Fraction(repr(after))
        everyone = frozenset(range(len(offers)))
        none: frozenset[int] = frozenset()
        #: (share of time that may be used, one lost of each of these, all lost of these)
        self.scenarios: list[tuple[Fraction, frozenset[int], frozenset[int]]]
        self.scenarios = [(normal, none, none)]
        if problem.redundancy == "replica":
            self.scenarios += [(failed, frozenset((g,)), none) for g in sorted(everyone)]
        elif problem.redundancy == "replica-of-each":
            self.scenarios.append((failed, everyone, none))
        elif problem.redundancy == "region":
            regions = list(dict.fromkeys(o.region for o in offers))
            groups = [frozenset(g for g in everyone if offers[g].region == r) for r in regions]
            self.scenarios += [(failed, none, group) for group in groups]

    def unserved(self) -> bool:
        """Whether some bucket is served by no offer."""
        return any(all(row[j] is None for row in self.load) for j in range(len(self.buckets)))

    def left(self, g: int, count: int, scenario: int) -> Fraction:
        """Replicas' worth of time that may be used."""
        share, one, whole = self.scenarios[scenario]
        stays = 0 if g in whole else count - 1 if g in one and count else count
        return share * self.stays[g] * stays

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
        scenario: tuple[Fraction, frozenset[int], frozenset[int]],
    ) -> None:
        """Every bucket is shared out, to what serves it, and no offer is overfull."""
        number = self.scenarios.index(scenario)
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
            if time > self.left(g, count, number) * _FULL:
                raise CertificateError(f"{self.problem.offers[g].name} is used beyond its time")

    def least_price(self, prices: Sequence[int], *, exact: bool) -> int:
        """At most the cost of serving every bucket where it is cheapest, in units of 1 / _ONE."""
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
        """At least what whole replicas of all kinds earn beyond their prices, in units of 1 / _ONE.

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
        everything = sum((x for x in self.load[self.kind[g]] if x is not None), Fraction(0))
        most = 0
        for share, one, whole in self.scenarios:
            if g not in whole:
                most = max(most, math.ceil(everything / (share * self.stays[g])) + (g in one))
        if offer.at_most is not None:
            most = min(most, offer.at_most)
        shared = [limit.devices for limit in self.problem.limits if limit.covers(offer)]
        most = min([most, *(devices // offer.devices for devices in shared)])
        return max(most, offer.at_least)


def _in_ones(price: float) -> int:
    """Rounded down; any price of at least 0 proves something, the larger ones nothing more."""
    return int(min(max(0.0, price), 2.0**512) * _ONE)


class _Bound:
    """The bound of a proof: ``least + sum_g min over y_g of (slope_g y_g + [y_g >= 1] step_g)``."""

    def __init__(self, model: _Model, proof: Proof, *, exact: bool) -> None:
        offers = range(len(model.price))
        self.slope = [proof.weight * p for p in model.price]
        self.step = [Fraction(0)] * len(model.price)
        least = 0
        for entry in proof.prices:
            prices = [_in_ones(price) for price in entry.prices]
            values = [_in_ones(value) for value in entry.values]
            if (
                len(prices) != len(model.load)
                or len(values) not in {0, len(model.buckets)}
                or not 0 <= entry.scenario < len(model.scenarios)
            ):
                raise CertificateError("a proof prices kinds or scenarios that are not there")
            share, one, whole = model.scenarios[entry.scenario]
            if values:
                least += sum(values) - model.most_profit(prices, values, share, exact=exact)
            else:
                least += model.least_price(prices, exact=exact)
            for g in offers:
                worth = Fraction(prices[model.kind[g]], _ONE) * share * model.stays[g]
                if g not in whole:
                    self.slope[g] -= worth
                if g in one:
                    self.step[g] += worth
        self.least = Fraction(least, _ONE)
        for price, limit in zip(proof.limits, model.problem.limits, strict=bool(proof.limits)):
            paid = Fraction(max(0.0, price))
            self.least -= paid * limit.devices
            for g, offer in enumerate(model.problem.offers):
                if limit.covers(offer):
                    self.slope[g] += paid * offer.devices

    def at(self, g: int, count: int) -> Fraction:
        """What a count adds."""
        return self.slope[g] * count + (self.step[g] if count else 0)

    def narrowed(self, box: _Box, most: Fraction | float) -> _Box | None:
        """The box without counts that alone take the bound above ``most``; None if none is left."""
        low, high = box
        least = [
            min(self.at(g, n) for n in {low[g], min(max(low[g], 1), high[g]), high[g]})
            for g in range(len(low))
        ]
        total = self.least + sum(least)
        if total > most:
            return None
        if most == math.inf:
            return box
        allowed = [
            self._allowed(g, low[g], high[g], most - (total - least[g])) for g in range(len(low))
        ]
        return [first for first, _ in allowed], [last for _, last in allowed]

    def _allowed(self, g: int, low: int, high: int, room: Fraction | float) -> tuple[int, int]:
        """The least and the greatest count that add at most ``room``; there is one."""
        first, last = max(low, 1), high
        left = Fraction(room) - self.step[g]
        if self.slope[g] > 0:
            last = min(last, math.floor(left / self.slope[g]))
        elif self.slope[g] < 0:
            first = max(first, math.ceil(left / self.slope[g]))
        elif left < 0:
            last = 0
        if low == 0 and room >= 0:
            return 0, max(last, 0) if first <= last else 0
        return first, last


def _check_tree(model: _Model, witness: FleetWitness, claim: float | None) -> None:
    """Every leaf is closed: no fleet costs less than the claim (None: there is no fleet)."""
    most: Fraction | float = math.inf  # a box is closed by a bound above this
    if claim is not None:
        if claim <= 0.0:
            return
        most = Fraction(claim) * (1 - TOLERANCE)
        if model.step:  # prices are multiples of it: the last one below the claim
            most = (math.ceil(most / model.step) - 1) * model.step
    offers = range(len(model.price))
    root: _Box = ([o.at_least for o in model.problem.offers], [model.most(g) for g in offers])
    open_: list[tuple[int, _Box]] = [(0, root)]
    seen = 0
    while open_:
        number, box = open_.pop()
        seen += 1
        if seen > len(witness.nodes) or not 0 <= number < len(witness.nodes):
            raise CertificateError("the nodes of the proof form no tree")
        node = witness.nodes[number]
        if any(low > high for low, high in zip(*box, strict=True)):
            continue
        left: _Box | None = box
        if node.proof is not None:
            left = _left(model, witness.proofs[node.proof], box, most, leaf=node.offer is None)
        if left is None:
            continue
        if node.offer is None:
            raise CertificateError("a leaf of the proof does not exclude cheaper fleets")
        low, high = left
        below, above = list(high), list(low)
        below[node.offer] = min(high[node.offer], node.at)
        above[node.offer] = max(low[node.offer], node.at + 1)
        open_ += [(node.below, (low, below)), (node.above, (above, high))]


def _left(
    model: _Model, proof: Proof, box: _Box, most: Fraction | float, *, leaf: bool
) -> _Box | None:
    if proof.weight not in (0, 1):
        raise CertificateError("a proof weighs the price by neither 0 nor 1")
    above = most if proof.weight else 0
    left = _Bound(model, proof, exact=False).narrowed(box, above)
    if left is not None and leaf:
        left = _Bound(model, proof, exact=True).narrowed(box, above)
    return left
