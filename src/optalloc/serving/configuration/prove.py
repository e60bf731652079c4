"""Proof: is no aggregated deployment of a plan's space better than its bound? Asked once more.

The space is enumerated from the plan alone by other loops than the search's, engine after engine,
each timed at all its batches by the cost model's closed loop. No bound and no dominance removes one
of them. With the bound B the question is linear for every objective: each option has a cost, and no
split of the load may have options whose costs sum to less than a threshold,

    throughput  cost -n f O,            threshold -B          devices  cost n d,    threshold B
    price       cost USD - B tokens,    threshold 0           latency  cost request, largest, B
    price, rate given: cost USD,        threshold B tokens

so the least cost of each group and share is enough. A rate is split over groups in any parts
(:meth:`Proof._rate`). All engines run the same software. Split phases follow in
:mod:`prove_split`.
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
_Cells = dict[int, list[tuple[float, float]]]  # share: (cost, requests/s)

TOLERANCE = 1e-7
_PARTS = 8


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
        made: dict[str, list[_Cells]] = {}
        for number, group in enumerate(groups):
            for engine in self.engines(group, "serve"):
                cells = made.setdefault(engine.software, [{} for _ in groups])
                asked += self._cells(group, engine, len(groups) == 1, cells[number])
        for cells in made.values():
            if self.work.rate_per_s is not None and len(groups) > 1:
                self._rate([found.get(_PARTS, []) for found in cells])
            else:
                self._splits([{k: min(c for c, _ in v) for k, v in f.items()} for f in cells])
        return asked

    def _splits(self, least: list[dict[int, float]]) -> None:
        """No split of the load over the groups is better; ``least`` holds the cost of each part."""
        for split in itertools.product(*([0, *sorted(cells)] for cells in least)):
            total = sum(split)
            if not total or (self.loaded and total != _PARTS):
                continue
            costs = [cells[k] for cells, k in zip(least, split, strict=True) if k]
            if self.plan.limits.target == "llm-d" and len(costs) > 1:
                continue
            self.check(
                max(costs) if self.goal == "latency" else sum(costs), f"an aggregated split {split}"
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

    def _cells(self, group: NodeGroup, engine: Engine, alone: bool, cells: _Cells) -> int:
        """Put the least cost of this engine into the cell of each share; the settings asked."""
        size, ranks = engine.num_devices, engine.attention_dp
        most = group.num_devices // size
        if size < group.devices:
            most = group.count * (group.devices // size)
        counts = [n for n in range(1, most + 1) if self.allows("replicas", n, "serve")]
        split = self.work.concurrency is not None and not alone
        shares = list(range(1, _PARTS + 1)) if split else [_PARTS]
        usd = (group.device.price_usd_per_h or 0.0) * size
        asked = 0
        if self.work.concurrency is None:
            batch = np.array([int(b) for b in self.values("batch", BATCHES, "serve")], np.float64)
            rate, request, fine = self._timed(group, engine, batch, batch * ranks, exact=True)
            asked = len(batch)
            for n, share in itertools.product(counts, shares):
                if self.goal == "devices" and not self.loaded and n > 1:
                    break
                enough = fine & ((not alone) | (n * rate >= self.asked * (1.0 - 1e-12)))
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
        cells: _Cells,
        share: int,
        count: int,
        size: int,
        usd: float,
        rate: Floats,
        request: Floats,
    ) -> None:
        if not len(rate):
            return
        found = cells.setdefault(share, [])
        if self.goal == "latency":
            found += zip(request.tolist(), rate.tolist(), strict=True)
            return
        cost = {"throughput": -float(rate.max()) * self.work.output_len, "devices": count * size}
        if self.goal == "price":
            cost["price"] = count * usd
            if self.work.rate_per_s is None:
                cost["price"] -= self.tokens(float(rate.max()))
        found.append((cost[self.goal], float(rate.max())))
