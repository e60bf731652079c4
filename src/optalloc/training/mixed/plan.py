"""MixedPlan: replicas of unequal pipelines, complete and self-contained."""

from __future__ import annotations

import os

import msgspec

from optalloc import files
from optalloc.cluster.topology import Cluster
from optalloc.model.spec import ModelSpec
from optalloc.training.mixed.proof import MixedProof
from optalloc.training.mixed.strategy import MixedStrategy, ReplicaChoice, StageChoice
from optalloc.training.plan import Certificate
from optalloc.training.strategy import Recompute
from optalloc.workload import Training

FORMAT_VERSION = "1.5"


class MixedStage(msgspec.Struct, frozen=True, kw_only=True):
    """One stage of one replica.

    ``group`` counts the node groups of the cluster; ``devices`` are ranges ``[first, end)`` of
    device indices in cluster order. ``memory_bytes`` is that of one device by kind with its
    ``total``. Times are those of one micro-batch, seconds; ``link_s`` leads to the next stage, one
    way, and ``tail_s`` is what stays visible behind the last micro-batch.
    """

    index: int
    group: int
    device: str
    tp: int
    sequence_parallel: bool
    cp: int
    dp: int
    ep: int
    num_devices: int
    devices: tuple[tuple[int, int], ...]
    first_layer: int
    num_layers: int
    embedding: bool
    head: bool
    recompute: Recompute
    memory_bytes: dict[str, int]
    capacity_bytes: int
    forward_s: float
    backward_s: float
    link_s: float
    tail_s: float


class MixedReplica(msgspec.Struct, frozen=True, kw_only=True):
    """One pipeline and its micro-batches: ``time_s`` = first + (m - 1) slowest + tail, seconds."""

    index: int
    num_microbatches: int
    stages: tuple[MixedStage, ...]
    first_s: float
    slowest_s: float
    tail_s: float
    time_s: float


class MixedRival(msgspec.Struct, frozen=True, kw_only=True):
    """The best plan of another way to use the cluster: its step time in seconds (``value``), what
    it decides otherwise, and the memory that it leaves on its fullest device. ``tie``: within the
    stated error of the cost model.
    """

    value: float
    num_devices: int
    tie: bool
    differences: tuple[str, ...]
    headroom_bytes: int
    strategy: MixedStrategy


class MixedPlan(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="mixed-training"):
    """A training plan whose stages and replicas may differ.

    ``micro_batch`` counts the sequences of one micro-batch over all devices of a stage.
    ``breakdown_s`` splits ``step_time_s`` by cause on the replica that ends last, and sums to it.
    ``space`` and bound are in ``certificate``; times are estimates of the named cost model: on each
    of the groups used alone, 90 % of measured steps like this one lie within ``step_time_error``
    (relative; None where a group's figures were compared with none). With ``proof``
    :func:`~optalloc.training.mixed.prove.bound.prove_mixed_bound` proves the bound once more.
    """

    format_version: str = FORMAT_VERSION
    tool_version: str
    model: ModelSpec
    cluster: Cluster
    workload: Training
    digests: dict[str, str]
    cost_model: str
    micro_batch: int
    num_microbatches: int
    replicas: tuple[MixedReplica, ...]
    num_devices: int
    idle_devices: int
    step_time_s: float
    mfu: float
    tokens_per_s: float
    price_usd_per_step: float | None
    energy_j_per_step: float
    breakdown_s: dict[str, float]
    step_time_error: float | None = None
    certificate: Certificate | None = None
    proof: MixedProof | None = None
    alternatives: tuple[MixedRival, ...] = ()

    @property
    def stages(self) -> tuple[MixedStage, ...]:
        """All stages, replica by replica."""
        return tuple(stage for replica in self.replicas for stage in replica.stages)

    @property
    def fits(self) -> bool:
        """True if no stage needs more memory than its devices have."""
        return all(stage.memory_bytes["total"] <= stage.capacity_bytes for stage in self.stages)

    @property
    def strategy(self) -> MixedStrategy:
        """The configuration behind the plan, equal neighbours counted."""
        choices: list[ReplicaChoice] = []
        for replica in self.replicas:
            one = ReplicaChoice(
                num_microbatches=replica.num_microbatches,
                stages=tuple(
                    StageChoice(
                        group=s.group,
                        num_layers=s.num_layers,
                        tp=s.tp,
                        sequence_parallel=s.sequence_parallel,
                        cp=s.cp,
                        dp=s.dp,
                        ep=s.ep,
                        recompute=s.recompute,
                    )
                    for s in replica.stages
                ),
            )
            last = choices[-1] if choices else None
            if last is not None and msgspec.structs.replace(last, count=1) == one:
                choices[-1] = msgspec.structs.replace(last, count=last.count + 1)
            else:
                choices.append(one)
        return MixedStrategy(micro_batch=self.micro_batch, replicas=tuple(choices))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``plan.json`` in canonical form."""
        files.write_json(path, self)
