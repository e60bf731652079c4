"""Proof: is no aggregated deployment of a plan's space better than its bound? Asked once more.

Every engine of the space (:mod:`prove_space`) is timed at all its batches by the cost model's
closed loop. No bound and no dominance removes one of them. With the bound B the question is linear
for every objective: each option has a cost, and no options may carry the load whose costs sum to
less than a threshold,

    throughput  cost -n f O,            threshold -B          devices  cost n d,    threshold B
    price       cost USD - B tokens,    threshold 0           latency  cost request, largest, B
    price, rate given: cost USD,        threshold B tokens

so the least cost of each group is enough: of n engines that with the most requests a second. A rate
is split over groups in any parts (:meth:`Proof._rate`). All engines run the same software. Requests
in flight follow in :mod:`prove_in_flight`, split phases in :mod:`prove_split`.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from optalloc.cost.engine.load import closed_loop_times
from optalloc.errors import CertificateError
from optalloc.serving.configuration.plan import ServingPlan
from optalloc.serving.configuration.prove_space import (
    Engines,
    Floats,
    Ints,
    Space,
    blocks,
    target_s,
)

TOLERANCE = 1e-7


class Proof:
    """What is asked of a plan: its goal, its bound, and the space that the bound holds for."""

    def __init__(self, plan: ServingPlan) -> None:
        assert plan.certificate is not None
        self.plan, self.work, self.space = plan, plan.workload, Space(plan)
        self.goal, self.bound = plan.certificate.objective, plan.certificate.bound
        self.asked = (self.work.rate_per_s or 0.0) / (1.0 - plan.headroom)
        self.ttft, self.tpot = target_s(self.work.ttft_s), target_s(self.work.tpot_s)

    # -- the question

    @property
    def threshold(self) -> float:
        """What no deployment may cost less than."""
        if self.goal == "throughput":
            return -self.bound
        if self.goal == "price":
            return 0.0 if self.work.rate_per_s is None else self.tokens(self.work.rate_per_s)
        return self.bound

    @property
    def limit(self) -> float:
        """The threshold less what sums of the same floats in another order may differ by."""
        scale = abs(self.threshold)
        if self.goal == "price" and self.work.rate_per_s is None:
            scale = self.tokens(self.plan.predicted.capacity_per_s)
        return self.threshold - TOLERANCE * max(scale, 1e-12)

    def tokens(self, rate: float) -> float:
        """USD per hour that so many requests per second may cost at the bound."""
        return self.bound * rate * self.work.output_len * 3600.0 / 1e6

    def check(self, cost: float, what: str) -> None:
        """Raise if something costs less than it may."""
        if cost < self.limit:
            raise CertificateError(f"{what} is better than the bound {self.bound!r}")

    # -- aggregated, without a load or with a rate

    def aggregated(self) -> int:
        """No combination of options is better; the number of settings."""
        engines = self.space.engines("serve")
        if engines is None:
            return 0
        e, rate, request, asked = self._timed(engines)
        groups = range(len(self.plan.cluster.nodes))
        for numbers in engines.software:
            mine = np.isin(e, numbers)
            options = self._options(engines, e[mine], rate[mine], request[mine])
            costs = [[part[options[0] == group] for part in options[1:]] for group in groups]
            if self.work.rate_per_s is not None and len(groups) > 1:
                self._rate(costs)
            else:
                self._together([float(cost.min()) for cost, _ in costs if len(cost)])
        return asked

    def _timed(self, engines: Engines) -> tuple[Ints, Floats, Floats, int]:
        """Engines as full as they may be, with each chunk and batch within memory and targets:
        number, requests per second and seconds of a request; and how many were asked."""
        work = self.work
        shape = len(engines.engines), self.space.chunks("serve"), self.space.batches("serve")
        e, c, b = (x.ravel() for x in np.indices((shape[0], len(shape[1]), len(shape[2]))))
        chunk, batch = np.array(shape[1])[c], shape[2][b]
        load = batch * engines.ranks[e]
        request, fine = np.zeros(len(e)), np.zeros(len(e), np.bool_)
        for part in blocks(len(e)):
            step = engines.step(e[part], chunk[part], batch[part])
            fit = np.asarray(step.sequences_that_fit(work.input_len + work.output_len))
            found = closed_loop_times(
                step, work.input_len, work.output_len, load[part], work.prefix_len
            )
            request[part] = found.ttft_s + (work.output_len - 1.0) * found.tpot_s
            late = (found.ttft_s > self.ttft) | (found.tpot_s > self.tpot)
            fine[part] = (fit >= batch[part]) & ~np.asarray(late)
        return e[fine], load[fine] / request[fine], request[fine], len(e)

    def _options(
        self, engines: Engines, e: Ints, rate: Floats, request: Floats
    ) -> tuple[Ints, Floats, Floats]:
        """Group, cost and requests per second of what is timed, in every number."""
        groups, costs, rates = [np.zeros(0, np.int64)], [np.zeros(0)], [np.zeros(0)]
        alone = len(self.plan.cluster.nodes) == 1
        one = self.goal == "devices" and self.work.rate_per_s is None
        for number in np.unique(e).tolist():
            group, size = int(engines.group[number]), int(engines.size[number])
            counts = np.array(self.space.counts(self.plan.cluster.nodes[group], size))
            here = np.flatnonzero(e == number)
            if self.goal == "latency":  # every row, in the most
                count = np.full(len(here), counts.max(initial=0))
            else:
                best = here[np.argmax(rate[here])]
                count = counts[:1] if one else counts
                here = np.full(len(count), best)
            most = count * rate[here]
            fine = (count > 0) & ((not alone) | (most >= self.asked * (1.0 - 1e-12)))
            cost: Floats = {
                "throughput": -most * self.work.output_len,
                "devices": (count * size).astype(np.float64),
                "latency": request[here],
            }.get(self.goal, count * engines.usd_per_h[number])
            if self.goal == "price" and self.work.rate_per_s is None:
                cost = cost - self.tokens(1.0) * most
            groups.append(np.full(int(fine.sum()), group))
            costs.append(cost[fine])
            rates.append(most[fine])
        return np.concatenate(groups), np.concatenate(costs), np.concatenate(rates)

    def _together(self, least: list[float]) -> None:
        """No set of groups is better; ``least`` holds the cost of each that has engines."""
        most = 1 if self.plan.limits.target == "llm-d" else len(least)
        for number in range(1, most + 1):
            for costs in itertools.combinations(least, number):
                self.check(
                    max(costs) if self.goal == "latency" else sum(costs), "an aggregated deployment"
                )

    def _rate(self, groups: list[list[Floats]]) -> None:
        """No options (cost, requests/s), one a group at most, reach the rate at a better cost."""
        unused = [np.array([-math.inf if self.goal == "latency" else 0.0]), np.zeros(1)]
        sums = unused
        for costs in groups:
            before = unused if self.plan.limits.target == "llm-d" else sums
            both = zip(sums, self._added(before, costs), strict=True)
            sums = _stair(*(np.concatenate(columns) for columns in both))
        cost, rate = sums
        enough = cost[rate >= self.asked * (1.0 + TOLERANCE)]
        self.check(float(enough.min(initial=math.inf)), "engines on groups that share the load")

    def _added(self, sums: list[Floats], costs: list[Floats]) -> list[Floats]:
        """Each sum with each option of a group."""
        join = np.maximum if self.goal == "latency" else np.add
        cost, rate = _stair(*costs)
        return _stair(join.outer(sums[0], cost).ravel(), np.add.outer(sums[1], rate).ravel())


def _stair(cost: Floats, rate: Floats) -> list[Floats]:
    """Costs and requests per second that no other beats in both."""
    order = np.lexsort((-rate, cost))
    tops = np.maximum.accumulate(rate[order])
    kept = order[np.diff(tops, prepend=-1.0) > 0.0]
    return [cost[kept], rate[kept]]
