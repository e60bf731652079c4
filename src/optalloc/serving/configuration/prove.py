"""Proof: is no aggregated deployment of a plan's space better than its bound? Asked once more.

The space is enumerated from the plan alone by other loops than the search's, engine after engine,
each timed at all its batches by the cost model's closed loop. No bound and no dominance removes one
of them. With the bound B the question is linear for every objective: each option has a cost, and no
options may carry the load whose costs sum to less than a threshold,

    throughput  cost -n f O,            threshold -B          devices  cost n d,    threshold B
    price       cost USD - B tokens,    threshold 0           latency  cost request, largest, B
    price, rate given: cost USD,        threshold B tokens

so the least cost of each group is enough. A rate is split over groups in any parts
(:meth:`Proof._rate`). All engines run the same software. Requests in flight over several groups
follow in :mod:`prove_in_flight`, split phases in :mod:`prove_split`.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator

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
from optalloc.serving.configuration.certify_target import refusal
from optalloc.serving.configuration.limits import WORDS
from optalloc.serving.configuration.plan import ServingPlan
from optalloc.serving.configuration.space import BATCHES, CHUNKS

Floats = NDArray[np.float64]
_Costs = list[tuple[float, float]]  # cost, requests/s

TOLERANCE = 1e-7


class Proof:
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
                        engine = msgspec.convert(
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
                        if not refusal(self.plan.limits.target, engine, node):
                            yield engine

    def step(self, group: NodeGroup, engine: Engine, batch: Floats) -> StepModel:
        """The step model of an engine at many batches."""
        made = step_model(self.plan.model, group.device, engine, group=group, file=self.file)
        return msgspec.structs.replace(made, max_batch=batch)

    # -- aggregated

    def aggregated(self) -> int:
        """No combination of options is better; the number of settings."""
        groups = self.plan.cluster.nodes
        asked = 0
        made: dict[str, list[_Costs]] = {}
        for number, group in enumerate(groups):
            for engine in self.engines(group, "serve"):
                found = made.setdefault(engine.software, [[] for _ in groups])
                asked += self._costs(group, engine, len(groups) == 1, found[number])
        for costs in made.values():
            if self.work.rate_per_s is not None and len(groups) > 1:
                self._rate(costs)
            else:
                self._together([min(cost for cost, _ in one) for one in costs if one])
        return asked

    def _together(self, least: list[float]) -> None:
        """No set of groups is better; ``least`` holds the cost of each that has engines."""
        most = 1 if self.plan.limits.target == "llm-d" else len(least)
        for number in range(1, most + 1):
            for costs in itertools.combinations(least, number):
                self.check(
                    max(costs) if self.goal == "latency" else sum(costs), "an aggregated deployment"
                )

    def _rate(self, groups: list[list[tuple[float, float]]]) -> None:
        """No options (cost, requests/s), one a group at most, reach the rate at a better cost."""
        enough = self.asked * (1.0 + TOLERANCE)
        unused = (-math.inf if self.goal == "latency" else 0.0, 0.0)
        stairs = []
        for points in groups:
            kept = [unused]
            for cost, rate in sorted(points):
                if self.goal == "throughput":
                    kept = [min(kept[0], (cost, rate))]
                elif rate > kept[-1][1]:
                    kept.append((cost, rate))
            stairs.append(kept)
        tried = [stairs]
        if self.plan.limits.target == "llm-d":
            tried = [
                [stair if i == k else [unused] for i, stair in enumerate(stairs)]
                for k in range(len(stairs))
            ]
        together = max if self.goal == "latency" else sum
        for one in tried:
            for costs in self._reaching(one, enough):
                self.check(float(together(costs)), "engines on groups that share the load")

    def _reaching(
        self, stairs: list[list[tuple[float, float]]], need: float
    ) -> Iterator[tuple[float, ...]]:
        """Costs of a step of each stair whose rates sum to the need, the least of the last one."""
        first, *rest = stairs
        if not rest:
            at = bisect.bisect_left(first, need, key=lambda step: step[1])
            if at < len(first):
                yield (first[at][0],)
            return
        for cost, rate in first:
            for costs in self._reaching(rest, need - rate):
                yield (cost, *costs)

    def threshold(self) -> float:
        if self.goal == "throughput":
            return -self.bound
        if self.goal == "price":
            return 0.0 if self.work.rate_per_s is None else self.tokens(self.work.rate_per_s)
        return self.bound

    def tokens(self, rate: float) -> float:
        """USD per hour that so many requests per second may cost at the bound."""
        return self.bound * rate * self.work.output_len * 3600.0 / 1e6

    def check(self, cost: float, what: str) -> None:
        threshold = self.threshold()
        scale = max(abs(threshold), abs(cost), 1e-12)
        if self.goal == "price" and self.work.rate_per_s is None:
            scale = max(self.tokens(self.plan.predicted.capacity_per_s), 1e-12)
        if cost < threshold - TOLERANCE * scale:
            raise CertificateError(f"{what} is better than the bound {self.bound!r}")

    def counts(self, group: NodeGroup, size: int) -> list[int]:
        """Numbers of engines of so many devices that a group holds and the limits leave."""
        most = group.num_devices // size
        if size < group.devices:
            most = group.count * (group.devices // size)
        return [n for n in range(1, most + 1) if self.allows("replicas", n, "serve")]

    def _costs(self, group: NodeGroup, engine: Engine, alone: bool, costs: _Costs) -> int:
        """Add what this engine costs in every number; the settings asked."""
        size, ranks = engine.num_devices, engine.attention_dp
        usd = (group.device.price_usd_per_h or 0.0) * size
        asked = 0
        if self.work.concurrency is None:
            batch = np.array([int(b) for b in self.values("batch", BATCHES, "serve")], np.float64)
            rate, request, fine = self.timed(group, engine, batch, batch * ranks, exact=True)
            for n in self.counts(group, size):
                if self.goal == "devices" and not self.loaded and n > 1:
                    break
                enough = fine & ((not alone) | (n * rate >= self.asked * (1.0 - 1e-12)))
                self._put(costs, n, size, usd, n * rate[enough], request[enough])
            return len(batch)
        flight = self.work.concurrency
        for n in self.counts(group, size):
            if n > flight:
                break
            load = -(-flight // n)
            full = -(-load // ranks)
            tried = [int(b) for b in self.values("batch", BATCHES, "serve") if int(b) < full]
            tried += [full] if self.allows("batch", full, "serve") else []
            if not tried:
                continue
            batch = np.array(tried, np.float64)
            loads = np.full(len(batch), float(load))
            _, request, fine = self.timed(group, engine, batch, loads, exact=False)
            asked += len(batch)
            self._put(costs, n, size, usd, flight / request[fine], request[fine])
        return asked

    def timed(
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
        self, costs: _Costs, count: int, size: int, usd: float, rate: Floats, request: Floats
    ) -> None:
        if not len(rate):
            return
        if self.goal == "latency":
            costs += zip(request.tolist(), rate.tolist(), strict=True)
            return
        cost = {"throughput": -float(rate.max()) * self.work.output_len, "devices": count * size}
        if self.goal == "price":
            cost["price"] = count * usd
            if self.work.rate_per_s is None:
                cost["price"] -= self.tokens(float(rate.max()))
        costs.append((cost[self.goal], float(rate.max())))
