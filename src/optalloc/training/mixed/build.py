"""From model, cluster and workload to the mixed problem: one cost model a node group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from optalloc.cluster.topology import Cluster, Level
from optalloc.cost.constants import DEFAULT
from optalloc.cost.memory import element_bytes
from optalloc.cost.meshes import LAYER_FIELDS, Meshes
from optalloc.cost.model import CostModel
from optalloc.errors import InputError
from optalloc.model.spec import ModelSpec
from optalloc.training.mixed.problem import (
    MOST_GROUPS,
    STATE,
    MixedProblem,
    Wire,
)
from optalloc.training.mixed.strategy import Degrees
from optalloc.training.space import Limits, Space, divisors
from optalloc.workload import Training


class MixedCosts:
    """The costs of stages on every node group of a cluster, by the cost model of that group alone.

    Parameters
    ----------
    model, cluster, workload
        The three inputs of a plan; at most eight node groups.
    limits : Limits
        Degrees that are pinned or forbidden: tp, cp, dp, ep, sequence_parallel, micro_batch.
    """

    def __init__(
        self,
        model: ModelSpec,
        cluster: Cluster,
        workload: Training,
        *,
        name: str = DEFAULT,
        limits: Limits | None = None,
    ) -> None:
        if len(cluster.nodes) > MOST_GROUPS:
            raise InputError(
                f"the cluster has {len(cluster.nodes)} groups of nodes",
                path=cluster.name,
                fix=f"plan over at most {MOST_GROUPS} groups of equal nodes",
            )
        self.model, self.cluster, self.workload = model, cluster, workload
        self.limits = limits or Limits()
        alone = [
            Cluster(name=f"{cluster.name}[{g}]", nodes=(group,))
            for g, group in enumerate(cluster.nodes)
        ]
        self.costs = [CostModel(model, part, workload, name=name) for part in alone]
        self.spaces = [
            Space(cost.graph, part, workload, self.limits)
            for cost, part in zip(self.costs, alone, strict=True)
        ]

    @property
    def name(self) -> str:
        return self.costs[0].name

    # -- kinds -----------------------------------------------------------------------------------

    def micro_batches(self) -> list[int]:
        """Sizes that divide the global batch."""
        return [
            b for b in divisors(self.workload.global_batch) if self.limits.allows("micro_batch", b)
        ]

    def kinds(self, group: int, micro_batch: int) -> list[Degrees]:
        """Every way to run a stage on one group.

        tp is a power of two inside one domain and keeps the rules of heads and widths; cp a power
        of two; dp divides the micro-batch; ep divides the experts and the stage's devices.
        """
        space, cost = self.spaces[group], self.costs[group]
        total, domain = space.num_devices, cost.network.levels[0].num_devices
        found = []
        for tp in space.tensor_degrees():
            if tp & (tp - 1) or domain % tp:
                continue
            for cp in space.context_degrees():
                if cp & (cp - 1) or tp * cp > total:
                    continue
                for sequence in space.sequence_choices(tp, cp):
                    for dp in divisors(micro_batch):
                        size = tp * cp * dp
                        if size > total or not self.limits.allows("dp", dp):
                            continue
                        found += [
                            Degrees(group, tp, bool(sequence), cp, dp, ep)
                            for ep in divisors(space.experts) or [1]
                            if size % ep == 0 and self.limits.allows("ep", ep)
                        ]
        return found

    def all_kinds(self, micro_batch: int) -> list[Degrees]:
        """Every way to run a stage, group by group."""
        return [k for g in range(len(self.costs)) for k in self.kinds(g, micro_batch)]

    # -- the problem -----------------------------------------------------------------------------

    def problem(self, kinds: Sequence[Degrees], micro_batch: int) -> MixedProblem:
        """The problem of these kinds of stage, in their order."""
        return self.problems([(micro_batch, kinds)])[0]

    def problems(self, posed: Sequence[tuple[int, Sequence[Degrees]]]) -> list[MixedProblem]:
        """The problems of micro-batch sizes, each with its kinds of stage, in their order.

        The costs of all kinds of a group are computed at once.
        """
        sizes = [(size, kind) for size, kinds in posed for kind in kinds]
        merged: dict[str, NDArray[Any]] = {}
        for g in range(len(self.costs)):
            own = [i for i, (_, kind) in enumerate(sizes) if kind.group == g]
            if not own:
                continue
            for name, values in self._tables(g, [sizes[i] for i in own]).items():
                if name not in merged:
                    merged[name] = np.empty((len(sizes), *values.shape[1:]), values.dtype)
                merged[name][own] = values
        problems, begin = [], 0
        for size, kinds in posed:
            end = begin + len(kinds)
            tables = {name: values[begin:end] for name, values in merged.items()}
            problems.append(self._problem(size, tables))
            begin = end
        return problems

    def _problem(self, micro_batch: int, tables: dict[str, NDArray[Any]]) -> MixedProblem:
        zones = list(self.cluster.zones)
        networks = []
        for cost, group in zip(self.costs, self.cluster.nodes, strict=True):
            share = cost.constants.network_efficiency
            rate = group.network.shared_bandwidth_bytes_per_s * share
            networks.append(Wire(group.network.latency_s, rate))
        zone_wire = None
        if self.cluster.zone_link is not None:
            link = self.cluster.zone_link
            share = min(cost.constants.network_efficiency for cost in self.costs)
            zone_wire = Wire(link.latency_s, link.shared_bandwidth_bytes_per_s * share)
        levels = [cost.network.levels for cost in self.costs]
        return MixedProblem(
            available=tuple(group.num_devices for group in self.cluster.nodes),
            domain=tuple(own[0].num_devices for own in levels),
            near=tuple(_wire(own[0]) for own in levels),
            far=tuple(_wire(own[-1]) for own in levels),
            network=tuple(networks),
            zone=tuple(zones.index(group.zone) for group in self.cluster.nodes),
            zone_wire=zone_wire,
            sequence=self.costs[0].sequence,
            boundary=self.costs[0].boundary,
            overlap=self.costs[0].constants.data_overlap,
            fixed_s=tuple(self._fixed_s(g) for g in range(len(self.costs))),
            num_microbatches=self.workload.global_batch // micro_batch,
            micro_batch=micro_batch,
            **cast(Any, tables),
        )

    def meshes(self, kinds: Sequence[Degrees], micro_batch: int, pp: int) -> Meshes:
        """The kinds as meshes of the cost model, one stage of ``pp``."""
        return _meshes([(micro_batch, kind) for kind in kinds], [pp] * len(kinds))

    def _fixed_s(self, group: int) -> float:
        one = self.meshes([Degrees(group)], 1, 1)
        return float(self.costs[group].tables(one).real("fixed_s")[0])

    def _tables(self, group: int, kinds: Sequence[tuple[int, Degrees]]) -> dict[str, NDArray[Any]]:
        """Kinds of one group, each with its micro-batch size; the last column of what each layer
        type has is the head where one stage holds all."""
        cost, count = self.costs[group], len(kinds)
        both = _meshes([*kinds, *kinds], [2] * count + [1] * count)
        tables, states = cost.tables(both), cost.state_bytes(both)
        pipelined = both.take(slice(count))

        def with_head(values: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.concatenate([values[:count], values[count:, -1:]], axis=1)

        bytes_ = {name: with_head(values) for name, values in states.items()}
        reals = {name: tables.real(name)[:count] for name in ("capacity_bytes", "logits_bytes")}
        layers = with_head(tables.layers)
        layers[:, :, LAYER_FIELDS.index("backward_s")] += layers[
            :, :, LAYER_FIELDS.index("weight_s")
        ]
        layers[:, :, LAYER_FIELDS.index("weight_s")] = 0.0
        layers[:, :, STATE] = cost.fragmentation * (bytes_["weights"] + bytes_["gradients"])
        owned = bytes_["optimizer"] / cost.states.optimizer  # parameters a device updates
        size = element_bytes(self.workload)
        tp, cp, sequence = (
            getattr(pipelined, name).astype(np.float64) for name in ("tp", "cp", "sequence")
        )
        tokens = pipelined.micro_batch * self.workload.sequence_length / cp
        sent = size * tokens * self.model.hidden * np.where(sequence > 0, 1.0 / tp, 1.0)
        tied = self.costs[group].graph.tied_parameters * cost.states.reduced / tp
        return {
            "group": np.full(len(kinds), group, np.int32),
            "devices": np.array([k.num_devices for _, k in kinds], np.int32),
            "layers": np.ascontiguousarray(layers),
            "optimizer_bytes": cost.fragmentation * bytes_["optimizer"],
            "gradient_bytes": owned * cost.states.reduced,
            "weight_bytes": owned * size,
            "capacity_bytes": reals["capacity_bytes"].copy(),
            "logits_bytes": reals["logits_bytes"].copy(),
            "sent_bytes": sent,
            "tied_bytes": np.asarray(tied, np.float64),
        }


def _meshes(kinds: Sequence[tuple[int, Degrees]], pp: Sequence[int]) -> Meshes:
    """Kinds of stage, each with its micro-batch size and its number of stages, as meshes."""
    count = len(kinds)
    columns = {
        "tp": [k.tp for _, k in kinds],
        "sequence": [int(k.sequence_parallel) for _, k in kinds],
        "cp": [k.cp for _, k in kinds],
        "dp": [k.dp for _, k in kinds],
        "ep": [k.ep for _, k in kinds],
        "micro_batch": [size // k.dp for size, k in kinds],
        "pp": pp,
        "zero_stage": [1] * count,
        "shard_group": [0] * count,
        "virtual_stages": [1] * count,
        "schedule": [1] * count,
        "recompute_rule": [0] * count,
    }
    return Meshes(**{name: np.array(values, np.int64) for name, values in columns.items()})


def _wire(level: Level) -> Wire:
    return Wire(level.latency_s, level.bandwidth_bytes_per_s)


def undominated(problem: MixedProblem) -> list[int]:
    """Kinds worth a try: those that no other kind of the same group and size equals or beats.

    A kind that is nowhere worse in time, bytes and exchange can take the place of another on every
    stage: its stages take no longer and fit wherever the other's do. A shorter pass hides less of
    the exchange, but by no more than the pass is shorter, so S + theta does not grow.
    """
    features = np.concatenate(
        [
            problem.layers.reshape(problem.num_kinds, -1),
            problem.optimizer_bytes,
            problem.gradient_bytes,
            problem.weight_bytes,
            -problem.capacity_bytes[:, None],
            problem.logits_bytes[:, None],
            problem.sent_bytes[:, None],
            problem.tied_bytes[:, None],
        ],
        axis=1,
    )
    kept: list[int] = []
    for k in range(problem.num_kinds):
        rivals = np.flatnonzero(
            (problem.group == problem.group[k]) & (problem.devices == problem.devices[k])
        )
        no_worse = (features[rivals] <= features[k]).all(axis=1)
        better = (features[rivals] < features[k]).any(axis=1)
        if not (no_worse & (better | (rivals < k))).any():
            kept.append(k)
    return kept
