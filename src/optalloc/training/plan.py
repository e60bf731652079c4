"""TrainingPlan: a complete, self-contained training answer."""

from __future__ import annotations

import os

import msgspec

from optalloc import files
from optalloc.cluster.topology import Cluster
from optalloc.model.spec import ModelSpec
from optalloc.training.strategy import Recompute, Schedule, Strategy
from optalloc.workload import Training

FORMAT_VERSION = "1.0"


class Degrees(msgspec.Struct, frozen=True, kw_only=True):
    """Parallel degrees; ``tp * cp * pp * dp`` devices are used."""

    tp: int
    cp: int
    pp: int
    dp: int
    ep: int
    virtual_stages: int


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """Consecutive layers: ``first_layer`` counts from 0 over encoder and decoder."""

    first_layer: int
    num_layers: int
    embedding: bool
    head: bool


class StagePlan(msgspec.Struct, frozen=True, kw_only=True):
    """One pipeline stage.

    ``num_layers`` counts layers by type name. ``memory_bytes`` is that of the fullest device of the
    stage by kind (weights, gradients, optimizer, activations, logits, buffers) with their
    ``total``; buffers are gathered weights and inputs, the allocator's gaps, and what lies outside
    it. Times are those of one micro-batch over all chunks of the stage, seconds. ``devices``
    are ranges ``[first, end)`` of device indices in cluster order.
    """

    index: int
    num_layers: dict[str, int]
    chunks: tuple[Chunk, ...]
    num_devices: int
    devices: tuple[tuple[int, int], ...]
    memory_bytes: dict[str, int]
    capacity_bytes: int
    recompute: Recompute
    forward_s: float
    backward_s: float


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """Why nothing better exists in the stated space: the bound and what was counted."""

    objective: str
    value: float
    bound: float
    space: str
    configurations: int
    pruned: dict[str, int]
    checked: bool = False


class Rival(msgspec.Struct, frozen=True, kw_only=True):
    """The best plan of other degrees: its value, what it decides otherwise, and the memory that it
    leaves on its fullest device. ``tie``: within the stated error of the cost model.
    """

    value: float
    step_time_s: float
    num_devices: int
    tie: bool
    differences: tuple[str, ...]
    headroom_bytes: int
    strategy: Strategy


class TrainingPlan(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="training"):
    """A training plan with everything needed to simulate, explain, export and check it.

    ``breakdown_s`` splits ``step_time_s`` by cause and sums to it. Times are estimates of the named
    cost model, never measurements: 90 % of measured steps like this one lie within
    ``step_time_error`` (relative; None where the cost model was not compared with any).
    """

    format_version: str = FORMAT_VERSION
    tool_version: str
    model: ModelSpec
    cluster: Cluster
    workload: Training
    digests: dict[str, str]
    cost_model: str
    degrees: Degrees
    sequence_parallel: bool
    micro_batch: int
    num_microbatches: int
    zero_stage: int
    shard_group: int
    schedule: Schedule
    num_devices: int
    idle_devices: int
    stages: tuple[StagePlan, ...]
    step_time_s: float
    mfu: float
    tokens_per_s: float
    price_usd_per_step: float | None
    energy_j_per_step: float
    breakdown_s: dict[str, float]
    certificate: Certificate | None = None
    step_time_error: float | None = None
    alternatives: tuple[Rival, ...] = ()

    @property
    def fits(self) -> bool:
        """True if no stage needs more memory than its devices have."""
        return all(stage.memory_bytes["total"] <= stage.capacity_bytes for stage in self.stages)

    @property
    def strategy(self) -> Strategy:
        """The configuration behind the plan."""
        degrees = msgspec.structs.asdict(self.degrees)
        order = self._chunk_order()
        return Strategy(
            **degrees,
            sequence_parallel=self.sequence_parallel,
            zero_stage=self.zero_stage,
            shard_group=self.shard_group,
            micro_batch=self.micro_batch,
            schedule=self.schedule,
            layers_per_chunk=tuple(c.num_layers for c in order),
            recompute=tuple(s.recompute for s in self.stages),
        )

    def _chunk_order(self) -> list[Chunk]:
        """Chunks in model order: chunk k of stage i is number ``k * pp + i``."""
        return [
            self.stages[i].chunks[k]
            for k in range(self.degrees.virtual_stages)
            for i in range(self.degrees.pp)
        ]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``plan.json`` in canonical form."""
        files.write_json(path, self)
