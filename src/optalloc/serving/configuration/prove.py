"""prove_bound: is no deployment of a plan's space better than its bound? Asked once more.

The space is enumerated from the plan alone by other loops than the search's, engine after engine,
each timed at all its batches by the cost model's closed loop. No bound and no dominance removes one
of them. With the bound B the question is linear for every objective: each option has a cost, and no
split of the load may have options whose costs sum to less than a threshold,

    throughput  cost -n f O,            threshold -B          devices  cost n d,    threshold B
    price       cost USD - B tokens,    threshold 0           latency  cost request, largest, B
    price, rate given: cost USD,        threshold B tokens

so the least cost of each group and share is enough. Split phases are asked by relaxation: for two
sizes of worker an *ideal* one has the best of every figure that any worker of that size has, and
numbers of workers are left aside where even ideal ones do not beat B. Elsewhere every pair of
workers is evaluated, with the busy share of prefill found by halving: ``ttft(x) <= T`` is asked as
``fixed + wait(x) + burst / 2 max(0, x (T + A) - P) <= T``, which is the same, for the right side
grows with ttft less than the left.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cluster.topology import NodeGroup
from optalloc.cost.engine.constants import read_engine_constants
from optalloc.cost.engine.load import closed_loop_times
from optalloc.cost.engine.setup import Engine
from optalloc.cost.engine.step import StepModel, step_model
from optalloc.errors import CertificateError
from optalloc.model.spec import Experts
from optalloc.serving.configuration.limits import WORDS
from optalloc.serving.configuration.plan import ServingPlan
from optalloc.serving.configuration.space import BATCHES, CHUNKS

Floats = NDArray[np.float64]

_TOLERANCE = 1e-7
_BUSIEST = 0.9
_PARTS = 8


def prove_bound(plan: ServingPlan) -> int:
    """The number of engine settings that were asked; none is better than the plan's bound.

    Raises
    ------
    CertificateError
        Naming one that is better.

    Complexity: one closed loop of each engine and chunk, over its batches; split phases as far as
    the relaxation leaves them.
    """
    proof = _Proof(plan)
    asked = 0
    if proof.allows("mode", "aggregated", ""):
        asked += proof.aggregated()
    if proof.allows("mode", "disaggregated", "") and plan.workload.output_len > 1:
        asked += proof.split()
    return asked


class _Side(NamedTuple):
    """Workers of one role, group and size, a figure an array of one entry a worker."""

    prompt: Floats
    per_s: Floats
    moved: Floats
    lag: Floats
    queue: Floats
    burst: Floats
    places: Floats
    tpot: Floats


class _Proof:
    def __init__(self, plan: ServingPlan) -> None:
        assert plan.certificate is not None
        self.plan, self.work = plan, plan.workload
        self.goal, self.bound = plan.certificate.objective, plan.certificate.bound
        self.file = read_engine_constants(plan.cost_model)
        self.asked = (self.work.rate_per_s or 0.0) / (1.0 - plan.headroom)
        self.loaded = self.work.rate_per_s is not None or self.work.concurrency is not None
        self.ttft = self.work.ttft_s or math.inf
        self.tpot = self.work.tpot_s or math.inf
        kinds = {layer.name: layer for layer in plan.model.layer_types}
        runs = [(kinds[r.layer], r.count) for r in plan.model.layers]
        runs = [(layer, n) for layer, n in runs if layer.stack != "vision"]
        self.heads = [layer.attention.heads for layer, _ in runs]
        self.depth = sum(n for _, n in runs)
        self.experts = [x.feed_forward for x, _ in runs if isinstance(x.feed_forward, Experts)]

    # -- the space

    def allows(self, name: str, value: object, role: str) -> bool:
        """What the plan's limits leave."""
        limits, keys = self.plan.limits, (name, f"{role}.{name}")
        pinned = all(str(value) in limits.pin[k] for k in keys if k in limits.pin)
        return pinned and not any(str(value) in limits.forbid.get(k, ()) for k in keys)

    def values(self, name: str, usual: tuple[object, ...], role: str) -> list[str]:
        """Values of a decision: those pinned, or the usual ones."""
        pin = self.plan.limits.pin
        given = pin.get(f"{role}.{name}", pin.get(name, tuple(map(str, usual))))
        return [value for value in dict.fromkeys(given) if self.allows(name, value, role)]

    def engines(self, group: NodeGroup, role: str) -> Iterator[Engine]:
        """Every engine of a group but for batch, with each chunk."""
        if not self.allows("device", group.device.name, role):
            return
        words = {name: self.values(name, WORDS[name][1], role) for name in WORDS if name != "mode"}
        if not words["experts"] or not self.experts:
            words["experts"] = [""]
        widths = self.values("chunk", CHUNKS, role)
        total, node = group.num_devices, group.devices
        sizes = [n for n in range(1, total + 1) if n % node == 0 or node % n == 0]
        for size, wide in itertools.product(sizes, sizes):
            pp, rest = divmod(size, wide)
            if rest or pp > self.depth or not self.allows("pp", pp, role):
                continue
            for tp in (t for t in sizes if wide % t == 0 and t <= group.domain):
                dp = wide // tp
                fine = self.allows("tp", tp, role) and self.allows("attention_dp", dp, role)
                if not fine or any(h % tp for h in self.heads) or (dp > 1 and not self.experts):
                    continue
                for ep in (e for e in range(1, wide + 1) if wide % e == 0):
                    cut = wide // ep
                    if ep > 1 and not self.experts:
                        continue
                    if any(m.num_experts % ep or m.width % cut for m in self.experts):
                        continue
                    if not self.allows("moe_ep", ep, role) or not self.allows("moe_tp", cut, role):
                        continue
                    for software, weights, experts, kv, chunk in itertools.product(
                        words["software"], words["weights"], words["experts"], words["kv"], widths
                    ):
                        if software == "vllm" and self.experts and ep not in (1, wide):
                            continue
                        yield msgspec.convert(
                            {
                                "software": software,
                                "tp": tp,
                                "pp": pp,
                                "attention_dp": dp,
                                "moe_tp": cut,
                                "moe_ep": ep,
                                "weight_dtype": weights,
                                "expert_dtype": experts or None,
                                "kv_dtype": kv,
                                "chunk_tokens": int(chunk),
                            },
                            Engine,
                        )

    def step(self, group: NodeGroup, engine: Engine, batch: Floats) -> StepModel:
        """The step model of an engine at many batches."""
        made = step_model(self.plan.model, group.device, engine, group=group, file=self.file)
        return msgspec.structs.replace(made, max_batch=batch)

    # -- aggregated

    def aggregated(self) -> int:
        """No combination of options is better; the number of settings."""
        asked = 0
        least: list[dict[int, float]] = []
        groups = self.plan.cluster.nodes
        for group in groups:
            cells: dict[int, float] = {}
            for engine in self.engines(group, "serve"):
                asked += self._cells(group, engine, len(groups) == 1, cells)
            least.append(cells)
        largest = self.goal == "latency"
        shares = itertools.product(*([0, *sorted(cells)] for cells in least))
        for split in shares:
            total = sum(split)
            if not total or (self.loaded and total != _PARTS):
                continue
            costs = [cells[k] for cells, k in zip(least, split, strict=True) if k]
            self._check(max(costs) if largest else sum(costs), f"an aggregated split {split}")
        return asked

    def _threshold(self) -> float:
        if self.goal == "throughput":
            return -self.bound
        if self.goal == "price":
            return 0.0 if self.work.rate_per_s is None else self._tokens(self.work.rate_per_s)
        return self.bound

    def _tokens(self, rate: float) -> float:
        """USD per hour that so many requests per second may cost at the bound."""
        return self.bound * rate * self.work.output_len * 3600.0 / 1e6

    def _check(self, cost: float, what: str) -> None:
        threshold = self._threshold()
        scale = max(abs(threshold), abs(cost), 1e-12)
        if self.goal == "price" and self.work.rate_per_s is None:
            scale = max(self._tokens(self.plan.predicted.capacity_per_s), 1e-12)
        if cost < threshold - _TOLERANCE * scale:
            raise CertificateError(f"{what} is better than the bound {self.bound!r}")

    def _cells(self, group: NodeGroup, engine: Engine, alone: bool, cells: dict[int, float]) -> int:
        """Put the least cost of this engine into the cell of each share; the settings asked."""
        size, ranks = engine.num_devices, engine.attention_dp
        most = group.num_devices // size
        if size < group.devices:
            most = group.count * (group.devices // size)
        counts = [n for n in range(1, most + 1) if self.allows("replicas", n, "serve")]
        shares = [_PARTS] if alone or not self.loaded else list(range(1, _PARTS + 1))
        usd = (group.device.price_usd_per_h or 0.0) * size
        asked = 0
        if self.work.concurrency is None:
            batch = np.array([int(b) for b in self.values("batch", BATCHES, "serve")], np.float64)
            rate, request, fine = self._timed(group, engine, batch, batch * ranks, exact=True)
            asked = len(batch)
            for n, share in itertools.product(counts, shares):
                if self.goal == "devices" and not self.loaded and n > 1:
                    break
                enough = fine & (n * rate >= self.asked * share / _PARTS * (1.0 - 1e-12))
                self._put(cells, share, n, size, usd, n * rate[enough], request[enough])
            return asked
        flight = self.work.concurrency
        for n, share in itertools.product(counts, shares):
            load = -(-flight * share // (_PARTS * n))
            if n > 1 and n * _PARTS > flight * share:
                continue
            full = -(-load // ranks)
            tried = [int(b) for b in self.values("batch", BATCHES, "serve") if int(b) < full]
            tried += [full] if self.allows("batch", full, "serve") else []
            if not tried:
                continue
            batch = np.array(tried, np.float64)
            loads = np.full(len(batch), float(load))
            _, request, fine = self._timed(group, engine, batch, loads, exact=False)
            asked += len(batch)
            pace = flight * share / _PARTS / request
            self._put(cells, share, n, size, usd, pace[fine], request[fine])
        return asked

    def _timed(
        self, group: NodeGroup, engine: Engine, batch: Floats, load: Floats, *, exact: bool
    ) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """Requests per second, seconds of a request, and what meets memory and targets."""
        work = self.work
        step = self.step(group, engine, batch)
        fit = np.asarray(step.sequences_that_fit(work.input_len + work.output_len))
        found = closed_loop_times(step, work.input_len, work.output_len, load, work.prefix_len)
        ttft, tpot = np.broadcast_to(found.ttft_s, load.shape), found.tpot_s
        request = ttft + (work.output_len - 1.0) * tpot
        fine = (fit >= (batch if exact else 1.0)) & (ttft <= self.ttft) & (tpot <= self.tpot)
        return load / request, request, fine

    def _put(
        self,
        cells: dict[int, float],
        share: int,
        count: int,
        size: int,
        usd: float,
        rate: Floats,
        request: Floats,
    ) -> None:
        if not len(rate):
            return
        if self.goal == "throughput":
            cost = -float(rate.max()) * self.work.output_len
        elif self.goal == "devices":
            cost = float(count * size)
        elif self.goal == "latency":
            cost = float(request.min())
        else:
            cost = count * usd
            if self.work.rate_per_s is None:
                cost -= self._tokens(float(rate.max()))
        cells[share] = min(cells.get(share, math.inf), cost)

    # -- split phases

    def split(self) -> int:
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
        work = self.work
        rows: dict[tuple[int, int, str, str], list[_Side]] = {}
        asked = 0
        sizes = np.array([int(b) for b in self.values("batch", BATCHES, "decode")], np.float64)
        for number, group in enumerate(self.plan.cluster.nodes):
            for engine in self.engines(group, role):
                batch = sizes if role == "decode" else np.ones(1)
                step = self.step(group, engine, batch)
                shape, c = np.ones(len(batch)), step.constants
                prompt = step.prefill_s(work.input_len - work.prefix_len) * shape
                context = work.input_len + work.output_len / 2.0
                tpot = np.asarray(step.decode_s(np.maximum(1.0, batch / engine.pp), context))
                tokens = work.input_len + (work.output_len if role == "decode" else 0)
                fine = np.asarray(step.sequences_that_fit(tokens)) >= batch
                fine = fine & (tpot <= self.tpot) if role == "decode" else fine
                moved = step.work.kv_bytes * work.input_len + step.work.fixed_kv_bytes
                asked += len(batch)
                key = (number, engine.num_devices, engine.software, engine.kv_dtype)
                if fine.any():
                    side = _Side(
                        prompt=prompt,
                        per_s=engine.attention_dp / prompt,
                        moved=moved * shape,
                        lag=c.lag * shape,
                        queue=c.queue * shape,
                        burst=c.burst * shape,
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
        nodes = self.plan.cluster.nodes
        link = self._link(a, b)
        usd = [
            (nodes[g].device.price_usd_per_h or 0.0) * size for g, size in ((a, first), (b, second))
        ]
        ideal = _Side(
            prompt=np.array([prefill.prompt.min()]),
            per_s=np.array([prefill.per_s.max()]),
            moved=np.array([prefill.moved.min()]),
            lag=np.array([prefill.lag.min()]),
            queue=np.array([prefill.queue.min()]),
            burst=np.array([prefill.burst.min()]),
            places=np.zeros(1),
            tpot=np.zeros(1),
        )
        answer = (self.work.output_len - 1.0) * decode.tpot
        per_s = decode.places / (answer + ideal.moved / link)
        fastest = np.array([decode.tpot.min()])
        i, j = (
            x.ravel()
            for x in np.meshgrid(
                np.arange(len(prefill.prompt)), np.arange(len(decode.tpot)), indexing="ij"
            )
        )
        every = _Side(*(column[i] for column in prefill))
        each_tpot, each_places = decode.tpot[j], decode.places[j]
        move = every.moved / link
        each_rate = each_places / ((self.work.output_len - 1.0) * each_tpot + move)
        for n, m in _fitting(nodes[a], first, nodes[b], second, a == b):
            if not self.allows("replicas", n, "prefill") or not self.allows(
                "replicas", m, "decode"
            ):
                continue
            spent = (n * first + m * second, n * usd[0] + m * usd[1])
            best = self._cost(
                ideal, ideal.moved / link, fastest, per_s.max(), n, m, spent, answer.max()
            )
            if best < self._threshold() - _TOLERANCE * abs(self._threshold()) or (
                self._threshold() == 0.0 and best < 0.0
            ):
                cost = self._cost(every, move, each_tpot, each_rate, n, m, spent)
                self._check(cost, f"{n} prefill and {m} decode workers")

    def _link(self, a: int, b: int) -> float:
        one, other = self.plan.cluster.nodes[a], self.plan.cluster.nodes[b]
        if a == b:
            return one.outer_link.shared_bandwidth_bytes_per_s
        found = [g.network.shared_bandwidth_bytes_per_s for g in (one, other)]
        if one.zone != other.zone and self.plan.cluster.zone_link is not None:
            found.append(self.plan.cluster.zone_link.shared_bandwidth_bytes_per_s)
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
        answer = (self.work.output_len - 1.0) * tpot
        fixed = prefill.prompt + move + prefill.lag * tpot
        most = n * prefill.per_s

        def late(busy: Floats, target: float | Floats) -> NDArray[np.bool_]:
            wait = prefill.queue * prefill.prompt * busy / (2.0 * (1.0 - busy))
            crowd = np.maximum(0.0, busy * (target + answer) - prefill.prompt)
            found: NDArray[np.bool_] = fixed + wait + prefill.burst / 2.0 * crowd > target
            return found

        if self.work.concurrency is not None:
            flight = float(self.work.concurrency)
            crowd = np.maximum(0.0, flight / most - prefill.prompt) * prefill.burst / 2.0

            def many(busy: Floats) -> NDArray[np.bool_]:
                wait = prefill.queue * prefill.prompt * busy / (2.0 * (1.0 - busy))
                found: NDArray[np.bool_] = busy * most * (fixed + crowd + wait + answer) > flight
                return found

            rate = np.minimum(_largest(many, most) * most, m * each)
            request = flight / rate
            decoding = answer if longest_s is None else longest_s
            fine = request - decoding <= self.ttft * (1.0 + 1e-12)
        elif self.goal == "latency" and self.work.rate_per_s is None:
            request, rate = fixed + answer, 1.0 / (fixed + answer)
            fine = fixed <= self.ttft * (1.0 + 1e-12)
        else:
            target = self.ttft
            fine = fixed <= target * (1.0 + 1e-12)
            busiest = np.full(len(most), _BUSIEST)
            if math.isfinite(target):
                busiest = _largest(lambda x: late(x, target), most)
            rate = np.minimum(busiest * most, m * each)
            fine &= rate >= self.asked * (1.0 - 1e-9)
            request = fixed + answer
            if self.goal == "latency":
                busy = np.minimum(self.asked, rate) / most
                low, high = fixed, fixed * 1e6 + 1e6
                for _ in range(100):
                    middle = (low + high) / 2.0
                    behind = late(busy, middle)
                    low, high = np.where(behind, middle, low), np.where(behind, high, middle)
                request = high + answer
        if not fine.any():
            return math.inf
        if self.goal == "throughput":
            return -float(rate[fine].max()) * self.work.output_len
        if self.goal == "devices":
            return float(spent[0])
        if self.goal == "latency":
            return float(request[fine].min())
        cost = spent[1]
        return cost if self.work.rate_per_s is not None else cost - self._tokens(rate[fine].max())


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
