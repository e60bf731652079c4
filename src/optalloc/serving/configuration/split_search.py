"""Search of split phases: sizes of workers one pair after another, the most promising first.

A pair of sizes is bounded by an *ideal* prefill worker, the best of its size in every figure, with
each decode worker. With x = u for the ideal worker (:mod:`split`), S prompts a second of it, r
requests a second of a decode worker, money c and devices d of both, in any real numbers of workers:

    rate of all   <= N / (d_p / (u S) + d_d / r) on the N devices of one group,
                     min of both at their most on two;
                  <= Q / (time without waiting) with Q requests in flight
    money a rate  >= c_p / (u S) + c_d / r,   and (c_p + c_d) / the largest rate
    for a rate R  >= ceil( R / (u S) ) and ceil( R / r ) of each
    latency       >= time without waiting; with Q, Q / the largest rate

No deployment of these sizes is better. A pair of sizes, and of it a decode worker, is left out
where that is worse than what was found, for several other shapes too, so that rivals are shown.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np

from optalloc.serving.configuration.columns import Flags, Floats, undominated
from optalloc.serving.configuration.operating import Operating
from optalloc.serving.configuration.problem import BUSIEST, OBJECTIVES, Problem
from optalloc.serving.configuration.space import most_engines
from optalloc.serving.configuration.split import (
    Pairs,
    Sides,
    joined,
    pairs_of_kinds,
    sides_of,
    values,
)
from optalloc.serving.configuration.table import EngineTable
from optalloc.serving.configuration.workers import Kind, Prefill, link_bytes_per_s

_SHAPES = 8
_MORE = 1.0 + 1e-9


class SplitFound(msgspec.Struct, frozen=True, kw_only=True):
    """Deployments that were evaluated, the best among them; ``counted`` pairs of workers, of which
    ``left_out`` are of sizes that were not. ``bound`` is proven for all (None: there are none)."""

    pairs: Pairs
    counted: int
    left_out: int
    bound: float | None
    stopped: bool


def best_pairs(
    problem: Problem,
    prefill_table: EngineTable,
    decode_table: EngineTable,
    halted: Callable[[float | None, float | None], bool],
) -> SplitFound:
    """The best deployments of split phases.

    ``halted(value, bound)`` is asked after each pair of sizes.

    Complexity: O(sizes * decode workers), and for each pair of sizes that is left that of
    :func:`split.pairs_of_kinds`.
    """
    sides = sides_of(problem, prefill_table, decode_table)
    sign = 1.0 if OBJECTIVES[problem.objective][1] else -1.0
    keys = {pair: _keys(problem, sides, *pair) for pair in sides.alike}
    floors = {pair: float(key.min()) for pair, key in keys.items()}
    order = sorted(floors, key=floors.__getitem__)
    least = [floors[pair] for pair in order]
    found: list[Pairs] = []
    shapes: dict[tuple[int, int], float] = {}
    done, stopped = 0, False

    def left() -> float:
        """The least that what is not evaluated can cost."""
        best = min(shapes.values(), default=np.inf)
        return min(best, least[done]) if done < len(order) else best

    try:
        while done < len(order) and not stopped:
            one, other = order[done]
            limit = sorted(shapes.values())[_SHAPES - 1] if len(shapes) >= _SHAPES else np.inf
            if not least[done] < np.inf or least[done] > limit:
                break
            good = sides.decode[other].take(keys[order[done]] <= limit)
            pairs = pairs_of_kinds(problem, sides, one, other, good, problem.objective)
            found.append(pairs)
            if len(pairs):
                key = float((sign * values(problem, pairs)).min())
                shape = one.devices, other.devices
                shapes[shape] = min(key, shapes.get(shape, np.inf))
            done += 1
            stopped = halted(sign * min(shapes.values()) if shapes else None, _value(sign, left()))
    except KeyboardInterrupt:
        stopped = True
    rest = sum(sides.number(*pair) for pair in order[done:])
    return SplitFound(
        pairs=joined(found),
        counted=sum(sides.number(*pair) for pair in order),
        left_out=rest,
        bound=_value(sign, left() if stopped else min(shapes.values(), default=np.inf)),
        stopped=stopped,
    )


def front_pairs(problem: Problem, sides: Sides) -> Pairs:
    """Deployments of split phases, without a load, that no other beats in both the speed of a user
    and the requests a second of a device; the fastest for a user first.

    Complexity: as of :func:`best_pairs`.
    """
    bounds: dict[tuple[Kind, Kind], Floats] = {}
    for one, other in sides.alike:
        _, prompts, answers, fine = _ideally(problem, sides, one, other)
        most = 1.0 / (one.devices / prompts + other.devices / answers)
        bounds[one, other] = np.where(fine, most * _MORE, 0.0)
    front = joined([])
    for one, other in sorted(bounds, key=lambda pair: -float(bounds[pair].max())):
        decode = sides.decode[other]
        faster = np.searchsorted(front.tpot_s, decode.tpot_s, side="right")
        beaten = np.concatenate([[0.0], front.rate_per_s / front.devices])[faster]
        good = bounds[one, other] > beaten
        if good.any():
            more = pairs_of_kinds(problem, sides, one, other, decode.take(good), "price")
            both = joined([front, more])
            front = both.take(undominated(both.tpot_s, both.rate_per_s / both.devices))
    return front


def _value(sign: float, key: float) -> float | None:
    return sign * key if np.isfinite(key) else None


def _keys(problem: Problem, sides: Sides, one: Kind, other: Kind) -> Floats:
    """The least that the objective (its negative where more is better) can be with each decode
    worker of a kind beside prefill workers of another; infinite where a target is out of reach."""
    work, nodes = problem.workload, problem.cluster.nodes
    times, prompts, answers, fine = _ideally(problem, sides, one, other)
    whole_s, asked = times.fixed_s + times.answer_s, np.full(len(fine), problem.asked_per_s)
    if one.group == other.group:
        most = nodes[one.group].num_devices / (one.devices / prompts + other.devices / answers)
    else:
        most = np.minimum(
            prompts * most_engines(nodes[one.group], one.devices),
            answers * most_engines(nodes[other.group], other.devices),
        )
    if work.concurrency is not None:
        most = np.minimum(most, work.concurrency / whole_s * _MORE)
        asked = work.concurrency / (problem.ttft_s + times.answer_s)
    fine = fine & (most * _MORE >= asked)
    few = [np.maximum(1.0, np.ceil(asked / each / _MORE)) for each in (prompts, answers)]
    engines = sides.prefill[one].engine[0], sides.decode[other].engine[0]
    usd = [float(prices[e]) for prices, e in zip(sides.usd_per_h, engines, strict=True)]
    if problem.objective == "throughput":
        key = -most * work.output_len
    elif problem.objective == "devices":
        key = few[0] * one.devices + few[1] * other.devices
    elif problem.objective == "latency":
        key = work.concurrency / most if work.concurrency is not None else whole_s
    else:
        paid = few[0] * usd[0] + few[1] * usd[1]
        if work.rate_per_s is not None:
            each = paid / work.rate_per_s
        else:
            each = np.maximum(usd[0] / prompts + usd[1] / answers, paid / most)
        key = each / 3600.0 / work.output_len * 1e6
    return np.where(fine, key - np.abs(key) * 1e-9, np.inf)


def _ideally(
    problem: Problem, sides: Sides, one: Kind, other: Kind
) -> tuple[Operating, Floats, Floats, Flags]:
    """An ideal prefill worker beside each decode worker of a kind: their times, the most requests a
    second of each, and whether the target of the first token is in reach."""
    decode, ideal = sides.decode[other], _ideal(sides.prefill[one])
    link = link_bytes_per_s(problem.cluster, one.group, other.group)
    times = Operating(problem, ideal.take(np.zeros(len(decode), np.int64)), decode, link)
    busiest = times.busiest
    if problem.workload.concurrency is not None:
        busiest = np.full(len(decode), BUSIEST)
    prompts = np.maximum(busiest, 1e-300) * ideal.per_s * _MORE
    return times, prompts, times.decode_per_s * _MORE, busiest > 0.0


def _ideal(workers: Prefill) -> Prefill:
    """One worker that is the best of several in every figure."""
    first = workers.take(np.zeros(1, np.int64))
    best = {
        name: getattr(workers, name).min(keepdims=True)
        for name in ("prompt_s", "bytes", "handover_s", "queue", "burst", "lag")
    }
    return msgspec.structs.replace(first, **best, per_s=workers.per_s.max(keepdims=True))
