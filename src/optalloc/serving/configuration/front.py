"""The front of speed for a user against throughput of a device, over the whole space.

A point is a deployment that fills its engines; no other point is as good in one and better in the
other. The target of the time to the first token holds, that of each further token is what varies.
Batches are powers of two, so that the front costs little beside the search.
"""

from __future__ import annotations

import msgspec

from optalloc.serving.configuration.build import setup_words
from optalloc.serving.configuration.columns import undominated
from optalloc.serving.configuration.plan import Mode, Point
from optalloc.serving.configuration.problem import Problem
from optalloc.serving.configuration.rows import all_rows, floors, timed
from optalloc.serving.configuration.search import Choice, Pick, Search
from optalloc.serving.configuration.split import Workers, sides_of
from optalloc.serving.configuration.split_search import front_pairs

_SIZES = tuple(2**k for k in range(12))


def front(search: Search) -> tuple[Point, ...]:
    """The points of the front, fastest for a user first.

    Complexity: one pass over a tenth of the space, and sorting.
    """
    p = search.problem
    free = msgspec.structs.replace(
        p,
        workload=msgspec.structs.replace(
            p.workload, tpot_s=None, rate_per_s=None, concurrency=None, percentile=None
        ),
        objective="throughput",
    )
    candidates: list[tuple[float, float, Choice]] = []
    if p.limits.allows("mode", "aggregated") and len(search.table("serve")):
        candidates += _aggregated(search, free)
    if p.limits.allows("mode", "disaggregated"):
        candidates += _disaggregated(search, free)
    order = sorted(range(len(candidates)), key=lambda i: (-candidates[i][0], -candidates[i][1]))
    made: list[Point] = []
    best = -1.0
    for i in order:
        user, device, choice = candidates[i]
        if device > best:
            best = device
            made.append(
                Point(
                    tokens_per_s_per_user=user,
                    tokens_per_s_per_device=device,
                    ttft_s=choice.ttft_s,
                    mode=choice.mode,
                    num_devices=choice.devices,
                    setup=setup_words(search, choice),
                )
            )
    return tuple(made)


def _aggregated(search: Search, free: Problem) -> list[tuple[float, float, Choice]]:
    table = search.table("serve")
    sizes = tuple(b for b in _SIZES if free.limits.allows("batch", b, "serve"))
    rows = all_rows(free, table, sizes) if sizes else all_rows(free, table)
    least, keeps = floors(free, table, rows)
    rows = rows.take(keeps & (least.ttft_s <= free.ttft_s))
    times = timed(free, table, rows)
    fine = times.ttft_s <= free.ttft_s
    rows, rate = rows.take(fine), times.rate_per_s[fine]
    ttft, tpot = times.ttft_s[fine], times.tpot_s[fine]
    user = 1.0 / tpot
    device = rate * free.workload.output_len / table.devices[rows.engine]
    return [
        (
            float(user[i]),
            float(device[i]),
            _choice(
                "aggregated", [_pick("serve", rows, i)], table.devices[rows.engine[i]], ttft[i]
            ),
        )
        for i in undominated(-user, device)
    ]


def _pick(role: str, rows: object, i: int) -> Pick:
    column = {name: int(getattr(rows, name)[i]) for name in ("engine", "chunk", "batch", "load")}
    return Pick(role=role, count=1, **column)


def _choice(mode: Mode, picks: list[Pick], devices: int, ttft_s: float) -> Choice:
    return Choice(
        mode=mode,
        picks=tuple(picks),
        value=0.0,
        devices=int(devices),
        rate_per_s=0.0,
        ttft_s=float(ttft_s),
        tpot_s=0.0,
    )


def _disaggregated(search: Search, free: Problem) -> list[tuple[float, float, Choice]]:
    left, right = search.table("prefill"), search.table("decode")
    if not len(left) or not len(right) or free.workload.output_len < 2:
        return []
    sizes = tuple(b for b in _SIZES if free.limits.allows("batch", b, "decode"))
    pairs = front_pairs(free, sides_of(free, Workers.of(free, left, right, sizes)))
    user = 1.0 / pairs.tpot_s
    device = pairs.rate_per_s * free.workload.output_len / pairs.devices
    found = []
    for i in range(len(pairs)):
        picks = [
            Pick(
                role=role,
                engine=int(engine[i]),
                chunk=int(pairs.chunk[i]),
                batch=int(pairs.batch[i]),
                load=0,
                count=int(count[i]),
            )
            for role, engine, count in (
                ("prefill", pairs.prefill, pairs.num_prefill),
                ("decode", pairs.decode, pairs.num_decode),
            )
        ]
        choice = _choice("disaggregated", picks, int(pairs.devices[i]), float(pairs.ttft_s[i]))
        found.append((float(user[i]), float(device[i]), choice))
    return found
