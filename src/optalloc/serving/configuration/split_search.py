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
from typing import NamedTuple

import msgspec
import numpy as np

from optalloc.serving.configuration.columns import Flags, Floats, Ints, undominated
from optalloc.serving.configuration.operating import Operating
from optalloc.serving.configuration.problem import BUSIEST, OBJECTIVES, Problem
from optalloc.serving.configuration.space import most_engines
from optalloc.serving.configuration.split import (
    Pairs,
    Sides,
    Workers,
    joined,
    pairs_of_kinds,
    sides_of,
    values,
)
from optalloc.serving.configuration.workers import Decode, Kind, Prefill, link_bytes_per_s

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
    workers: Workers,
    halted: Callable[[float | None, float | None], bool],
) -> SplitFound:
    """The best deployments of split phases.

    ``halted(value, bound)`` is asked after each pair of sizes.

    Complexity: O(sizes * decode workers), and for each pair of sizes that is left that of
    :func:`split.pairs_of_kinds`.
    """
    sides = sides_of(problem, workers)
    sign = 1.0 if OBJECTIVES[problem.objective][1] else -1.0
    keys: dict[tuple[Kind, Kind], Floats] = {}
    for one in sides.answered:
        keys |= _split(sides, one, _keys(problem, sides, one))
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
    for one in sides.answered:
        _, prompts, answers, fine, beside = _ideally(problem, sides, one)
        most = 1.0 / (one.devices / prompts + beside.devices / answers)
        bounds |= _split(sides, one, np.where(fine, most * _MORE, 0.0))
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


def _keys(problem: Problem, sides: Sides, one: Kind) -> Floats:
    """The least that the objective (its negative where more is better) can be with each decode
    worker that goes with prefill workers of a kind; infinite where a target is out of reach."""
    work, nodes = problem.workload, problem.cluster.nodes
    times, prompts, answers, fine, beside = _ideally(problem, sides, one)
    whole_s, asked = times.fixed_s + times.answer_s, np.full(len(fine), problem.asked_per_s)
    most = np.where(
        beside.group == one.group,
        nodes[one.group].num_devices / (one.devices / prompts + beside.devices / answers),
        np.minimum(
            prompts * most_engines(nodes[one.group], one.devices), answers * beside.most_engines
        ),
    )
    if work.concurrency is not None:
        most = np.minimum(most, work.concurrency / whole_s * _MORE)
        asked = work.concurrency / (problem.ttft_s + times.answer_s)
    fine = fine & (most * _MORE >= asked)
    few = [np.maximum(1.0, np.ceil(asked / each / _MORE)) for each in (prompts, answers)]
    usd = float(sides.usd_per_h[0][sides.prefill[one].engine[0]]), beside.usd_per_h
    if problem.objective == "throughput":
        key = -most * work.output_len
    elif problem.objective == "devices":
        key = few[0] * one.devices + few[1] * beside.devices
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


class _Beside(NamedTuple):
    """Of each decode worker beside a kind of prefill workers: its group, devices, how many of it
    the group holds, and its price."""

    group: Ints
    devices: Ints
    most_engines: Ints
    usd_per_h: Floats


def _ideally(
    problem: Problem, sides: Sides, one: Kind
) -> tuple[Operating, Floats, Floats, Flags, _Beside]:
    """An ideal prefill worker of a kind beside each decode worker that goes with it, kind after
    kind: their times, the most requests a second of each, whether the target of the first token is
    in reach, and what these workers are."""
    nodes, others = problem.cluster.nodes, _others(sides, one)
    decode = Decode.joined([sides.decode[other] for other in others])
    numbers = [len(sides.decode[other]) for other in others]
    columns = [(o.group, o.devices, most_engines(nodes[o.group], o.devices)) for o in others]
    group, devices, most = np.repeat(np.array(columns, np.int64).T, numbers, axis=1)
    beside = _Beside(group, devices, most, sides.usd_per_h[1][decode.engine])
    links = [link_bytes_per_s(problem.cluster, one.group, other.group) for other in others]
    ideal = _ideal(sides.prefill[one]).take(np.zeros(len(decode), np.int64))
    times = Operating(problem, ideal, decode, np.repeat(np.array(links), numbers))
    busiest = times.busiest
    if problem.workload.concurrency is not None:
        busiest = np.full(len(decode), BUSIEST)
    prompts = np.maximum(busiest, 1e-300) * ideal.per_s * _MORE
    return times, prompts, times.decode_per_s * _MORE, busiest > 0.0, beside


def _others(sides: Sides, one: Kind) -> list[Kind]:
    return [other for other in sides.decode if one.alike(other)]


def _split(sides: Sides, one: Kind, values: Floats) -> dict[tuple[Kind, Kind], Floats]:
    """What is of all decode workers beside a kind of prefill workers, by their kind."""
    others = _others(sides, one)
    ends = np.cumsum([len(sides.decode[other]) for other in others])
    parts = np.split(values, ends[:-1])
    return {(one, other): part for other, part in zip(others, parts, strict=True)}


def _ideal(workers: Prefill) -> Prefill:
    """One worker that is the best of several in every figure."""
    first = workers.take(np.zeros(1, np.int64))
    best = {
        name: getattr(workers, name).min(keepdims=True)
        for name in ("prompt_s", "bytes", "handover_s", "queue", "burst", "lag")
    }
    return msgspec.structs.replace(first, **best, per_s=workers.per_s.max(keepdims=True))
