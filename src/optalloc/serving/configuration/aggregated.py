"""Aggregated deployments: the best engines, each doing both phases, on every group of nodes.

Formulation
-----------
Groups g of nodes; a row r (:mod:`rows`) is an engine of d_r devices that serves f_r requests a
second within the targets; an *option* (r, n, k) is n of them with the share k / STEPS of the
load, on the group of r.

    choose for each group at most one option,   sum of k = STEPS where there is a load    (splits)
    n <= engines that fit in whole nodes                                                  (table)
    ttft_r <= target, tpot_r <= target                                                    (_options)
    rate R:        n f_r >= k / STEPS * R / (1 - headroom)                                (_options)
    concurrency Q: the fullest engine holds load_r >= Q k / (STEPS n)                     (rows)

    throughput   max  sum n f_r O        tokens/s; with Q: each request at the pace of the fullest
    price        min  USD of all / tokens served
    devices      min  sum n d_r
    latency      min  max request_r

Why it is exact
---------------
Every row of the declared space is timed, or removed by a rule of :mod:`rows`, or (with one group)
by a bound: ``rate <= load / request floor`` bounds each objective of every option of the row, and
the row is removed only where that is worse than a deployment already found. For a fixed split the
sums are smallest when each group takes its own best option, the largest latency too; splits are
enumerated. A ratio of sums (price) is found by Dinkelbach's iteration: with price mu, the options
that minimise ``cost - mu rate`` of each group; mu falls to the optimum and the iteration is finite,
for each step finds another of finitely many combinations (W. Dinkelbach, Management Science 13,
1967). Where the rate is given the tokens served are fixed, so the cost alone is minimised.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np

from optalloc.serving.configuration.columns import Columns, Floats, Ints
from optalloc.serving.configuration.problem import OBJECTIVES, STEPS, Problem
from optalloc.serving.configuration.rows import Floors, Rows, Timed, counts, timed
from optalloc.serving.configuration.table import EngineTable

_BLOCK = 4096
_TIE = 1e-12


class Options(Columns, frozen=True, kw_only=True):
    """Rows with their number of engines and share of the load; seconds, requests/s, USD/h."""

    row: Ints
    count: Ints
    share: Ints
    group: Ints
    devices: Ints
    rate_per_s: Floats
    ttft_s: Floats
    tpot_s: Floats
    request_s: Floats
    usd_per_h: Floats


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """Options that together carry the load, and what they do."""

    options: tuple[int, ...]
    value: float
    devices: int
    rate_per_s: float

    def better(self, other: Deployment | None, less: bool) -> bool:
        """True if it is preferred: by value, then fewer devices, then more requests."""
        if other is None:
            return True
        sign = 1.0 if less else -1.0
        mine = (sign * self.value, self.devices, -self.rate_per_s)
        return mine < (sign * other.value, other.devices, -other.rate_per_s)


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a search of aggregated deployments came to.

    ``rows`` are those that were timed and ``options`` those within the targets, of which ``best``
    names its own. ``bound`` is proven for all others (None: there are none).
    """

    rows: Rows
    times: Timed
    options: Options
    best: Deployment | None
    bound: float | None
    pruned: int
    stopped: bool


def search(
    problem: Problem,
    table: EngineTable,
    rows: Rows,
    least: Floors,
    stopped: Callable[[float | None, float | None, int], bool],
) -> Found:
    """The best deployment of these rows.

    ``stopped(value, bound, rows timed)`` is asked between blocks of rows; over several groups the
    search is one pass and goes on.

    Complexity: O(rows) for one group; with G groups also (STEPS + G)^G combinations of shares.
    """
    less, single = OBJECTIVES[problem.objective][1], len(problem.cluster.nodes) == 1
    keys = bound_keys(problem, table, rows, least) if single else np.zeros(len(rows))
    order = np.argsort(keys, kind="stable")
    order = order[keys[order] < np.inf]
    parts: list[tuple[Ints, Timed]] = []
    best: Deployment | None = None
    options = _none()
    done, halt = 0, False
    try:
        while done < len(order):
            limit = np.inf if best is None else _key(best.value, less) * (1.0 + _sign(less) * _TIE)
            if single and keys[order[done]] > limit:
                break
            part = order[done : done + _BLOCK]
            part = part[keys[part] <= limit] if single else part
            here = rows.take(part)
            times = timed(problem, table, here)
            parts.append((part, times))
            options = _joined([options, _options(problem, table, here, times, part)])
            if single or done + len(part) >= len(order):
                best = choose(problem, options)
            done += len(part)  # last: an interrupt before leaves the bound of this block
            bound = float(keys[order[done]]) if single and done < len(order) else None
            asked = stopped(None if best is None else best.value, _value(bound, less), done)
            if asked and single and done < len(order):
                halt = True
                break
    except KeyboardInterrupt:
        halt, best = True, choose(problem, options)
    left = float(keys[order[done]]) if done < len(order) else np.inf
    bound = _value(min(left, np.inf if best is None else _key(best.value, less)), less)
    if halt and not single:
        bound = None
    index = np.concatenate([part for part, _ in parts]) if parts else np.zeros(0, np.int64)
    where = np.full(len(rows), -1, np.int64)
    where[index] = np.arange(len(index))
    return Found(
        rows=rows.take(index),
        times=_all_times([times for _, times in parts]),
        options=msgspec.structs.replace(options, row=where[options.row]),
        best=best,
        bound=bound,
        pruned=len(rows) - len(index),
        stopped=halt,
    )


def _sign(less: bool) -> float:
    return 1.0 if less else -1.0


def _key(value: float, less: bool) -> float:
    return value if less else -value


def _value(key: float | None, less: bool) -> float | None:
    if key is None or not np.isfinite(key):
        return None
    return key if less else -key


def bound_keys(problem: Problem, table: EngineTable, rows: Rows, least: Floors) -> Floats:
    """The least that the objective (its negative where more is better) can be with each row.

    From ``rate <= load / request floor`` and ``latency >= request floor``; infinite where the
    asked rate is out of reach. For one group of nodes, which carries the whole load.
    """
    work, most = problem.workload, table.most[rows.engine]
    usd, size = table.usd_per_h[rows.engine], table.devices[rows.engine]
    count: Floats = (rows.count if work.concurrency is not None else most).astype(np.float64)
    asked = problem.asked_per_s
    rate = least.rate_per_s * count
    if work.concurrency is not None:
        rate = work.concurrency / least.request_s
    needed = np.maximum(1.0, np.ceil(asked / least.rate_per_s * (1.0 - 1e-9)))
    few = count if work.concurrency is not None else needed
    keys: dict[str, Floats] = {
        "throughput": -rate * work.output_len,
        "devices": few * size,
        "latency": least.request_s,
    }
    if problem.objective == "price":
        served = rate if work.rate_per_s is None else np.full(len(rows), work.rate_per_s)
        paid = few if work.rate_per_s is not None else count
        keys["price"] = paid * usd / 3600.0 / (served * work.output_len) * 1e6
    key = keys[problem.objective]
    slack = np.abs(key) * 1e-12
    return np.where(needed > most, np.inf, key - slack)


def _options(
    problem: Problem, table: EngineTable, rows: Rows, times: Timed, numbers: Ints
) -> Options:
    """Every option of these rows that meets the targets; ``numbers`` names the rows."""
    work = problem.workload
    fine = (times.ttft_s <= problem.ttft_s) & (times.tpot_s <= problem.tpot_s)
    place = table.group[rows.engine]
    row: list[Ints] = []
    count: list[Ints] = []
    share: list[Ints] = []
    if work.concurrency is not None:
        chosen = np.flatnonzero(fine)
        row, count, share = [chosen], [rows.count[chosen]], [rows.share[chosen]]
    else:
        for k in sorted({k for split in problem.splits for k in split} - {0}):
            for n in _numbers(problem, table, rows, times, k):
                chosen = np.flatnonzero(fine & (n > 0))
                row.append(chosen)
                count.append(n[chosen])
                share.append(np.full(len(chosen), k))
    if not row:
        return _none()
    r, n, s = (np.concatenate(part).astype(np.int64) for part in (row, count, share))
    engine = rows.engine[r]
    rate = n * times.rate_per_s[r]
    if work.concurrency is not None:  # every request at the pace of the fullest engine
        rate = work.concurrency * s / STEPS / times.request_s[r]
    return Options(
        row=numbers[r],
        count=n,
        share=s,
        group=place[r],
        devices=n * table.devices[engine],
        rate_per_s=rate,
        ttft_s=times.ttft_s[r],
        tpot_s=times.tpot_s[r],
        request_s=times.request_s[r],
        usd_per_h=n * table.usd_per_h[engine],
    )


def _numbers(
    problem: Problem, table: EngineTable, rows: Rows, times: Timed, share: int
) -> list[Ints]:
    """Numbers of engines of each row worth trying; 0 where there is none.

    More engines than needed cost more devices and money and change no latency, so only the fewest
    are tried, or for throughput the most. Without a load the most, and for devices one.
    """
    most = table.most[rows.engine]
    pinned = any(name in problem.limits.pin for name in ("replicas", "serve.replicas"))
    forbidden = any(name in problem.limits.forbid for name in ("replicas", "serve.replicas"))
    rate = problem.workload.rate_per_s
    least = np.ones(len(rows), np.int64)
    if rate is not None:
        need = problem.asked_per_s * share / STEPS / times.rate_per_s
        least = np.maximum(1, np.ceil(need * (1.0 - 1e-12))).astype(np.int64)
    if pinned or forbidden:
        allowed = counts(problem, int(most.max(initial=0)))
        return [np.where((least <= n) & (n <= most), n, 0) for n in allowed]
    if problem.objective == "throughput" or (rate is None and problem.objective != "devices"):
        return [np.where(least <= most, most, 0)]
    return [np.where(least <= most, least, 0)]


def choose(problem: Problem, options: Options) -> Deployment | None:
    """The best combination of options over the splits of the load; None where none carries it."""
    less = OBJECTIVES[problem.objective][1]
    cells: dict[tuple[int, int], Ints] = {}
    pairs = {(g, k) for split in problem.splits for g, k in enumerate(split) if k}
    for group, share in sorted(pairs):
        found = np.flatnonzero((options.group == group) & (options.share == share))
        if len(found):
            cells[group, share] = found
    best: Deployment | None = None
    mu = np.inf if problem.objective == "price" else 0.0
    while True:
        chosen = {cell: _least(problem, options, found, mu) for cell, found in cells.items()}
        before = best
        for split in problem.splits:
            needed = [(g, k) for g, k in enumerate(split) if k]
            if all(cell in chosen for cell in needed):
                made = _deployment(problem, options, [chosen[cell] for cell in needed])
                if made.better(best, less):
                    best = made
        if problem.objective != "price" or best is None or best is before:
            return best
        mu = best.value


def _least(problem: Problem, options: Options, found: Ints, mu: float) -> int:
    """The option of one group and share with the least key; ties by devices, then requests."""
    o = options.take(found)
    work = problem.workload
    if problem.objective == "throughput":
        key = -o.rate_per_s
    elif problem.objective == "devices":
        key = o.devices.astype(np.float64)
    elif problem.objective == "latency":
        key = o.request_s
    elif work.rate_per_s is not None:
        key = o.usd_per_h
    elif np.isinf(mu):
        key = o.usd_per_h / o.rate_per_s
    else:
        key = o.usd_per_h - mu * o.rate_per_s * 3600.0 * work.output_len / 1e6
    return int(found[np.lexsort((-o.rate_per_s, o.devices, key))[0]])


def _deployment(problem: Problem, options: Options, chosen: list[int]) -> Deployment:
    o = options.take(np.array(chosen, np.int64))
    rate, devices = float(o.rate_per_s.sum()), int(o.devices.sum())
    served = problem.workload.rate_per_s if problem.objective == "price" else None
    return Deployment(
        options=tuple(chosen),
        value=problem.value(
            rate_per_s=rate if served is None else served,
            devices=devices,
            request_s=float(o.request_s.max()),
            usd_per_h=float(o.usd_per_h.sum()),
        ),
        devices=devices,
        rate_per_s=rate,
    )


def _none() -> Options:
    whole, real = np.zeros(0, np.int64), np.zeros(0)
    return Options(
        row=whole,
        count=whole,
        share=whole,
        group=whole,
        devices=whole,
        rate_per_s=real,
        ttft_s=real,
        tpot_s=real,
        request_s=real,
        usd_per_h=real,
    )


def _joined(parts: list[Options]) -> Options:
    return Options(
        **{n: np.concatenate([getattr(p, n) for p in parts]) for n in Options.__struct_fields__}
    )


def _all_times(parts: list[Timed]) -> Timed:
    return Timed(
        **{
            n: np.concatenate([getattr(p, n) for p in parts]) if parts else np.zeros(0)
            for n in Timed.__struct_fields__
        }
    )
