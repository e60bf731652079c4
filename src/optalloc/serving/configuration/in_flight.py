"""Requests in flight over several groups of nodes, split between them in any whole numbers.

Formulation
-----------
Group g takes q_g of the Q requests. Its n equal engines e hold at most ceil(q_g / n) of them each,
and every request goes at the pace of the fullest engine. T_e(l) is the least time of a request,
over chunk and batch and within the targets, with l requests in engine e            (:mod:`fastest`)

    sum_g q_g = Q,  q_g whole                                                             (_split)
    one (e, n) at most a group, n <= q_g and <= engines that fit; the same software in all (_parts)

    throughput   max  sum q_g O / T_g           devices   min  sum n d_e
    price        min  sum USD / tokens          latency   min  max T_g,   T_g = T_e(ceil(q_g / n))

Why it is exact
---------------
Devices and money do not depend on chunk and batch, so of one engine and load only T counts, and of
one group and q only the least cost over its (e, n). Costs add up, or the largest counts, under one
sum of whole numbers: dynamic programming over the groups tries every split. The price is a ratio of
sums, found by Dinkelbach's iteration from the fastest deployment on (see :mod:`combine`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from optalloc.serving.configuration.aggregated import Found, none
from optalloc.serving.configuration.columns import Floats, Ints
from optalloc.serving.configuration.combine import Deployment, Options, deployment
from optalloc.serving.configuration.fastest import Fastest, fastest
from optalloc.serving.configuration.problem import OBJECTIVES, Problem
from optalloc.serving.configuration.rows import Rows, counts, timed
from optalloc.serving.configuration.table import EngineTable

_TIE = 1e-12
_Choice = tuple[int, int, int]  # engine, how many, requests in flight that they carry


class _Part(msgspec.Struct, frozen=True):
    """The best engines of one group for each number of requests from 0: their cost (infinite where
    there are none) and devices, the engine and how many of it."""

    cost: Floats
    devices: Ints
    engine: Ints
    count: Ints


def search(
    problem: Problem,
    table: EngineTable,
    stopped: Callable[[float | None, float | None, int], bool],
) -> tuple[Found, int]:
    """The best deployment of the requests in flight, and how many rows there are; a search that is
    stopped has no bound.

    Complexity: what :func:`fastest` takes, and O(Q m + G Q^2) for Q requests, m pairs of an engine
    and a number, and G groups.
    """
    least = fastest(problem, table, lambda rows: stopped(None, None, rows))
    less = OBJECTIVES[problem.objective][1]
    best: Deployment | None = None
    rows = _rows(least, ())
    for software in np.unique(table.software):
        chosen = _best(problem, table, least, np.flatnonzero(table.software == software))
        if chosen:
            made = _deployment(problem, table, least, chosen)
            if made.better(best, less):
                best, rows = made, _rows(least, chosen)
    found = Found(
        rows=rows,
        times=timed(problem, table, rows),
        options=none() if best is None else best.options,
        best=best,
        bound=None if best is None or least.stopped else best.value,
        pruned=least.rows - least.timed,
        stopped=least.stopped,
    )
    return found, least.rows


def _best(
    problem: Problem, table: EngineTable, least: Fastest, engines: Ints
) -> tuple[_Choice, ...]:
    """The best choice of some engines; empty where they do not carry the load."""

    def solved(goal: str, mu: float = 0.0, most_s: float = np.inf) -> tuple[_Choice, ...]:
        parts = [
            _part(problem, table, least, engines[table.group[engines] == group], goal, mu, most_s)
            for group in range(len(problem.cluster.nodes))
        ]
        if not problem.several_kinds:
            return _whole(parts)
        return _split(parts, np.maximum if goal == "latency" else np.add)

    if problem.objective in ("throughput", "devices"):
        return solved(problem.objective)
    if problem.objective == "latency":
        chosen = solved("latency")
        if not chosen:
            return ()
        slowest = max(least.request_s[e, -(-q // n) - 1] for e, n, q in chosen)
        return solved("devices", most_s=float(slowest))
    kept: tuple[_Choice, ...] = ()
    chosen, best = solved("throughput"), np.inf
    while chosen:
        value = _deployment(problem, table, least, chosen).value
        if value >= best * (1.0 - _TIE):
            break
        kept, best = chosen, value
        chosen = solved("price", value)
    return kept


def _part(
    problem: Problem,
    table: EngineTable,
    least: Fastest,
    engines: Ints,
    goal: str,
    mu: float,
    most_s: float,
) -> _Part:
    """The best engines of one group for every number of requests, none slower than ``most_s``."""
    flight = least.request_s.shape[1]
    cost, devices = np.full(flight + 1, np.inf), np.zeros(flight + 1, np.int64)
    engine, count = np.full(flight + 1, -1), np.zeros(flight + 1, np.int64)
    cost[0] = -np.inf if goal == "latency" else 0.0
    for e in engines[np.isfinite(least.request_s[engines]).any(axis=1)].tolist():
        for n in counts(problem, min(int(table.most[e]), flight)):
            q = np.arange(n, flight + 1)
            request = least.request_s[e, -(-q // n) - 1]
            size, usd = n * int(table.devices[e]), n * float(table.usd_per_h[e])
            if goal == "devices":
                here = np.full(len(q), float(size))
            elif goal == "latency":
                here = request.copy()
            elif goal == "throughput":
                here = -q / request
            else:
                here = usd - mu * q / request * 3600.0 * problem.workload.output_len / 1e6
            here[~(request <= most_s) | np.isinf(request)] = np.inf
            old, held = cost[n:], devices[n:]
            wins = (here < old) | ((here == old) & np.isfinite(here) & (size < held))
            for column, value in ((old, here), (held, size), (engine[n:], e), (count[n:], n)):
                np.copyto(column, value, where=wins)
    return _Part(cost, devices, engine, count)


def _whole(parts: list[_Part]) -> tuple[_Choice, ...]:
    """The best group that carries the whole load alone."""
    part = min(parts, key=lambda p: (p.cost[-1], p.devices[-1]))
    if np.isinf(part.cost[-1]):
        return ()
    return ((int(part.engine[-1]), int(part.count[-1]), len(part.cost) - 1),)


def _split(parts: list[_Part], together: np.ufunc) -> tuple[_Choice, ...]:
    """The best split of the load over the groups; ties go to fewer devices."""
    first, *others = parts
    cost, devices = first.cost, first.devices
    flight = len(cost) - 1
    taken: list[Ints] = []
    for part in others:
        new = np.full(flight + 1, np.inf)
        held, here = np.zeros((2, flight + 1), np.int64)
        for total in range(flight if part is others[-1] else 0, flight + 1):
            both = together(part.cost[: total + 1], cost[total::-1])
            size = part.devices[: total + 1] + devices[total::-1]
            least = both.min()
            if least < np.inf:
                ties = np.flatnonzero(both == least)
                q = int(ties[np.argmin(size[ties])])
                new[total], held[total], here[total] = least, size[q], q
        cost, devices = new, held
        taken.append(here)
    if np.isinf(cost[flight]):
        return ()
    chosen, left = [], flight
    for part, here in zip(parts[::-1], [*taken[::-1], np.arange(flight + 1)], strict=True):
        q = int(here[left])
        if q:
            chosen.append((int(part.engine[q]), int(part.count[q]), q))
        left -= q
    return tuple(reversed(chosen))


def _deployment(
    problem: Problem, table: EngineTable, least: Fastest, chosen: Sequence[_Choice]
) -> Deployment:
    engine, count, flight = (np.array(column, np.int64) for column in zip(*chosen, strict=True))
    load = -(-flight // count)
    request = least.request_s[engine, load - 1]
    return deployment(
        problem,
        Options(
            row=np.arange(len(chosen)),
            count=count,
            flight=flight,
            group=table.group[engine],
            software=table.software[engine],
            devices=count * table.devices[engine],
            rate_per_s=flight / request,
            ttft_s=least.ttft_s[engine, load - 1],
            tpot_s=least.tpot_s[engine, load - 1],
            request_s=request,
            usd_per_h=count * table.usd_per_h[engine],
        ),
    )


def _rows(least: Fastest, chosen: Sequence[_Choice]) -> Rows:
    e, n, q = np.array(chosen, np.int64).reshape(len(chosen), 3).T
    load = -(-q // np.maximum(1, n))
    return Rows(
        engine=e, chunk=least.chunk[e, load - 1], batch=least.batch[e, load - 1], load=load, count=n
    )
