"""The cuts of one shape for the prover: does any take so many micro-batches in the target?

A cut has a slowest stage beta and a longest tail theta, each one of finitely many values. For all
cuts with beta and theta in two intervals, S + (m - 1) beta + theta is at least the least S with no
stage and no tail above the upper ends, plus what the lower ends give: a dynamic programme over
(stage, layers done). Intervals are halved until each is refuted, or one holds a single value and
its least S is a cut that takes them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from optalloc.training.mixed.prove.words import FIRST, LAST, MIDDLE, SINGLE, Stages

Array = NDArray[np.float64]


class Cuts:
    """All cuts of a pipeline of the given kinds."""

    def __init__(self, stages: Stages, kinds: Sequence[int]) -> None:
        self.size = len(stages.problem.sequence)
        at = stages.words.at
        self.tau: list[Array] = []
        self.tail: list[Array] = []
        self.step: list[Array] = []
        count = len(kinds)
        for i, kind in enumerate(kinds):
            role = SINGLE if count == 1 else FIRST if i == 0 else MIDDLE
            role = LAST if 0 < i == count - 1 else role
            tau, tail = stages.times(kind, count - i, role)
            whole = np.where(at >= 0, tau[at], np.inf)
            if role == MIDDLE:
                np.fill_diagonal(whole, np.inf)
            begin = slice(0, 1) if i == 0 else slice(None)
            end = slice(-1, None) if i == count - 1 else slice(None)
            self.tau.append(whole[begin, end])
            self.tail.append(np.where(at >= 0, tail[at], np.inf)[begin, end])
            link = np.zeros(self.size + 1) if i == count - 1 else self._link(stages, kinds, i)
            self.step.append(self.tau[-1] + 2.0 * link[end])

    def _link(self, stages: Stages, kinds: Sequence[int], i: int) -> Array:
        """Seconds to the next stage, one way, by layers done."""
        p, here, there = stages.problem, kinds[i], kinds[i + 1]
        a, b = int(p.group[here]), int(p.group[there])
        if a != b:
            latency, rate = stages.link(a, b)
        else:
            first = last = i
            while first > 0 and kinds[first - 1] == here:
                first -= 1
            while last + 1 < len(kinds) and kinds[last + 1] == here:
                last += 1
            size, domain = int(p.devices[here]) * (last - first + 1), p.domain[a]
            near = size == domain or (domain % size == 0 and size.bit_count() == 1)
            wire = (p.near if near else p.far)[a]
            latency, rate = wire.latency_s, wire.bandwidth_bytes_per_s
        sent = max(float(p.sent_bytes[here]), float(p.sent_bytes[there]))
        link_s: Array = latency + p.boundary * sent / rate
        return link_s

    def least_s(self, beta: float, theta: float) -> float:
        """The least S of all cuts with no stage above beta and no tail above theta."""
        done = np.zeros(1)
        for tau, tail, step in zip(self.tau, self.tail, self.step, strict=True):
            allowed = np.where((tau <= beta) & (tail <= theta), step, np.inf)
            done = (done[:, None] + allowed).min(axis=0)
        return float(done[-1])

    def takes(self, num_micro: int, target_s: float) -> bool:
        """Whether a cut takes so many micro-batches within the target.

        Complexity: O(stages * layers^2) a pair of intervals.
        """
        taus, tails = self._values(self.tau, target_s), self._values(self.tail, target_s)
        if not len(taus) or not len(tails):
            return False
        waiting = [(0, len(taus) - 1, 0, len(tails) - 1)]
        while waiting:
            low, high, first, last = waiting.pop()
            extra = (num_micro - 1) * taus[low] + tails[first]
            if taus[low] + extra > target_s:  # S is no less than beta
                continue
            # Beta above this leaves no room for the others.
            most = (target_s - tails[first]) / num_micro * (1.0 + 1e-12)
            high = min(high, int(np.searchsorted(taus, most, side="right")) - 1)
            if high < low or self.least_s(taus[high], tails[last]) + extra > target_s:
                continue
            if low == high and first == last:
                return True
            if (num_micro - 1) * (taus[high] - taus[low]) >= tails[last] - tails[first]:
                middle = (low + high) // 2
                waiting += [(low, middle, first, last), (middle + 1, high, first, last)]
            else:
                middle = (first + last) // 2
                waiting += [(low, high, first, middle), (low, high, middle + 1, last)]
        return False

    @staticmethod
    def _values(tables: list[Array], most: float) -> Array:
        values = np.unique(np.concatenate([table.ravel() for table in tables]))
        return values[values <= most]
