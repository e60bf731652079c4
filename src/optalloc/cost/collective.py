"""Time of collectives on the hierarchy of a cluster (alpha-beta model).

A group of ``size`` ranks that lie ``stride`` devices apart meets each level of the hierarchy with
some of its ranks: those that share a node talk over the node's links, the rest over the network,
one rail a device. Where groups do not divide a node, the one that is cut most counts: as many of
its ranks share a node as divide both.

References: Thakur, Rabenseifner, Gropp, "Optimization of Collective Communication Operations in
MPICH" (2005), sections 4 and 5 (ring, tree). Rings and trees over several nodes run as in NCCL:
one on every rail, so a node with g ranks of the group sends with g adapters at once.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cluster.topology import Cluster, Level
from optalloc.cost.constants import Constants

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


class Span(msgspec.Struct, frozen=True):
    """One level as a group sees it.

    ``ranks`` parties meet there, each made of ``joined`` ranks that met at the levels inside;
    bandwidth is that of one rank.
    """

    ranks: Array
    joined: Array
    bandwidth_bytes_per_s: float
    latency_s: float


class Network(msgspec.Struct, frozen=True):
    """Levels with the efficiencies applied, innermost first."""

    levels: tuple[Level, ...]

    is_free: bool = False

    def free(self) -> Network:
        """The same levels with links that take no time."""
        return Network(
            tuple(
                msgspec.structs.replace(level, bandwidth_bytes_per_s=math.inf, latency_s=0.0)
                for level in self.levels
            ),
            is_free=True,
        )

    def columns(self) -> Network:
        """For groups in columns: figures that are arrays of one entry a mesh as columns too."""
        if not isinstance(self.levels[0].bandwidth_bytes_per_s, np.ndarray):
            return self
        return Network(
            tuple(
                msgspec.structs.replace(
                    level,
                    num_devices=np.reshape(level.num_devices, (-1, 1)),
                    cuts_groups=np.reshape(level.cuts_groups, (-1, 1)),
                    bandwidth_bytes_per_s=np.reshape(level.bandwidth_bytes_per_s, (-1, 1)),
                    latency_s=np.reshape(level.latency_s, (-1, 1)),
                )
                for level in self.levels
            ),
            is_free=self.is_free,
        )

    def spans(self, size: Ints | int, stride: Ints | int) -> list[Span]:
        """How many ranks of groups of ``size`` ranks, ``stride`` apart, meet at each level."""
        size = np.asarray(size, dtype=np.int64)
        stride = np.asarray(stride, dtype=np.int64)
        spans, joined = [], np.ones(np.broadcast(size, stride).shape, dtype=np.float64)
        for index, level in enumerate(self.levels):
            if index == len(self.levels) - 1:
                reach = size.astype(np.float64)
            else:
                inside = np.asarray(level.num_devices)
                cut = np.where(level.cuts_groups, np.gcd(inside, size * stride), inside)
                reach = np.clip(cut // stride, 1, size).astype(np.float64)
            here = np.maximum(1.0, reach / joined)
            spans.append(Span(here, joined, level.bandwidth_bytes_per_s, level.latency_s))
            joined = joined * here
        return spans


def copies_through_host(link: str) -> bool:
    """Whether devices joined by a link of this kind exchange through the memory of the host.

    NVIDIA's driver gives no peer access over PCIe to GeForce and Titan cards ("pcie4-host"), but
    to those for servers and workstations ("pcie-4").
    """
    return link.endswith("-host")


def effective(cluster: Cluster, link: str, constants: Constants) -> tuple[Network, Level]:
    """The levels of a cluster at the bandwidth that collectives reach, and the outermost at that
    of one message between two devices.

    Devices whose ``link`` gives no access to each other copy through the host
    (:func:`copies_through_host`).
    """
    c, levels = constants, cluster.levels()
    inside = c.host_link_efficiency if copies_through_host(link) else c.node_link_efficiency

    def at(level: Level, between: float) -> Level:
        share = between if level.name == "network" else inside
        bandwidth = level.bandwidth_bytes_per_s * share
        return msgspec.structs.replace(level, bandwidth_bytes_per_s=bandwidth)

    network = Network(tuple(at(level, c.network_efficiency) for level in levels))
    return network, at(levels[-1], c.send_efficiency)


class Group:
    """Ranks that exchange one buffer in several ways, each of a time affine in its bytes.

    Parameters
    ----------
    size, stride : int or ndarray of int
        As many ranks, so many devices apart.
    """

    def __init__(self, network: Network, size: Ints | int, stride: Ints | int) -> None:
        self._spans = network.spans(size, stride)
        q = np.asarray(size, dtype=np.float64)
        # Seconds to begin, and seconds a byte of the whole buffer, on rings and level by level.
        self._ring_s, self._step_s = np.zeros(q.shape), np.zeros(q.shape)
        self._rail_byte_s = self._rail_s()
        self._ring_byte_s, self._step_byte_s = (q - 1) / q * self._rail_byte_s, np.zeros(q.shape)
        for span in self._spans:
            left = 1.0 - 1.0 / span.ranks
            self._ring_s = self._ring_s + q / span.joined * left * span.latency_s
            self._step_s = self._step_s + (span.ranks - 1) * span.latency_s
            each_s = left / span.joined / span.bandwidth_bytes_per_s
            self._step_byte_s = self._step_byte_s + each_s

    def _rail_s(self) -> Array | float:
        """Seconds a byte on a ring or tree that uses all rails; none for a group of one."""
        slowest: Array | float = 0.0
        for span in self._spans:
            each_s = 1.0 / (span.bandwidth_bytes_per_s * span.joined)
            slowest = np.maximum(slowest, np.where(span.ranks > 1, each_s, 0.0))
        return slowest

    def gather_s(self, full_bytes: Array) -> Array:
        """All-gather (or reduce-scatter) of a buffer of ``full_bytes`` in total, seconds.

        The better of two ways, q being the size of the group:

        - rings over all ranks, one a rail: ``(q-1)/q n / W``, W the least over the levels crossed
          of bandwidth times ranks joined inside, and the latency of q - 1 hops, each at its level;
        - level by level: ``(r-1) alpha + (r-1)/r (n/g) / W`` for r parties of g ranks, added up.
        """
        ring = self._ring_s + self._ring_byte_s * full_bytes
        faster: Array = np.minimum(ring, self._step_s + self._step_byte_s * full_bytes)
        return faster

    def all_reduce_s(self, full_bytes: Array) -> Array:
        """All-reduce, seconds: reduce-scatter then all-gather, or a tree where latency dominates.

        Tree: ``2 log2(r) alpha`` for the r parties of every level, ``+ 2 n/W`` with W as in a ring.
        """
        begun: Array | float = 0.0
        for span in self._spans:
            begun = begun + np.log2(span.ranks) * span.latency_s
        tree = begun + self._rail_byte_s * full_bytes
        faster: Array = 2.0 * np.minimum(self.gather_s(full_bytes), tree)
        return faster


def gather_s(network: Network, size: Ints | int, stride: Ints | int, full_bytes: Array) -> Array:
    """:meth:`Group.gather_s` of ranks that exchange nothing else."""
    return Group(network, size, stride).gather_s(full_bytes)


def all_reduce_s(
    network: Network, size: Ints | int, stride: Ints | int, full_bytes: Array
) -> Array:
    """:meth:`Group.all_reduce_s` of ranks that exchange nothing else."""
    return Group(network, size, stride).all_reduce_s(full_bytes)


def all_to_all_s(
    network: Network,
    size: Ints | int,
    stride: Ints | int,
    sent_bytes: Array,
    copies: Array | float = 1.0,
) -> Array:
    """All-to-all in which every rank sends ``sent_bytes`` in all, its own share included, seconds.

    Every level carries the share of the buffer that leaves the level inside it; the levels work at
    the same time, so the slowest one counts. Messages to one party travel together, so r parties
    cost r - 1 latencies. Where a value goes to ``copies`` ranks drawn at random, it crosses to a
    party beyond the innermost level once: to ``r (1 - (1 - 1/r)^copies)`` parties in the mean.
    """
    spans = network.spans(size, stride)
    q = np.asarray(size, dtype=np.float64)
    slowest = np.zeros(np.broadcast(q, sent_bytes).shape)
    latency = np.zeros_like(slowest)
    for index, span in enumerate(spans):
        leaving = span.joined * (span.ranks - 1) / q
        if index:
            parties = span.ranks * (1.0 - (1.0 - 1.0 / span.ranks) ** copies)
            leaving = leaving * np.minimum(1.0, parties / copies)
        slowest = np.maximum(slowest, leaving * sent_bytes / span.bandwidth_bytes_per_s)
        latency = latency + (span.ranks - 1) * span.latency_s
    return slowest + latency


def send_s(level: Level, sent_bytes: Array) -> Array:
    """One message between two devices that meet at ``level``, seconds."""
    return level.latency_s + sent_bytes / level.bandwidth_bytes_per_s
