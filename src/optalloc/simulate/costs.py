"""PipelineCosts: what a plan's chunks and stages cost, in the form the simulation plays.

The times and bytes of each layer come from the plan's cost model. Here they are summed over the
layers of each chunk, one layer after another and apart from the planner's own sums, so that a
simulation checks a plan's figures rather than repeats them.
"""

from __future__ import annotations

from functools import cached_property

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cost.meshes import LAYER_FIELDS, SCHEDULES, Meshes, MeshTables
from optalloc.cost.model import CostModel
from optalloc.plan.edited import check_shape
from optalloc.training.plan import Chunk, TrainingPlan
from optalloc.training.strategy import Recompute, Strategy

Array = NDArray[np.float64]


class Tail(msgspec.Struct, frozen=True, kw_only=True):
    """What a stage does after its last operation, in this order, seconds.

    ``reduce_s`` and ``gather_s`` are the parts of gradient reduction and weight gathering that no
    computation hides; ``tied_s`` is the sum of a tied embedding's gradients over first and last
    stage.
    """

    reduce_s: float
    tied_s: float
    update_s: float
    gather_s: float

    @property
    def total_s(self) -> float:
        return self.reduce_s + self.tied_s + self.update_s + self.gather_s


class PipelineCosts(msgspec.Struct, frozen=True, kw_only=True):
    """Costs of one micro-batch by chunk in model order, and what each stage adds.

    Parameters
    ----------
    forward_s, backward_s, weight_s : tuple of float, length num_stages * virtual_stages
        Forward, input gradient with recomputation, and weight gradient of each chunk, seconds.
    link_s : tuple of float, length num_stages * virtual_stages - 1
        From each chunk to the next, seconds.
    waiting_bytes, split_bytes : tuple of float, length num_stages * virtual_stages
        Activations one micro-batch keeps on a chunk until its backward, and between the gradients
        of inputs and of weights where these are two operations.
    resident_bytes : tuple of float, length num_stages
        On one device all through the step: model states, buffers, and the larger of the working set
        of recomputation and, on the last stage, the logits.
    capacity_bytes : float
        Memory of one device.
    tails : tuple of Tail, length num_stages
    fixed_s : float
        Overhead of a step that belongs to no stage, seconds.
    """

    forward_s: tuple[float, ...]
    backward_s: tuple[float, ...]
    weight_s: tuple[float, ...]
    link_s: tuple[float, ...]
    waiting_bytes: tuple[float, ...]
    split_bytes: tuple[float, ...]
    resident_bytes: tuple[float, ...]
    capacity_bytes: float
    tails: tuple[Tail, ...]
    fixed_s: float


def plan_costs(plan: TrainingPlan) -> PipelineCosts:
    """Costs of a plan by the cost model it names.

    Raises
    ------
    InputError
        If the plan contradicts itself: its stages, chunks, layers or micro-batches do not add up.

    Complexity: O(number of layers).
    """
    cost = CostModel(plan.model, plan.cluster, plan.workload, name=plan.cost_model)
    check_shape(plan, cost.num_layers)
    strategy = plan.strategy
    book = _Book(plan, strategy, cost, cost.tables(_mesh(strategy)))
    stages, chunks = range(strategy.pp), range(strategy.pp * strategy.virtual_stages)
    return PipelineCosts(
        forward_s=tuple(book.forward_s(c) for c in chunks),
        backward_s=tuple(book.backward_s(c) for c in chunks),
        weight_s=tuple(book.sum("weight_s", c) for c in chunks),
        link_s=tuple(book.link_s(c) for c in chunks[:-1]),
        waiting_bytes=tuple(book.waiting_bytes(c) for c in chunks),
        split_bytes=tuple(book.sum("held_bytes", c) for c in chunks),
        resident_bytes=tuple(book.resident_bytes(i) for i in stages),
        capacity_bytes=cost.device.memory_bytes,
        tails=tuple(book.tail(i) for i in stages),
        fixed_s=float(book.real("fixed_s")),
    )


def _mesh(strategy: Strategy) -> Meshes:
    numbers = {
        name: getattr(strategy, name)
        for name in ("tp", "cp", "pp", "dp", "ep", "micro_batch", "zero_stage", "shard_group")
    }
    numbers["sequence"] = int(strategy.sequence_parallel)
    numbers["virtual_stages"] = strategy.virtual_stages
    numbers["schedule"] = SCHEDULES.index(strategy.schedule)
    numbers["recompute_rule"] = 0
    return Meshes(**{name: np.array([value], np.int64) for name, value in numbers.items()})


class _Book:
    """Sums over the layers of chunks and stages; ``types`` holds the layer types of each chunk."""

    def __init__(
        self, plan: TrainingPlan, strategy: Strategy, cost: CostModel, tables: MeshTables
    ) -> None:
        self.strategy, self.cost, self.tables = strategy, cost, tables
        self.chunks: list[Chunk] = [
            stage.chunks[turn] for turn in range(strategy.virtual_stages) for stage in plan.stages
        ]
        self.ends = [chunk.first_layer + chunk.num_layers for chunk in self.chunks]

    def real(self, name: str) -> float:
        return float(self.tables.real(name)[0])

    @cached_property
    def fields(self) -> dict[str, Array]:
        """Each field by layer type."""
        return {name: self.tables.field(name)[0] for name in LAYER_FIELDS}

    def layers(self, chunk: int) -> NDArray[np.int32]:
        """Types of the layers proper of a chunk."""
        here = self.chunks[chunk]
        return self.cost.sequence[here.first_layer : self.ends[chunk]]

    def ends_of(self, chunk: int) -> list[int]:
        """Types of embedding and head, where the chunk has them."""
        here = self.chunks[chunk]
        last = len(self.cost.graph.types) - 1
        return [0] * here.embedding + [last] * here.head

    def recompute(self, chunk: int) -> Recompute:
        return self.strategy.recompute[chunk % self.strategy.pp]

    def sum(self, field: str, chunk: int) -> float:
        """Sum of a field over a chunk with its embedding and head."""
        values = self.fields[field]
        return float(values[self.layers(chunk)].sum() + values[self.ends_of(chunk)].sum())

    def stage_sum(self, field: str, stage: int) -> float:
        """Sum of a field over all chunks of a stage."""
        return sum(self.sum(field, c) for c in self.of_stage(stage))

    def of_stage(self, stage: int) -> range:
        return range(stage, len(self.chunks), self.strategy.pp)

    def recomputed(self, chunk: int) -> tuple[NDArray[np.int32], ...]:
        """Layers recomputed whole, in their attention core, and not at all."""
        layers, rule = self.layers(chunk), self.recompute(chunk)
        cut = rule.full + rule.selective
        return layers[: rule.full], layers[rule.full : cut], layers[cut:]

    def forward_s(self, chunk: int) -> float:
        return self.sum("forward_s", chunk)

    def backward_s(self, chunk: int) -> float:
        full, selective, _ = self.recomputed(chunk)
        extra = self.fields["extra_full_s"][full].sum()
        extra += self.fields["extra_selective_s"][selective].sum()
        return self.sum("backward_s", chunk) + float(extra)

    def waiting_bytes(self, chunk: int) -> float:
        full, selective, rest = self.recomputed(chunk)
        held = self.fields["held_bytes"]
        kept = self.fields["held_full_bytes"][full].sum()
        kept += self.fields["held_selective_bytes"][selective].sum() + held[rest].sum()
        return float(kept + held[self.ends_of(chunk)].sum())

    def link_s(self, chunk: int) -> float:
        """Devices are numbered stage by stage: stages are near if both lie in one domain."""
        pp = self.strategy.pp
        each = self.strategy.num_devices // pp
        domain = self.cost.cluster.levels()[0].num_devices
        if chunk % pp == pp - 1:  # back to the first stage
            near = self.strategy.num_devices <= domain
        else:
            near = chunk % pp * each // domain == ((chunk % pp + 2) * each - 1) // domain
        where = "near" if near else "far"
        streams = float(self.cost.boundary[self.ends[chunk]])
        return self.real(f"latency_{where}_s") + streams * self.real(f"transfer_{where}_s")

    def resident_bytes(self, stage: int) -> float:
        scratch = [0.0]
        for chunk in self.of_stage(stage):
            full, selective, _ = self.recomputed(chunk)
            scratch += self.fields["scratch_full_bytes"][full].tolist()
            scratch += self.fields["scratch_selective_bytes"][selective].tolist()
        buffers = self.cost.device.memory_bytes - self.cost.reserve_bytes
        buffers -= self.real("capacity_bytes")
        logits = self.real("logits_bytes") if stage == self.strategy.pp - 1 else 0.0
        return self.stage_sum("state_bytes", stage) + buffers + max(logits, *scratch)

    def tail(self, stage: int) -> Tail:
        """One micro-batch's backwards without recomputation hide reductions, its forwards
        gathering.
        """
        overlap, own = self.real("overlap"), self.of_stage(stage)
        forward = sum(self.forward_s(c) for c in own)
        backward = self.stage_sum("backward_s", stage) + self.stage_sum("weight_s", stage)
        tied = self.strategy.pp > 1 and stage in (0, self.strategy.pp - 1)
        return Tail(
            reduce_s=max(0.0, self.stage_sum("reduce_s", stage) - overlap * backward),
            tied_s=self.real("tied_s") if tied else 0.0,
            update_s=self.stage_sum("update_s", stage),
            gather_s=max(0.0, self.stage_sum("gather_s", stage) - overlap * forward),
        )
