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

    def _most(self, g: int, load: float) -> int:
        """More replicas of an offer than this are never of use, or not to be had."""
        offer = self.problem.offers[g]
        most = 0
        for scenario in self.scenarios:
            if g not in scenario.whole:
                room = scenario.utilization * (1.0 - offer.interruption)
                count = math.ceil(load / room + 1e-9) + (1 if g in scenario.one else 0)
                most = max(most, count)
        if offer.at_most is not None:
            most = min(most, offer.at_most)
        for limit in self.problem.limits:
            if limit.covers(offer):
                most = min(most, limit.devices // offer.devices)
        return max(most, offer.at_least)

    def left(self, chosen: list[int], low: Counts, high: Counts) -> tuple[Reals, Reals]:
        """Time left in scenarios, at most: ``room`` a replica and ``spare`` to take off by kind.

        Of ``y`` replicas of which one fails, ``y - [y >= 1]`` are left. Where ``low >= 1`` that is
        ``y - 1``; from 0 the least concave function above it is ``y (1 - 1 / high)``.
        """
        offers = len(self.price)
        room = np.zeros((len(chosen), offers))
        spare = np.zeros((len(chosen), self.num_kinds))
        for row, s in enumerate(chosen):
            scenario = self.scenarios[s]
            room[row] = scenario.utilization * self.stays
            for g in scenario.one:
                if low[g] >= 1:
                    spare[row, self.kind[g]] += room[row, g]
                elif high[g] >= 1:
                    room[row, g] *= 1.0 - 1.0 / high[g]
            room[row, list(scenario.whole)] = 0.0
        return room, spare


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
