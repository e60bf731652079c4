"""Time of collectives on the hierarchy of a cluster (alpha-beta model).

A group of ``size`` ranks that lie ``stride`` devices apart meets each level of the hierarchy with some of
its ranks: those that share a node talk over the node's links, the rest over the network, one rail a device.
References: Thakur, Rabenseifner, Gropp, "Optimization of Collective Communication Operations in MPICH"
(2005), sections 4 and 5 (ring, tree); hierarchical variants as in NCCL.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cluster.topology import Level

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


class Span(msgspec.Struct, frozen=True):
    """One level as a group sees it: ranks that meet there, bandwidth and latency (arrays or numbers)."""

    ranks: Array
    bandwidth_bytes_per_s: float
    latency_s: float


class Network(msgspec.Struct, frozen=True):
    """Levels with the efficiencies applied, innermost first."""

    levels: tuple[Level, ...]

    def spans(self, size: Ints | int, stride: Ints | int) -> list[Span]:
        """How many ranks of groups of ``size`` ranks, ``stride`` apart, meet at each level."""
        size = np.asarray(size, dtype=np.int64)
        stride = np.asarray(stride, dtype=np.int64)
        spans, joined = [], np.ones(np.broadcast(size, stride).shape, dtype=np.float64)
        for index, level in enumerate(self.levels):
            if index == len(self.levels) - 1:
                reach = size.astype(np.float64)
            else:
                reach = np.clip(level.num_devices // stride, 1, size).astype(np.float64)
            here = np.maximum(1.0, reach / joined)
            spans.append(Span(here, level.bandwidth_bytes_per_s, level.latency_s))
            joined = joined * here
        return spans


def gather_s(network: Network, size: Ints | int, stride: Ints | int, full_bytes: Array) -> Array:
    """All-gather (or reduce-scatter) of a buffer of ``full_bytes`` in total, seconds.

    The better of one ring over all ranks, ``(q-1) alpha + (q-1)/q n/W`` at the slowest level crossed, and
    level by level: the outer levels move ``n/g`` per rank, g ranks having been joined inside.
    """
    spans = network.spans(size, stride)
    ring = _ring(spans, size, full_bytes)
    joined = np.ones_like(np.asarray(full_bytes, dtype=np.float64))
    stepped = np.zeros_like(joined)
    for span in spans:
        q = span.ranks
        share = full_bytes / joined
        stepped = stepped + (q - 1) * span.latency_s + (q - 1) / q * share / span.bandwidth_bytes_per_s
        joined = joined * q
    return np.minimum(ring, stepped)


def _ring(spans: list[Span], size: Ints | int, full_bytes: Array) -> Array:
    q = np.asarray(size, dtype=np.float64)
    slowest = np.full(np.broadcast(q, full_bytes).shape, np.inf)
    latency = np.zeros_like(slowest)
    for span in spans:
        crossed = span.ranks > 1
        slowest = np.where(crossed, np.minimum(slowest, span.bandwidth_bytes_per_s), slowest)
        latency = np.where(crossed, np.maximum(latency, span.latency_s), latency)
    return (q - 1) * latency + (q - 1) / q * full_bytes / slowest


def all_reduce_s(network: Network, size: Ints | int, stride: Ints | int, full_bytes: Array) -> Array:
    """All-reduce, seconds: reduce-scatter then all-gather, or a tree where latency dominates.

    Tree: ``2 log2(q) alpha + 2 n/W`` at the slowest level crossed.
    """
    spans = network.spans(size, stride)
    q = np.asarray(size, dtype=np.float64)
    tree = np.zeros(np.broadcast(q, full_bytes).shape)
    slowest = np.full(tree.shape, np.inf)
    for span in spans:
        tree = tree + 2 * np.log2(span.ranks) * span.latency_s
        slowest = np.where(
            span.ranks > 1, np.minimum(slowest, span.bandwidth_bytes_per_s), slowest
        )
    tree = tree + 2 * full_bytes / slowest
    return np.minimum(2 * gather_s(network, size, stride, full_bytes), tree)


def all_to_all_s(network: Network, size: Ints | int, stride: Ints | int, sent_bytes: Array) -> Array:
    """All-to-all in which every rank sends ``sent_bytes`` in all, seconds.

    Every level carries the share of the buffer that leaves the level inside it; the levels work at the same
    time, so the slowest one counts, and latencies of all peers add up.
    """
    spans = network.spans(size, stride)
    q = np.asarray(size, dtype=np.float64)
    slowest = np.zeros(np.broadcast(q, sent_bytes).shape)
    latency = np.zeros_like(slowest)
    inside = np.ones_like(slowest)
    for span in spans:
        reached = inside * span.ranks
        leaving = (reached - inside) / q
        slowest = np.maximum(slowest, leaving * sent_bytes / span.bandwidth_bytes_per_s)
        latency = latency + (span.ranks - 1) * span.latency_s
        inside = reached
    return slowest + latency


def send_s(level: Level, sent_bytes: Array) -> Array:
    """One message between two devices that meet at ``level``, seconds."""
    return level.latency_s + sent_bytes / level.bandwidth_bytes_per_s
