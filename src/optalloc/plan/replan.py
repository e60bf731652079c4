"""replan: the best next plan after nodes are lost or added, the bytes that must move included.

    minimise   steps_left * step_time_s + move_s

over the candidate plans of the changed cluster: the fastest plan (proven), plans that keep the
degrees of the running one, and the runners-up. ``bound_s`` = steps_left * (proven bound of the
step) is below every plan's total, so the result states a gap for all plans, not for the candidates
alone. Which nodes take which part of a candidate is an assignment problem (bytes to move as costs,
equal nodes as units) and is solved exactly.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
import numpy as np

from optalloc.assignment.problem import AssignmentProblem
from optalloc.assignment.solve import solve_assignment
from optalloc.cluster.load import load_cluster
from optalloc.cluster.topology import Cluster, NodeGroup
from optalloc.errors import InputError, NoPlan
from optalloc.plan.layout import AnyPlan, Holdings, holdings, missing, piece_bytes
from optalloc.stop import StopRule
from optalloc.training.mixed.estimate import estimate_mixed
from optalloc.training.mixed.plan import MixedPlan
from optalloc.training.mixed.solve import plan_mixed
from optalloc.training.mixed.strategy import MixedStrategy, ReplicaChoice, StageChoice
from optalloc.training.plan import TrainingPlan
from optalloc.training.solve import plan_training
from optalloc.units import format_bytes, format_seconds

_NODE = re.compile(r"n?(\d+)(?:-n?(\d+))?")


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """What one node of the new cluster receives, in bytes; ``was`` is its number before (None:
    new)."""

    node: int
    was: int | None
    device: str
    received_bytes: int


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One next plan: seconds a step, seconds and bytes to move, and the total to the end."""

    name: str
    plan: TrainingPlan | MixedPlan
    step_time_s: float
    moved_bytes: int
    restored_bytes: int
    move_s: float
    total_s: float
    moves: tuple[Move, ...]


class Replan(msgspec.Struct, frozen=True, kw_only=True):
    """The candidates, the best first; no plan at all has a total below ``bound_s``."""

    steps_left: int
    bound_s: float
    candidates: tuple[Candidate, ...]

    @property
    def best(self) -> Candidate:
        return self.candidates[0]

    @property
    def gap(self) -> float:
        """How far the best total may be from that of any plan, relative."""
        return max(0.0, 1.0 - self.bound_s / self.best.total_s)

    @property
    def summary(self) -> str:
        """The answer in words."""
        best = self.best
        lines = [
            f"{best.name}: {format_seconds(best.step_time_s)} a step, "
            f"{format_bytes(best.moved_bytes)} to move in {format_seconds(best.move_s)}, "
            f"{format_seconds(best.total_s)} for {self.steps_left:,} steps.",
            f"No plan is done before {format_seconds(self.bound_s)} (gap {self.gap:.2%}).",
        ]
        if best.restored_bytes:
            lines.append(
                f"{format_bytes(best.restored_bytes)} were held by lost nodes alone and come from "
                "a checkpoint."
            )
        return "\n".join(lines)


def replan(
    plan: TrainingPlan | MixedPlan,
    *,
    lost: Sequence[str] = (),
    added: Sequence[str] = (),
    steps_left: int = 1000,
    stop: StopRule | None = None,
) -> Replan:
    """The best next plan when nodes are lost or added.

    Parameters
    ----------
    lost : sequence of str
        Nodes by their place in the cluster, from 0: ``"n3"``, ``"n4-n6"``.
    added : sequence of str
        Shorthands such as ``"8xh100-sxm"``; equal nodes join their group.
    steps_left : int
        Steps still to run: what a move has to pay for itself in.
    stop : StopRule, optional
        Ends each search early.

    Returns
    -------
    Replan
        The candidates with what each moves. Moving is bound by the slowest sender or receiver: the
        bytes of a device over its network link.

    Raises
    ------
    InputError
        If a node does not exist, nothing changes, or steps_left is below 1.
    NoPlan
        If nothing fits on what is left.
    """
    if steps_left < 1:
        raise InputError(f"steps_left is {steps_left}", path="--steps-left", fix="use at least 1")
    cluster, origin = changed_cluster(plan.cluster, lost, added)
    plans, bound = _candidates(plan, cluster, origin, stop)
    before, survivors = holdings(plan), {old: new for new, old in origin.items()}
    table = _node_table(plan.cluster)
    was = {
        new: next(n for n, (a, b, _) in enumerate(table) if a <= old < b)
        for new, old in origin.items()
    }
    sizes = piece_bytes(plan.model, plan.workload, plan.cost_model)
    here = {survivors[d]: held for d, held in before.items() if d in survivors}
    found = [
        _priced(name, new, here, was, sizes, steps_left)
        for name, new in {_key(p): (n, p) for n, p in reversed(plans)}.values()
    ]
    found.sort(key=lambda c: c.total_s)
    return Replan(steps_left=steps_left, bound_s=steps_left * bound, candidates=tuple(found))


def _key(plan: TrainingPlan | MixedPlan) -> str:
    return repr(plan.strategy)


# -- the changed cluster -----------------------------------------------------------------------


def changed_cluster(
    cluster: Cluster, lost: Sequence[str], added: Sequence[str]
) -> tuple[Cluster, dict[int, int]]:
    """The cluster without and with some nodes, and the old number of every device that stays."""
    total = sum(g.count for g in cluster.nodes)
    gone = {n for word in lost for n in _nodes(word, total)}
    if not gone and not added:
        raise InputError(
            "nothing changes", path="replan", fix="name --lost nodes, or what is --added"
        )
    groups: list[tuple[NodeGroup, list[int]]] = []
    node = device = 0
    for group in cluster.nodes:
        kept: list[int] = []
        count = 0
        for _ in range(group.count):
            if node not in gone:
                kept += range(device, device + group.devices)
                count += 1
            node, device = node + 1, device + group.devices
        if count:
            groups.append((_counted(group, count), kept))
    for word in added:
        for more in load_cluster(word).nodes:
            place = next((i for i, (g, _) in enumerate(groups) if _joins(g, more)), None)
            if place is None:
                groups.append((more, []))
            else:
                own, kept = groups[place]
                groups[place] = (_counted(own, own.count + more.count), kept)
    if not groups:
        raise InputError("no node is left", path="--lost", fix="keep at least one")
    origin: dict[int, int] = {}
    start = 0
    for group, kept in groups:
        origin |= {start + k: old for k, old in enumerate(kept)}
        start += group.num_devices
    words = [cluster.name, *(f"-{w}" for w in lost), *(f"+{w}" for w in added)]
    nodes = tuple(group for group, _ in groups)
    return Cluster(name=" ".join(words), nodes=nodes, zone_link=cluster.zone_link), origin


def _joins(group: NodeGroup, more: NodeGroup) -> bool:
    """Whether new nodes are of the kind of a group, wherever that lies."""
    return (group.device.name, group.devices) == (more.device.name, more.devices)


def _counted(group: NodeGroup, count: int) -> NodeGroup:
    domain = min(group.domain, count * group.devices)
    return msgspec.structs.replace(group, count=count, domain=domain)


def _nodes(word: str, total: int) -> range:
    match = _NODE.fullmatch(word.strip())
    if match is None:
        raise InputError(f"{word!r} is no node", path="--lost", fix="write n3, or n4-n6")
    first = int(match[1])
    last = int(match[2] or first)
    if last < first or last >= total:
        raise InputError(
            f"there is no node {word}", path="--lost", fix=f"nodes are n0 to n{total - 1}"
        )
    return range(first, last + 1)


# -- candidates ----------------------------------------------------------------------------------


def _candidates(
    plan: TrainingPlan | MixedPlan, cluster: Cluster, origin: dict[int, int], stop: StopRule | None
) -> tuple[list[tuple[str, AnyPlan]], float]:
    """Plans of the new cluster with their names, and a bound of the step of any plan."""
    args = (plan.model, cluster, plan.workload)
    found: list[tuple[str, AnyPlan]] = []
    if cluster.is_uniform and isinstance(plan, TrainingPlan):
        result = plan_training(*args, stop=stop, cost_model=plan.cost_model)
        best, bound = result.plan, result.bounds.dual
        found.append(("the fastest plan", best))
        found += [(f"runner-up {k + 1}", a.plan) for k, a in enumerate(result.alternatives)]
        d = plan.degrees
        for words in ([f"tp={d.tp}", f"pp={d.pp}", f"ep={d.ep}"], [f"tp={d.tp}", f"pp={d.pp}"]):
            same = plan_training(*args, pin=words, stop=stop, cost_model=plan.cost_model).best
            if same is not None:
                found.append((f"the best plan with {', '.join(words)}", same))
    else:
        mixed = plan_mixed(*args, stop=stop, cost_model=plan.cost_model)
        bound = mixed.bounds.dual
        kept = _kept(plan, cluster, origin) if isinstance(plan, MixedPlan) else None
        if mixed.best is None and kept is None:
            raise NoPlan("; ".join(mixed.conflict) or "no plan was found in time", result=mixed)
        if mixed.best is not None:
            found.append(("the fastest plan", mixed.best))
        if kept is not None:
            found.append(("the replicas that are left, their shares balanced", kept))
    return found, bound or 0.0


def _kept(plan: MixedPlan, cluster: Cluster, origin: dict[int, int]) -> MixedPlan | None:
    """The replicas that lost no device, with all micro-batches; None where that cannot be."""
    alive = set(origin.values())
    left = [
        r
        for r in plan.replicas
        if all(d in alive for s in r.stages for a, b in s.devices for d in range(a, b))
    ]
    if not left or len(cluster.nodes) < len(plan.cluster.nodes):
        return None
    micro = [1] * len(left)
    while sum(micro) < plan.num_microbatches:
        ends = [r.first_s + m * r.slowest_s + r.tail_s for r, m in zip(left, micro, strict=True)]
        micro[int(np.argmin(ends))] += 1
    strategy = MixedStrategy(
        micro_batch=plan.micro_batch,
        replicas=tuple(
            ReplicaChoice(num_microbatches=m, stages=_choices(plan, r.index))
            for r, m in zip(left, micro, strict=True)
        ),
    )
    made = estimate_mixed(plan.model, cluster, plan.workload, strategy)
    return made if made.fits else None


def _choices(plan: MixedPlan, index: int) -> tuple[StageChoice, ...]:
    one = msgspec.structs.replace(plan, replicas=(plan.replicas[index],))
    return one.strategy.replicas[0].stages


# -- what moves ----------------------------------------------------------------------------------


def _priced(
    name: str,
    new: AnyPlan,
    here: Holdings,
    was: dict[int, int],
    sizes: dict[tuple[int, str], float],
    steps_left: int,
) -> Candidate:
    """A candidate with its nodes put where the least has to move."""
    needs = holdings(new)
    nodes = _node_table(new.cluster)
    renamed = _seated(needs, here, nodes, sizes)
    needs = {renamed.get(d, d): held for d, held in needs.items()}
    received: dict[int, float] = {}
    holders: dict[tuple[int, str], int] = {}
    for held in here.values():
        for piece in held:
            holders[piece] = holders.get(piece, 0) + 1
    sent_total: dict[tuple[int, str], float] = {}
    restored = 0.0
    for device, held in needs.items():
        for piece, share in missing(held, here.get(device, {})).items():
            size = share * sizes[piece]
            received[device] = received.get(device, 0.0) + size
            if piece in holders:
                sent_total[piece] = sent_total.get(piece, 0.0) + size
            else:
                restored += size
    rates = _rates(new.cluster)
    sending = {
        device: sum(sent_total.get(piece, 0.0) / holders[piece] for piece in held)
        for device, held in here.items()
    }
    move_s = max(
        [0.0]
        + [size / rates[device] for device, size in received.items()]
        + [size / rates[device] for device, size in sending.items()]
    )
    moves = []
    for node, (first, end, kind) in enumerate(nodes):
        size = sum(received.get(d, 0.0) for d in range(first, end))
        if size > 0:
            moves.append(
                Move(node=node, was=was.get(first), device=kind, received_bytes=round(size))
            )
    return Candidate(
        name=name,
        plan=new,
        step_time_s=new.step_time_s,
        moved_bytes=round(sum(received.values())),
        restored_bytes=round(restored),
        move_s=move_s,
        total_s=steps_left * new.step_time_s + move_s,
        moves=tuple(moves),
    )


def _node_table(cluster: Cluster) -> list[tuple[int, int, str]]:
    """First and end device of every node, and its kind of device."""
    table, start = [], 0
    for group in cluster.nodes:
        for _ in range(group.count):
            table.append((start, start + group.devices, group.device.name))
            start += group.devices
    return table


def _rates(cluster: Cluster) -> list[float]:
    """Bytes a second of every device to other nodes."""
    rates: list[float] = []
    for group in cluster.nodes:
        rate = group.outer_link.shared_bandwidth_bytes_per_s
        if len(cluster.zones) > 1 and cluster.zone_link is not None:
            rate = min(rate, cluster.zone_link.shared_bandwidth_bytes_per_s)
        rates += [rate] * group.num_devices
    return rates


def _seated(
    needs: Holdings,
    here: Holdings,
    nodes: list[tuple[int, int, str]],
    sizes: dict[tuple[int, str], float],
) -> dict[int, int]:
    """Devices of the plan to devices of the cluster: equal nodes trade places, least moves."""
    renamed: dict[int, int] = {}
    kinds = sorted({(device, end - first) for first, end, device in nodes})
    for device, width in kinds:
        own = [n for n, (a, b, d) in enumerate(nodes) if d == device and b - a == width]
        if len(own) < 2:
            continue
        costs = np.zeros((len(own), len(own)), np.int64)
        for i, slot in enumerate(own):
            for j, seat in enumerate(own):
                for k in range(width):
                    wanted = needs.get(nodes[slot][0] + k, {})
                    lacks = missing(wanted, here.get(nodes[seat][0] + k, {}))
                    size = sum(share * sizes[piece] for piece, share in lacks.items())
                    costs[i, j] += round(size / 1e6)
        answer = solve_assignment(
            AssignmentProblem(costs, np.ones(len(own), np.int64), np.ones(len(own), np.int64))
        )
        if answer.assignment is None:
            continue
        for i, unit in enumerate(answer.assignment):
            for k in range(width):
                renamed[nodes[own[i]][0] + k] = nodes[own[unit]][0] + k
    return renamed
