"""Check the tree of boxes that proves a bound on the price of a fleet, in whole numbers."""

from __future__ import annotations

import math
from fractions import Fraction

from optalloc.errors import CertificateError
from optalloc.serving.mix.certify_model import ONE, Model
from optalloc.serving.mix.witness import FleetWitness, Proof

#: Relative: a bound this close to the claim proves it.
TOLERANCE = Fraction(1, 10**8)
#: Least and greatest counts of the offers, then totals of the kinds.
_Box = tuple[list[int], list[int]]


def _in_ones(price: float) -> int:
    """Rounded down; any price of at least 0 proves something, the larger ones nothing more."""
    return int(min(max(0.0, price), 2.0**512) * ONE)


class _Bound:
    """The bound of a proof: ``least`` and the least over the box of

    ``sum_g (slope_g y_g + [y_g >= 1] step_g) + sum_k [n_k >= 1] step_k``, ``n_k`` the total of a
    kind; all whole, in parts ``ONE unit`` of USD/h.
    """

    def __init__(self, model: Model, proof: Proof, *, exact: bool) -> None:
        offers = range(len(model.price))
        self.slope = [proof.weight * p * ONE for p in model.price_units]
        self.step = [0] * len(model.price)
        self.kind_step = [0] * len(model.load)
        self.members = [[g for g in offers if model.kind[g] == k] for k in range(len(model.load))]
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
            failure = model.scenarios[entry.scenario]
            if values:
                least += sum(values) - model.most_profit(prices, values, failure.share, exact=exact)
            else:
                least += model.least_price(prices, exact=exact)
            worth = [p * t for p, t in zip(prices, model.time[entry.scenario], strict=True)]
            for g, k in enumerate(model.kind):
                if g not in failure.whole:
                    self.slope[g] -= worth[k]
                if g in failure.one:
                    self.step[g] += worth[k]
            if failure.kind is not None:
                self.kind_step[failure.kind] += worth[failure.kind]
        self.least = least * model.unit
        for price, limit in zip(proof.limits, model.problem.limits, strict=bool(proof.limits)):
            paid = _in_ones(price) * model.unit
            self.least -= paid * limit.devices
            for g, offer in enumerate(model.problem.offers):
                if limit.covers(offer):
                    self.slope[g] += paid * offer.devices

    def narrowed(self, box: _Box, most: int | None) -> _Box | None:
        """The box without counts that alone take the bound above ``most``; None if none is left."""
        low, high = list(box[0]), list(box[1])
        num_offers = len(self.slope)
        totals = [self._total(k, low, high) for k in range(len(self.members))]
        bound = self.least + sum(total.least for total in totals)
        if most is None:
            return box
        if bound > most:
            return None
        for k, total in enumerate(totals):
            room = total.least + (most - bound)
            low[num_offers + k], high[num_offers + k] = total.within(room)
        alone = [self._alone(g, low[g], high[g]) for g in range(num_offers)]
        bound = self.least + sum(alone)
        bound += sum(
            self.kind_step[k] for k, m in enumerate(self.members) if any(low[g] > 0 for g in m)
        )
        for g in range(num_offers):
            low[g], high[g] = self._allowed(g, low[g], high[g], most - (bound - alone[g]))
        return low, high

    def _alone(self, g: int, low: int, high: int) -> int:
        """The least that an offer adds, whatever the others of its kind do."""
        counts = {low, min(max(low, 1), high), high}
        return min(self.slope[g] * n + (self.step[g] if n else 0) for n in counts)

    def _total(self, k: int, low: list[int], high: list[int]) -> _Total:
        """What a kind adds by its total. A step of an offer that may be 0 counts in proportion."""
        offers, fixed = [], 0
        for g in self.members[k]:
            slope = self.slope[g]
            if low[g] > 0:
                fixed += self.step[g]
            elif high[g] > 0:
                slope += self.step[g] // high[g]
            offers.append((slope, low[g], high[g]))
        at = len(self.slope) + k
        return _Total(sorted(offers), low[at], high[at], fixed, self.kind_step[k])

    def _allowed(self, g: int, low: int, high: int, room: int) -> tuple[int, int]:
        """The least and the greatest count that add at most ``room``; there is one."""
        first, last = max(low, 1), high
        left = room - self.step[g]
        if self.slope[g] > 0:
            last = min(last, left // self.slope[g])
        elif self.slope[g] < 0:
            first = max(first, -(left // -self.slope[g]))
        elif left < 0:
            last = 0
        if low == 0 and room >= 0:
            return 0, max(last, 0) if first <= last else 0
        return first, last


class _Total:
    """The least that the total of a kind adds: linear between corners, and a step from 1 on.

    The cheapest way to a total takes its offers in the order of their slopes, so that the curve is
    convex.
    """

    def __init__(
        self,
        offers: list[tuple[int, int, int]],
        first: int,
        last: int,
        fixed: int,
        step: int,
    ) -> None:
        self._first, self._last, self._step = first, last, step
        self._start = sum(low for _, low, _ in offers)
        self._fixed = fixed + sum(slope * low for slope, low, _ in offers)
        self._parts = [(slope, high - low) for slope, low, high in offers]
        turn = self._start + sum(count for slope, count in self._parts if slope < 0)
        self._turn = min(max(turn, first, 1), last)
        ends = [self._at(0)] if first == 0 else []
        self.least = min([*ends, self._at(self._turn)] if self._turn >= max(first, 1) else ends)

    def within(self, most: int) -> tuple[int, int]:
        """The least and the greatest total that add at most ``most``; there is one."""
        zero = self._first == 0 and self._at(0) <= most
        if self._turn < 1 or self._at(self._turn) > most:
            return 0, 0
        first = self._last_within(self._turn, max(self._first, 1), most)
        return (0 if zero else first), self._last_within(self._turn, self._last, most)

    def _last_within(self, inside: int, end: int, most: int) -> int:
        """The count nearest to ``end`` that adds at most ``most``, by halving."""
        if self._at(end) <= most:
            return end
        while abs(end - inside) > 1:
            middle = (inside + end) // 2
            if self._at(middle) <= most:
                inside = middle
            else:
                end = middle
        return inside

    def _at(self, total: int) -> int:
        cost, left = self._fixed + (self._step if total else 0), total - self._start
        for slope, count in self._parts:
            cost += slope * min(left, count)
            left -= min(left, count)
        return cost


def _tied(model: Model, box: _Box) -> _Box | None:
    """The box with what totals say of offers and offers of totals; None if it is empty."""
    low, high = list(box[0]), list(box[1])
    for k in range(len(model.load)):
        members = [g for g, kind in enumerate(model.kind) if kind == k]
        at = len(model.kind) + k
        least, most = sum(low[g] for g in members), sum(high[g] for g in members)
        low[at], high[at] = max(low[at], least), min(high[at], most)
        for g in members:
            low[g], high[g] = (
                max(low[g], low[at] - (most - high[g])),
                min(high[g], high[at] - (least - low[g])),
            )
    empty = any(first > last for first, last in zip(low, high, strict=True))
    return None if empty else (low, high)


def check_tree(model: Model, witness: FleetWitness, claim: float | None) -> None:
    """Every leaf is closed: no fleet costs less than the claim (None: there is no fleet).

    Raises
    ------
    CertificateError
    """
    most: int | None = None  # a box is closed by a bound above this
    if claim is not None:
        if claim <= 0.0:
            return
        closed = Fraction(claim) * (1 - TOLERANCE)
        if model.step:  # prices are multiples of it: the last one below the claim
            closed = (math.ceil(closed / model.step) - 1) * model.step
        most = math.floor(closed * ONE * model.unit)
    offers, kinds = range(len(model.price)), len(model.load)
    high = [model.most(g) for g in offers]
    low = [o.at_least for o in model.problem.offers]
    root: _Box = (low + [0] * kinds, high + [sum(high)] * kinds)
    open_: list[tuple[int, _Box]] = [(0, root)]
    seen = 0
    while open_:
        number, box = open_.pop()
        seen += 1
        if seen > len(witness.nodes) or not 0 <= number < len(witness.nodes):
            raise CertificateError("the nodes of the proof form no tree")
        node = witness.nodes[number]
        left = _tied(model, box)
        if left is not None and node.proof is not None:
            left = _left(model, witness.proofs[node.proof], left, most, leaf=node.offer is None)
            left = left and _tied(model, left)
        if left is None:
            continue
        if node.offer is None:
            raise CertificateError("a leaf of the proof does not exclude cheaper fleets")
        low, high = left
        below, above = list(high), list(low)
        below[node.offer] = min(high[node.offer], node.at)
        above[node.offer] = max(low[node.offer], node.at + 1)
        open_ += [(node.below, (low, below)), (node.above, (above, high))]


def _left(model: Model, proof: Proof, box: _Box, most: int | None, *, leaf: bool) -> _Box | None:
    if proof.weight not in (0, 1):
        raise CertificateError("a proof weighs the price by neither 0 nor 1")
    above = most if proof.weight else 0
    left = _Bound(model, proof, exact=False).narrowed(box, above)
    if left is not None and leaf:
        left = _Bound(model, proof, exact=True).narrowed(box, above)
    return left
