"""Requests in flight over several groups of nodes, split between them in any whole numbers.

Formulation
-----------
Group g takes q_g of the Q requests. Its n equal engines e hold at most ceil(q_g / n) of them each,
and every request goes at the pace of the fullest engine. T_e(l) is the least time of a request,
over chunk and batch and within the targets, with l requests in engine e            (:mod:`fastest`)

    sum_g q_g = Q,  q_g whole                                                    (parts.best_split)
    one (e, n) at most a group, n <= q_g and <= engines that fit; the same software in all

    throughput   max  sum q_g O / T_g           devices   min  sum n d_e
    price        min  sum USD / tokens          latency   min  max T_g,   T_g = T_e(ceil(q_g / n))

Why it is exact
---------------
Devices and money do not depend on chunk and batch, so of one engine and load only T counts, and of
one group and q only the least cost over its (e, n); :mod:`parts` tries every split. No objective is
better with longer times. So the best split with the times found so far is a plan, the best with
floors of all times is a bound, and a T that is not known matters only where the best split through
it, with floors, beats the plan (parts.least_costs). The floors of such T are sharpened, and where
they matter still, T is found, the most promising first, until there is none. The plan and the bound
hold at any time. Of equally short latencies that of the fewest devices is found in the same way.
Where less than Q is the most that the engines carry within the targets, nothing is searched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from optalloc.serving.configuration.aggregated import Found, none
from optalloc.serving.configuration.columns import Floats, Ints
from optalloc.serving.configuration.combine import Deployment, Options, deployment
from optalloc.serving.configuration.fastest import Fastest
from optalloc.serving.configuration.load_floors import LoadFloors
from optalloc.serving.configuration.parts import Choice, Goal, Offers, best_split, least_costs
from optalloc.serving.configuration.problem import OBJECTIVES, Problem
from optalloc.serving.configuration.rows import Rows, allowed_batches, counts, timed
from optalloc.serving.configuration.space import batches, chunks
from optalloc.serving.configuration.table import EngineTable

_TIE = 1e-12
_FIRST, _MOST, _GROWS = 512, 16384, 4


def search(
    problem: Problem,
    table: EngineTable,
    floors: LoadFloors,
    stopped: Callable[[float | None, Callable[[], float | None], int], bool],
) -> Found:
    """The best deployment of the requests in flight.

    ``stopped(value, bound, rows timed)`` is asked between blocks of times; the bound is computed
    where it is called for.

    Complexity: a few times that of :func:`parts.best_split`, and what the times take that matter
    (:meth:`Fastest.find`).
    """
    if carried(problem, table, floors) < (problem.workload.concurrency or 0):
        rows = _rows(np.zeros((5, 0, 0)), ())
        return Found(
            rows=rows,
            times=timed(problem, table, rows),
            options=none(),
            best=None,
            bound=None,
            pruned=settings(problem, table),
            stopped=False,
        )
    split = _Split(problem, table, floors)
    halt = False
    try:
        halt = split.run(stopped)
    except KeyboardInterrupt:
        halt = True
        for offers in split.software:
            split.improve(offers)
    best, times = split.best, split.times
    rows = _rows(times.found, () if split.found is None else split.found[1])
    return Found(
        rows=rows,
        times=timed(problem, table, rows),
        options=none() if best is None else best.options,
        best=best,
        bound=split.bound() if halt else None if best is None else best.value,
        pruned=settings(problem, table) - times.timed,
        stopped=halt,
    )


def settings(problem: Problem, table: EngineTable) -> int:
    """How many engines with chunk, batch and load there are."""
    sizes = np.array(batches(problem.limits, "serve"), np.int64)
    load, number = np.arange(1, (problem.workload.concurrency or 0) + 1), 0
    for ranks, engines in zip(*np.unique(table.groups, return_counts=True), strict=True):
        full = -(-load // ranks)
        below = int(np.searchsorted(sizes, full).sum())
        number += int(engines) * (below + int(allowed_batches(problem, full).sum()))
    return len(chunks(problem.limits, "serve")) * number


def carried(problem: Problem, table: EngineTable, floors: LoadFloors) -> int:
    """No fewer requests in flight than all groups carry within the targets, one software in all."""
    flight = problem.workload.concurrency or 0
    many = np.array([0, *counts(problem, int(table.most.max()))], np.int64)
    number = many[np.searchsorted(many, np.minimum(table.most, flight), side="right") - 1]
    most = np.zeros((len(problem.cluster.nodes), int(table.software.max()) + 1), np.int64)
    np.maximum.at(most, (table.group, table.software), number * floors.most_loads())
    return int((most.sum(axis=0) if problem.several_kinds else most.max(axis=0)).max())


class _Split:
    """The search: the times as far as they are known, and the best split of them."""

    def __init__(self, problem: Problem, table: EngineTable, floors: LoadFloors) -> None:
        self.problem, self.table = problem, table
        self.less = OBJECTIVES[problem.objective][1]
        self.times = Fastest(problem, table, floors)
        self.software = [
            Offers.of(problem, table, np.flatnonzero(table.software == s))
            for s in np.unique(table.software)
        ]
        self._costs = np.empty(self.times.floor_s.shape)
        self.found: tuple[Deployment, tuple[Choice, ...]] | None = None
        self._values: dict[int, float | None] = {}  # what floors give of each software, once asked

    def run(self, stopped: Callable[[float | None, Callable[[], float | None], int], bool]) -> bool:
        """Sharpen floors and find times until no other matters; whether it was stopped before."""
        for refine in (False, True) if self.problem.objective == "latency" else (False,):
            for number, offers in enumerate(self.software):
                size = _FIRST
                while len(wanted := self._wanted(offers, size, refine=refine)):
                    self._values.pop(number, None)
                    e, place = np.divmod(wanted, self.times.floor_s.shape[1])
                    sharp = self.times.sharp[e, place]
                    self.times.sharpen(e[~sharp], place[~sharp])
                    if sharp.any():
                        self.times.find(e[sharp], place[sharp])
                        self.improve(offers)
                    value = None if self.best is None else self.best.value
                    if stopped(value, self.bound, self.times.timed):
                        return True
                    size = min(_MOST, _GROWS * size)
        return False

    @property
    def best(self) -> Deployment | None:
        """The best deployment so far."""
        return None if self.found is None else self.found[0]

    def _goal(self, *, refine: bool) -> tuple[Goal, float]:
        """What is to be less, and than what."""
        objective, best = self.problem.objective, self.best
        if best is None:
            return Goal(objective="throughput" if objective == "price" else objective), np.inf
        if refine:
            return Goal(objective="devices", most_s=best.value), float(best.devices)
        if objective == "price":
            return Goal(objective=objective, mu=best.value), 0.0
        if objective == "throughput":
            return Goal(objective=objective), -best.rate_per_s
        return Goal(objective=objective), best.value

    def _wanted(self, offers: Offers, number: int, *, refine: bool) -> Ints:
        """Engines and loads, as indices of the table of times, that are not known and may be part
        of something better: at most so many, the most promising first."""
        goal, limit = self._goal(refine=refine)
        least = least_costs(self.problem, self.times.floor_s, offers, goal, self._costs)
        scale = abs(limit) if limit else 1.0
        may = ~self.times.known & (least < limit - (_TIE * scale if np.isfinite(limit) else 0.0))
        wanted = np.flatnonzero(may)
        costs = least.ravel()[wanted]
        if len(wanted) > number:
            first = np.argpartition(costs, number - 1)[:number]
            wanted, costs = wanted[first], costs[first]
        return wanted[np.argsort(costs, kind="stable")]

    def improve(self, offers: Offers) -> None:
        """Keep the best deployment of some engines, with the times that were found, if it is the
        best of all."""
        chosen = self._best(self.times.request_s, offers)
        if chosen:
            made = self._deployment(self.times.request_s, chosen)
            if made.better(self.best, self.less):
                self.found = made, chosen

    def bound(self) -> float | None:
        """What no deployment beats; None where none carries the load."""
        for number, offers in enumerate(self.software):
            if number not in self._values:
                chosen = self._best(self.times.floor_s, offers)
                made = self._deployment(self.times.floor_s, chosen) if chosen else None
                self._values[number] = None if made is None else made.value
        values = [value for value in self._values.values() if value is not None]
        if not values:
            return None
        return min(values) if self.less else max(values)

    def _best(self, request_s: Floats, offers: Offers) -> tuple[Choice, ...]:
        """The best choice of some engines with such times; empty where they do not carry the
        load."""

        def solved(goal: Goal) -> tuple[Choice, ...]:
            return best_split(self.problem, request_s, offers, goal)

        objective = self.problem.objective
        first = solved(Goal(objective="throughput" if objective == "price" else objective))
        if not first or objective in ("throughput", "devices"):
            return first
        value = self._deployment(request_s, first).value
        if objective == "latency":
            return solved(Goal(objective="devices", most_s=value))
        kept, best = first, np.inf
        while value < best * (1.0 - _TIE):
            kept, best = first, value
            first = solved(Goal(objective="price", mu=value))
            value = self._deployment(request_s, first).value
        return kept

    def _deployment(self, request_s: Floats, chosen: Sequence[Choice]) -> Deployment:
        """The deployment of a choice with such times."""
        table = self.table
        engine, count, flight = (np.array(column, np.int64) for column in zip(*chosen, strict=True))
        load = -(-flight // count)
        request = request_s[engine, load - 1]
        return deployment(
            self.problem,
            Options(
                row=np.arange(len(chosen)),
                count=count,
                flight=flight,
                group=table.group[engine],
                software=table.software[engine],
                devices=count * table.devices[engine],
                rate_per_s=flight / request,
                ttft_s=self.times.found[1, engine, load - 1],
                tpot_s=self.times.found[2, engine, load - 1],
                request_s=request,
                usd_per_h=count * table.usd_per_h[engine],
            ),
        )


def _rows(found: Floats, chosen: Sequence[Choice]) -> Rows:
    e, n, q = np.array(chosen, np.int64).reshape(len(chosen), 3).T
    load = -(-q // np.maximum(1, n))
    chunk, batch = found[3:, e, load - 1].astype(np.int64)
    return Rows(engine=e, chunk=chunk, batch=batch, load=load, count=n)
