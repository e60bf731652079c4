"""Split phases: prefill workers and decode workers in whole numbers, also on different devices.

Formulation
-----------
A prefill worker of d_p devices and g_p ranks reads a prompt in P seconds; a decode worker of d_d
devices holds B = g_d b sequences at ``tpot``; the cache of a prompt travels for ``move`` seconds.
With n_p and n_d of them, x the share of time that prefill is busy, A = (O - 1) tpot, S = n_p g_p /
P prompts a second at most, and the cost model's constants of waiting
(:mod:`optalloc.cost.engine.load`):

    decode rate  r = B / (A + move)                  places that are full all the time
    ttft(x)  = P + move + lag tpot + queue P x / (2 (1 - x)) + burst / 2 max(0, x (ttft + A) - P)
    rate     = x S <= n_d r,   x <= u = min(BUSIEST, the largest x with ttft(x) <= target)
    tpot <= target;   both workers fit their memory (decode b requests, prefill one prompt)
    n_p workers fit beside n_d in whole nodes (:func:`space.most_beside`), or each on its own group
    both have the same software and type of cache

Under Q requests in flight, Little's law gives x: x S (P + move + lag tpot + start + A + queue P x /
(2 (1 - x))) = Q, and where u or the places bind first, requests wait: ttft = Q / rate - A.

Why it is exact
---------------
Dominance of workers of equal devices on one group: a prefill worker that is no slower for one
prompt (P), in prompts a second (g_p / P) and in ``move`` serves any partner no worse, for ttft(x)
grows with P, x and ``move``; a decode worker with no larger ``tpot`` and no smaller r (compared at
both ends of the range of ``move``; the difference is linear in it) too, but where both the requests
in flight and a target of ttft are given: then a slower one may leave less time before the first
token, and all are kept. For each n_p the rest is
closed: the rate does not fall with n_d; ``(n_p c_p + n_d c_d) / min(u S, n_d r)`` falls until n_d r
reaches u S and then rises, so only the whole numbers on both sides count; a rate asked for needs
the fewest of each, and the least latency the most prefill workers beside the fewest decode workers.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cluster.topology import Cluster
from optalloc.serving.configuration.problem import BUSIEST, OBJECTIVES, Problem
from optalloc.serving.configuration.space import batches, chunks, most_beside, most_engines
from optalloc.serving.configuration.table import EngineTable

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Prefill(msgspec.Struct, frozen=True, kw_only=True):
    """Prefill workers: ``prompt_s`` of one prompt, ``per_s`` prompts of one worker, ``bytes`` of a
    prompt's cache that one device sends; ``lag``, ``queue`` and ``burst`` of the cost model."""

    engine: Ints
    chunk: Ints
    prompt_s: Floats
    per_s: Floats
    bytes: Floats
    queue: Floats
    burst: Floats
    lag: Floats

    def take(self, index: Ints | Flags) -> Prefill:
        """Some of them."""
        return Prefill(**{name: getattr(self, name)[index] for name in self.__struct_fields__})


class Decode(msgspec.Struct, frozen=True, kw_only=True):
    """Decode workers: ``places`` sequences of one worker at ``tpot_s``."""

    engine: Ints
    batch: Ints
    places: Floats
    tpot_s: Floats

    def take(self, index: Ints | Flags) -> Decode:
        """Some of them."""
        return Decode(**{name: getattr(self, name)[index] for name in self.__struct_fields__})


class Pairs(msgspec.Struct, frozen=True, kw_only=True):
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

    def __len__(self) -> int:
        return len(self.prefill)

    def take(self, index: Ints | Flags) -> Pairs:
        """Some of them."""
        return Pairs(**{name: getattr(self, name)[index] for name in self.__struct_fields__})


def prefill_workers(problem: Problem, table: EngineTable) -> Prefill:
    """Every prefill worker of the space that holds a prompt beside its weights."""
    work = problem.workload
    widths = np.array(chunks(problem.limits, "prefill"), np.int64)
    engine = np.repeat(np.arange(len(table)), len(widths))
    chunk = np.tile(widths, len(table))
    step = table.step(engine, chunk, np.ones(len(engine), np.int64))
    prompt = np.asarray(step.prefill_s(work.input_len - work.prefix_len))
    fits = np.asarray(step.sequences_that_fit(work.input_len)) >= 1.0
    found = Prefill(
        engine=engine,
        chunk=chunk,
        prompt_s=prompt,
        per_s=table.groups[engine] / prompt,
        bytes=np.asarray(step.work.kv_bytes * work.input_len + step.work.fixed_kv_bytes),
        queue=np.asarray(step.constants.queue),
        burst=np.asarray(step.constants.burst),
        lag=np.asarray(step.constants.lag),
    )
    return found.take(fits)


def decode_workers(problem: Problem, table: EngineTable, sizes: tuple[int, ...] = ()) -> Decode:
    """Every decode worker of the space whose sequences fit and whose tpot meets the target.

    Only workspace depends on its chunk, so the smallest is taken.
    """
    work = problem.workload
    tried = np.array(sizes or batches(problem.limits, "decode"), np.int64)
    engine = np.repeat(np.arange(len(table)), len(tried))
    batch = np.tile(tried, len(table))
    step = table.step(engine, np.full(len(engine), decode_chunk(problem)), batch)
    fits = np.asarray(step.sequences_that_fit(work.input_len + work.output_len)) >= batch
    context = work.input_len + work.output_len / 2.0
    each = np.maximum(1.0, batch / step.work.pp)
    tpot = np.asarray(step.decode_s(each, context)) / step.tokens_per_step
    places = (batch * table.groups[engine]).astype(np.float64)
    found = Decode(engine=engine, batch=batch, places=places, tpot_s=tpot)
    return found.take(fits & (tpot <= problem.tpot_s))


def decode_chunk(problem: Problem) -> int:
    """The chunk of decode workers: the smallest, which leaves most for the cache."""
    return chunks(problem.limits, "decode")[0]


def link_bytes_per_s(cluster: Cluster, first: int, second: int) -> float:
    """Bytes per second and device between workers of two groups: the slower of their networks, the
    link inside a node where that is all there is, and the link of zones where they differ."""
    a, b = cluster.nodes[first], cluster.nodes[second]
    if first == second:
        return a.outer_link.shared_bandwidth_bytes_per_s
    links = [a.network, b.network]
    if a.zone != b.zone and cluster.zone_link is not None:
        links.append(cluster.zone_link)
    return min(link.shared_bandwidth_bytes_per_s for link in links)


def undominated_prefill(workers: Prefill) -> Prefill:
    """Workers of equal devices and group less those that another is no worse than in everything."""
    order = np.lexsort((workers.bytes, -workers.per_s, workers.prompt_s))
    kept: list[int] = []
    for i in order:
        if not any(
            workers.per_s[k] >= workers.per_s[i]
            and workers.bytes[k] <= workers.bytes[i]
            and workers.queue[k] <= workers.queue[i]
            and workers.burst[k] <= workers.burst[i]
            and workers.lag[k] <= workers.lag[i]
            for k in kept
        ):
            kept.append(int(i))
    return workers.take(np.array(kept, np.int64))


def undominated_decode(workers: Decode, output_len: int, most_move_s: float) -> Decode:
    """Workers of equal devices and group less those with no smaller tpot and no larger rate than
    another, at no transfer and at the longest one.

    Complexity: O(n k) for k that are left.
    """
    busy = (output_len - 1.0) * workers.tpot_s
    rates = [workers.places / np.maximum(busy + move, 1e-12) for move in (0.0, most_move_s)]
    order = np.lexsort((-rates[1], -rates[0], workers.tpot_s))
    kept: list[int] = []
    tops: list[tuple[float, float]] = []
    for i in order:
        here = (float(rates[0][i]), float(rates[1][i]))
        if not any(a >= here[0] and b >= here[1] for a, b in tops):
            kept.append(int(i))
            tops = [t for t in tops if not (here[0] >= t[0] and here[1] >= t[1])] + [here]
    return workers.take(np.array(kept, np.int64))


def all_pairs(
    problem: Problem,
    prefill_table: EngineTable,
    decode_table: EngineTable,
    sizes: tuple[int, ...] = (),
    goal: str = "",
) -> tuple[Pairs, int]:
    """Every deployment of split phases that no rule removes, and the number of pairs of workers.

    ``goal`` is the objective that the numbers of workers are chosen for; default: the problem's.

    Complexity: O(groups^2 * sizes^2 * prefill workers * decode workers * n_p) array entries, where
    the workers are those undominated of one size.
    """
    left, right = (
        prefill_workers(problem, prefill_table),
        decode_workers(problem, decode_table, sizes),
    )
    found: list[Pairs] = []
    kinds_p = _kinds(prefill_table, left.engine)
    kinds_d = _kinds(decode_table, right.engine)
    move_s = float(left.bytes.max(initial=0.0)) / min(
        link_bytes_per_s(problem.cluster, a, b)
        for a in range(len(problem.cluster.nodes))
        for b in range(len(problem.cluster.nodes))
    )
    best_p = {k: undominated_prefill(left.take(i)) for k, i in kinds_p.items()}
    length = problem.workload.output_len
    best_d = {k: right.take(i) for k, i in kinds_d.items()}
    if problem.workload.concurrency is None or np.isinf(problem.ttft_s):
        best_d = {k: undominated_decode(d, length, move_s) for k, d in best_d.items()}
    for (group, devices, *same), prefill in best_p.items():
        for (other, size, *alike), decode in best_d.items():
            if same == alike:
                found.append(
                    _counted(
                        problem,
                        prefill_table,
                        decode_table,
                        prefill,
                        decode,
                        (group, devices),
                        (other, size),
                        goal or problem.objective,
                    )
                )
    total = sum(
        len(i) * len(j) for k, i in kinds_p.items() for m, j in kinds_d.items() if k[2:] == m[2:]
    )
    return joined(found), total


def _kinds(table: EngineTable, engine: Ints) -> dict[tuple[int, int, str, str], Ints]:
    """Workers by group, devices, software and type of cache."""
    kinds: dict[tuple[int, int, str, str], list[int]] = {}
    for row, number in enumerate(engine):
        one = table.engines[number]
        key = (int(table.group[number]), int(table.devices[number]), one.software, one.kv_dtype)
        kinds.setdefault(key, []).append(row)
    return {key: np.array(rows, np.int64) for key, rows in kinds.items()}


def _counted(
    problem: Problem,
    prefill_table: EngineTable,
    decode_table: EngineTable,
    prefill: Prefill,
    decode: Decode,
    left: tuple[int, int],
    right: tuple[int, int],
    goal: str,
) -> Pairs:
    """Deployments of workers of two kinds (group, devices), with the numbers worth trying."""
    (group, first), (other, second) = left, right
    nodes = problem.cluster.nodes
    most = most_engines(nodes[group], first)
    numbers = [n for n in range(1, most + 1) if problem.limits.allows("replicas", n, "prefill")]
    room = [_beside(problem, left, n, right) for n in numbers]
    n_p = np.array([n for n, r in zip(numbers, room, strict=True) if r > 0], np.int64)
    top = np.array([r for r in room if r > 0], np.int64)
    i, j, k = (
        axis.ravel()
        for axis in np.meshgrid(
            np.arange(len(prefill.engine)),
            np.arange(len(decode.engine)),
            np.arange(len(n_p)),
            indexing="ij",
        )
    )
    p, d = prefill.take(i), decode.take(j)
    move = p.bytes / link_bytes_per_s(problem.cluster, group, other)
    times = Operating(problem, p, d, move)
    usd = tuple(table.usd_per_h[w.engine] for table, w in ((prefill_table, p), (decode_table, d)))
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
                move_s=move,
                rate_per_s=rate,
                ttft_s=ttft,
                tpot_s=d.tpot_s,
                request_s=ttft + times.answer_s,
                usd_per_h=a * usd[0] + b * usd[1],
            ).take(fine)
        )
    return joined(made)


def _beside(problem: Problem, left: tuple[int, int], number: int, right: tuple[int, int]) -> int:
    """Workers of the second kind that fit beside ``number`` of the first."""
    (group, first), (other, second) = left, right
    node = problem.cluster.nodes[other]
    if group != other:
        return most_engines(node, second)
    return most_beside(node.devices, node.count, first, number, second)


class Operating:
    """Rates and times of pairs of workers, as functions of their numbers (all arrays)."""

    def __init__(self, problem: Problem, prefill: Prefill, decode: Decode, move_s: Floats) -> None:
        self.problem, self.prefill, self.decode, self.move_s = problem, prefill, decode, move_s
        self.answer_s = (problem.workload.output_len - 1.0) * decode.tpot_s
        self.fixed_s = prefill.prompt_s + move_s + prefill.lag * decode.tpot_s
        self.wait_s = prefill.queue * prefill.prompt_s / 2.0
        self.half = prefill.burst / 2.0
        self.decode_per_s = decode.places / np.maximum(self.answer_s + move_s, 1e-12)

    def ttft_s(self, busy: Floats) -> Floats:
        """The time to the first token while prefill is busy for this share of the time."""
        plain = self.fixed_s + self.wait_s * busy / (1.0 - busy)
        crowd = plain - self.half * self.prefill.prompt_s + self.half * busy * self.answer_s
        found: Floats = np.maximum(plain, crowd / (1.0 - self.half * busy))
        return found

    @property
    def busiest(self) -> Floats:
        """The largest share of busy time that meets the target; negative where none does.

        ``ttft_s`` is the larger of two functions that grow with x; each reaches the target where a
        linear or a quadratic equation says.
        """
        target = self.problem.ttft_s
        if np.isinf(target):
            return np.full(len(self.answer_s), BUSIEST)
        free = target - self.fixed_s
        plain = np.where(free >= 0.0, free / np.maximum(free + self.wait_s, 1e-300), -1.0)
        room = free + self.half * self.prefill.prompt_s
        both = self.half * (self.answer_s + target)
        linear = room + self.wait_s + both
        root = np.sqrt(np.maximum(0.0, linear**2 - 4.0 * both * room))
        crowd = np.where(room >= 0.0, 2.0 * room / np.maximum(linear + root, 1e-300), -1.0)
        found: Floats = np.minimum(BUSIEST, np.minimum(plain, crowd))
        return found

    def at(self, num_prefill: Ints, num_decode: Ints) -> tuple[Floats, Floats, Floats]:
        """Requests per second, ttft (s) and busy share of prefill with so many workers."""
        most = num_prefill * self.prefill.per_s
        work = self.problem.workload
        with np.errstate(divide="ignore", invalid="ignore"):
            if work.concurrency is not None:
                busy = np.minimum(self.in_flight(num_prefill), BUSIEST)
                rate = np.minimum(busy * most, num_decode * self.decode_per_s)
                return rate, work.concurrency / rate - self.answer_s, rate / most
            if self.problem.objective == "latency" and work.rate_per_s is None:  # one alone
                zero = np.zeros(len(most))
                ttft = self.ttft_s(zero)
                return 1.0 / (ttft + self.answer_s), ttft, zero
            rate = np.minimum(self.busiest * most, num_decode * self.decode_per_s)
            busy = rate / most
            if work.rate_per_s is not None and self.problem.objective != "throughput":
                busy = np.minimum(busy, self.problem.asked_per_s / most)
            return rate, self.ttft_s(np.maximum(busy, 0.0)), busy

    def in_flight(self, num_prefill: Ints) -> Floats:
        """The busy share of prefill under the given concurrency, if the decode workers kept up:
        the root in (0, 1) of the quadratic that Little's law gives."""
        requests = float(self.problem.workload.concurrency or 0)
        most = num_prefill * self.prefill.per_s
        crowd = requests / np.maximum(most * self.prefill.prompt_s, 1e-300) - 1.0
        start = self.half * np.maximum(0.0, crowd) * self.prefill.prompt_s
        whole = self.fixed_s + start + self.answer_s
        linear = most * whole + requests
        square = most * (self.wait_s - whole)
        root = np.sqrt(np.maximum(0.0, linear**2 + 4.0 * square * requests))
        found: Floats = 2.0 * requests / np.maximum(linear + root, 1e-300)
        return found


def _numbers(
    problem: Problem, times: Operating, n_p: Ints, top: Ints, goal: str
) -> list[tuple[Ints, Ints]]:
    """Numbers of both kinds of worker worth trying, of ``n_p`` and up to ``top``; 0 is none."""
    work, limits = problem.workload, problem.limits
    if any(name.endswith("replicas") for name in (*limits.pin, *limits.forbid)):
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
        asked = problem.asked_per_s * (1.0 - 1e-12)
        busiest = np.maximum(times.busiest, 1e-300)
        few_p = np.maximum(1.0, np.ceil(np.minimum(asked / (busiest * times.prefill.per_s), 1e9)))
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
    return Pairs(
        **{
            name: np.concatenate([getattr(part, name) for part in (empty, *parts)])
            for name in Pairs.__struct_fields__
        }
    )


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


def best_pair(problem: Problem, pairs: Pairs) -> int | None:
    """The best deployment: by value, then fewer devices, then more requests; None of none."""
    if not len(pairs):
        return None
    sign = 1.0 if OBJECTIVES[problem.objective][1] else -1.0
    key = sign * values(problem, pairs)
    return int(np.lexsort((-pairs.rate_per_s, pairs.devices, key))[0])
