"""From a strategy to a plan: predict any valid configuration, without search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from optalloc import __version__, _native
from optalloc.cluster.topology import Cluster
from optalloc.cost.compute import peak_flops_per_s
from optalloc.cost.meshes import LAYER_FIELDS, SCHEDULES, Meshes, MeshTables
from optalloc.cost.model import CostModel
from optalloc.model.spec import ModelSpec
from optalloc.training.plan import Certificate, Chunk, Degrees, StagePlan, TrainingPlan
from optalloc.training.space import joined
from optalloc.training.strategy import Recompute, Strategy
from optalloc.training.valid import check_strategy
from optalloc.workload import Training

# Parts of `breakdown_s` in the order they are printed.
BREAKDOWN = (
    "compute",
    "recompute",
    "tensor_parallel",
    "context_parallel",
    "expert_parallel",
    "pipeline_idle",
    "data_parallel",
    "optimizer",
    "fixed",
)

# Axes whose exchanges are accounted for one after another.
_AXES = {"tp": "tensor_parallel", "cp": "context_parallel", "ep": "expert_parallel"}


def estimate(
    model: ModelSpec,
    cluster: Cluster,
    workload: Training,
    strategy: Strategy | None = None,
    *,
    recompute: Literal["written", "auto"] = "written",
) -> TrainingPlan:
    """Predict time, memory, price and energy of one configuration.

    A configuration that does not fit is predicted all the same; ``plan.fits`` then is False.

    Parameters
    ----------
    strategy : Strategy, optional
        Default: one device. Empty ``layers_per_chunk`` spreads the layers evenly, empty
        ``recompute`` stores every activation.
    recompute : {"written", "auto"}
        Whether recomputation is that of the strategy, or the least that fits, equal on all stages.

    Raises
    ------
    InputError
        If the configuration breaks a rule of the space, naming the rule.

    Complexity: O(operations of the schedule).
    """
    cost, strategy = CostModel(model, cluster, workload), strategy or Strategy()
    if recompute == "auto":
        strategy = with_least_recompute(cost, strategy)
    return build_plan(cost, strategy)


def with_least_recompute(cost: CostModel, strategy: Strategy) -> Strategy:
    """The strategy with the first rule that leaves every stage within its memory, else everything.

    A plan chooses recomputation stage by stage. Software that people configure takes one rule for
    all: nothing, the selective kind, then one more whole layer of each chunk at a time. The margin
    that plans keep free is kept here too.

    Complexity: O(layers of the largest chunk) evaluations of the written configuration.
    """
    from optalloc.cost.predict import recomputations  # what measurements are predicted with

    strategy = complete(strategy, cost.num_layers)
    check_strategy(cost, strategy)
    tables = cost.tables(meshes_of(strategy))
    capacity = float(tables.real("capacity_bytes")[0])
    rule = Recompute()
    for full, selective in recomputations("", max(strategy.layers_per_chunk)):
        rule = Recompute(full=full, selective=selective)
        _, used, _ = _native.evaluate_mesh(
            tables.ints,
            tables.reals,
            tables.layers,
            cost.sequence,
            cost.boundary,
            list(strategy.layers_per_chunk),
            [full] * strategy.pp,
            [selective] * strategy.pp,
        )
        if max(used) <= capacity:
            break
    return msgspec.structs.replace(strategy, recompute=(rule,) * strategy.pp)


def build_plan(
    cost: CostModel, strategy: Strategy, certificate: Certificate | None = None
) -> TrainingPlan:
    """The plan of a strategy under a cost model."""
    strategy = complete(strategy, cost.num_layers)
    check_strategy(cost, strategy)
    return _Builder(cost, strategy).plan(certificate)


def share_layer_costs(cost: CostModel, strategies: Sequence[Strategy]) -> None:
    """Evaluate at once what the plans of some strategies account for; ``cost`` remembers it."""
    meshes = joined([meshes_of(strategy) for strategy in strategies])
    for k, axis in enumerate(_AXES, 1):
        some = meshes.take(getattr(meshes, axis) > 1)
        if len(some):
            cost.layer_costs(some, tuple(_AXES)[:k])


def complete(strategy: Strategy, num_layers: int) -> Strategy:
    """The strategy with layers and recomputation of every chunk and stage written out.

    Layers are spread evenly; where they do not divide, the chunks in the middle get one more.
    """
    layers, recompute = strategy.layers_per_chunk, strategy.recompute
    if not layers:
        count = strategy.pp * strategy.virtual_stages
        base, more = divmod(num_layers, count)
        first = (count - more) // 2
        layers = tuple(base + (first <= c < first + more) for c in range(count))
    if not recompute:
        recompute = (Recompute(),) * strategy.pp
    return msgspec.structs.replace(strategy, layers_per_chunk=layers, recompute=recompute)


def last_stage(cost: CostModel, strategy: Strategy) -> int:
    """The stage whose step ends last: the one that ``breakdown_s`` describes."""
    return _Builder(cost, complete(strategy, cost.num_layers)).last()


def meshes_of(strategy: Strategy) -> Meshes:
    """The mesh of one strategy, as arrays of length one."""

    def one(value: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array([value], np.int64)

    return Meshes(
        tp=one(strategy.tp),
        sequence=one(strategy.sequence_parallel),
        cp=one(strategy.cp),
        pp=one(strategy.pp),
        dp=one(strategy.dp),
        ep=one(strategy.ep),
        micro_batch=one(strategy.micro_batch),
        zero_stage=one(strategy.zero_stage),
        shard_group=one(strategy.shard_group),
        virtual_stages=one(strategy.virtual_stages),
        schedule=one(SCHEDULES.index(strategy.schedule)),
        recompute_rule=one(0),
    )


class _Builder:
    """Collects the figures of one plan."""

    def __init__(self, cost: CostModel, strategy: Strategy) -> None:
        self.cost, self.strategy = cost, strategy
        self.meshes = meshes_of(strategy)
        self.tables: MeshTables = cost.tables(self.meshes)
        self.kinds = cost.state_bytes(self.meshes)
        self.micro = int(cost.num_microbatches(self.meshes)[0])
        self.types = [layer.name for layer in cost.graph.types]
        self.chunks = self._chunks()
        self.members = [
            [c for c in range(len(self.chunks)) if c % strategy.pp == i] for i in range(strategy.pp)
        ]
        self.known_counts: dict[tuple[int, bool], np.ndarray[tuple[int], np.dtype[np.int64]]] = {}
        full = [r.full for r in strategy.recompute]
        selective = [r.selective for r in strategy.recompute]
        self.value_s, self.bytes, self.ends_s = _native.evaluate_mesh(
            self.tables.ints,
            self.tables.reals,
            self.tables.layers,
            cost.sequence,
            cost.boundary,
            list(strategy.layers_per_chunk),
            full,
            selective,
        )
        self.fixed_s = float(self.tables.real("fixed_s")[0])

    def plan(self, certificate: Certificate | None) -> TrainingPlan:
        cost, s = self.cost, self.strategy
        step_s = self.value_s + self.fixed_s
        device_s = step_s * s.num_devices
        usd = cost.usd_per_device_s
        peak = peak_flops_per_s(cost.device, cost.workload.dtype)
        tokens = cost.workload.global_batch * cost.workload.sequence_length
        if cost.graph.encoder_decoder:
            target = cost.workload.decoder_sequence_length or cost.workload.sequence_length
            tokens += cost.workload.global_batch * target
        return TrainingPlan(
            tool_version=__version__,
            model=cost.model,
            cluster=cost.cluster,
            workload=cost.workload,
            digests=cost.digests,
            cost_model=cost.name,
            degrees=Degrees(
                tp=s.tp, cp=s.cp, pp=s.pp, dp=s.dp, ep=s.ep, virtual_stages=s.virtual_stages
            ),
            sequence_parallel=s.sequence_parallel,
            micro_batch=s.micro_batch,
            num_microbatches=self.micro,
            zero_stage=s.zero_stage,
            shard_group=s.shard_group,
            schedule=s.schedule,
            num_devices=s.num_devices,
            idle_devices=cost.cluster.num_devices - s.num_devices,
            stages=tuple(self._stage(i) for i in range(s.pp)),
            step_time_s=step_s,
            mfu=float(cost.model_flops_per_step / (device_s * peak)),
            tokens_per_s=tokens / step_s,
            price_usd_per_step=None if usd is None else usd * device_s,
            energy_j_per_step=cost.watts_per_device * device_s,
            breakdown_s=self._breakdown(),
            certificate=certificate,
            step_time_error=None if cost.error is None else cost.error.error_90,
        )

    def _chunks(self) -> list[Chunk]:
        chunks, done = [], 0
        sizes = self.strategy.layers_per_chunk
        for number, size in enumerate(sizes):
            chunks.append(
                Chunk(
                    first_layer=done,
                    num_layers=size,
                    embedding=number == 0,
                    head=number + 1 == len(sizes),
                )
            )
            done += size
        return chunks

    # -- sums over the layers of a stage ---------------------------------------------------------

    def _counts(
        self, stage: int, *, ends: bool = True
    ) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """How often each layer type occurs in a stage; embedding and head with ``ends``."""
        if (stage, ends) in self.known_counts:
            return self.known_counts[stage, ends]
        counts = np.zeros(len(self.types), np.int64)
        for number in self.members[stage]:
            chunk = self.chunks[number]
            layers = self.cost.sequence[chunk.first_layer : chunk.first_layer + chunk.num_layers]
            counts += np.bincount(layers, minlength=len(self.types))
            if ends:
                counts[0] += chunk.embedding
                counts[-1] += chunk.head
        self.known_counts[stage, ends] = counts
        return counts

    def _sum(self, stage: int, field: str) -> float:
        values = self.tables.layers[0, :, LAYER_FIELDS.index(field)]
        return float(self._counts(stage) @ values)

    def _again_s(self, stage: int) -> float:
        """Recomputation of one micro-batch on a stage, seconds."""
        extra = {
            name: self.tables.layers[0, :, LAYER_FIELDS.index(f"extra_{name}_s")]
            for name in ("full", "selective")
        }
        total, r = 0.0, self.strategy.recompute[stage]
        for number in self.members[stage]:
            chunk = self.chunks[number]
            layers = self.cost.sequence[chunk.first_layer : chunk.first_layer + chunk.num_layers]
            total += float(extra["full"][layers[: r.full]].sum())
            total += float(extra["selective"][layers[r.full : r.full + r.selective]].sum())
        return total

    def _stage(self, i: int) -> StagePlan:
        s = self.strategy
        counts = self._counts(i, ends=False)
        per_stage = s.num_devices // s.pp
        backward = self._sum(i, "backward_s") + self._sum(i, "weight_s") + self._again_s(i)
        return StagePlan(
            index=i,
            num_layers={name: int(counts[k]) for k, name in enumerate(self.types) if counts[k]},
            chunks=tuple(self.chunks[number] for number in self.members[i]),
            num_devices=per_stage,
            devices=((i * per_stage, (i + 1) * per_stage),),
            memory_bytes=self._memory(i),
            capacity_bytes=self.cost.device.memory_bytes,
            recompute=s.recompute[i],
            forward_s=self._sum(i, "forward_s"),
            backward_s=backward,
        )

    def _memory(self, i: int) -> dict[str, int]:
        """Bytes of the fullest moment of one device of a stage, by kind, rounded up."""
        counts = self._counts(i).astype(np.float64)
        states = {name: float(counts @ values[0]) for name, values in self.kinds.items()}
        last = i == self.strategy.pp - 1
        logits = float(self.cost.logits_bytes(self.meshes)[0]) if last else 0.0
        allocated = self.bytes[i] / self.cost.fragmentation
        rest = self.cost.room_bytes + self.cost.constants.workspace_bytes
        rest -= float(self.tables.real("capacity_bytes")[0])
        memory = states | {
            "activations": max(0.0, allocated - sum(states.values()) - logits),
            "logits": logits,
            "buffers": rest + self.bytes[i] - allocated,
        }
        whole = {name: int(np.ceil(size - 1e-6)) for name, size in memory.items()}
        return whole | {"total": sum(whole.values())}

    # -- where the time goes ---------------------------------------------------------------------

    def _breakdown(self) -> dict[str, float]:
        """The step of the stage that ends last, by cause; sums to the step time."""
        tails = [self._tail(i) for i in range(self.strategy.pp)]
        last = self._last(tails)
        counts = self._counts(last).astype(np.float64)
        m = self.micro
        parts = dict.fromkeys(BREAKDOWN, 0.0)
        before = self._work_s(counts, ())
        sharded = self._sum(last, "forward_s") + self._sum(last, "backward_s")
        sharded += self._sum(last, "weight_s")
        parts["data_parallel"] = m * (sharded - before) + tails[last]["data_parallel"]
        for k, (axis, name) in enumerate(_AXES.items(), 1):
            if getattr(self.strategy, axis) == 1:  # exchanges nothing
                continue
            after = self._work_s(counts, tuple(_AXES)[:k])
            parts[name] = m * (before - after)
            before = after
        parts["compute"] = m * before
        parts["recompute"] = m * self._again_s(last)
        parts["optimizer"] = tails[last]["optimizer"]
        parts["fixed"] = self.fixed_s
        busy = m * (sharded + self._again_s(last))
        parts["pipeline_idle"] = self.value_s - sum(tails[last].values()) - busy
        return parts

    def last(self) -> int:
        """The stage that ends last."""
        return self._last([self._tail(i) for i in range(self.strategy.pp)])

    def _last(self, tails: list[dict[str, float]]) -> int:
        pairs = zip(self.ends_s, tails, strict=True)
        return int(np.argmax([end + sum(tail.values()) for end, tail in pairs]))

    def _work_s(
        self, counts: np.ndarray[tuple[int], np.dtype[np.float64]], free: tuple[str, ...]
    ) -> float:
        table, row = self.cost.layer_costs(self.meshes, free)
        k = int(row[0])
        return float(counts @ (table.forward_s[k] + table.backward_s[k] + table.weight_s[k]))

    def _tail(self, i: int) -> dict[str, float]:
        """What stays visible behind the last operation of a stage."""
        overlap = float(self.tables.real("overlap")[0])
        backward = self._sum(i, "backward_s") + self._sum(i, "weight_s")
        reduce = max(0.0, self._sum(i, "reduce_s") - overlap * backward)
        gather = max(0.0, self._sum(i, "gather_s") - overlap * self._sum(i, "forward_s"))
        pp = self.strategy.pp
        tied = float(self.tables.real("tied_s")[0]) if pp > 1 and i in (0, pp - 1) else 0.0
        return {
            "data_parallel": reduce + gather + tied,
            "optimizer": self._sum(i, "update_s"),
        }
