"""Why a mixed plan takes the time it takes: balance of stages and groups, what more brings."""

from __future__ import annotations

import msgspec

from optalloc.cluster.topology import Cluster, Link
from optalloc.stop import StopRule
from optalloc.training.mixed.plan import MixedPlan, MixedReplica
from optalloc.training.mixed.solve import plan_mixed
from optalloc.units import GIB, format_bytes, format_seconds


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the step, seconds and share."""

    name: str
    time_s: float
    share: float


class GroupUse(msgspec.Struct, frozen=True, kw_only=True):
    """One node group: devices used and idle, layers times micro-batches it computes, busy share.

    ``work_share`` is the share of all passes through layers; ``busy_share`` that of the step in
    which a device in use computes.
    """

    group: int
    device: str
    used_devices: int
    idle_devices: int
    work_share: float
    busy_share: float


class MixedMarginal(msgspec.Struct, frozen=True, kw_only=True):
    """The best step after one change of the cluster, planned anew, and what it gains, seconds."""

    change: str
    step_time_s: float | None
    gain_s: float | None


class MixedExplanation(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time of a mixed plan goes; ``str()`` of it is for people.

    ``causes`` describe ``last_replica``, which ends last, through its slowest stage
    (``bottleneck``), and sum to the step.
    """

    model: str
    cluster: str
    cost_model: str
    step_time_s: float
    last_replica: int
    bottleneck: int
    causes: tuple[Cause, ...]
    groups: tuple[GroupUse, ...]
    marginals: tuple[MixedMarginal, ...] = ()

    @property
    def summary(self) -> str:
        """The findings, one sentence a line."""
        first = self.causes[0]
        lines = [
            f"{self.model} on {self.cluster}: {format_seconds(self.step_time_s)} a step "
            f"(estimate of {self.cost_model}).",
            f"Replica {self.last_replica} ends last, stage {self.bottleneck} is its slowest: "
            f"{first.name.replace('_', ' ')} takes {first.share:.1%} of the step.",
        ]
        for use in self.groups:
            if use.used_devices == 0:
                lines.append(f"The {use.idle_devices} {use.device} stay idle: they slow the rest.")
            else:
                idle = f", {use.idle_devices} idle" if use.idle_devices else ""
                lines.append(
                    f"{use.used_devices} {use.device}{idle}: {use.work_share:.1%} of the work, "
                    f"computing {use.busy_share:.1%} of the step."
                )
        gains = [m for m in self.marginals if m.gain_s is not None and m.gain_s > 0]
        if gains:
            most = max(gains, key=lambda m: m.gain_s or 0.0)
            lines.append(
                f"Of the changes tried, {most.change} brings most: "
                f"{format_seconds(most.gain_s or 0.0)} a step."
            )
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.summary


def explain_mixed(
    plan: MixedPlan, *, replan: bool = False, stop: StopRule | None = None
) -> MixedExplanation:
    """Where the time of a mixed plan goes and what its groups of devices contribute.

    Parameters
    ----------
    replan : bool
        Also search again for each change of the cluster: one more node of each group, one GiB more
        on its devices, links between the groups 10 % faster.
    stop : StopRule, optional
        Ends each of these searches early.
    """
    last = max(plan.replicas, key=lambda r: r.time_s)
    slow = max(last.stages, key=lambda s: s.forward_s + s.backward_s)
    causes = tuple(
        Cause(name=name, time_s=seconds, share=seconds / plan.step_time_s)
        for name, seconds in sorted(plan.breakdown_s.items(), key=lambda item: -item[1])
    )
    marginals = []
    if replan:
        for change, cluster in _changes(plan.cluster):
            result = plan_mixed(
                plan.model, cluster, plan.workload, stop=stop, cost_model=plan.cost_model
            )
            step = None if result.best is None else result.best.step_time_s
            gain = None if step is None else plan.step_time_s - step
            marginals.append(MixedMarginal(change=change, step_time_s=step, gain_s=gain))
    return MixedExplanation(
        model=plan.model.name,
        cluster=plan.cluster.name,
        cost_model=plan.cost_model,
        step_time_s=plan.step_time_s,
        last_replica=last.index,
        bottleneck=slow.index,
        causes=causes,
        groups=tuple(_use(plan, g) for g in range(len(plan.cluster.nodes))),
        marginals=tuple(marginals),
    )


def _use(plan: MixedPlan, group: int) -> GroupUse:
    nodes = plan.cluster.nodes[group]
    own = [(r, s) for r in plan.replicas for s in r.stages if s.group == group]
    used = sum(s.num_devices for _, s in own)
    layers = sum(s.num_layers for s in plan.replicas[0].stages)
    work = sum(r.num_microbatches * s.num_layers for r, s in own)
    busy = sum(_busy_s(r, s.forward_s + s.backward_s) * s.num_devices for r, s in own)
    return GroupUse(
        group=group,
        device=nodes.device.name,
        used_devices=used,
        idle_devices=nodes.num_devices - used,
        work_share=work / (plan.num_microbatches * layers) if layers else 0.0,
        busy_share=busy / (used * plan.step_time_s) if used else 0.0,
    )


def _busy_s(replica: MixedReplica, pass_s: float) -> float:
    return replica.num_microbatches * pass_s


def _changes(cluster: Cluster) -> list[tuple[str, Cluster]]:
    """The changes tried, in words, and the changed clusters."""
    changes = []
    for g, group in enumerate(cluster.nodes):
        name = f"{group.device.name} (group {g})"
        more = msgspec.structs.replace(group, count=group.count + 1)
        device = msgspec.structs.replace(group.device, memory_bytes=group.device.memory_bytes + GIB)
        larger = msgspec.structs.replace(group, device=device)
        for words, new in (
            (f"one more node of {group.devices} {name}", more),
            (f"{format_bytes(GIB)} more on each {name}", larger),
        ):
            nodes = (*cluster.nodes[:g], new, *cluster.nodes[g + 1 :])
            changes.append((words, msgspec.structs.replace(cluster, nodes=nodes)))
    nodes = tuple(msgspec.structs.replace(g, network=_faster(g.network)) for g in cluster.nodes)
    zone = None if cluster.zone_link is None else _faster(cluster.zone_link)
    faster = msgspec.structs.replace(cluster, nodes=nodes, zone_link=zone)
    changes.append(("10 % more bandwidth between nodes and zones", faster))
    return changes


def _faster(link: Link) -> Link:
    return msgspec.structs.replace(link, bandwidth_bytes_per_s=1.1 * link.bandwidth_bytes_per_s)
