"""A mixed plan as the exporters of equal stages read it: one set of degrees, ranks in order."""

from __future__ import annotations

from itertools import groupby

import msgspec

from optalloc.cluster.topology import Cluster, NodeGroup
from optalloc.errors import ExportError
from optalloc.model.lower import lower
from optalloc.training.mixed.plan import MixedPlan, MixedStage
from optalloc.training.plan import Chunk, Degrees, StagePlan, TrainingPlan

_DEGREES = ("tp", "sequence_parallel", "cp", "dp", "ep")


def difference(plan: MixedPlan) -> tuple[str, int] | None:
    """The first thing in which stages or replicas differ, and the stage; None if nothing does.

    Megatron-LM and DeepSpeed give all stages the same degrees, and all replicas the same stages and
    number of micro-batches; stages may hold unequal numbers of layers.
    """
    first = plan.replicas[0]
    for replica in plan.replicas:
        for stage in replica.stages:
            for name in _DEGREES:
                mine, usual = getattr(stage, name), getattr(first.stages[0], name)
                if mine != usual:
                    what = f"{name} {mine} on replica {replica.index} beside {name} {usual}"
                    return what, stage.index
        if len(replica.stages) != len(first.stages):
            what = f"replicas of {len(replica.stages)} and of {len(first.stages)} stages"
            return what, len(replica.stages) - 1
        if replica.num_microbatches != first.num_microbatches:
            what = f"{replica.num_microbatches} micro-batches on replica {replica.index} beside "
            return what + f"{first.num_microbatches}", 0
        for stage, usual in zip(replica.stages, first.stages, strict=True):
            if (stage.num_layers, stage.recompute) != (usual.num_layers, usual.recompute):
                what = f"other layers or recomputation on replica {replica.index} than on the first"
                return what, stage.index
    return None


def uniform_plan(plan: MixedPlan, target: str) -> TrainingPlan:
    """The plan with its devices numbered as ranks, which are in the order of the stages.

    ``cluster`` is what the ranks lie on: the nodes in the order in which they are started, with the
    devices that are used.

    Raises
    ------
    ExportError
        If stages or replicas differ in more than devices and layers, or if no order of the nodes
        gives every stage consecutive ranks.
    """
    found = difference(plan)
    if found is not None:
        what, index = found
        fix = f"plan with --for {target}, export to pytorch, or plan each group by itself"
        raise ExportError(target, what, stage=index, fix=fix)
    first = plan.replicas[0]
    columns = [[r.stages[i] for r in plan.replicas] for i in range(len(first.stages))]
    one = first.stages[0]
    replicas = len(plan.replicas)
    return TrainingPlan(
        tool_version=plan.tool_version,
        model=plan.model,
        cluster=_ranked(plan, columns, target),
        workload=plan.workload,
        digests=plan.digests,
        cost_model=plan.cost_model,
        degrees=Degrees(
            tp=one.tp,
            cp=one.cp,
            pp=len(columns),
            dp=replicas * one.dp,
            ep=one.ep,
            virtual_stages=1,
        ),
        sequence_parallel=one.sequence_parallel,
        micro_batch=plan.micro_batch // one.dp,
        num_microbatches=first.num_microbatches,
        zero_stage=1,
        shard_group=0,
        schedule="1f1b",
        num_devices=plan.num_devices,
        idle_devices=0,
        stages=tuple(_stage(plan, i, column) for i, column in enumerate(columns)),
        step_time_s=plan.step_time_s,
        mfu=plan.mfu,
        tokens_per_s=plan.tokens_per_s,
        price_usd_per_step=plan.price_usd_per_step,
        energy_j_per_step=plan.energy_j_per_step,
        breakdown_s=plan.breakdown_s,
        step_time_error=plan.step_time_error,
    )


def _stage(plan: MixedPlan, index: int, column: list[MixedStage]) -> StagePlan:
    """One stage of all replicas: memory of the fullest device, times of the slowest."""
    fullest = max(column, key=lambda s: s.memory_bytes["total"] / s.capacity_bytes)
    one = column[0]
    names = [run.layer for run in lower(plan.model).sequence for _ in range(run.count)]
    held: dict[str, int] = {}
    for name in names[one.first_layer : one.first_layer + one.num_layers]:
        held[name] = held.get(name, 0) + 1
    size = sum(s.num_devices for s in column)
    return StagePlan(
        index=index,
        num_layers=held,
        chunks=(
            Chunk(
                first_layer=one.first_layer,
                num_layers=one.num_layers,
                embedding=one.embedding,
                head=one.head,
            ),
        ),
        num_devices=size,
        devices=((index * size, (index + 1) * size),),
        memory_bytes=fullest.memory_bytes,
        capacity_bytes=fullest.capacity_bytes,
        recompute=one.recompute,
        forward_s=max(s.forward_s for s in column),
        backward_s=max(s.backward_s for s in column),
    )


def _ranked(plan: MixedPlan, columns: list[list[MixedStage]], target: str) -> Cluster:
    """The nodes in the order of the ranks, each with as many devices as are used."""
    node_of: list[tuple[int, NodeGroup]] = []
    for group in plan.cluster.nodes:
        for _ in range(group.count):
            node_of += [(len(node_of), group)] * group.devices
    nodes: list[NodeGroup] = []
    seen: set[int] = set()
    for index, column in enumerate(columns):
        devices = [d for s in column for first, end in s.devices for d in range(first, end)]
        for number, run in groupby(devices, key=lambda d: node_of[d][0]):
            own = list(run)
            group = node_of[own[0]][1]
            if number not in seen:
                seen.add(number)
                last = number
                nodes.append(msgspec.structs.replace(group, count=1, devices=len(own)))
            elif number == last:
                more = nodes[-1].devices + len(own)
                nodes[-1] = msgspec.structs.replace(nodes[-1], devices=more)
            else:
                what = "stages that share nodes in an order which ranks cannot have"
                raise ExportError(target, what, stage=index, fix="export to pytorch")
    merged: list[NodeGroup] = []
    for node in nodes:
        if merged and msgspec.structs.replace(merged[-1], count=1) == node:
            merged[-1] = msgspec.structs.replace(merged[-1], count=merged[-1].count + 1)
        else:
            merged.append(node)
    return Cluster(name=plan.cluster.name, nodes=tuple(merged), zone_link=plan.cluster.zone_link)
