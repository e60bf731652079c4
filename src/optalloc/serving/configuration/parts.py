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

from collections.abc import Iterator

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


class _Part(msgspec.Struct, frozen=True):
    """The best engines of one group for each number of requests from 0: their cost (infinite where
    there are none), the engine and how many of it."""

    cost: Floats
    engine: Ints
    count: Ints


def best_split(
    problem: Problem, table: EngineTable, request_s: Floats, engines: Ints, goal: Goal
) -> tuple[Choice, ...]:
    """The split of all requests over these engines at the least cost; empty where they do not carry
    the load.

    Complexity: O(m Q + G Q^2) for Q requests, m pairs of an engine and a number, and G groups.
    """
    parts = _parts(problem, table, request_s, engines, goal)
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
    problem: Problem, table: EngineTable, floor_s: Floats, engines: Ints, goal: Goal
) -> Floats:
    """The least cost of all requests with each engine under each load, were all times their floors;
    shape of ``floor_s``, infinite where the engine has no part in any split.

    Complexity: as of :func:`best_split`, and G times as much for the other groups.
    """
    flight = floor_s.shape[1]
    costs = [part.cost for part in _parts(problem, table, floor_s, engines, goal)]
    if problem.several_kinds:
        rests = _without_each(goal, costs)
    else:
        rests = [np.full(flight + 1, np.inf) for _ in costs]
        for rest in rests:
            rest[0] = goal.nothing
    found = np.full(floor_s.shape, np.inf)
    for e, n, cost in _offers(problem, table, floor_s, engines, goal):
        rest = rests[table.group[e]]
        whole = goal.join(cost, rest[flight - n :: -1])
        firsts = np.maximum(0, np.arange(-(-flight // n)) * n + 1 - n)
        loads = np.minimum.reduceat(whole, firsts)
        np.minimum(found[e, : len(loads)], loads, out=found[e, : len(loads)])
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


def _parts(
    problem: Problem, table: EngineTable, request_s: Floats, engines: Ints, goal: Goal
) -> list[_Part]:
    """The best engines of every group for every number of requests; ties go to fewer."""
    flight = request_s.shape[1]
    parts = []
    for _ in problem.cluster.nodes:
        cost = np.full(flight + 1, np.inf)
        cost[0] = goal.nothing
        engine, count = np.zeros((2, flight + 1), np.int64)
        parts.append(_Part(cost, engine, count))
    for e, n, cost in _offers(problem, table, request_s, engines, goal):
        part = parts[table.group[e]]
        wins = cost < part.cost[n:]
        for column, value in ((part.cost[n:], cost), (part.engine[n:], e), (part.count[n:], n)):
            np.copyto(column, value, where=wins)
    return parts


def _offers(
    problem: Problem, table: EngineTable, request_s: Floats, engines: Ints, goal: Goal
) -> Iterator[tuple[int, int, Floats]]:
    """Each engine in each number, and the cost of n, n + 1 and more requests on them."""
    flight = request_s.shape[1]
    tokens = problem.workload.output_len * 3600.0 / 1e6
    requests = np.arange(flight + 1.0)
    for e in engines[np.isfinite(request_s[engines]).any(axis=1)].tolist():
        for n in counts(problem, min(int(table.most[e]), flight)):
            request = np.repeat(request_s[e, : -(-flight // n)], n)[n - 1 : flight]
            if goal.objective == "latency":
                cost = request
            elif goal.objective == "devices":
                cost = np.full(len(request), float(n * table.devices[e]))
            else:
                cost = requests[n:] / request
                cost = (
                    -cost
                    if goal.objective == "throughput"
                    else (n * float(table.usd_per_h[e]) - goal.mu * tokens * cost)
                )
            yield e, n, np.where((request <= goal.most_s) & np.isfinite(request), cost, np.inf)
