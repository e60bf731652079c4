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
    """All cuts of a pipeline of the given kinds with no stage of more than ``most_s`` seconds.

    Tables have a row for each number of layers done behind a stage, and a column for each number of
    layers on it.
    """

    def __init__(self, stages: Stages, kinds: Sequence[int], most_s: float) -> None:
        words, size = stages.words, len(stages.problem.sequence)
        count = len(kinds)
        times = []
        for i, kind in enumerate(kinds):
            role = SINGLE if count == 1 else FIRST if i == 0 else MIDDLE
            role = LAST if 0 < i == count - 1 else role
            tau, tail = stages.times(kind, count - i, role)
            times.append(
                (np.where((words.length < (role == MIDDLE)) | (tau > most_s), np.inf, tau), tail)
            )
        longest = max(
            (int(words.length[np.isfinite(tau)].max(initial=0)) for tau, _ in times), default=0
        )
        end, held = np.meshgrid(np.arange(size + 1), np.arange(longest + 1), indexing="ij")
        self.begin = np.maximum(end - held, 0)
        word = np.where(end >= held, words.at[self.begin, end], -1)
        self.num_layers = size
        self.rows = [np.minimum.accumulate(words.least(tau)[::-1])[::-1] for tau, _ in times]
        self.tau: list[Array] = []
        self.tail: list[Array] = []
        self.step: list[Array] = []
        for i, (tau, tail) in enumerate(times):
            link = np.zeros(size + 1) if i == count - 1 else self._link(stages, kinds, i)
            self.tau.append(np.where(word >= 0, tau[word], np.inf))
            self.tail.append(tail[word])
            self.step.append(self.tau[-1] + 2.0 * link[:, None])

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
        done = np.full(len(self.begin), np.inf)
        done[0] = 0.0
        for tau, tail, step in zip(self.tau, self.tail, self.step, strict=True):
            allowed = np.where((tau <= beta) & (tail <= theta), step, np.inf)
            done = (done[self.begin] + allowed).min(axis=1)
        return float(done[-1])

    def takes(self, num_micro: int, target_s: float) -> bool:
        """Whether a cut takes so many micro-batches within the target.

        Complexity: O(stages * layers^2) a pair of intervals.
        """
        short = [tau <= target_s for tau in self.tau]
        taus, tails = (
            np.unique(np.concatenate([t[rows] for t, rows in zip(tables, short, strict=True)]))
            for tables in (self.tau, self.tail)
        )
        if not len(taus):
            return False
        # With beta below the first of these the stages do not hold all layers, in any order.
        held = sum(
            np.searchsorted(row, taus * (1.0 + 1e-12), side="right") - 1 for row in self.rows
        )
        begin = int(np.searchsorted(held, self.num_layers))
        waiting = [(begin, len(taus) - 1, 0, len(tails) - 1)]
        while waiting:
            low, high, first, last = waiting.pop()
            if low > high:
                continue
            room = target_s - tails[first]
            pass_s = self.least_s(taus[high], tails[last])
            if pass_s + (num_micro - 1) * taus[low] > room:
                continue
            if low == high and first == last:
                return True
            if num_micro > 1:  # what S leaves for the others
                most = (room - pass_s) / (num_micro - 1) * (1.0 + 1e-12)
                reach = int(np.searchsorted(taus, most, side="right")) - 1
                if reach < high:
                    waiting.append((low, reach, first, last))
                    continue
            if (num_micro - 1) * (taus[high] - taus[low]) >= tails[last] - tails[first]:
                middle = (low + high) // 2
                waiting += [(low, middle, first, last), (middle + 1, high, first, last)]
            else:
                middle = (first + last) // 2
                waiting += [(low, high, first, middle), (low, high, middle + 1, last)]
        return False
