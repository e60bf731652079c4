"""The problem of a mixed cluster for one micro-batch size, with its definition in plain code.

Formulation
-----------
Sets: node groups g with ``available[g]`` devices (equal nodes of one zone); kinds k of stage (a
group, tp, sequence parallelism, cp, dp and ep inside the stage, ``devices[k]`` = tp * cp * dp);
layers 1..L between embedding and head; M micro-batches of the global batch.

Decisions: the number of replicas R <= M. For each replica r its *blocks*, one for each group it
uses, in any order: a kind and a number of equal stages; at most ``MOST_BLOCKS`` blocks and
``MOST_STAGES`` stages. The cut of
the layers into its p_r stages (each holds a layer, the first and the last may hold none); for each
stage how many of its first layers are recomputed whole and how many after them in their attention
core; and its share m_r >= 1 of the micro-batches.

    minimise   J = max_r ( S_r + (m_r - 1) beta_r + theta_r ) + fixed            :meth:`evaluate`
    S_r      = sum_i tau_i + 2 sum_i link_i         first micro-batch, forward and backward
    beta_r   = max_i tau_i                          the slowest stage
    theta_r  = max_i tail_i                         gradients, optimizer, weights after the last one
    tau_i    = forward_i + backward_i + recomputed_i                             :meth:`stage`
    subject to
    sum_r m_r = M,    sum_r devices of g in r <= available[g]
    state_i + (p_r - i) held_i + scratch_i + logits_i <= capacity of the kind    i = 0..p_r - 1

S + (m - 1) beta is the closed form of 1F1B: an upper estimate of its event time where forward and
backward have one ratio on all stages, and exact where the slowest stage is the last one. A stage
keeps p_r - i micro-batches, what 1F1B holds with enough of them. Replicas shard the optimizer over
z(R) of them (:func:`shards`) and exchange gradients and weights in rings over the slowest link
among the groups used (:meth:`exchange_link`); inside a stage dp shards and exchanges as ZeRO-1.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cost.meshes import LAYER_FIELDS
from optalloc.training.strategy import Recompute

Array = NDArray[np.float64]
Ints = NDArray[np.int32]

MOST_STAGES = 16
MOST_BLOCKS = 4
MOST_GROUPS = 8
_EXACT_RINGS = 8

# Columns of MixedProblem.layers are LAYER_FIELDS, as the native search reads them.
STATE, REDUCE, GATHER, UPDATE = (
    LAYER_FIELDS.index(name) for name in ("state_bytes", "reduce_s", "gather_s", "update_s")
)


# Arrays of MixedProblem with one entry a kind.
BY_KIND = (
    "group",
    "devices",
    "layers",
    "optimizer_bytes",
    "gradient_bytes",
    "weight_bytes",
    "capacity_bytes",
    "logits_bytes",
    "sent_bytes",
    "tied_bytes",
)


class Wire(msgspec.Struct, frozen=True):
    """A link as it can be used: latency in seconds, bytes per second of one device."""

    latency_s: float
    bandwidth_bytes_per_s: float

    def slower(self, other: Wire) -> Wire:
        """What a path over both is worth."""
        return Wire(
            max(self.latency_s, other.latency_s),
            min(self.bandwidth_bytes_per_s, other.bandwidth_bytes_per_s),
        )


class Stage(msgspec.Struct, frozen=True):
    """One stage of a replica: its kind, how many layers it holds and recomputes."""

    kind: int
    num_layers: int
    recompute: Recompute = Recompute()


class Replica(msgspec.Struct, frozen=True):
    """One pipeline and its share of the micro-batches."""

    num_microbatches: int
    stages: tuple[Stage, ...]


class StageCost(msgspec.Struct, frozen=True):
    """Seconds of one micro-batch, seconds behind the last one, bytes on one device."""

    forward_s: float
    backward_s: float
    tail_s: float
    parts_s: tuple[float, float, float, float]
    """Of the tail: visible reduction, tied embedding, update, visible gathering."""
    link_s: float
    state_bytes: float
    held_bytes: float
    scratch_bytes: float
    logits_bytes: float
    capacity_bytes: float

    @property
    def tau_s(self) -> float:
        return self.forward_s + self.backward_s

    @property
    def total_bytes(self) -> float:
        return self.state_bytes + self.held_bytes + self.scratch_bytes + self.logits_bytes

    @property
    def fits(self) -> bool:
        return self.total_bytes <= self.capacity_bytes


def shards(replicas: int) -> int:
    """Replicas that share one optimizer state: all up to 8, else a power of two of them."""
    return replicas if replicas <= _EXACT_RINGS else 1 << (replicas.bit_length() - 1)


def rings(replicas: int) -> tuple[int, int]:
    """The smallest and the largest number of replicas that cost the same as this one."""
    if replicas <= _EXACT_RINGS:
        return replicas, replicas
    low = shards(replicas)
    return max(low, _EXACT_RINGS + 1), 2 * low - 1


class MixedProblem(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a solver needs for one micro-batch size.

    Parameters
    ----------
    available, domain : tuple of int, by group
        Devices, and devices that the innermost link joins.
    group, devices : ndarray of int32, shape (kinds,)
    layers : ndarray of float64, shape (kinds, types + 1, 14)
        LAYER_FIELDS of the embedding, each layer type, the head, and the head of a replica of one
        stage;
        ``backward_s`` is the whole backward, ``state_bytes`` is without the optimizer, ``update_s``
        with the whole optimizer of a stage.
    optimizer_bytes, gradient_bytes, weight_bytes : ndarray of float64, shape (kinds, types + 1)
        Optimizer state of a device, and what it exchanges with other replicas, before they share.
    capacity_bytes, logits_bytes, sent_bytes, tied_bytes : ndarray of float64, shape (kinds,)
        ``sent_bytes``: of one micro-batch over a boundary, by each device.
    near, far, network : tuple of Wire, by group
        Inside a domain, across the group, and to other groups.
    zone : tuple of int, by group
    zone_wire : Wire or None
    sequence : ndarray of int32, shape (layers,); boundary : ndarray of float64, shape (layers + 1,)
    overlap : float
        Share of one micro-batch's passes that hides the exchange.
    fixed_s : tuple of float, by group
    num_microbatches, micro_batch : int
    """

    available: tuple[int, ...]
    domain: tuple[int, ...]
    group: Ints
    devices: Ints
    layers: Array
    optimizer_bytes: Array
    gradient_bytes: Array
    weight_bytes: Array
    capacity_bytes: Array
    logits_bytes: Array
    sent_bytes: Array
    tied_bytes: Array
    near: tuple[Wire, ...]
    far: tuple[Wire, ...]
    network: tuple[Wire, ...]
    zone: tuple[int, ...]
    zone_wire: Wire | None
    sequence: Ints
    boundary: Array
    overlap: float
    fixed_s: tuple[float, ...]
    num_microbatches: int
    micro_batch: int
    most_stages: int = MOST_STAGES
    most_blocks: int = MOST_BLOCKS

    @property
    def num_layers(self) -> int:
        return len(self.sequence)

    @property
    def num_kinds(self) -> int:
        return len(self.group)

    # -- links -----------------------------------------------------------------------------------

    def wire(self, a: int, b: int) -> Wire:
        """Between two groups."""
        wire = self.network[a].slower(self.network[b])
        if self.zone[a] != self.zone[b] and self.zone_wire is not None:
            wire = wire.slower(self.zone_wire)
        return wire

    def exchange_link(self, groups: Sequence[int]) -> Wire:
        """What replicas on these groups exchange gradients over: the slowest among them."""
        wires = [self.far[g] for g in groups]
        wires += [self.wire(a, b) for a in groups for b in groups if a < b]
        slowest = wires[0]
        for wire in wires[1:]:
            slowest = slowest.slower(wire)
        return slowest

    def is_near(self, kind: int, stages: int) -> bool:
        """Whether a block of equal stages fills an aligned part of one domain."""
        size, domain = int(self.devices[kind]) * stages, self.domain[self.group[kind]]
        return size == domain or (domain % size == 0 and size & (size - 1) == 0)

    def link_s(self, stages: Sequence[Stage], i: int, layers_done: int) -> float:
        """From stage i to the next, one way, for one micro-batch."""
        here, there = stages[i].kind, stages[i + 1].kind
        a, b = int(self.group[here]), int(self.group[there])
        if a != b:
            wire = self.wire(a, b)
        elif here != there:
            wire = self.far[a]
        else:
            first, last = i, i + 1
            while first > 0 and stages[first - 1].kind == here:
                first -= 1
            while last + 1 < len(stages) and stages[last + 1].kind == here:
                last += 1
            wire = self.near[a] if self.is_near(here, last - first + 1) else self.far[a]
        sent = max(self.sent_bytes[here], self.sent_bytes[there]) * self.boundary[layers_done]
        return float(wire.latency_s + sent / wire.bandwidth_bytes_per_s)

    # -- the definition --------------------------------------------------------------------------

    def stage(self, stages: Sequence[Stage], i: int, replicas: int, exchange: Wire) -> StageCost:
        """Cost of stage i of a pipeline in a plan of so many replicas."""
        this, count = stages[i], len(stages)
        begin = sum(s.num_layers for s in stages[:i])
        types = [int(t) for t in self.sequence[begin : begin + this.num_layers]]
        head = self.layers.shape[1] - 2 + (count == 1)
        ends = [0] * (i == 0) + [head] * (i == count - 1)
        rows = types + ends
        cost = {name: self.layers[this.kind, :, j] for j, name in enumerate(LAYER_FIELDS)}
        full = types[: this.recompute.full]
        core = types[this.recompute.full : this.recompute.full + this.recompute.selective]
        stored = types[this.recompute.full + this.recompute.selective :]

        def total(values: Array, of: Sequence[int]) -> float:
            return float(sum(values[t] for t in of))

        forward = total(cost["forward_s"], rows)
        plain = total(cost["backward_s"], rows)
        again = total(cost["extra_full_s"], full) + total(cost["extra_selective_s"], core)
        held = total(cost["held_full_bytes"], full) + total(cost["held_selective_bytes"], core)
        held += total(cost["held_bytes"], stored + ends)
        scratch = [0.0, *(float(cost["scratch_full_bytes"][t]) for t in full)]
        scratch += [float(cost["scratch_selective_bytes"][t]) for t in core]
        share, hops = self.ring(replicas)
        rate = exchange.bandwidth_bytes_per_s
        latency = hops * exchange.latency_s
        reduce = total(cost["reduce_s"], rows) + latency
        reduce += share * total(self.gradient_bytes[this.kind], rows) / rate
        gather = total(cost["gather_s"], rows) + latency
        gather += share * total(self.weight_bytes[this.kind], rows) / rate
        tied = 0.0
        if count > 1 and i in (0, count - 1) and self.tied_bytes[this.kind] > 0:
            tied = 2.0 * exchange.latency_s + float(self.tied_bytes[this.kind]) / rate
        z = shards(replicas)
        parts = (
            max(0.0, reduce - self.overlap * plain),
            tied,
            total(cost["update_s"], rows) / z,
            max(0.0, gather - self.overlap * forward),
        )
        state = total(cost["state_bytes"], rows)
        state += total(self.optimizer_bytes[this.kind], rows) / z
        return StageCost(
            forward_s=forward,
            backward_s=plain + again,
            tail_s=sum(parts),
            parts_s=parts,
            link_s=0.0 if i + 1 == count else self.link_s(stages, i, begin + this.num_layers),
            state_bytes=state,
            held_bytes=(count - i) * held,
            scratch_bytes=max(scratch),
            logits_bytes=float(self.logits_bytes[this.kind]) if i + 1 == count else 0.0,
            capacity_bytes=float(self.capacity_bytes[this.kind]),
        )

    def ring(self, replicas: int) -> tuple[float, int]:
        """Share of the bytes that a ring over the replicas moves each way, and its hops."""
        most = rings(replicas)[1]
        return (most - 1) / most, most - 1

    def groups_of(self, replicas: Sequence[Replica]) -> list[int]:
        """The groups that replicas use."""
        return sorted({int(self.group[s.kind]) for r in replicas for s in r.stages})

    def costs(self, replicas: Sequence[Replica]) -> list[list[StageCost]]:
        """Every stage of every replica."""
        exchange, count = self.exchange_link(self.groups_of(replicas)), len(replicas)
        return [
            [self.stage(r.stages, i, count, exchange) for i in range(len(r.stages))]
            for r in replicas
        ]

    def evaluate(self, replicas: Sequence[Replica]) -> float:
        """J, seconds; infinite where a stage does not fit.

        Complexity: O(stages * layers).
        """
        worst = 0.0
        for replica, stages in zip(replicas, self.costs(replicas), strict=True):
            if not all(s.fits for s in stages):
                return float("inf")
            worst = max(worst, replica_s(stages, replica.num_microbatches))
        return worst + max(self.fixed_s[g] for g in self.groups_of(replicas))


def replica_s(stages: Sequence[StageCost], num_microbatches: int) -> float:
    """S + (m - 1) beta + theta of one replica, seconds."""
    first = sum(s.tau_s for s in stages) + 2.0 * sum(s.link_s for s in stages)
    slowest = max(s.tau_s for s in stages)
    return first + (num_microbatches - 1) * slowest + max(s.tail_s for s in stages)
