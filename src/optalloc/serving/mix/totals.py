"""What counts of a box add to a bound at least, when each kind has a total of its own."""

from __future__ import annotations

import math

import numpy as np

from optalloc.serving.mix.arrays import Counts, FleetArrays, Reals


class Totals:
    """Sums ``slope y + step [y >= 1]`` over a box of counts of offers and totals of kinds."""

    def __init__(self, arrays: FleetArrays) -> None:
        self._arrays = arrays

    def least(self, slope: Reals, step: Reals, low: Counts, high: Counts) -> float:
        """The least sum; infinite if the box is empty."""
        return sum(curve.least() for curve in self._curves(slope, step, low, high))

    def narrowed(
        self, slope: Reals, step: Reals, low: Counts, high: Counts, room: float
    ) -> tuple[Counts, Counts]:
        """The box without totals that alone add more than ``room`` to the least sum."""
        low, high = low.copy(), high.copy()
        offers = len(self._arrays.price)
        for k, curve in enumerate(self._curves(slope, step, low, high)):
            low[offers + k], high[offers + k] = curve.within(curve.least() + room)
        return low, high

    def _curves(self, slope: Reals, step: Reals, low: Counts, high: Counts) -> list[_Curve]:
        arrays, offers = self._arrays, len(self._arrays.price)
        slope, fixed, jump = slope.copy(), np.zeros(arrays.num_kinds), np.zeros(arrays.num_kinds)
        for z, (owner, k) in enumerate(zip(arrays.owner, arrays.kind_of_group, strict=True)):
            if owner >= offers:
                jump[k] += step[z]
            elif low[owner] >= 1:
                fixed[k] += step[z]
            elif high[owner] >= 1:  # the greatest convex function below the step
                slope[owner] += step[z] / high[owner]
        return [
            _Curve(
                sorted(zip(slope[m].tolist(), low[m].tolist(), high[m].tolist(), strict=True)),
                (int(low[offers + k]), int(high[offers + k])),
                float(fixed[k]),
                float(jump[k]),
            )
            for k, m in enumerate(arrays.members)
        ]


class _Curve:
    """The least that a total ``n`` of a kind adds: convex from 1 on, and a step before."""

    def __init__(
        self,
        offers: list[tuple[float, int, int]],
        span: tuple[int, int],
        fixed: float,
        jump: float,
    ) -> None:
        self._first, self._last = span
        self._counts = [sum(low for _, low, _ in offers)]
        self._costs = [fixed + sum(slope * low for slope, low, _ in offers)]
        self._jump = jump
        for slope, low, high in offers:
            self._counts.append(self._counts[-1] + high - low)
            self._costs.append(self._costs[-1] + slope * (high - low))
        self._best = self._counts[int(np.argmin(self._costs))]

    def least(self) -> float:
        """Over all totals of the box."""
        least = self._costs[0] if self._first == 0 <= self._last else math.inf
        first = max(self._first, 1)
        return least if first > self._last else min(least, self._at(self._turn(first)))

    def within(self, most: float) -> tuple[int, int]:
        """The least and the greatest total that add at most ``most``."""
        first, last = max(self._first, 1), self._last
        zero = self._first == 0 and self._costs[0] <= most
        if first > last or self._at(self._turn(first)) > most:
            return (0, 0) if zero else (self._first, self._last)
        turn = self._turn(first)
        if self._at(last) > most:
            last = self._stepped(last, turn, most)
        if self._at(first) > most:
            first = self._stepped(first, turn, most)
        return (0 if zero else first), last

    def _turn(self, first: int) -> int:
        return min(max(self._best, first), self._last)

    def _at(self, count: float) -> float:
        return float(np.interp(count, self._counts, self._costs)) + self._jump

    def _stepped(self, end: int, turn: int, most: float) -> int:
        """The count nearest to an end that adds too much, from the turn on, that does not."""
        inside, outside = turn, end
        while abs(outside - inside) > 1:
            middle = (inside + outside) // 2
            if self._at(middle) <= most:
                inside = middle
            else:
                outside = middle
        return inside
