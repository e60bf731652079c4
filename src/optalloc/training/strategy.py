"""Strategy: one complete training configuration, found by the search or written by a person."""

from __future__ import annotations

from typing import Literal

import msgspec

from optalloc.errors import InputError

Schedule = Literal["gpipe", "1f1b", "interleaved", "zb-h1"]


class Recompute(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Recomputation in every chunk of one stage: the first ``full`` layers are recomputed whole,
    the next ``selective`` ones recompute the attention core only, the rest store every activation.
    """

    full: int = 0
    selective: int = 0


class Strategy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All parallel degrees and choices of one plan; validated together.

    Parameters
    ----------
    tp, cp, pp, dp, ep : int
        Tensor, context, pipeline, data and expert parallel degrees; ``ep`` divides ``tp * cp *
        dp``.
    sequence_parallel : bool
        Shard the activations outside the matrix multiplications over tp as well.
    virtual_stages : int
        Model chunks per stage (1: not interleaved).
    zero_stage : {0, 1, 2, 3}
        What is sharded over the data-parallel group: nothing; optimizer; + gradients; + weights.
    shard_group : int
        Devices over which ZeRO shards; 0 means all ``dp * cp`` replicas, less means hybrid
        sharding.
    micro_batch : int
        Sequences of one micro-batch on one data-parallel replica.
    layers_per_chunk : tuple of int
        Layers of each of the ``pp * virtual_stages`` chunks in model order (empty: spread evenly);
        the embedding comes with the first and the head with the last. Chunk ``c`` runs on stage ``c
        % pp``.
    recompute : tuple of Recompute
        One entry a stage.
    """

    tp: int = 1
    sequence_parallel: bool = False
    cp: int = 1
    pp: int = 1
    virtual_stages: int = 1
    dp: int = 1
    ep: int = 1
    zero_stage: int = 1
    shard_group: int = 0
    micro_batch: int = 1
    schedule: Schedule = "1f1b"
    layers_per_chunk: tuple[int, ...] = ()
    recompute: tuple[Recompute, ...] = ()

    def __post_init__(self) -> None:
        for name in ("tp", "cp", "pp", "virtual_stages", "dp", "ep", "micro_batch"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"{name} is {getattr(self, name)}", pointer=f"$.{name}", fix="use at least 1"
                )
        chunks = self.pp * self.virtual_stages
        if self.layers_per_chunk and len(self.layers_per_chunk) != chunks:
            raise InputError(
                f"layers_per_chunk has {len(self.layers_per_chunk)} entries for "
                f"{self.pp} stages x {self.virtual_stages} chunks",
                pointer="$.layers_per_chunk",
                fix=f"give {chunks} numbers",
            )
        if self.recompute and len(self.recompute) != self.pp:
            raise InputError(
                f"recompute has {len(self.recompute)} entries for {self.pp} stages",
                pointer="$.recompute",
                fix=f"give {self.pp} entries",
            )

    @property
    def num_devices(self) -> int:
        return self.tp * self.cp * self.pp * self.dp
