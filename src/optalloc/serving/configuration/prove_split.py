"""prove_bound: the bound of a plan proven once more, with split phases by ideal workers.

For two sizes of worker an *ideal* one has the best of every figure that any worker of that size
has, and numbers of workers are left aside where even ideal ones do not beat the bound. Elsewhere
every pair of workers is evaluated, with the busy share of prefill found by halving: ``ttft(x) <=
T`` is asked as ``fixed + wait(x) + burst / 2 x (T + A) <= T``, which is the same, for ttft is where
both sides are equal, and the left one grows less with T.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optalloc.cluster.topology import NodeGroup
from optalloc.serving.configuration.plan import ServingPlan
from optalloc.serving.configuration.prove import TOLERANCE, Proof
from optalloc.serving.configuration.prove_in_flight import prove_in_flight
from optalloc.serving.configuration.space import BATCHES

Floats = NDArray[np.float64]

_BUSIEST = 0.9


def prove_bound(plan: ServingPlan) -> int:
    """The number of engine settings that were asked; none is better than the plan's bound.

    Raises
    ------
    CertificateError
        Naming one that is better.

    Complexity: one closed loop of each engine and chunk, over its batches; split phases as far as
    the relaxation leaves them.
    """
    proof = Proof(plan)
    asked = 0
    if proof.allows("mode", "aggregated", ""):
        split = proof.work.concurrency is not None and len(plan.cluster.nodes) > 1
        asked += prove_in_flight(proof) if split else proof.aggregated()
    if proof.allows("mode", "disaggregated", "") and plan.workload.output_len > 1:
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


class _Split:
    """The question for prefill and decode workers."""

    def __init__(self, proof: Proof) -> None:
        self.proof = proof

    def run(self) -> int:
        """No numbers of prefill and decode workers are better; the number of workers asked."""
        left, asked = self._sides("prefill")
        right, more = self._sides("decode")
        for (a, first, *kind), prefill in left.items():
            for (b, second, *other), decode in right.items():
                if kind == other:
                    self._numbers(a, first, prefill, b, second, decode)
        return asked + more

    def _sides(self, role: str) -> tuple[dict[tuple[int, int, str, str], _Side], int]:
        """Workers by group, size, software and type of cache."""
        work = self.proof.work
        rows: dict[tuple[int, int, str, str], list[_Side]] = {}
        asked = 0
        sizes = np.array(
            [int(b) for b in self.proof.values("batch", BATCHES, "decode")], np.float64
        )
        for number, group in enumerate(self.proof.plan.cluster.nodes):
            for engine in self.proof.engines(group, role):
                batch = sizes if role == "decode" else np.ones(1)
                step = self.proof.step(group, engine, batch)
                shape, c = np.ones(len(batch)), step.constants
                new = work.input_len - work.prefix_len
                context = work.input_len + work.output_len / 2.0
                tpot = np.asarray(step.decode_s(np.maximum(1.0, batch / engine.pp), context))
                tokens = work.input_len + (work.output_len if role == "decode" else 0)
                fine = np.asarray(step.sequences_that_fit(tokens)) >= batch
                fine = fine & (tpot <= self.proof.tpot) if role == "decode" else fine
                moved = step.work.kv_bytes * work.input_len + step.work.fixed_kv_bytes
                asked += len(batch)
                key = (number, engine.num_devices, engine.software, engine.kv_dtype)
                if fine.any():
                    side = _Side(
                        prompt=step.prefill_s(new) * shape,
                        per_s=engine.attention_dp / step.prompt_interval_s(new) * shape,
                        moved=moved * shape,
                        handover=c.handover_s * shape,
                        lag=c.split_lag * shape,
                        queue=c.split_queue * shape,
                        burst=c.split_burst * shape,
                        places=batch * engine.attention_dp,
                        tpot=tpot * shape,
                    )
                    rows.setdefault(key, []).append(_Side(*(column[fine] for column in side)))
        joined = {
            key: _Side(*(np.concatenate(columns) for columns in zip(*sides, strict=True)))
            for key, sides in rows.items()
        }
        return joined, asked

    def _numbers(
        self, a: int, first: int, prefill: _Side, b: int, second: int, decode: _Side
    ) -> None:
        """Every number of workers of two kinds: by ideal workers, then by all pairs."""
        nodes = self.proof.plan.cluster.nodes
        link = self._link(a, b)
        usd = [
            (nodes[g].device.price_usd_per_h or 0.0) * size for g, size in ((a, first), (b, second))
        ]
        ideal = _Side(
            prompt=np.array([prefill.prompt.min()]),
            per_s=np.array([prefill.per_s.max()]),
            moved=np.array([prefill.moved.min()]),
            handover=np.array([prefill.handover.min()]),
            lag=np.array([prefill.lag.min()]),
            queue=np.array([prefill.queue.min()]),
            burst=np.array([prefill.burst.min()]),
            places=np.zeros(1),
            tpot=np.zeros(1),
        )
        answer = (self.proof.work.output_len - 1.0) * decode.tpot
        least = ideal.moved / link + ideal.handover
        per_s = decode.places / (answer + least)
        fastest = np.array([decode.tpot.min()])
        i, j = (
            x.ravel()
            for x in np.meshgrid(
                np.arange(len(prefill.prompt)), np.arange(len(decode.tpot)), indexing="ij"
            )
        )
        every = _Side(*(column[i] for column in prefill))
        each_tpot, each_places = decode.tpot[j], decode.places[j]
        move = every.moved / link + every.handover
        each_rate = each_places / ((self.proof.work.output_len - 1.0) * each_tpot + move)
        for n, m in _fitting(nodes[a], first, nodes[b], second, a == b):
            if not self.proof.allows("replicas", n, "prefill") or not self.proof.allows(
                "replicas", m, "decode"
            ):
                continue
            spent = (n * first + m * second, n * usd[0] + m * usd[1])
            best = self._cost(ideal, least, fastest, per_s.max(), n, m, spent, answer.max())
            if best < self.proof.threshold() - TOLERANCE * abs(self.proof.threshold()) or (
                self.proof.threshold() == 0.0 and best < 0.0
            ):
                cost = self._cost(every, move, each_tpot, each_rate, n, m, spent)
                self.proof.check(cost, f"{n} prefill and {m} decode workers")

    def _link(self, a: int, b: int) -> float:
        one, other = self.proof.plan.cluster.nodes[a], self.proof.plan.cluster.nodes[b]
        if a == b:
            return one.outer_link.shared_bandwidth_bytes_per_s
        found = [g.network.shared_bandwidth_bytes_per_s for g in (one, other)]
        if one.zone != other.zone and self.proof.plan.cluster.zone_link is not None:
            found.append(self.proof.plan.cluster.zone_link.shared_bandwidth_bytes_per_s)
        return min(found)

    def _cost(
        self,
        prefill: _Side,
        move: Floats,
        tpot: Floats,
        each: Floats,
        n: int,
        m: int,
        spent: tuple[int, float],
        longest_s: float | None = None,
    ) -> float:
        """The least cost of ``n`` and ``m`` workers over all pairs; infinite where none will do.

        ``longest_s`` is the longest time that ideal workers may decode: with requests in flight
        given, one that decodes for longer leaves less time before its first token.
        """
        answer = (self.proof.work.output_len - 1.0) * tpot
        fixed = prefill.prompt + move + prefill.lag * tpot
        most = n * prefill.per_s

        def late(busy: Floats, target: float | Floats) -> NDArray[np.bool_]:
            wait = prefill.queue * prefill.prompt * busy / (2.0 * (1.0 - busy))
            start = prefill.burst / 2.0 * busy * (target + answer)
            found: NDArray[np.bool_] = fixed + wait + start > target
            return found

        if self.proof.work.concurrency is not None:
            flight = float(self.proof.work.concurrency)
            start = prefill.burst / 2.0 * flight / most

            def many(busy: Floats) -> NDArray[np.bool_]:
                wait = prefill.queue * prefill.prompt * busy / (2.0 * (1.0 - busy))
                found: NDArray[np.bool_] = busy * most * (fixed + start + wait + answer) > flight
                return found

            rate = np.minimum(_largest(many, most) * most, m * each)
            request = flight / rate
            decoding = answer if longest_s is None else longest_s
            fine = request - decoding <= self.proof.ttft * (1.0 + 1e-12)
        elif self.proof.goal == "latency" and self.proof.work.rate_per_s is None:
            request, rate = fixed + answer, 1.0 / (fixed + answer)
            fine = fixed <= self.proof.ttft * (1.0 + 1e-12)
        else:
            target = self.proof.ttft
            fine = fixed <= target * (1.0 + 1e-12)
            busiest = np.full(len(most), _BUSIEST)
            if math.isfinite(target):
                busiest = _largest(lambda x: late(x, target), most)
            rate = np.minimum(busiest * most, m * each)
            fine &= rate >= self.proof.asked * (1.0 - 1e-9)
            request = fixed + answer
            if self.proof.goal == "latency":
                busy = np.minimum(self.proof.asked, rate) / most
                low, high = fixed, fixed * 1e6 + 1e6
                for _ in range(100):
                    middle = (low + high) / 2.0
                    behind = late(busy, middle)
                    low, high = np.where(behind, middle, low), np.where(behind, high, middle)
                request = high + answer
        if not fine.any():
            return math.inf
        if self.proof.goal == "throughput":
            return -float(rate[fine].max()) * self.proof.work.output_len
        if self.proof.goal == "devices":
            return float(spent[0])
        if self.proof.goal == "latency":
            return float(request[fine].min())
        cost = spent[1]
        return (
            cost
            if self.proof.work.rate_per_s is not None
            else cost - self.proof.tokens(rate[fine].max())
        )


def _largest(wrong: object, like: Floats) -> Floats:
    """The largest share up to the busiest that is not wrong, by halving."""
    assert callable(wrong)
    low, high = np.zeros(len(like)), np.full(len(like), _BUSIEST)
    top = ~wrong(high)
    for _ in range(50):
        middle = (low + high) / 2.0
        bad = wrong(middle)
        low, high = np.where(bad, low, middle), np.where(bad, middle, high)
    return np.where(top, _BUSIEST, low)


def _fitting(
    one: NodeGroup, first: int, other: NodeGroup, second: int, same: bool
) -> Iterator[tuple[int, int]]:
    """Numbers of workers of two sizes that fit together."""
    if not same:
        yield from itertools.product(
            range(1, _most(one, first) + 1), range(1, _most(other, second) + 1)
        )
        return
    for n in range(1, _most(one, first) + 1):
        for m in range(1, _most(one, second) + 1):
            if _beside(one, first, n, second, m):
                yield n, m


def _most(group: NodeGroup, size: int) -> int:
    node = group.devices
    return group.count * (node // size) if size <= node else group.count // (size // node)


def _beside(group: NodeGroup, first: int, n: int, second: int, m: int) -> bool:
    """Do ``n`` and ``m`` engines fit? Whole nodes first; then nodes filled with as many of the
    first as go in evenly, or, where neither size divides the other, in every way."""
    node, left = group.devices, group.count
    for size, number in ((first, n), (second, m)):
        left -= number * (size // node) if size >= node else 0
    small = [(s, k) for s, k in ((first, n), (second, m)) if s < node]
    if left < 0 or not small:
        return left >= 0
    if len(small) == 1 or first % second == 0 or second % first == 0:
        return sum(s * k for s, k in small) <= left * node
    states = {(n, m)}
    for _ in range(left):
        states = {
            (a - x, b - min(b, (node - x * first) // second))
            for a, b in states
            for x in range(min(a, node // first) + 1)
        }
    return (0, 0) in states
