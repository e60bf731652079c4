"""check_mixed_plan: does a mixed plan say the truth about itself?

From the plan alone it builds the cost models anew, sums every stage layer by layer in its own way,
and compares rules, layout, memory, times and the certificate. It shares no code with the search,
the problem and the estimate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from optalloc import files
from optalloc.cluster.topology import Cluster
from optalloc.cost.compute import peak_flops_per_s
from optalloc.cost.meshes import Meshes, MeshTables
from optalloc.cost.model import CostModel
from optalloc.errors import CertificateError
from optalloc.training.mixed.plan import MixedPlan, MixedReplica, MixedStage

TOLERANCE = 1e-9
_ROUNDED_BYTES = 16
_Rate = tuple[float, float]
"""Latency in seconds, bytes per second."""


def check_mixed_plan(plan: MixedPlan) -> None:
    """Check everything a mixed plan claims, but for the proof that nothing better exists: that is
    :func:`~optalloc.training.mixed.prove.bound.prove_mixed_bound`.

    Raises
    ------
    CertificateError
        Naming what differs, with the claimed and the true value.

    Complexity: O(stages * layers).
    """
    book = _Book(plan)
    for broken in (*_broken_rules(plan, book), *_broken_devices(plan)):
        raise CertificateError(f"the plan is not valid: {broken}")
    times = []
    for replica in plan.replicas:
        name = f"replica {replica.index}"
        taus, tails, links = [], [], []
        for stage in replica.stages:
            figures = book.stage(replica, stage)
            _check_stage(f"{name}, stage {stage.index}", stage, figures, plan)
            taus.append(figures["forward"] + figures["backward"])
            tails.append(figures["tail"])
            links.append(figures["link"])
        first = math.fsum(taus) + 2.0 * math.fsum(links)
        _same(f"the first micro-batch of {name}", replica.first_s, first)
        _same(f"the slowest stage of {name}", replica.slowest_s, max(taus))
        _same(f"the tail of {name}", replica.tail_s, max(tails))
        times.append(first + (replica.num_microbatches - 1) * max(taus) + max(tails))
        _same(f"the time of {name}", replica.time_s, times[-1])
    step_s = max(times) + max(book.fixed_s(g) for g in book.used)
    _same("the step time", plan.step_time_s, step_s)
    _same("the sum of the breakdown", math.fsum(plan.breakdown_s.values()), step_s)
    _check_rates(plan, book, step_s)
    _check_certificate(plan, step_s)


def _same(what: str, claimed: float, true: float) -> None:
    if not abs(claimed - true) <= TOLERANCE * max(abs(claimed), abs(true), 1e-12):
        raise CertificateError(f"{what} is {true!r}, the plan says {claimed!r}")


class _Book:
    """The cost models of the groups, and the cost of a stage by its definition."""

    def __init__(self, plan: MixedPlan) -> None:
        self.plan = plan
        self.models = [
            CostModel(
                plan.model, Cluster(name="group", nodes=(g,)), plan.workload, name=plan.cost_model
            )
            for g in plan.cluster.nodes
        ]
        self.used = sorted({s.group for r in plan.replicas for s in r.stages})
        self.ring = len(plan.replicas)
        self.shards = self.ring if self.ring <= 8 else 2 ** int(math.log2(self.ring))
        self.most = self.ring if self.ring <= 8 else 2 * self.shards - 1

    def tables(self, stage: MixedStage, pp: int) -> tuple[MeshTables, dict[str, np.ndarray]]:
        values = {
            "tp": stage.tp,
            "sequence": int(stage.sequence_parallel),
            "cp": stage.cp,
            "pp": pp,
            "dp": stage.dp,
            "ep": stage.ep,
            "micro_batch": self.plan.micro_batch // stage.dp,
            "zero_stage": 1,
            "shard_group": 0,
            "virtual_stages": 1,
            "schedule": 1,
            "recompute_rule": 0,
        }
        mesh = Meshes(**{name: np.array([value], np.int64) for name, value in values.items()})
        model = self.models[stage.group]
        return model.tables(mesh), model.state_bytes(mesh)

    def fixed_s(self, group: int) -> float:
        stage = next(s for r in self.plan.replicas for s in r.stages if s.group == group)
        return float(self.tables(stage, 2)[0].real("fixed_s")[0])

    def between(self, a: int, b: int) -> _Rate:
        """Two groups: the slower network, and the link of the zones where they differ."""
        nodes, shares = (
            self.plan.cluster.nodes,
            [m.constants.network_efficiency for m in self.models],
        )
        latency = max(nodes[a].network.latency_s, nodes[b].network.latency_s)
        rate = min(nodes[g].network.shared_bandwidth_bytes_per_s * shares[g] for g in (a, b))
        link = self.plan.cluster.zone_link
        if nodes[a].zone != nodes[b].zone and link is not None:
            latency = max(latency, link.latency_s)
            rate = min(rate, link.shared_bandwidth_bytes_per_s * min(shares))
        return latency, rate

    def inside(self, group: int, near: bool) -> _Rate:
        level = self.models[group].network.levels[0 if near else -1]
        return level.latency_s, level.bandwidth_bytes_per_s

    def exchange(self) -> _Rate:
        """The slowest link among the groups that the plan uses."""
        found = [self.inside(g, near=False) for g in self.used]
        found += [self.between(a, b) for a in self.used for b in self.used if a < b]
        return max(latency for latency, _ in found), min(rate for _, rate in found)

    def sent(self, stage: MixedStage) -> float:
        work = self.plan.workload
        values = 4.0 if work.dtype == "fp32" else 2.0
        tokens = self.plan.micro_batch * work.sequence_length / (stage.dp * stage.cp)
        copies = stage.tp if stage.sequence_parallel else 1
        return values * tokens * self.plan.model.hidden / copies

    def link(self, replica: MixedReplica, stage: MixedStage) -> float:
        """One micro-batch to the next stage."""
        if stage.index + 1 == len(replica.stages):
            return 0.0
        other = replica.stages[stage.index + 1]
        if stage.group != other.group:
            latency, rate = self.between(stage.group, other.group)
        else:
            block = 1
            for step in (-1, 1):
                at = stage.index + step
                while 0 <= at < len(replica.stages) and _kind(replica.stages[at]) == _kind(stage):
                    block, at = block + 1, at + step
            size = block * stage.num_devices
            domain = self.models[stage.group].network.levels[0].num_devices
            aligned = size == domain or (domain % size == 0 and size.bit_count() == 1)
            near = _kind(stage) == _kind(other) and aligned
            latency, rate = self.inside(stage.group, near)
        end = stage.first_layer + stage.num_layers
        crossing = float(self.models[0].boundary[end])
        return latency + crossing * max(self.sent(stage), self.sent(other)) / rate

    def stage(self, replica: MixedReplica, stage: MixedStage) -> dict[str, float]:
        """Seconds and bytes of one stage."""
        count = len(replica.stages)
        tables, bytes_ = self.tables(stage, 1 if count == 1 else 2)
        model = self.models[stage.group]
        field = {name: tables.field(name)[0].tolist() for name in _TIMES + _BYTES}
        begin, size = stage.first_layer, stage.num_layers
        types = model.sequence[begin : begin + size].tolist()
        ends = ([0] if stage.embedding else []) + (
            [len(field["forward_s"]) - 1] if stage.head else []
        )
        full, core = stage.recompute.full, stage.recompute.full + stage.recompute.selective
        latency, rate = self.exchange()
        share = (self.most - 1) / self.most
        forward = backward = plain = held = states = owned = reduce = gather = update = 0.0
        scratch = 0.0
        for place, kind in [*enumerate(types), *((None, e) for e in ends)]:
            forward += field["forward_s"][kind]
            plain += field["backward_s"][kind] + field["weight_s"][kind]
            states += float(bytes_["weights"][0][kind] + bytes_["gradients"][0][kind])
            optimizer = float(bytes_["optimizer"][0][kind])
            states += optimizer / self.shards
            owned += optimizer / model.states.optimizer
            reduce += field["reduce_s"][kind]
            gather += field["gather_s"][kind]
            update += field["update_s"][kind]
            rule = "held_bytes"
            if place is not None and place < full:
                backward += field["extra_full_s"][kind]
                rule = "held_full_bytes"
                scratch = max(scratch, field["scratch_full_bytes"][kind])
            elif place is not None and place < core:
                backward += field["extra_selective_s"][kind]
                rule = "held_selective_bytes"
                scratch = max(scratch, field["scratch_selective_bytes"][kind])
            held += field[rule][kind]
        hops = (self.most - 1) * latency
        reduce += share * owned * model.states.reduced / rate + hops
        value = 4.0 if self.plan.workload.dtype == "fp32" else 2.0
        gather += share * owned * value / rate + hops
        tail = max(0.0, reduce - model.constants.data_overlap * plain)
        tail += max(0.0, gather - model.constants.data_overlap * forward)
        tail += update / self.shards
        tied = model.graph.tied_parameters * model.states.reduced / stage.tp
        if count > 1 and stage.index in (0, count - 1) and tied > 0:
            tail += 2.0 * latency + tied / rate
        logits = float(tables.real("logits_bytes")[0]) if stage.head else 0.0
        room = model.device.memory_bytes - model.reserve_bytes
        buffers = room - float(tables.real("capacity_bytes")[0])
        total = (
            model.fragmentation * states + (count - stage.index) * held + scratch + logits + buffers
        )
        return {
            "forward": forward,
            "backward": plain + backward,
            "tail": tail,
            "link": self.link(replica, stage),
            "bytes": total,
            "room": room,
        }


_TIMES = (
    "forward_s",
    "backward_s",
    "weight_s",
    "extra_full_s",
    "extra_selective_s",
    "reduce_s",
    "gather_s",
    "update_s",
)
_BYTES = (
    "held_bytes",
    "held_full_bytes",
    "held_selective_bytes",
    "scratch_full_bytes",
    "scratch_selective_bytes",
)


def _kind(stage: MixedStage) -> tuple[int, ...]:
    return (
        stage.group,
        stage.tp,
        int(stage.sequence_parallel),
        stage.cp,
        stage.dp,
        stage.ep,
    )


def _check_stage(name: str, stage: MixedStage, figures: dict[str, float], plan: MixedPlan) -> None:
    _same(f"the forward of {name}", stage.forward_s, figures["forward"])
    _same(f"the backward of {name}", stage.backward_s, figures["backward"])
    _same(f"the tail of {name}", stage.tail_s, figures["tail"])
    _same(f"the link behind {name}", stage.link_s, figures["link"])
    total, needed = stage.memory_bytes["total"], figures["bytes"]
    if abs(total - needed) > _ROUNDED_BYTES + TOLERANCE * needed:
        raise CertificateError(f"{name} needs {needed:.0f} bytes, the plan says {total}")
    if sum(size for kind, size in stage.memory_bytes.items() if kind != "total") != total:
        raise CertificateError(f"the kinds of memory of {name} do not sum to {total}")
    device = plan.cluster.nodes[stage.group].device
    if stage.capacity_bytes != device.memory_bytes or stage.device != device.name:
        raise CertificateError(f"{name} is not on a {device.name} of {device.memory_bytes} bytes")
    room = figures["room"]
    if plan.certificate is not None and needed > room * (1.0 + 1e-12):
        raise CertificateError(f"{name} needs {needed:.0f} bytes of {room:.0f}")


def _broken_rules(plan: MixedPlan, book: _Book) -> Iterator[str]:
    """Rules that the replicas break."""
    if sum(r.num_microbatches for r in plan.replicas) != plan.num_microbatches:
        yield "the shares of the replicas do not sum to the micro-batches"
    if plan.micro_batch * plan.num_microbatches != plan.workload.global_batch:
        yield "micro_batch * num_microbatches is not the global batch"
    graph = book.models[0].graph
    ops = [op for layer in graph.layers for op in layer.ops]
    for replica in plan.replicas:
        if replica.num_microbatches < 1:
            yield f"replica {replica.index} has no micro-batch"
        done = 0
        for i, stage in enumerate(replica.stages):
            where = f"replica {replica.index}, stage {i}"
            inside = 0 < i < len(replica.stages) - 1
            if stage.index != i or stage.first_layer != done or (inside and not stage.num_layers):
                yield f"{where} does not follow the one before, or is empty"
            if stage.embedding != (i == 0) or stage.head != (i + 1 == len(replica.stages)):
                yield f"{where} has an end of the model out of place"
            done += stage.num_layers
            if min(stage.tp, stage.cp, stage.dp, stage.ep) < 1 or plan.micro_batch % stage.dp:
                yield f"{where} has degrees that do not divide"
                return
            if stage.num_devices != stage.tp * stage.cp * stage.dp or stage.num_devices % stage.ep:
                yield f"{where} has {stage.num_devices} devices"
            for op in ops:
                if op.kind == "attention" and op.shard == "tensor":
                    kv = op.kv_heads
                    if op.heads % stage.tp or (kv % stage.tp and stage.tp % kv):
                        yield f"{where}: tp {stage.tp} does not fit the heads"
                    unit = 2 * stage.cp if op.causal and stage.cp > 1 else stage.cp
                    if plan.workload.sequence_length % unit:
                        yield f"{where}: cp {stage.cp} does not fit the sequence"
                if op.kind == "gemm" and op.shard == "row" and op.k % stage.tp:
                    yield f"{where}: tp {stage.tp} does not divide the width {op.k}"
                if op.experts and op.experts % stage.ep:
                    yield f"{where}: ep {stage.ep} does not divide {op.experts} experts"
            if stage.sequence_parallel and (
                stage.tp == 1 or plan.workload.sequence_length % (stage.tp * stage.cp)
            ):
                yield f"{where}: sequence parallelism does not fit"
            if stage.ep > 1 and not any(op.experts for op in ops):
                yield f"{where}: ep {stage.ep} without experts"
            if any(op.experts for op in ops) and stage.tp > 1 and not stage.sequence_parallel:
                yield f"{where}: experts with tp > 1 and no sequence parallelism"
        if done != len(book.models[0].sequence):
            yield f"replica {replica.index} holds {done} layers"


def _broken_devices(plan: MixedPlan) -> Iterator[str]:
    """Device ranges that overlap, leave their group, or do not add up."""
    taken: set[int] = set()
    ends, start = [], 0
    for group in plan.cluster.nodes:
        ends.append((start, start + group.num_devices))
        start += group.num_devices
    for replica in plan.replicas:
        for stage in replica.stages:
            low, high = ends[stage.group]
            where = f"replica {replica.index}, stage {stage.index}"
            if not all(low <= first <= end <= high for first, end in stage.devices):
                yield f"{where} has devices of another group"
                return
            own = {d for first, end in stage.devices for d in range(first, end)}
            if len(own) != stage.num_devices or own & taken:
                yield f"{where} has devices twice or too few"
            taken |= own
    if plan.num_devices != len(taken) or plan.idle_devices != start - len(taken):
        yield f"it uses {len(taken)} of {start} devices"


def _check_rates(plan: MixedPlan, book: _Book, step_s: float) -> None:
    work = plan.workload
    length = work.sequence_length
    if book.models[0].graph.encoder_decoder:
        length += work.decoder_sequence_length or work.sequence_length
    _same("the token rate", plan.tokens_per_s, work.global_batch * length / step_s)
    stages = [s for r in plan.replicas for s in r.stages]
    peak = sum(
        s.num_devices * peak_flops_per_s(book.models[s.group].device, work.dtype) for s in stages
    )
    _same("the MFU", plan.mfu, book.models[0].model_flops_per_step / (step_s * peak))
    watts = sum(s.num_devices * book.models[s.group].watts_per_device for s in stages)
    _same("the energy", plan.energy_j_per_step, watts * step_s)
    prices = [(s.num_devices, book.models[s.group].usd_per_device_s) for s in stages]
    if any(usd is None for _, usd in prices) != (plan.price_usd_per_step is None):
        raise CertificateError("the plan has a price and a device none, or the reverse")
    if plan.price_usd_per_step is not None:
        total = sum(count * (usd or 0.0) for count, usd in prices)
        _same("the price", plan.price_usd_per_step, total * step_s)
    if plan.step_time_error is not None:
        errors = [book.models[g].error for g in book.used]
        least = max((e.error_90 for e in errors if e is not None), default=0.0)
        _same("the error to expect", plan.step_time_error, least)
    for name, value in (("model", plan.model), ("cluster", plan.cluster), ("workload", work)):
        if plan.digests.get(name, files.digest(value)) != files.digest(value):
            raise CertificateError(f"the digest of the {name} is not that of the plan's own")


def _check_certificate(plan: MixedPlan, step_s: float) -> None:
    """The value is the step time, and no bound lies above it."""
    certificate = plan.certificate
    if certificate is None:
        return
    if certificate.objective != "step_time":
        raise CertificateError(f"mixed plans have no objective {certificate.objective!r}")
    _same("the objective", certificate.value, step_s)
    if certificate.bound > certificate.value * (1.0 + TOLERANCE):
        raise CertificateError(
            f"the bound {certificate.bound!r} lies above the value {certificate.value!r}"
        )
