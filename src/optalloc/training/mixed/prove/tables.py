"""The problem of a mixed plan as the prover builds it: kinds of stage from the rules, and costs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, cast

import numpy as np

from optalloc.cluster.topology import Cluster
from optalloc.cost.meshes import LAYER_FIELDS, Meshes
from optalloc.cost.model import CostModel
from optalloc.training.mixed.plan import MixedPlan
from optalloc.training.mixed.problem import MixedProblem, Wire
from optalloc.training.mixed.proof import MixedProof

_Kind = tuple[int, int, int, int, int]
"""tp, sequence parallelism, cp, dp, ep."""


class Tables:
    """Costs of stages on the groups of a plan's cluster, under the limits of its proof."""

    def __init__(self, plan: MixedPlan, proof: MixedProof) -> None:
        self.plan, self.proof = plan, proof
        self.models = [
            CostModel(
                plan.model, Cluster(name="group", nodes=(g,)), plan.workload, name=plan.cost_model
            )
            for g in plan.cluster.nodes
        ]

    def micro_batches(self) -> list[int]:
        """Every size that divides the global batch and is allowed."""
        batch = self.plan.workload.global_batch
        return [b for b in _divisors(batch) if self._allows("micro_batch", b)]

    def _allows(self, name: str, value: int) -> bool:
        pinned = self.proof.pin.get(name)
        return (pinned is None or value in pinned) and value not in self.proof.forbid.get(name, ())

    def kinds(self, group: int, micro_batch: int) -> Iterator[_Kind]:
        """All ways to run a stage on a group."""
        model, work = self.models[group], self.plan.workload
        total = self.plan.cluster.nodes[group].num_devices
        domain = model.network.levels[0].num_devices
        ops = [op for layer in model.graph.layers for op in layer.ops]
        attention = [op for op in ops if op.kind == "attention" and op.shard == "tensor"]
        widths = [op.k for op in ops if op.kind == "gemm" and op.shard == "row"]
        experts = math.gcd(*(op.experts for op in ops if op.experts))
        lengths = [work.sequence_length]
        if model.graph.encoder_decoder and work.decoder_sequence_length:
            lengths.append(work.decoder_sequence_length)
        length = math.gcd(*lengths)
        unit = 2 if any(op.causal for op in attention) else 1
        powers = [2**k for k in range(total.bit_length())]
        for tp, cp, dp in itertools.product(powers, powers, _divisors(micro_batch)):
            size = tp * cp * dp
            fits = size <= total and domain % tp == 0
            fits = fits and all(op.heads % tp == 0 for op in attention)
            fits = fits and all(op.kv_heads % tp == 0 or tp % op.kv_heads == 0 for op in attention)
            fits = fits and all(width % tp == 0 for width in widths)
            fits = fits and (tp == 1 or bool(attention))
            fits = fits and (cp == 1 or length % (unit * cp) == 0)
            degrees = (("tp", tp), ("cp", cp), ("dp", dp))
            if not fits or not all(self._allows(*degree) for degree in degrees):
                continue
            parallel = [0] if tp == 1 or not experts else []
            if tp > 1 and all(n % (tp * cp) == 0 for n in lengths):
                parallel.append(1)
            for sequence in parallel:
                for ep in _divisors(experts) if experts else [1]:
                    allowed = self._allows("sequence_parallel", sequence)
                    if size % ep == 0 and allowed and self._allows("ep", ep):
                        yield tp, sequence, cp, dp, ep

    def problem(self, micro_batch: int) -> MixedProblem | None:
        """All kinds of all groups for one micro-batch size; None if there is none."""
        parts = []
        for group in range(len(self.models)):
            kinds = list(self.kinds(group, micro_batch))
            if kinds:
                parts.append(self._group(group, kinds, micro_batch))
        if not parts:
            return None
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        nodes, models, first = self.plan.cluster.nodes, self.models, self.models[0]
        network = [
            Wire(
                g.network.latency_s,
                g.network.shared_bandwidth_bytes_per_s * m.constants.network_efficiency,
            )
            for g, m in zip(nodes, models, strict=True)
        ]
        zone_wire, link = None, self.plan.cluster.zone_link
        if link is not None:
            share = min(m.constants.network_efficiency for m in models)
            zone_wire = Wire(link.latency_s, link.shared_bandwidth_bytes_per_s * share)
        ends = [[m.network.levels[at] for m in models] for at in (0, -1)]
        near, far = (
            tuple(Wire(level.latency_s, level.bandwidth_bytes_per_s) for level in levels)
            for levels in ends
        )
        zones = {zone: k for k, zone in enumerate(dict.fromkeys(g.zone for g in nodes))}
        return MixedProblem(
            **cast(Any, columns),
            available=tuple(g.num_devices for g in nodes),
            domain=tuple(level.num_devices for level in ends[0]),
            near=near,
            far=far,
            network=tuple(network),
            zone=tuple(zones[g.zone] for g in nodes),
            zone_wire=zone_wire,
            sequence=first.sequence,
            boundary=first.boundary,
            overlap=first.constants.data_overlap,
            fixed_s=tuple(self._fixed_s(g) for g in range(len(models))),
            num_microbatches=self.plan.workload.global_batch // micro_batch,
            micro_batch=micro_batch,
        )

    def _meshes(self, kinds: list[_Kind], micro_batch: int, pp: int) -> Meshes:
        table = np.array(kinds, np.int64)
        columns = dict(zip(("tp", "sequence", "cp", "dp", "ep"), table.T, strict=True))
        rest = {
            "pp": pp,
            "zero_stage": 1,
            "shard_group": 0,
            "virtual_stages": 1,
            "schedule": 1,
            "recompute_rule": 0,
        }
        columns |= {name: np.full(len(kinds), value) for name, value in rest.items()}
        return Meshes(**columns, micro_batch=micro_batch // table[:, 3])

    def _fixed_s(self, group: int) -> float:
        one = self._meshes([(1, 0, 1, 1, 1)], 1, 1)
        return float(self.models[group].tables(one).real("fixed_s")[0])

    def _group(self, group: int, kinds: list[_Kind], micro_batch: int) -> dict[str, np.ndarray]:
        model, work = self.models[group], self.plan.workload
        several, alone = (self._meshes(kinds, micro_batch, pp) for pp in (2, 1))
        tables, single = model.tables(several), model.tables(alone)
        layers = np.concatenate([tables.layers, single.layers[:, -1:]], axis=1)
        backward, weight, state = (
            LAYER_FIELDS.index(name) for name in ("backward_s", "weight_s", "state_bytes")
        )
        layers[:, :, backward] += layers[:, :, weight]
        layers[:, :, weight] = 0.0
        bytes_ = {
            name: np.concatenate([value, model.state_bytes(alone)[name][:, -1:]], axis=1)
            for name, value in model.state_bytes(several).items()
        }
        layers[:, :, state] = model.fragmentation * (bytes_["weights"] + bytes_["gradients"])
        owned = bytes_["optimizer"] / model.states.optimizer
        value = 4.0 if work.dtype == "fp32" else 2.0
        tp, sequence, cp, dp, _ = np.array(kinds, float).T
        tokens = micro_batch * work.sequence_length / (dp * cp)
        return {
            "group": np.full(len(kinds), group, np.int32),
            "devices": (tp * cp * dp).astype(np.int32),
            "layers": layers,
            "optimizer_bytes": model.fragmentation * bytes_["optimizer"],
            "gradient_bytes": owned * model.states.reduced,
            "weight_bytes": owned * value,
            "capacity_bytes": tables.real("capacity_bytes"),
            "logits_bytes": tables.real("logits_bytes"),
            "sent_bytes": value * tokens * self.plan.model.hidden / np.where(sequence > 0, tp, 1.0),
            "tied_bytes": model.graph.tied_parameters * model.states.reduced / tp,
        }


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
