"""The space of a plan once more: its engines by other loops than the search's, as columns.

Enumerated from the plan alone. Chunk and batch are left to those who ask; a step model is built
for each engine once, and its figures are stacked, so that many rows are timed at once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cluster.topology import NodeGroup
from optalloc.cost.engine.constants import EngineConstants, read_engine_constants
from optalloc.cost.engine.setup import Engine
from optalloc.cost.engine.step import StepModel, step_model
from optalloc.cost.engine.work import Work
from optalloc.model.spec import Experts
from optalloc.serving.configuration.certify_target import refusal
from optalloc.serving.configuration.limits import WORDS
from optalloc.serving.configuration.plan import ServingPlan
from optalloc.serving.configuration.space import BATCHES, CHUNKS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

_Part = TypeVar("_Part", Work, EngineConstants)
_BLOCK = 16384


class Engines(NamedTuple):
    """Engines but for chunk and batch: an array of one entry an engine each.

    ``size`` counts devices, ``ranks`` those of attention; ``usd_per_h`` is 0 without a price.
    """

    engines: tuple[Engine, ...]
    group: Ints
    size: Ints
    ranks: Ints
    usd_per_h: Floats
    like: StepModel
    work: Work
    constants: EngineConstants

    def step(self, engine: Ints, chunk: Floats | float, batch: Floats | float) -> StepModel:
        """The step model of many rows."""
        return msgspec.structs.replace(
            self.like,
            work=_at(self.work, engine),
            constants=_at(self.constants, engine),
            chunk_tokens=chunk,
            max_batch=batch,
        )

    @property
    def software(self) -> list[Ints]:
        """The engines of each software, by number."""
        names = np.array([engine.software for engine in self.engines])
        return [np.flatnonzero(names == name) for name in np.unique(names)]


def blocks(rows: int) -> Iterator[slice]:
    """So many rows, in parts that stay in the processor's cache."""
    return (slice(k, min(k + _BLOCK, rows)) for k in range(0, rows, _BLOCK))


class Space:
    """What the limits of a plan leave."""

    def __init__(self, plan: ServingPlan) -> None:
        self.plan = plan
        self.file = read_engine_constants(plan.cost_model)
        kinds = {layer.name: layer for layer in plan.model.layer_types}
        runs = [(kinds[r.layer], r.count) for r in plan.model.layers]
        runs = [(layer, n) for layer, n in runs if layer.stack != "vision"]
        self.heads = {layer.attention.heads for layer, _ in runs}
        self.depth = sum(n for _, n in runs)
        mixtures = [x.feed_forward for x, _ in runs if isinstance(x.feed_forward, Experts)]
        self.experts = {(m.num_experts, m.width) for m in mixtures}

    def allows(self, name: str, value: object, role: str) -> bool:
        """True if the limits leave this value of a decision."""
        limits, keys = self.plan.limits, (name, f"{role}.{name}")
        pinned = all(str(value) in limits.pin[k] for k in keys if k in limits.pin)
        return pinned and not any(str(value) in limits.forbid.get(k, ()) for k in keys)

    def values(self, name: str, usual: tuple[object, ...], role: str) -> list[str]:
        """Values of a decision: those pinned, or the usual ones."""
        pin = self.plan.limits.pin
        given = pin.get(f"{role}.{name}", pin.get(name, tuple(map(str, usual))))
        return [value for value in dict.fromkeys(given) if self.allows(name, value, role)]

    def chunks(self, role: str) -> list[float]:
        """Chunks, the smallest first."""
        return sorted(float(value) for value in self.values("chunk", CHUNKS, role))

    def batches(self, role: str) -> Floats:
        """Batches that are given, the smallest first; a load may bring others."""
        return np.array(sorted(int(value) for value in self.values("batch", BATCHES, role)), float)

    def counts(self, group: NodeGroup, size: int, role: str = "serve") -> list[int]:
        """Numbers of engines of so many devices that a group holds and the limits leave."""
        node = group.devices
        most = group.count * (node // size) if size <= node else group.count // (size // node)
        return [n for n in range(1, most + 1) if self.allows("replicas", n, role)]

    def engines(self, role: str) -> Engines | None:
        """Every engine of a role on every group; None if there are none."""
        plan, rows = self.plan, []
        for number, group in enumerate(plan.cluster.nodes):
            for engine in self._engines(group, role):
                made = step_model(plan.model, group.device, engine, group=group, file=self.file)
                rows.append((engine, number, made))
        if not rows:
            return None
        engines, groups, steps = zip(*rows, strict=True)
        size = np.array([engine.num_devices for engine in engines])
        prices = [plan.cluster.nodes[g].device.price_usd_per_h or 0.0 for g in groups]
        return Engines(
            engines=engines,
            group=np.array(groups),
            size=size,
            ranks=np.array([engine.attention_dp for engine in engines]),
            usd_per_h=size * np.array(prices),
            like=steps[0],
            work=_columns([step.work for step in steps]),
            constants=_columns([step.constants for step in steps]),
        )

    def _engines(self, group: NodeGroup, role: str) -> Iterator[Engine]:
        if not self.allows("device", group.device.name, role):
            return
        words = {name: self.values(name, WORDS[name][1], role) for name in WORDS if name != "mode"}
        if not words["experts"] or not self.experts:
            words["experts"] = [""]
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
                for cut, ep in self._spreads(wide, role):
                    for software, weights, experts, kv in itertools.product(
                        words["software"], words["weights"], words["experts"], words["kv"]
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
                            },
                            Engine,
                        )
                        if not refusal(self.plan.limits.target, engine, node):
                            yield engine

    def _spreads(self, wide: int, role: str) -> Iterator[tuple[int, int]]:
        """Ways to lay experts over so many devices: parts of each, and parts of all of them."""
        for ep in (e for e in range(1, wide + 1) if wide % e == 0):
            cut = wide // ep
            if ep > 1 and not self.experts:
                continue
            if any(number % ep or width % cut for number, width in self.experts):
                continue
            if self.allows("moe_ep", ep, role) and self.allows("moe_tp", cut, role):
                yield cut, ep


def target_s(value: float | None) -> float:
    """Seconds of a target; infinite where there is none."""
    return value or math.inf


def _columns(parts: list[_Part]) -> _Part:
    rows = np.array([msgspec.structs.astuple(part) for part in parts], np.float64)
    names = parts[0].__struct_fields__
    return type(parts[0])(**dict(zip(names, np.ascontiguousarray(rows.T), strict=True)))


def _at(columns: _Part, index: Ints) -> _Part:
    return type(columns)(**{n: getattr(columns, n)[index] for n in columns.__struct_fields__})
