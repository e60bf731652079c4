"""Parts: the best split of requests in flight over groups of nodes, for given times of a request.

The times T_e(l) of engine e with l requests may be those that are known, which gives a plan, or
floors of them, which gives a bound: every cost here is no less with longer times.

Group g at q requests takes the least cost of its (e, n), n engines e with T = T_e(ceil(q / n)):

    throughput   -q / T            devices   n d_e        latency   T, the largest counts
    price        USD - mu q O / T

Costs of groups add up, or the largest counts, under one sum of whole numbers: dynamic programming
over the groups tries every split. The price is a ratio of sums, found by Dinkelbach's iteration
from the fastest deployment on (see :mod:`combine`).
"""

from __future__ import annotations

import msgspec
import numpy as np

from optalloc import _native
from optalloc.serving.configuration.columns import Floats, Ints
from optalloc.serving.configuration.problem import Problem
from optalloc.serving.configuration.rows import counts
from optalloc.serving.configuration.table import EngineTable

Choice = tuple[int, int, int]  # engine, how many, requests in flight that they carry


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """What a cost is: that of one objective, with the price ``mu``, no request over ``most_s``."""

    objective: str
    mu: float = 0.0
    most_s: float = np.inf

    @property
    def join(self) -> np.ufunc:
        """How the costs of two groups are joined."""
        return np.maximum if self.objective == "latency" else np.add

    @property
    def nothing(self) -> float:
        """The cost of a group without requests."""
        return -np.inf if self.objective == "latency" else 0.0


class Offers(msgspec.Struct, frozen=True):
    """Engines in every number that may carry a part of the requests.

    ``columns`` holds engine, number and group of each, ``devices`` and ``usd_per_h`` are those of
    all its engines.
    """

    columns: Ints
    devices: Floats
    usd_per_h: Floats

    @classmethod
    def of(cls, problem: Problem, table: EngineTable, engines: Ints) -> Offers:
        """The offers of some engines."""
        flight = problem.workload.concurrency or 0
        found = [
            (e, n, int(table.group[e]))
            for e in engines.tolist()
            for n in counts(problem, min(int(table.most[e]), flight))
        ]
        columns = np.ascontiguousarray(np.array(found, np.int64).reshape(-1, 3).T)
        engine, number, _ = columns
        return cls(columns, table.devices[engine] * 1.0 * number, table.usd_per_h[engine] * number)

    def terms(self, problem: Problem, goal: Goal) -> tuple[Floats, float, bool, float]:
        """The cost of ``q`` requests, T seconds each, as ``fixed - gain q / T``, or T itself where
        the third is true, and the most seconds."""
        zero, tokens = np.zeros(len(self.devices)), problem.workload.output_len * 3600.0 / 1e6
        fixed, gain = {
            "throughput": (zero, 1.0),
            "price": (self.usd_per_h, goal.mu * tokens),
            "devices": (self.devices, 0.0),
            "latency": (zero, 0.0),
        }[goal.objective]
        return fixed, gain, goal.objective == "latency", goal.most_s


class _Part(msgspec.Struct, frozen=True):
    """The best engines of one group for each number of requests from 0: their cost (infinite where
    there are none), the engine and how many of it."""

    cost: Floats
    engine: Ints
    count: Ints


def best_split(
    problem: Problem, request_s: Floats, offers: Offers, goal: Goal
) -> tuple[Choice, ...]:
    """The split of all requests over these engines at the least cost; empty where they do not carry
    the load.

    Complexity: O(m Q + G Q^2) for Q requests, m pairs of an engine and a number, and G groups.
    """
    parts = _parts(problem, request_s, offers, goal)
    flight = request_s.shape[1]
    if not problem.several_kinds:
        part = min(parts, key=lambda p: float(p.cost[-1]))
        return _choices([(part, flight)]) if np.isfinite(part.cost[-1]) else ()
    first, *others = parts
    cost, taken = first.cost, []
    for part in others:
        cost, here = joined(goal, part.cost, cost, last=part is others[-1])
        taken.append(here)
    if np.isinf(cost[flight]):
        return ()
    chosen, left = [], flight
    for part, here in zip(parts[:0:-1], taken[::-1], strict=True):
        chosen.append((part, int(here[left])))
        left -= int(here[left])
    return _choices([(first, left), *chosen[::-1]])


def _choices(chosen: list[tuple[_Part, int]]) -> tuple[Choice, ...]:
    return tuple((int(part.engine[q]), int(part.count[q]), q) for part, q in chosen if q)


def least_costs(
    problem: Problem, floor_s: Floats, offers: Offers, goal: Goal, found: Floats
) -> Floats:
    """The least cost of all requests with each engine under each load, were all times their floors;
    written to ``found``, of the shape of ``floor_s``, infinite where the engine has no part in any
    split.

    Complexity: as of :func:`best_split`, and G times as much for the other groups.
    """
    flight = floor_s.shape[1]
    costs = [part.cost for part in _parts(problem, floor_s, offers, goal)]
    if problem.several_kinds:
        rests = _without_each(goal, costs)
    else:
        rests = [np.full(flight + 1, np.inf) for _ in costs]
        for rest in rests:
            rest[0] = goal.nothing
    found.fill(np.inf)
    terms = offers.terms(problem, goal)
    _native.least_beside(floor_s, offers.columns, *terms, np.stack(rests), found)
    return found


def _without_each(goal: Goal, costs: list[Floats]) -> list[Floats]:
    """For each group the least cost of every number of requests on all others."""
    nothing = np.full(len(costs[0]), np.inf)
    nothing[0] = goal.nothing

    def running(parts: list[Floats]) -> list[Floats]:
        found = [nothing]
        for part in parts[:-1]:
            found.append(part if found[-1] is nothing else joined(goal, part, found[-1])[0])
        return found

    befores, afters = running(costs), running(costs[::-1])[::-1]
    return [
        after
        if before is nothing
        else before
        if after is nothing
        else joined(goal, before, after)[0]
        for before, after in zip(befores, afters, strict=True)
    ]


def joined(goal: Goal, one: Floats, other: Floats, *, last: bool = False) -> tuple[Floats, Ints]:
    """The least cost of each total (with ``last`` of the largest alone), and how much of it is of
    the first."""
    cost, taken = np.full(len(one), np.inf), np.zeros(len(one), np.int64)
    first = len(one) - 1 if last else 0
    _native.join_shares(one, other, goal.join is np.maximum, first, cost, taken)
    return cost, taken


def _parts(problem: Problem, request_s: Floats, offers: Offers, goal: Goal) -> list[_Part]:
    """The best engines of every group for every number of requests; ties go to fewer."""
    size = len(problem.cluster.nodes), request_s.shape[1] + 1
    cost, which = np.full(size, np.inf), np.zeros(size, np.int64)
    cost[:, 0] = goal.nothing
    terms = offers.terms(problem, goal)
    _native.cheapest_offers(request_s, offers.columns, *terms, cost, which)
    engine, number, _ = offers.columns
    if not len(engine):
        return [_Part(one, place, place) for one, place in zip(cost, which, strict=True)]
    return [_Part(one, engine[i], number[i]) for one, i in zip(cost, which, strict=True)]
