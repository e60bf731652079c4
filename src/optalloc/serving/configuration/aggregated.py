"""Aggregated deployments: the best engines, each doing both phases, on every group of nodes.

Formulation
-----------
Groups g of nodes; a row r (:mod:`rows`) is an engine of d_r devices that serves f_r requests a
second within the targets; an *option* (r, n) is n of them on the group of r.

    choose for each group at most one option; together they carry the load                (combine)
    n <= engines that fit in whole nodes                                                  (table)
    ttft_r <= target, tpot_r <= target                                                    (_options)
    concurrency Q: the fullest engine holds load_r >= Q / n; over groups see :mod:`in_flight`

    throughput   max  sum n f_r O        tokens/s; with Q: each request at the pace of the fullest
    price        min  USD of all / tokens served
    devices      min  sum n d_r
    latency      min  max request_r

Why it is exact
---------------
Every row of the declared space is timed, or removed by a rule of :mod:`rows`, or by a bound: ``rate
<= load / request floor`` bounds each objective of every option of the row, and the row is removed
only where that is worse than a deployment already found, or less than the rate of another that does
as well in every deployment (:func:`_cells`). What is left is combined exactly (:mod:`combine`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from optalloc.serving.configuration.columns import Floats, Ints
from optalloc.serving.configuration.combine import Deployment, Options, choose
from optalloc.serving.configuration.problem import OBJECTIVES, Problem
from optalloc.serving.configuration.rows import Floors, Rows, Timed, counts, timed
from optalloc.serving.configuration.table import EngineTable

_BLOCK = 4096
_TIE = 1e-12
_FIRST, _GROWS = 64, 4  # rows of a cell in the first round, and how many times more in the next


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a search of aggregated deployments came to.

    ``rows`` are those that were timed and ``options`` those within the targets. ``bound`` is proven
    for all others (None: there are none).
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

    ``stopped(value, bound, rows timed)`` is asked between blocks of rows; a search by cells goes
    on.

    Complexity: O(rows), and what :func:`choose` takes.
    """
    cells = _cells(problem, table, rows)
    if cells is not None:
        return _by_cells(problem, table, rows, least, cells, stopped)
    less = OBJECTIVES[problem.objective][1]
    keys = bound_keys(problem, table, rows, least)
    order = np.argsort(keys, kind="stable")
    order = order[keys[order] < np.inf]
    parts: list[tuple[Ints, Timed]] = []
    best: Deployment | None = None
    options = none()
    done, halt = 0, False
    try:
        while done < len(order):
            limit = np.inf if best is None else _key(best.value, less) * (1.0 + _sign(less) * _TIE)
            if keys[order[done]] > limit:
                break
            part = order[done : done + _BLOCK]
            part = part[keys[part] <= limit]
            here = rows.take(part)
            times = timed(problem, table, here)
            parts.append((part, times))
            options = Options.joined([options, _options(problem, table, here, times, part)])
            best = choose(problem, options)
            done += len(part)  # last: an interrupt before leaves the bound of this block
            bound = float(keys[order[done]]) if done < len(order) else None
            asked = stopped(None if best is None else best.value, _value(bound, less), done)
            if asked and done < len(order):
                halt = True
                break
    except KeyboardInterrupt:
        halt, best = True, choose(problem, options)
    left = float(keys[order[done]]) if done < len(order) else np.inf
    bound = _value(min(left, np.inf if best is None else _key(best.value, less)), less)
    return _found(rows, parts, options, best, bound, halt=halt)


def _by_cells(
    problem: Problem,
    table: EngineTable,
    rows: Rows,
    least: Floors,
    cells: Ints,
    stopped: Callable[[float | None, float | None, int], bool],
) -> Found:
    """As :func:`search`, where of each cell the row of the most requests a second is enough: in
    rounds, the rows of the highest bounds of every cell until none is above what was found."""
    many = np.max([np.zeros(len(rows), np.int64), *_numbers(problem, table, rows, least)], axis=0)
    most = many * least.rate_per_s * (1.0 + _TIE)
    order = np.lexsort((-most, cells))
    place = np.arange(len(order)) - np.searchsorted(cells[order], cells[order])
    found = np.zeros(int(cells.max(initial=0)) + 1)
    parts: list[tuple[Ints, Timed]] = []
    options, halt, done, number = none(), False, 0, _FIRST
    try:
        while len(order):
            first = place < number
            for k in range(0, int(first.sum()), _BLOCK):
                part = order[first][k : k + _BLOCK]
                here = rows.take(part)
                times = timed(problem, table, here)
                parts.append((part, times))
                more = _options(problem, table, here, times, part)
                options = Options.joined([options, more])
                np.maximum.at(found, cells[more.row], more.rate_per_s)
                done += len(part)
                stopped(None, None, done)
            left = ~first & (most[order] >= found[cells[order]]) & (most[order] > 0.0)
            order, place, number = order[left], place[left], _GROWS * number
    except KeyboardInterrupt:
        halt = True
    best = choose(problem, options)
    less = OBJECTIVES[problem.objective][1]
    bound = None if best is None or halt else _value(_key(best.value, less), less)
    return _found(rows, parts, options, best, bound, halt=halt)


def _cells(problem: Problem, table: EngineTable, rows: Rows) -> Ints | None:
    """Numbers of cells of rows, of each of which the fastest is enough; None where the objective of
    a row by itself bounds that of every deployment with it.

    That is so on one group, and for the latency. Without a load no ratio of sums, and no sum of
    devices, is less than the least of its terms. Else rates add up: of the rows of one group and
    software, and of one size where devices or money are to be few (:mod:`combine`).
    """
    several, rate = len(problem.cluster.nodes) > 1, problem.workload.rate_per_s
    few = problem.objective in ("devices", "price")
    if not several or problem.objective == "latency" or (few and rate is None):
        return None
    columns = [table.group, table.software] + ([table.devices] if few else [])
    kinds = np.unique(np.stack(columns), axis=1, return_inverse=True)[1].ravel()
    found: Ints = kinds[rows.engine]
    return found


def _found(
    rows: Rows,
    parts: Sequence[tuple[Ints, Timed]],
    options: Options,
    best: Deployment | None,
    bound: float | None,
    *,
    halt: bool,
) -> Found:
    """What was found, with the rows that were timed alone."""
    index = np.concatenate([part for part, _ in parts]) if parts else np.zeros(0, np.int64)
    where = np.full(len(rows), -1, np.int64)
    where[index] = np.arange(len(index))
    return Found(
        rows=rows.take(index),
        times=Timed.joined([times for _, times in parts]) if parts else _no_times(),
        options=_renumbered(options, where),
        best=None
        if best is None
        else msgspec.structs.replace(best, options=_renumbered(best.options, where)),
        bound=bound,
        pruned=len(rows) - len(index),
        stopped=halt,
    )


def _renumbered(options: Options, where: Ints) -> Options:
    return msgspec.structs.replace(options, row=where[options.row])


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
    asked rate is out of reach of one group, which carries the whole load. Over several groups that
    of each deployment with the row, where these need no cells.
    """
    work, most = problem.workload, table.most[rows.engine]
    usd, size = table.usd_per_h[rows.engine], table.devices[rows.engine]
    count: Floats = (rows.count if work.concurrency is not None else most).astype(np.float64)
    asked = problem.asked_per_s
    rate = least.rate_per_s * count
    if work.concurrency is not None:
        rate = work.concurrency / least.request_s
    if len(problem.cluster.nodes) > 1:  # a row may carry a part
        asked = 0.0
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
    if work.concurrency is not None:
        chosen = np.flatnonzero(fine)
        row, count = [chosen], [rows.count[chosen]]
    else:
        for n in _numbers(problem, table, rows, times):
            chosen = np.flatnonzero(fine & (n > 0))
            row.append(chosen)
            count.append(n[chosen])
    if not row:
        return none()
    r, n = (np.concatenate(part).astype(np.int64) for part in (row, count))
    engine = rows.engine[r]
    rate = n * times.rate_per_s[r]
    if work.concurrency is not None:  # every request at the pace of the fullest engine
        rate = work.concurrency / times.request_s[r]
    return Options(
        row=numbers[r],
        count=n,
        flight=np.full(len(r), work.concurrency or 0),
        group=place[r],
        software=table.software[engine],
        devices=n * table.devices[engine],
        rate_per_s=rate,
        ttft_s=times.ttft_s[r],
        tpot_s=times.tpot_s[r],
        request_s=times.request_s[r],
        usd_per_h=n * table.usd_per_h[engine],
    )


def _numbers(problem: Problem, table: EngineTable, rows: Rows, times: Timed | Floors) -> list[Ints]:
    """Numbers of engines of each row worth trying; 0 where there is none.

    More engines than needed cost more devices and money and change no latency, so only the fewest
    are tried, or for throughput the most. Without a load the most, and for devices one. Over
    several groups fewer may carry a part of a rate: :mod:`combine` tries what is below the most.
    """
    most, rate = table.most[rows.engine], problem.workload.rate_per_s
    allowed = None
    if problem.limits.names("replicas", "serve"):
        allowed = [np.where(n <= most, n, 0) for n in counts(problem, int(most.max(initial=0)))]
    if rate is not None and len(problem.cluster.nodes) > 1:
        return [most if allowed is None else np.max([np.zeros_like(most), *allowed], axis=0)]
    least = np.ones(len(rows), np.int64)
    if rate is not None:
        need = problem.asked_per_s / times.rate_per_s
        least = np.maximum(1, np.ceil(need * (1.0 - 1e-12))).astype(np.int64)
    if allowed is not None:
        return [np.where(least <= n, n, 0) for n in allowed]
    if problem.objective == "throughput" or (rate is None and problem.objective != "devices"):
        return [np.where(least <= most, most, 0)]
    return [np.where(least <= most, least, 0)]


def none() -> Options:
    """No options."""
    whole, real = np.zeros(0, np.int64), np.zeros(0)
    return Options(
        row=whole,
        count=whole,
        flight=whole,
        group=whole,
        software=whole,
        devices=whole,
        rate_per_s=real,
        ttft_s=real,
        tpot_s=real,
        request_s=real,
        usd_per_h=real,
    )


def _no_times() -> Timed:
    real = np.zeros(0)
    return Timed(ttft_s=real, tpot_s=real, request_s=real, rate_per_s=real)
