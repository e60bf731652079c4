"""Proof for requests in flight: is no split of them over engines and groups better than the bound?

A group with q of the requests costs the least over its engines e in every number n, each with l =
ceil(q / n) of them. With floors of all times (:mod:`prove_floors`) for the other groups' least cost
of Q - q, joined group after group over every total, an engine under a load is part of something
better only if a request takes less than

    throughput  q O / (rest + B)           price  q tokens / (n USD + rest)
    devices     infinity, if n d + rest < B       latency  B, if rest < B

seconds, the largest over n and q of that load. Where floors alone do not rule that out, sharper
ones are taken, and then all rows timed that may be so fast, the farthest below what is needed
first, which makes the rest dearer.
At the end every engine and load that something better could be made of has its true time, and these
are joined once more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from optalloc.serving.configuration.prove import Proof
from optalloc.serving.configuration.prove_floors import Floors
from optalloc.serving.configuration.prove_space import Engines, Floats, Ints

_FIRST, _GROWS = 2048, 4


def prove_in_flight(proof: Proof) -> int:
    """The number of engine settings that were asked; no split of them is better than the bound.

    Raises
    ------
    CertificateError
        Naming one that is better.

    Complexity: for Q requests and G groups O(G Q^2), O(Q) for each engine and number, and what
    :mod:`prove_floors` takes.
    """
    engines = proof.space.engines("serve")
    if engines is None:
        return 0
    flight = proof.work.concurrency or 0
    floors = Floors(proof.space, engines, flight)
    return sum(_Split(proof, engines, floors, numbers).check() for numbers in engines.software)


class _Split:
    """Engines of one software, each in every number."""

    def __init__(self, proof: Proof, engines: Engines, floors: Floors, numbers: Ints) -> None:
        self.proof, self.engines, self.floors, self.numbers = proof, engines, floors, numbers
        self.flight = proof.work.concurrency or 0
        self.nothing = -math.inf if proof.goal == "latency" else 0.0
        self.groups = range(len(proof.plan.cluster.nodes))
        self.alone = len(self.groups) == 1 or proof.plan.limits.target == "llm-d"

    def check(self) -> int:
        """No split is better; the number of settings."""
        flight = self.flight
        offered = np.zeros((len(self.engines.engines), flight + 1), np.bool_)
        for number, _n, _q, load in self._offers():
            offered[number, load] = True
        pairs = np.nonzero(offered)
        least = np.full(offered.shape, np.inf)
        least[pairs] = self.floors.least_s(*pairs)
        exact, size = np.full(offered.shape, np.inf), _FIRST
        known, sharp = ~offered, ~offered
        while True:
            needed = self._needed(least)
            e, load = np.nonzero(~known & (least < needed))
            if not len(e):
                break
            order = np.argsort(least[e, load] / needed[e, load], kind="stable")[:size]
            e, load = e[order], load[order]
            size *= _GROWS
            blunt = ~sharp[e, load]
            if blunt.any():
                e, load = e[blunt], load[blunt]
                least[e, load] = np.maximum(least[e, load], self.floors.sharper_s(e, load))
                sharp[e, load] = True
                continue
            exact[e, load] = self.floors.fastest_s(e, load, needed[e, load])
            least[e, load] = np.minimum(exact[e, load], needed[e, load])
            known[e, load] = True
        costs = self._costs(exact)
        if self.alone:
            best = min(float(cost[flight]) for cost in costs)
        else:
            best = float(self._joined_all(costs)[flight])
        self.proof.check(best, f"a split of {flight} requests in flight")
        return self.floors.number(*pairs)

    def _needed(self, least: Floats) -> Floats:
        """Seconds that a request has to take less than, for each engine and load, to be part of
        something better; the costs of all others follow from the ``least`` that theirs take."""
        rests, needed = self._rests(self._costs(least)), np.zeros(least.shape)
        for e, n, q, load in self._offers():
            if np.isfinite(least[e, load]).any():
                rest = rests[self.engines.group[e]][self.flight - q]
                np.maximum.at(needed[e], load, self._needed_s(e, n, q, rest))
        return needed

    def _offers(self) -> Iterator[tuple[int, int, Ints, Ints]]:
        """Every engine in each number, with the requests that they may carry in all and each."""
        for e in self.numbers.tolist():
            group = self.proof.plan.cluster.nodes[self.engines.group[e]]
            for n in self.proof.space.counts(group, int(self.engines.size[e])):
                if n > self.flight:
                    break
                q = np.arange(self.flight if self.alone else n, self.flight + 1)
                yield e, n, q, -(-q // n)

    def _costs(self, request_s: Floats) -> list[Floats]:
        """The least cost of each number of requests on each group."""
        found = [np.full(self.flight + 1, np.inf) for _ in self.groups]
        for cost in found:
            cost[0] = self.nothing
        for e, n, q, load in self._offers():
            seconds = request_s[e, load]
            cost = found[self.engines.group[e]][q[0] :]
            np.minimum(cost, self._cost(e, n, q, seconds), out=cost)
        return found

    def _cost(self, e: int, n: int, q: Ints, seconds: Floats) -> Floats:
        goal, rate = self.proof.goal, q / seconds
        if goal == "throughput":
            cost = -rate * self.proof.work.output_len
        elif goal == "price":
            cost = n * self.engines.usd_per_h[e] - self.proof.tokens(1.0) * rate
        elif goal == "latency":
            cost = seconds
        else:
            cost = np.full(len(q), float(n * self.engines.size[e]))
        return np.where(np.isfinite(seconds), cost, np.inf)

    def _needed_s(self, e: int, n: int, q: Ints, rest: Floats) -> Floats:
        """Seconds that a request may take less than for something better."""
        proof, goal = self.proof, self.proof.goal
        left = proof.limit - rest  # what the cost has to be below
        if goal == "latency":
            return np.where(rest < proof.limit, proof.limit, 0.0)
        if goal == "devices":
            return np.where(n * float(self.engines.size[e]) < left, np.inf, 0.0)
        gain, spent = float(proof.work.output_len), 0.0
        if goal == "price":
            gain, spent = proof.tokens(1.0), n * float(self.engines.usd_per_h[e])
        over = spent - left
        return np.where(over > 0.0, q * gain / np.maximum(over, 1e-300), np.inf)

    def _rests(self, costs: list[Floats]) -> list[Floats]:
        """For each group the least cost of every number of requests on all others."""
        none = np.full(self.flight + 1, np.inf)
        none[0] = self.nothing
        if self.alone:
            return [none for _ in costs]
        found = []
        for group in self.groups:
            others = [cost for other, cost in enumerate(costs) if other != group]
            found.append(self._joined_all(others))
        return found

    def _joined_all(self, costs: list[Floats]) -> Floats:
        total = costs[0]
        for cost in costs[1:]:
            total = self._joined(total, cost)
        return total

    def _joined(self, one: Floats, other: Floats) -> Floats:
        """The least cost of each total of requests that two shares make."""
        join = np.maximum if self.proof.goal == "latency" else np.add
        found = np.empty(len(one))
        back = np.ascontiguousarray(other[::-1])
        for total in range(len(one)):
            found[total] = join(one[: total + 1], back[len(one) - 1 - total :]).min()
        return found
