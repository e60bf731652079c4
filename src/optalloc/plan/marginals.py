"""Marginals: what one unit more of each resource is worth, by solving again.

No derivative and no rule of thumb: the inputs are changed and the plan is evaluated, or searched
for, again. Memory is tried at the same mesh with cuts and recomputation chosen anew; the others at
the same strategy; all of them once more over the whole space where that is asked for.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from optalloc.cluster.topology import Cluster, Link, NodeGroup
from optalloc.cost.compute import peak_flops_per_s
from optalloc.cost.model import CostModel
from optalloc.plan.resolve import Spaces, best_of, mesh_pins
from optalloc.plan.turns import Stopped
from optalloc.stop import StopRule
from optalloc.training.estimate import build_plan
from optalloc.training.plan import TrainingPlan
from optalloc.units import GB, GIB

Kept = Literal["strategy", "mesh"]
_MORE = 1.1


class Marginal(msgspec.Struct, frozen=True, kw_only=True):
    """What one change of the cluster would bring, seconds a step.

    The change is of ``amount`` times ``unit`` (on each device, but for devices). ``step_time_s``
    and ``gain_s`` keep the whole strategy, or for memory its mesh, as ``kept`` says; cuts and
    recomputation are then chosen again, against the same without the change. ``replanned_...`` come
    from searches of the whole space. ``..._per_unit_s`` divide the gains by ``amount``: the shadow
    prices. None: not computed, or no plan.
    """

    change: str
    unit: str
    amount: float
    kept: Kept
    step_time_s: float | None
    gain_s: float | None
    gain_per_unit_s: float | None
    replanned_step_time_s: float | None = None
    replanned_gain_s: float | None = None
    replanned_gain_per_unit_s: float | None = None


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A change in words, its size, and the cluster after it."""

    words: str
    unit: str
    amount: float
    cluster: Cluster


def marginals(
    cost: CostModel,
    plan: TrainingPlan,
    *,
    degrees_s: float | None,
    replanned_s: float | None,
    spaces: Spaces,
    forbid: list[str],
    stop: StopRule | None,
) -> tuple[Marginal, ...]:
    """The marginal of each resource.

    Parameters
    ----------
    degrees_s : float or None
        The best step of the plan's mesh on the cluster as it is, seconds.
    replanned_s : float or None
        The best step of the whole space there; None: the space is not searched again.
    spaces : sequence of list of str
        Pins of each part of the whole space.
    forbid : list of str
        What they leave out.

    Complexity: an evaluation a resource and one search of a mesh; with ``replanned_s`` a search of
    the space a resource.
    """
    found = []
    for change in changes(cost):
        changed = CostModel(plan.model, change.cluster, plan.workload, name=plan.cost_model)
        kept: Kept = "mesh" if change.unit == "GiB" else "strategy"
        if kept == "mesh":
            time_s, base_s = _or_none(changed, [mesh_pins(plan)], [], stop), degrees_s
        else:
            time_s, base_s = build_plan(changed, plan.strategy).step_time_s, plan.step_time_s
        again_s = None if replanned_s is None else _or_none(changed, spaces, forbid, stop)
        gain_s, more_s = _less(base_s, time_s), _less(replanned_s, again_s)
        found.append(
            Marginal(
                change=change.words,
                unit=change.unit,
                amount=change.amount,
                kept=kept,
                step_time_s=time_s,
                gain_s=gain_s,
                gain_per_unit_s=None if gain_s is None else gain_s / change.amount,
                replanned_step_time_s=again_s,
                replanned_gain_s=more_s,
                replanned_gain_per_unit_s=None if more_s is None else more_s / change.amount,
            )
        )
    return tuple(found)


def _or_none(
    cost: CostModel, spaces: Spaces, forbid: list[str], stop: StopRule | None
) -> float | None:
    try:
        return best_of(cost, spaces, forbid, stop)
    except Stopped:
        return None


def _less(before_s: float | None, after_s: float | None) -> float | None:
    return None if before_s is None or after_s is None else before_s - after_s


def changes(cost: CostModel) -> list[Change]:
    """What is tried: a GiB, a tenth more speed of each kind, one node."""
    cluster = cost.cluster
    group = cluster.nodes[0]
    device = group.device
    peaks = {dtype: _MORE * peak for dtype, peak in device.peak_flops_per_s.items()}
    peak = peak_flops_per_s(device, cost.workload.dtype)
    stream = device.memory_bandwidth_bytes_per_s
    made = [
        Change(
            words="1 GiB more on each device",
            unit="GiB",
            amount=1.0,
            cluster=with_device(cluster, memory_bytes=device.memory_bytes + GIB),
        ),
        Change(
            words="10 % more peak FLOP/s",
            unit="TFLOP/s",
            amount=(_MORE - 1.0) * peak / 1e12,
            cluster=with_device(cluster, peak_flops_per_s=peaks),
        ),
        Change(
            words="10 % more memory bandwidth",
            unit="GB/s",
            amount=(_MORE - 1.0) * stream / GB,
            cluster=with_device(cluster, memory_bandwidth_bytes_per_s=_MORE * stream),
        ),
    ]
    for name, words in links(cluster).items():
        link: Link = getattr(group, name)
        made.append(
            Change(
                words=f"10 % more {words} bandwidth",
                unit="GB/s",
                amount=(_MORE - 1.0) * link.bandwidth_bytes_per_s / GB,
                cluster=with_link(cluster, name, _MORE),
            )
        )
    first, *rest = cluster.nodes
    larger = msgspec.structs.replace(first, count=first.count + 1)
    made.append(
        Change(
            words="one more node",
            unit="device",
            amount=float(first.devices),
            cluster=msgspec.structs.replace(cluster, nodes=(larger, *rest)),
        )
    )
    return made


def links(cluster: Cluster) -> dict[str, str]:
    """The links that a uniform cluster has: field of the node group, and its name in words."""
    names = {"node_link": "node-link"} if cluster.nodes[0].domain > 1 else {}
    if "network" in [level.name for level in cluster.levels()]:
        names["network"] = "network"
    return names


def with_device(cluster: Cluster, **fields: object) -> Cluster:
    """The cluster with other figures of its device."""

    def changed(group: NodeGroup) -> NodeGroup:
        device = msgspec.structs.replace(group.device, **fields)
        return msgspec.structs.replace(group, device=device)

    return msgspec.structs.replace(cluster, nodes=tuple(changed(g) for g in cluster.nodes))


def with_link(cluster: Cluster, name: str, factor: float) -> Cluster:
    """The cluster with the bandwidth of one kind of link multiplied."""

    def changed(group: NodeGroup) -> NodeGroup:
        link: Link = getattr(group, name)
        bandwidth = factor * link.bandwidth_bytes_per_s
        faster = msgspec.structs.replace(link, bandwidth_bytes_per_s=bandwidth)
        return msgspec.structs.replace(group, **{name: faster})

    return msgspec.structs.replace(cluster, nodes=tuple(changed(g) for g in cluster.nodes))
