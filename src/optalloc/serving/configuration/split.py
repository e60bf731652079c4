"""Split phases: prefill workers and decode workers in whole numbers, also on different devices.

Formulation
-----------
A prefill worker of d_p devices and g_p ranks reads a prompt in P seconds, and where many wait
together one in U seconds; a decode worker of d_d devices holds B = g_d b sequences at ``tpot``; a
prompt is handed over, its cache with it, in ``move`` seconds. With n_p and n_d of them, x the share
of what prefill can do that is asked of it, A = (O - 1) tpot, S = n_p g_p / U prompts a second at
most, and the cost model's constants of waiting (:mod:`optalloc.cost.engine.load`):

    decode rate  r = B / (A + move)                  places that are full all the time
    ttft(x)  = P + move + lag tpot + queue P x / (2 (1 - x)) + burst / 2 x (ttft + A)
    rate     = x S <= n_d r,   x <= u = min(BUSIEST, the largest x with ttft(x) <= target)
    tpot <= target;   both workers fit their memory (decode b requests, prefill one prompt)
    n_p workers fit beside n_d in whole nodes (:func:`space.most_beside`), or each on its own group
    both have the same software and type of cache

Under Q requests in flight, Little's law gives x: x S (P + move + lag tpot + burst / 2 Q / S + A +
queue P x / (2 (1 - x))) = Q, and where u or the places bind first, requests wait: ttft is then
Q / rate - A.

Why it is exact
---------------
Dominance of workers of equal devices on one group: a prefill worker that is no slower for one
prompt (P), in prompts a second (g_p / U) and in ``move`` serves any partner no worse, for ttft(x)
grows with P, x and ``move``; a decode worker with no larger ``tpot`` and no smaller r (compared at
both ends of the range of ``move``; the difference is linear in it) too, but where both the requests
in flight and a target of ttft are given: then a slower one may leave less time before the first
token, and all are kept. For each n_p the rest is closed: the rate does not fall with n_d;
``(n_p c_p + n_d c_d) / min(u S, n_d r)`` falls until n_d r reaches u S and then rises, so only the
whole numbers on both sides count; a rate asked for needs the fewest of each, and the least latency
the most prefill workers beside the fewest decode workers.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np

from optalloc.serving.configuration.columns import Columns, Floats, Ints
from optalloc.serving.configuration.operating import Operating
from optalloc.serving.configuration.problem import BUSIEST, Problem
from optalloc.serving.configuration.space import most_beside, most_engines
from optalloc.serving.configuration.table import EngineTable
from optalloc.serving.configuration.workers import (
    Decode,
    Kind,
    Prefill,
    decode_workers,
    kinds,
    link_bytes_per_s,
    prefill_workers,
    undominated_decode,
    undominated_prefill,
)


class Pairs(Columns, frozen=True, kw_only=True):
    """Deployments of both phases; ``busy`` is x. Rates in requests/s, money in USD/h."""

    prefill: Ints
    chunk: Ints
    decode: Ints
    batch: Ints
    num_prefill: Ints
    num_decode: Ints
    devices: Ints
    busy: Floats
    move_s: Floats
    rate_per_s: Floats
    ttft_s: Floats
    tpot_s: Floats
    request_s: Floats
    usd_per_h: Floats


class Sides(NamedTuple):
    """The workers of both phases that another of their kind does not dominate.

    ``numbers`` are those of each kind before, ``usd_per_h`` the prices of the engines.
    """

    prefill: dict[Kind, Prefill]
    decode: dict[Kind, Decode]
    numbers: tuple[dict[Kind, int], dict[Kind, int]]
    usd_per_h: tuple[Floats, Floats]

    def number(self, one: Kind, other: Kind) -> int:
        """Pairs of workers of two kinds."""
        return self.numbers[0][one] * self.numbers[1][other]

    @property
    def answered(self) -> list[Kind]:
        """Kinds of prefill workers that some decode workers go with."""
        return [p for p in self.prefill if any(p.alike(d) for d in self.decode)]


class Workers(NamedTuple):
    """Every worker of both phases, whatever the load and targets."""

    prefill: Prefill
    decode: Decode
    tables: tuple[EngineTable, EngineTable]

    @classmethod
    def of(
        cls,
        problem: Problem,
        prefill_table: EngineTable,
        decode_table: EngineTable,
        sizes: tuple[int, ...] = (),
    ) -> Self:
        """The workers of a space; ``sizes`` gives other batches than those of the space."""
        return cls(
            prefill_workers(problem, prefill_table),
            decode_workers(problem, decode_table, sizes),
            (prefill_table, decode_table),
        )


def sides_of(problem: Problem, workers: Workers) -> Sides:
    """The workers that meet the target of a token and that matter."""
    left, (prefill_table, decode_table) = workers.prefill, workers.tables
    right = workers.decode.take(workers.decode.tpot_s <= problem.tpot_s)
    kinds_p = kinds(prefill_table, left.engine)
    kinds_d = kinds(decode_table, right.engine)
    groups = range(len(problem.cluster.nodes))
    slowest = min(link_bytes_per_s(problem.cluster, a, b) for a in groups for b in groups)
    move_s = float((left.bytes / slowest + left.handover_s).max(initial=0.0))
    decode = {k: right.take(i) for k, i in kinds_d.items()}
    if problem.workload.concurrency is None or np.isinf(problem.ttft_s):
        length = problem.workload.output_len
        decode = {k: undominated_decode(d, length, move_s) for k, d in decode.items()}
    return Sides(
        prefill={k: undominated_prefill(left.take(i)) for k, i in kinds_p.items()},
        decode=decode,
        numbers=({k: len(i) for k, i in kinds_p.items()}, {k: len(i) for k, i in kinds_d.items()}),
        usd_per_h=(prefill_table.usd_per_h, decode_table.usd_per_h),
    )


def pairs_of_kinds(
    problem: Problem, sides: Sides, one: Kind, other: Kind, decode: Decode, goal: str
) -> Pairs:
    """Deployments of workers of two kinds, of the second ``decode`` alone, with the numbers worth
    trying."""
    prefill, first, second = sides.prefill[one], one.devices, other.devices
    left, right = (one.group, first), (other.group, second)
    most = most_engines(problem.cluster.nodes[one.group], first)
    numbers = [n for n in range(1, most + 1) if problem.limits.allows("replicas", n, "prefill")]
    room = [_beside(problem, left, n, right) for n in numbers]
    n_p = np.array([n for n, r in zip(numbers, room, strict=True) if r > 0], np.int64)
    top = np.array([r for r in room if r > 0], np.int64)
    link = link_bytes_per_s(problem.cluster, one.group, other.group)
    i, j = _grid(len(prefill), len(decode))
    p, d = prefill.take(i), decode.take(j)
    useful = np.isin(n_p, _prefill_numbers(problem, Operating(problem, p, d, link), n_p, goal))
    n_p, top = n_p[useful], top[useful]
    i, j, k = _grid(len(prefill), len(decode), len(n_p))
    p, d = prefill.take(i), decode.take(j)
    times = Operating(problem, p, d, link)
    usd = sides.usd_per_h[0][p.engine], sides.usd_per_h[1][d.engine]
    made = []
    for a, b in _numbers(problem, times, n_p[k], top[k], goal):
        fine = (a > 0) & (b > 0)
        rate, ttft, busy = times.at(a, b)
        fine &= (rate > 0.0) & (ttft <= problem.ttft_s * (1.0 + 1e-12))
        fine &= rate >= problem.asked_per_s * (1.0 - 1e-9)
        made.append(
            Pairs(
                prefill=p.engine,
                chunk=p.chunk,
                decode=d.engine,
                batch=d.batch,
                num_prefill=a,
                num_decode=b,
                devices=a * first + b * second,
                busy=busy,
                move_s=times.move_s,
                rate_per_s=rate,
                ttft_s=ttft,
                tpot_s=d.tpot_s,
                request_s=ttft + times.answer_s,
                usd_per_h=a * usd[0] + b * usd[1],
            ).take(fine)
        )
    return joined(made)


def _grid(*lengths: int) -> list[Ints]:
    """Every combination of numbers below these lengths, a column each."""
    return [a.ravel() for a in np.meshgrid(*map(np.arange, lengths), indexing="ij")]


def _prefill_numbers(problem: Problem, times: Operating, n_p: Ints, goal: str) -> Ints:
    """The numbers of prefill workers that some pair may want: all, where numbers are limited or
    more of them bring more; one, without a load; the fewest of each pair for a rate."""
    if _limited(problem) or goal not in ("devices", "price", "latency"):
        return n_p
    if problem.workload.rate_per_s is not None and goal != "latency":
        return np.unique(_fewest(problem, times)).astype(np.int64)
    if not problem.has_load and goal != "price":
        return np.ones(1, np.int64)
    return n_p


def _limited(problem: Problem) -> bool:
    limits = problem.limits
    return any(name.endswith("replicas") for name in (*limits.pin, *limits.forbid))


def _fewest(problem: Problem, times: Operating) -> Floats:
    """The fewest prefill workers of each pair that read prompts at the asked rate."""
    asked = problem.asked_per_s * (1.0 - 1e-12)
    busiest = np.maximum(times.busiest, 1e-300)
    found: Floats = np.ceil(np.minimum(asked / (busiest * times.prefill.per_s), 1e9))
    return np.maximum(1.0, found)


def _beside(problem: Problem, left: tuple[int, int], number: int, right: tuple[int, int]) -> int:
    """Workers of the second kind that fit beside ``number`` of the first."""
    (group, first), (other, second) = left, right
    node = problem.cluster.nodes[other]
    if group != other:
        return most_engines(node, second)
    return most_beside(node.devices, node.count, first, number, second)


def _numbers(
    problem: Problem, times: Operating, n_p: Ints, top: Ints, goal: str
) -> list[tuple[Ints, Ints]]:
    """Numbers of both kinds of worker worth trying, of ``n_p`` and up to ``top``; 0 is none."""
    work, limits = problem.workload, problem.limits
    if _limited(problem):
        allowed = range(1, int(top.max(initial=0)) + 1)
        return [
            (n_p, np.where(n <= top, n, 0))
            for n in allowed
            if limits.allows("replicas", n, "decode")
        ]
    each = times.decode_per_s
    if goal == "throughput" or (goal == "latency" and work.concurrency is not None):
        return [(n_p, top)]
    if work.rate_per_s is not None:
        asked, few_p = problem.asked_per_s * (1.0 - 1e-12), _fewest(problem, times)
        few_d = np.maximum(1.0, np.ceil(np.minimum(asked / each, 1e9)))
        few_d = np.where(few_d <= top, few_d, 0).astype(np.int64)
        if goal == "latency":
            return [(np.where(n_p >= few_p, n_p, 0), few_d)]
        return [(np.where(n_p == few_p, n_p, 0), few_d)]
    if goal == "latency":
        return [(np.where(n_p == 1, n_p, 0), np.minimum(top, 1))]
    most = n_p * times.prefill.per_s
    if work.concurrency is not None:
        reach = np.minimum(times.in_flight(n_p), BUSIEST) * most
        least = work.concurrency / (problem.ttft_s + times.answer_s)
        least_n = np.maximum(1.0, np.ceil(np.minimum(least / each * (1.0 - 1e-12), 1e9)))
        if goal == "devices":
            return [(n_p, np.where(least_n <= top, least_n, 0).astype(np.int64))]
    elif goal == "devices":
        return [(np.where(n_p == 1, n_p, 0), np.minimum(top, 1))]
    else:
        reach, least_n = np.maximum(times.busiest, 0.0) * most, np.ones(len(n_p))
    sides = []
    for side in (np.floor, np.ceil):
        n = np.minimum(np.maximum(side(np.minimum(reach / each, 1e9)), least_n), top)
        sides.append((n_p, n.astype(np.int64)))
    return sides


def joined(parts: list[Pairs]) -> Pairs:
    """Several tables under one another."""
    whole, real = np.zeros(0, np.int64), np.zeros(0)
    empty = Pairs(
        prefill=whole,
        chunk=whole,
        decode=whole,
        batch=whole,
        num_prefill=whole,
        num_decode=whole,
        devices=whole,
        busy=real,
        move_s=real,
        rate_per_s=real,
        ttft_s=real,
        tpot_s=real,
        request_s=real,
        usd_per_h=real,
    )
    return Pairs.joined([empty, *parts])


def values(problem: Problem, pairs: Pairs) -> Floats:
    """The objective of each deployment."""
    work = problem.workload
    if problem.objective == "throughput":
        return pairs.rate_per_s * work.output_len
    if problem.objective == "price":
        served = pairs.rate_per_s if work.rate_per_s is None else work.rate_per_s
        found: Floats = pairs.usd_per_h / 3600.0 / (served * work.output_len) * 1e6
        return found
    return pairs.devices.astype(np.float64) if problem.objective == "devices" else pairs.request_s
