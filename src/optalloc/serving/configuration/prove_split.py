"""prove_bound: the bound of a plan proven once more, with split phases by ideal workers.

For two sizes of worker an *ideal* one has the best of every figure that any worker of that size
has. Numbers of workers are left aside where even ideal ones do not beat the bound, then decode
workers that do not beside ideal prefill workers. The pairs that are left are all evaluated, with
the busy share of prefill found by halving: ``ttft(x) <= T`` is asked as ``fixed + wait(x) + burst /
2 x (T + A) <= T``, which is the same, for ttft is where both sides are equal, and the left one
grows less with T.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from optalloc.cluster.topology import NodeGroup
from optalloc.serving.configuration.certify import BUSIEST, link_between
from optalloc.serving.configuration.plan import ServingPlan
from optalloc.serving.configuration.prove import Proof
from optalloc.serving.configuration.prove_in_flight import prove_in_flight
from optalloc.serving.configuration.prove_space import Flags, Floats, Ints

_BLOCK = 65536
_Kind = tuple[int, int, str, str]  # group, devices, software, type of cache


def prove_bound(plan: ServingPlan) -> int:
    """The number of engine settings that were asked; none is better than the plan's bound.

    Raises
    ------
    CertificateError
        Naming one that is better.

    Complexity: one closed loop of each engine, chunk and batch, or with requests in flight of those
    that floors leave; split phases as far as the relaxation leaves them.
    """
    proof = Proof(plan)
    asked = 0
    if proof.space.allows("mode", "aggregated", ""):
        asked += proof.aggregated() if proof.work.concurrency is None else prove_in_flight(proof)
    if proof.space.allows("mode", "disaggregated", "") and plan.workload.output_len > 1:
        asked += _Split(proof).run()
    return asked


class _Side(NamedTuple):
    """Workers of one role, group and size, a figure an array of one entry a worker."""

    prompt: Floats
    per_s: Floats
    moved: Floats
    handover: Floats
    lag: Floats
    queue: Floats
    burst: Floats
    places: Floats
    tpot: Floats

    def at(self, index: Ints | tuple[slice, None]) -> _Side:
        return _Side(*(column[index] for column in self))

    def move_s(self, link_bytes_per_s: float) -> Floats:
        """Seconds of handing a prompt over."""
        return self.moved / link_bytes_per_s + self.handover

    @property
    def ideal(self) -> _Side:
        """One prefill worker with the best of every figure."""
        best = {name: column.min(keepdims=True) for name, column in self._asdict().items()}
        return _Side(**best)._replace(per_s=self.per_s.max(keepdims=True))


class _Split:
    """The question for prefill and decode workers."""

    def __init__(self, proof: Proof) -> None:
        self.proof = proof

    def run(self) -> int:
        """No numbers of prefill and decode workers are better; the number of workers asked."""
        left, asked = self._sides("prefill")
        right, more = self._sides("decode")
        for one, prefill in left.items():
            for other, decode in right.items():
                if one[2:] == other[2:]:
                    self._numbers(one, prefill, other, decode)
        return asked + more

    def _sides(self, role: str) -> tuple[dict[_Kind, _Side], int]:
        """Workers by kind, and how many were asked.

        The chunk of decode workers changes memory alone, so they have the smallest.
        """
        space, work = self.proof.space, self.proof.work
        engines, decodes = space.engines(role), role == "decode"
        if engines is None:
            return {}, 0
        chunks = space.chunks(role)[: 1 if decodes else None]
        sizes = space.batches(role) if decodes else np.ones(1)
        shape = len(engines.engines), len(chunks), len(sizes)
        e, c, b = (x.ravel() for x in np.indices(shape))
        batch = sizes[b]
        step = engines.step(e, np.array(chunks)[c], batch)
        constants = step.constants
        new = work.input_len - work.prefix_len
        context = work.input_len + work.output_len / 2.0
        tpot = np.asarray(step.decode_s(np.maximum(1.0, batch / step.work.pp), context))
        tokens = work.input_len + (work.output_len if decodes else 0)
        fine = np.asarray(step.sequences_that_fit(tokens)) >= batch
        fine = fine & (tpot <= self.proof.tpot) if decodes else fine
        side = _Side(
            prompt=np.asarray(step.prefill_s(new)),
            per_s=engines.ranks[e] / np.asarray(step.prompt_interval_s(new)),
            moved=np.asarray(step.work.kv_bytes * work.input_len + step.work.fixed_kv_bytes),
            handover=np.asarray(constants.handover_s),
            lag=np.asarray(constants.split_lag),
            queue=np.asarray(constants.split_queue),
            burst=np.asarray(constants.split_burst),
            places=batch * engines.ranks[e],
            tpot=tpot,
        )
        kinds: list[_Kind] = [
            (int(group), int(size), one.software, one.kv_dtype)
            for one, group, size in zip(engines.engines, engines.group, engines.size, strict=True)
        ]
        found: dict[_Kind, _Side] = {}
        for kind in dict.fromkeys(kinds):
            mine = np.array([other == kind for other in kinds])[e] & fine
            if mine.any():
                found[kind] = side.at(np.flatnonzero(mine))
        return found, len(e)

    def _numbers(self, one: _Kind, prefill: _Side, other: _Kind, decode: _Side) -> None:
        """Every number of workers of two kinds: by ideal workers, by ideal prefill workers beside
        each decode worker, then by all pairs that are left."""
        proof, nodes = self.proof, self.proof.plan.cluster.nodes
        first, second = nodes[one[0]], nodes[other[0]]
        link = link_between(proof.plan.cluster, one[0], other[0])
        n, m = self._fitting(one, other)
        usd = [(g.device.price_usd_per_h or 0.0) * k[1] for g, k in ((first, one), (second, other))]
        spent = n * usd[0] + m * usd[1] if proof.goal == "price" else n * one[1] + m * other[1]
        ideal = prefill.ideal
        answer = (proof.work.output_len - 1.0) * decode.tpot
        least = ideal.move_s(link)
        each = decode.places / (answer + least)
        best = _Pair(ideal, least, decode.tpot.min(keepdims=True), each.max())
        cost = self._cost(best, n, m, spent, longest_s=float(answer.max()))
        left = np.flatnonzero(cost < proof.limit)
        column = (slice(None), None)
        for at in _parts(left, len(answer)):
            pair = _Pair(ideal, least, decode.tpot, each)
            cost = self._cost(pair, n[at][column], m[at][column], spent[at][column])
            rows, j = np.nonzero(cost < proof.limit)
            for k in _parts(np.arange(len(rows)), len(prefill.prompt)):
                here, worker = at[rows[k]], decode.at(j[k]).at(column)
                move = prefill.move_s(link)
                rate = worker.places / ((proof.work.output_len - 1.0) * worker.tpot + move)
                pair = _Pair(prefill, move, worker.tpot, rate)
                cost = self._cost(pair, n[here][column], m[here][column], spent[here][column])
                which = here[int(np.argmin(cost.min(axis=1)))]
                what = f"{n[which]:.0f} prefill and {m[which]:.0f} decode workers"
                proof.check(float(cost.min()), what)

    def _fitting(self, one: _Kind, other: _Kind) -> tuple[Floats, Floats]:
        """Numbers of workers of two kinds that fit together and that the limits leave."""
        space, nodes = self.proof.space, self.proof.plan.cluster.nodes
        (a, first, *_), (b, second, *_) = one, other
        numbers = [
            space.counts(nodes[a], first, "prefill"),
            space.counts(nodes[b], second, "decode"),
        ]
        n, m = (x.ravel() for x in np.meshgrid(*map(np.array, numbers), indexing="ij"))
        if a == b and len(n):
            fits = _beside(nodes[a], first, n.astype(np.int64), second, m.astype(np.int64))
            n, m = n[fits], m[fits]
        return n.astype(np.float64), m.astype(np.float64)

    def _cost(
        self,
        pair: _Pair,
        n: Floats,
        m: Floats,
        spent: Floats,
        longest_s: float | None = None,
    ) -> Floats:
        """The cost of ``n`` and ``m`` workers of each pair; infinite where they will not do.

        ``longest_s`` is the longest time that ideal workers may decode: with requests in flight
        given, one that decodes for longer leaves less time before its first token.
        """
        prefill, proof = pair.prefill, self.proof
        answer = (proof.work.output_len - 1.0) * pair.tpot
        fixed = prefill.prompt + pair.move + prefill.lag * pair.tpot
        most = n * prefill.per_s

        def late(busy: Floats, target: float | Floats) -> Flags:
            wait = prefill.queue * prefill.prompt * busy / (2.0 * (1.0 - busy))
            start = prefill.burst / 2.0 * busy * (target + answer)
            return np.asarray(fixed + wait + start > target)

        if proof.work.concurrency is not None:
            flight = float(proof.work.concurrency)
            start = prefill.burst / 2.0 * flight / most

            def many(busy: Floats) -> Flags:
                wait = prefill.queue * prefill.prompt * busy / (2.0 * (1.0 - busy))
                return np.asarray(busy * most * (fixed + start + wait + answer) > flight)

            rate = np.minimum(_largest(many, most + fixed) * most, m * pair.each)
            request = flight / rate
            decoding = answer if longest_s is None else longest_s
            fine = request - decoding <= proof.ttft * (1.0 + 1e-12)
        elif proof.goal == "latency" and proof.work.rate_per_s is None:
            request = fixed + answer + 0.0 * n
            rate, fine = 1.0 / request, fixed <= proof.ttft * (1.0 + 1e-12)
        else:
            target = proof.ttft
            fine = fixed <= target * (1.0 + 1e-12)
            busiest = np.full(fixed.shape, BUSIEST)
            if math.isfinite(target):
                busiest = _largest(lambda x: late(x, target), fixed)
            rate = np.minimum(busiest * most, m * pair.each)
            fine = fine & (rate >= proof.asked * (1.0 - 1e-9))
            request = fixed + answer
            if proof.goal == "latency":
                busy = np.minimum(proof.asked, rate) / most
                low, high = fixed + 0.0 * busy, fixed * 1e6 + 1e6 + 0.0 * busy
                for _ in range(100):
                    middle = (low + high) / 2.0
                    behind = late(busy, middle)
                    low, high = np.where(behind, middle, low), np.where(behind, high, middle)
                request = high + answer
        if proof.goal == "throughput":
            cost = -rate * proof.work.output_len
        elif proof.goal == "latency":
            cost = request
        elif proof.goal == "price" and proof.work.rate_per_s is None:
            cost = spent - proof.tokens(1.0) * rate
        else:
            cost = spent
        return np.where(fine, cost, math.inf)


class _Pair(NamedTuple):
    """Prefill workers beside decode workers: seconds of the transfer and of a token, and requests
    per second of one of the latter."""

    prefill: _Side
    move: Floats
    tpot: Floats
    each: Floats


def _parts(index: Ints, width: int) -> list[Ints]:
    """The entries in parts, so that each with so many others is a small table."""
    size = max(1, _BLOCK // max(1, width))
    return [index[k : k + size] for k in range(0, len(index), size)]


def _largest(wrong: Callable[[Floats], Flags], like: Floats) -> Floats:
    """The largest share up to the busiest that is not wrong, by halving."""
    low, high = np.zeros(like.shape), np.full(like.shape, BUSIEST)
    top = ~wrong(high)
    for _ in range(50):
        middle = (low + high) / 2.0
        bad = wrong(middle)
        low, high = np.where(bad, low, middle), np.where(bad, middle, high)
    return np.where(top, BUSIEST, low)


def _beside(group: NodeGroup, first: int, n: Ints, second: int, m: Ints) -> Flags:
    """Do ``n`` and ``m`` engines fit? Whole nodes first; then nodes filled with as many of the
    first as go in evenly, or, where neither size divides the other, in every way."""
    node = group.devices
    left = group.count - sum(
        k * (size // node) for size, k in ((first, n), (second, m)) if size >= node
    )
    small = [(size, k) for size, k in ((first, n), (second, m)) if size < node]
    if len(small) == 2 and first % second and second % first:
        pairs = zip(n.tolist(), m.tolist(), strict=True)
        return np.array([b <= _seconds(node, group.count, first, second, a) for a, b in pairs])
    return np.asarray(sum(size * k for size, k in small) <= left * node)


@lru_cache(maxsize=65536)
def _seconds(node: int, nodes: int, first: int, second: int, n: int) -> int:
    """The most of the second beside ``n`` of the first, below 0 if these do not fit: over the
    numbers of the first in a node, least filled last."""
    best = {n: 0}
    for _ in range(nodes):
        later: dict[int, int] = {}
        for left, held in best.items():
            for x in range(min(left, node // first) + 1):
                most = held + (node - x * first) // second
                later[left - x] = max(later.get(left - x, -1), most)
        best = later
    return best.get(0, -1)
