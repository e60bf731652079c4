"""What replicas share and exchange: ZeRO stages, shard groups, gradients and weights.

Dense parameters are reduced over ``dp * cp`` ranks that lie tp apart, experts over the ranks that
hold the same ones, which lie ep apart.

    stage 0    all-reduce of gradients once a step
    stage 1    scatter of gradients and gather of weights once a step
    stage 2    scatter of gradients for every micro-batch, gather of weights once a step
    stage 3    gather of weights for every forward and backward, scatter for every micro-batch

A shard group smaller than all replicas (hybrid sharding) does so inside itself and all-reduces the
accumulated shard over the groups once a step. References: Rajbhandari et al., "ZeRO" (2020),
sections 5 and 7; Zhang et al., "MiCS" (2022), on two-hop gradient synchronisation.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cost.collective import Group, Network

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


class Groups(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of the groups of many meshes, each an integer column of shape (n, 1).

    ``whole`` ranks hold the same dense parameters, ``tp`` apart, and shard them over ``shards``;
    the same for experts, ``ep`` apart.
    """

    tp: Ints
    ep: Ints
    whole: Ints
    shards: Ints
    expert_whole: Ints
    expert_shards: Ints

    @staticmethod
    def of(*, dp: Ints, cp: Ints, tp: Ints, ep: Ints, shard_group: Ints) -> Groups:
        """The groups of meshes given as arrays of shape (n,); a shard group of 0 means all."""
        whole = dp * cp
        shards = np.where(shard_group > 0, shard_group, whole)
        experts = np.maximum(1, tp * whole // ep)
        # The part of a shard group that holds the same experts; a whole number make the group.
        expert_shards = np.gcd(experts, np.maximum(1, experts * shards // whole))
        return Groups(
            tp=tp[:, None],
            ep=ep[:, None],
            whole=whole[:, None],
            shards=shards[:, None],
            expert_whole=experts[:, None],
            expert_shards=expert_shards[:, None],
        )


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """How replicas talk: bytes per parameter sent and the share of compute that hides it."""

    network: Network
    weight_bytes: Array | float
    gradient_bytes: Array | float
    overlap: Array | float

    def times(
        self,
        groups: Groups,
        zero_stage: Array,
        parameters: tuple[Array, Array],
        trained: tuple[Array, Array],
        forward_s: Array,
        backward_s: Array,
    ) -> tuple[Array, Array, Array, Array]:
        """Seconds of reduction and of gathering a step, then of what each pass grows by.

        Parameters
        ----------
        zero_stage : ndarray of float64, shape (n, 1)
        parameters, trained : pair of ndarray of float64, shape (n, types)
            Dense and expert parameters on one device, and those that have gradients.
        forward_s, backward_s : ndarray of float64, shape (n, types)
            The passes of one micro-batch, which hide the traffic of stages 2 and 3.

        Returns
        -------
        tuple of four ndarrays of float64, shape (n, types)
            Reduction and gathering once a step (hidden or not: the pipeline decides), and the
            visible part of what runs with every forward and every backward.
        """
        scatter, outer, gather, everything = (np.zeros_like(parameters[0]) for _ in range(4))
        sharing = (
            (groups.whole, groups.shards, groups.tp),
            (groups.expert_whole, groups.expert_shards, groups.ep),
        )
        for every, own, (whole, shards, stride) in zip(parameters, trained, sharing, strict=True):
            gradients = own * self.gradient_bytes
            weights = np.where(zero_stage >= 3, every, own) * self.weight_bytes
            inner = Group(self.network, shards, stride)
            scatter += inner.gather_s(gradients)
            gather += inner.gather_s(weights)
            apart = Group(self.network, whole // shards, stride * shards)
            outer += apart.all_reduce_s(gradients / shards)
            everything += Group(self.network, whole, stride).all_reduce_s(gradients)
        once = np.where(zero_stage == 1, scatter + outer, outer)
        reduce = np.where(zero_stage == 0, everything, once)
        collect = np.where((zero_stage == 1) | (zero_stage == 2), gather, 0.0)
        each = np.where(zero_stage >= 3, gather + scatter, scatter)
        seen_f = np.maximum(0.0, gather - self.overlap * forward_s)
        seen_b = np.maximum(0.0, each - self.overlap * backward_s)
        more_f = np.where(zero_stage >= 3, seen_f, 0.0)
        more_b = np.where(zero_stage >= 2, seen_b, 0.0)
        return reduce, collect, more_f, more_b


def column(figure: Array | float) -> Array | float:
    """An array of one entry a mesh as a column; a number as it is."""
    return np.reshape(figure, (-1, 1)) if isinstance(figure, np.ndarray) else figure
