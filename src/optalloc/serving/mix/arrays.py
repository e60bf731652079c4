"""A fleet problem as arrays: kinds of equal replicas, loads, and what each scenario leaves."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from optalloc.serving.mix.problem import FleetProblem, Scenario, scenarios

Reals = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]
Counts = npt.NDArray[np.int64]


class FleetArrays:
    """What searches read, derived once.

    ``load[i]`` is the share of a replica's time (in replicas) that all of a bucket takes of kind
    ``serving[i]``; ``first`` cuts both by bucket. ``low`` and ``high`` bound the counts of every
    fleet that is worth considering.
    """

    def __init__(self, problem: FleetProblem) -> None:
        self.problem = problem
        self.scenarios: tuple[Scenario, ...] = scenarios(problem)
        kinds: dict[tuple[tuple[float, ...], float], int] = {}
        self.kind: Ints = np.array(
            [
                kinds.setdefault((o.requests_per_s, o.interruption), len(kinds))
                for o in problem.offers
            ],
            dtype=np.int32,
        )
        self.num_kinds = len(kinds)
        demanded = [j for j, bucket in enumerate(problem.buckets) if bucket.rate_per_s > 0.0]
        first, serving, load = [0], [], []
        total = np.zeros(self.num_kinds)
        self.unserved: list[int] = []
        for j in demanded:
            for (row, _), k in kinds.items():
                if row[j] > 0.0:
                    serving.append(k)
                    load.append(problem.buckets[j].rate_per_s / row[j])
                    total[k] += load[-1]
            if len(serving) == first[-1]:
                self.unserved.append(j)
            first.append(len(serving))
        self.first: Ints = np.array(first, dtype=np.int32)
        self.serving: Ints = np.array(serving, dtype=np.int32)
        self.load: Reals = np.array(load)
        self.price: Reals = np.array([o.price_usd_per_h for o in problem.offers])
        self.stays: Reals = np.array([1.0 - o.interruption for o in problem.offers])
        self.use: Reals = np.array(
            [[o.devices if p.covers(o) else 0.0 for o in problem.offers] for p in problem.limits]
        ).reshape(len(problem.limits), len(problem.offers))
        self.limit: Reals = np.array([float(limit.devices) for limit in problem.limits])
        self.low: Counts = np.array([o.at_least for o in problem.offers], dtype=np.int64)
        self.high: Counts = np.array(
            [self._most(g, float(total[self.kind[g]])) for g in range(len(problem.offers))],
            dtype=np.int64,
        )
        self.step_usd = float(price_step(problem))
        self.members: list[Counts] = [np.flatnonzero(self.kind == k) for k in range(self.num_kinds)]
        self._split_loads()
        self._list_failures()

    def _split_loads(self) -> None:
        """Loads by kind and bucket: 0 and ``never`` where a kind cannot serve."""
        shape = (self.num_kinds, len(self.first) - 1)
        bucket = np.repeat(np.arange(shape[1]), np.diff(self.first))
        self._loads: Reals = np.zeros(shape)
        self._loads[self.serving, bucket] = self.load
        self._never: Reals = np.where(self._loads > 0.0, 0.0, np.inf)
        #: Parts of a bucket that a replica of a kind serves.
        self.per_load: Reals = np.divide(
            1.0, self._loads, out=np.zeros(shape), where=self._loads > 0.0
        )

    def _list_failures(self) -> None:
        """Time of a replica by scenario (``room``), and what the failure of a group takes.

        ``owner`` of a group is the entry of a box whose first replica there is to fail: the offer's
        count, or the total of a kind.
        """
        offers, cases = len(self.price), len(self.scenarios)
        self.room: Reals = np.array([s.utilization * self.stays for s in self.scenarios])
        groups: dict[tuple[int, int], list[int]] = {}  # owner and kind: scenarios
        for row, scenario in enumerate(self.scenarios):
            self.room[row, list(scenario.whole)] = 0.0
            for g in scenario.each:
                groups.setdefault((g, int(self.kind[g])), []).append(row)
            for k in {int(self.kind[g]) for g in scenario.any}:
                groups.setdefault((offers + k, k), []).append(row)
        self.owner: Counts = np.array([o for o, _ in groups], dtype=np.int64)
        self.kind_of_group: Counts = np.array([k for _, k in groups], dtype=np.int64)
        self.lost: Reals = np.zeros((cases, len(groups)))
        for z, ((_, k), rows) in enumerate(groups.items()):
            for row in rows:
                stays = float(self.stays[self.members[k][0]])
                self.lost[row, z] = self.scenarios[row].utilization * stays

    def _most(self, g: int, load: float) -> int:
        """More replicas of an offer than this are never of use, or not to be had."""
        offer = self.problem.offers[g]
        most = 0
        for scenario in self.scenarios:
            if g not in scenario.whole:
                room = scenario.utilization * (1.0 - offer.interruption)
                lost = g in scenario.each or g in scenario.any
                most = max(most, math.ceil(load / room + 1e-9) + lost)
        if offer.at_most is not None:
            most = min(most, offer.at_most)
        for limit in self.problem.limits:
            if limit.covers(offer):
                most = min(most, limit.devices // offer.devices)
        return max(most, offer.at_least)

    @property
    def tables(self) -> tuple[Counts, Counts]:
        """Kinds of different throughputs, the first of each, and which of them each kind is."""
        rows = [self.problem.offers[m[0]].requests_per_s for m in self.members]
        kinds = [k for k, row in enumerate(rows) if row not in rows[:k]]
        number = {rows[k]: i for i, k in enumerate(kinds)}
        return np.array(kinds), np.array([number[row] for row in rows])

    def root(self) -> tuple[Counts, Counts]:
        """The box of all counts: least and greatest, of the offers and then of the kinds."""
        return self.box(self.low, self.high)

    def box(self, low: Counts, high: Counts) -> tuple[Counts, Counts]:
        """A box of counts of offers, with what follows for kinds."""
        totals = [np.array([side[m].sum() for m in self.members]) for side in (low, high)]
        return np.append(low, totals[0]), np.append(high, totals[1])

    def tightened(self, low: Counts, high: Counts) -> tuple[Counts, Counts]:
        """A box with what totals say of offers and they of totals; empty: a low above a high."""
        low, high = low.copy(), high.copy()
        offers = len(self.price)
        for k, m in enumerate(self.members):
            least, most = int(low[m].sum()), int(high[m].sum())
            low[offers + k] = max(low[offers + k], least)
            high[offers + k] = min(high[offers + k], most)
            others_least, others_most = least - low[m], most - high[m]
            low[m] = np.maximum(low[m], low[offers + k] - others_most)
            high[m] = np.minimum(high[m], high[offers + k] - others_least)
        return low, high

    def there(self, counts: Counts) -> Reals:
        """Groups of which a fleet has something, 1 or 0."""
        offers = len(self.price)
        totals = [counts[m].sum() for m in self.members]
        return (np.append(counts[:offers], totals)[self.owner] > 0).astype(np.float64)

    def left(self, counts: Reals, there: Reals) -> Reals:
        """Time that each scenario leaves of each kind (scenarios x kinds)."""
        left = np.zeros((len(self.scenarios), self.num_kinds))
        np.add.at(left.T, self.kind, (self.room * counts[: len(self.price)]).T)
        np.add.at(left.T, self.kind_of_group, -(self.lost * there).T)
        return left

    def values(self, prices: Reals) -> Reals:
        """What serving each bucket takes at least at prices by kind."""
        cost: Reals = prices[:, None] * self._loads + self._never
        return np.asarray(cost.min(axis=0, initial=np.inf))

    def worth(self, prices: Reals) -> Reals:
        """What serving all buckets takes at least, by row of prices (rows x kinds)."""
        rows = [self.values(row).sum() if row.any() else 0.0 for row in prices]
        return np.array(rows)

    def slopes(self, weight: int, prices: Reals, limits: Reals) -> tuple[Reals, Reals]:
        """What a replica, and the first of a group, add to the bound that prices prove."""
        slope = weight * self.price - (prices[:, self.kind] * self.room).sum(axis=0)
        step = (prices[:, self.kind_of_group] * self.lost).sum(axis=0)
        return slope + limits @ self.use, step


def price_step(problem: FleetProblem) -> Fraction:
    """Every fleet costs a multiple of this: the greatest common divisor of the prices, USD/h."""
    step = Fraction(0)
    for offer in problem.offers:
        price = Fraction(repr(offer.price_usd_per_h))
        step = Fraction(
            math.gcd(step.numerator * price.denominator, price.numerator * step.denominator),
            step.denominator * price.denominator,
        )
    return step
