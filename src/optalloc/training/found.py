"""What a search found: the strategy of a solved mesh, and which meshes count as alternatives."""

from __future__ import annotations

from typing import cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cost.meshes import SCHEDULES, Meshes
from optalloc.training.space import INTERLEAVED
from optalloc.training.strategy import Recompute, Schedule, Strategy

Ints = NDArray[np.int64]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One solved mesh: the strategy and its value in the unit of the objective."""

    strategy: Strategy
    value: float


def group_of(meshes: Meshes) -> Ints:
    """A number for each combination of tp, pp, ep and cp x dp: alternatives differ in these.

    Context and data parallelism often trade places at no cost, so they count as one.
    """
    code = np.zeros(len(meshes), np.int64)
    for column, bits in (
        (meshes.tp, 12),
        (meshes.pp, 12),
        (meshes.cp * meshes.dp, 22),
        (meshes.ep, 14),
    ):
        code = (code << bits) + column
    return code


def strategy_of(
    meshes: Meshes, k: int, layers: list[int], full: list[int], selective: list[int]
) -> Strategy:
    """The strategy of one solved mesh."""
    schedule = int(meshes.schedule[k])
    shard = int(meshes.shard_group[k])
    group = int(meshes.dp[k] * meshes.cp[k])
    return Strategy(
        tp=int(meshes.tp[k]),
        sequence_parallel=bool(meshes.sequence[k]),
        cp=int(meshes.cp[k]),
        pp=int(meshes.pp[k]),
        virtual_stages=int(meshes.virtual_stages[k]) if schedule == INTERLEAVED else 1,
        dp=int(meshes.dp[k]),
        ep=int(meshes.ep[k]),
        zero_stage=int(meshes.zero_stage[k]),
        shard_group=shard if shard < group else 0,
        micro_batch=int(meshes.micro_batch[k]),
        schedule=cast(Schedule, SCHEDULES[schedule]),
        layers_per_chunk=tuple(layers),
        recompute=tuple(Recompute(a, b) for a, b in zip(full, selective, strict=True)),
    )
