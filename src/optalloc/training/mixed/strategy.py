"""A written mixed configuration: the stages of replicas, their degrees, layers, recomputation."""

from __future__ import annotations

import msgspec

from optalloc.errors import InputError
from optalloc.training.strategy import Recompute


class Degrees(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one stage runs: the node group (by its position in the cluster) and the degrees inside.

    A stage takes ``tp * cp * dp`` devices; each of ``dp`` parts passes 1/dp of a micro-batch.
    """

    group: int
    tp: int = 1
    sequence_parallel: bool = False
    cp: int = 1
    dp: int = 1
    ep: int = 1

    @property
    def num_devices(self) -> int:
        return self.tp * self.cp * self.dp


class StageChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One stage of a pipeline: consecutive layers on devices of one group."""

    group: int
    num_layers: int
    tp: int = 1
    sequence_parallel: bool = False
    cp: int = 1
    dp: int = 1
    ep: int = 1
    recompute: Recompute = Recompute()

    def __post_init__(self) -> None:
        for name, least in (("group", 0), ("num_layers", 0), ("tp", 1), ("cp", 1), ("dp", 1)):
            if getattr(self, name) < least:
                raise InputError(
                    f"{name} is {getattr(self, name)}",
                    pointer=f"$.{name}",
                    fix=f"use at least {least}",
                )

    @property
    def degrees(self) -> Degrees:
        return Degrees(self.group, self.tp, self.sequence_parallel, self.cp, self.dp, self.ep)


class ReplicaChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``count`` equal pipelines, each with ``num_microbatches`` of the micro-batches."""

    stages: tuple[StageChoice, ...]
    num_microbatches: int
    count: int = 1


class MixedStrategy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mixed configuration.

    ``micro_batch`` counts the sequences of one micro-batch over all devices of a stage; the shares
    of all replicas make up the global batch.
    """

    micro_batch: int
    replicas: tuple[ReplicaChoice, ...]
