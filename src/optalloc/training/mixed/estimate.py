"""From a mixed strategy to a plan: predict any configuration of unequal stages, without search."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from optalloc import __version__, files
from optalloc.cluster.topology import Cluster
from optalloc.cost.compute import peak_flops_per_s
from optalloc.cost.constants import DEFAULT
from optalloc.errors import InputError
from optalloc.model.spec import ModelSpec
from optalloc.training.estimate import BREAKDOWN
from optalloc.training.mixed.build import MixedCosts
from optalloc.training.mixed.place import Range, place
from optalloc.training.mixed.plan import MixedPlan, MixedReplica, MixedStage
from optalloc.training.mixed.problem import MixedProblem, Replica, Stage, StageCost, replica_s
from optalloc.training.mixed.strategy import Degrees, MixedStrategy, ReplicaChoice
from optalloc.training.plan import Certificate
from optalloc.training.strategy import Strategy
from optalloc.training.valid import check_strategy
from optalloc.workload import Training


def estimate_mixed(
    model: ModelSpec,
    cluster: Cluster,
    workload: Training,
    strategy: MixedStrategy,
    *,
    cost_model: str = DEFAULT,
) -> MixedPlan:
    """Predict time, memory, price and energy of one configuration of unequal stages and replicas.

    Stages of a replica may have any groups, degrees and layers, in any order; a configuration that
    does not fit is predicted all the same, and ``plan.fits`` then is False.

    Raises
    ------
    InputError
        If the configuration breaks a rule, naming the rule and the stage.

    Complexity: O(stages * layers).
    """
    return build_mixed_plan(MixedCosts(model, cluster, workload, name=cost_model), strategy)


def build_mixed_plan(
    costs: MixedCosts, strategy: MixedStrategy, certificate: Certificate | None = None
) -> MixedPlan:
    """The plan of a mixed strategy under the cost models of the cluster's groups."""
    return _builder(costs, strategy).plan(certificate)


def mixed_figures(plan: MixedPlan) -> list[list[StageCost]]:
    """The cost of every stage of every replica of a plan, by its cost model."""
    costs = MixedCosts(plan.model, plan.cluster, plan.workload, name=plan.cost_model)
    return _builder(costs, plan.strategy).figures


def posed(
    costs: MixedCosts, strategy: MixedStrategy
) -> tuple[MixedProblem, list[Degrees], tuple[Replica, ...]]:
    """The problem of the kinds of stage that a strategy has, these, and the strategy in it."""
    choices = [choice for choice in strategy.replicas for _ in range(choice.count)]
    kinds = list(dict.fromkeys(s.degrees for r in choices for s in r.stages))
    problem = costs.problem(kinds, strategy.micro_batch)
    replicas = tuple(
        Replica(
            r.num_microbatches,
            tuple(Stage(kinds.index(s.degrees), s.num_layers, s.recompute) for s in r.stages),
        )
        for r in choices
    )
    return problem, kinds, replicas


def _builder(costs: MixedCosts, strategy: MixedStrategy) -> _Builder:
    check_mixed(costs, strategy)
    problem, kinds, replicas = posed(costs, strategy)
    pipelines = [[kinds[s.kind] for s in r.stages] for r in replicas]
    ranges = place(pipelines, problem.available, problem.domain)
    return _Builder(costs, problem, kinds, replicas, ranges)


def check_mixed(costs: MixedCosts, strategy: MixedStrategy) -> None:
    """Raise for the first rule that a mixed strategy breaks.

    Raises
    ------
    InputError
        Naming the replica and stage.
    """
    workload = costs.workload
    total = strategy.micro_batch * sum(r.num_microbatches * r.count for r in strategy.replicas)
    least = min((min(r.num_microbatches, r.count) for r in strategy.replicas), default=0)
    if strategy.micro_batch < 1 or least < 1 or total != workload.global_batch:
        raise InputError(
            f"the shares of the replicas make up {total} sequences of a global batch of "
            f"{workload.global_batch}",
            path="strategy",
            pointer="$.replicas",
            fix="let the sum of count * num_microbatches, times micro_batch, be the global batch",
        )
    used = [0] * len(costs.costs)
    for r, replica in enumerate(strategy.replicas):
        _check_replica(costs, strategy.micro_batch, replica, f"$.replicas[{r}]")
        for stage in replica.stages:
            used[stage.group] += replica.count * stage.degrees.num_devices
    for g, (count, group) in enumerate(zip(used, costs.cluster.nodes, strict=True)):
        if count > group.num_devices:
            raise InputError(
                f"the stages on group {g} take {count} devices, it has {group.num_devices} "
                f"{group.device.name}",
                path="strategy",
                pointer="$.replicas",
                fix="use fewer or smaller stages there",
            )


def _check_replica(costs: MixedCosts, micro_batch: int, replica: ReplicaChoice, where: str) -> None:
    count = len(replica.stages)
    held = sum(s.num_layers for s in replica.stages)
    layers = costs.costs[0].num_layers
    if held != layers:
        raise InputError(
            f"the stages hold {held} layers, the model has {layers}",
            path="strategy",
            pointer=f"{where}.stages",
            fix=f"give numbers that sum to {layers}",
        )
    for i, stage in enumerate(replica.stages):
        pointer = f"{where}.stages[{i}]"
        if stage.group >= len(costs.costs):
            raise InputError(
                f"there is no node group {stage.group}",
                path="strategy",
                pointer=f"{pointer}.group",
                fix=f"count the groups of the cluster from 0 to {len(costs.costs) - 1}",
            )
        if stage.num_layers == 0 and 0 < i < count - 1:
            raise InputError(
                "a stage in the middle holds no layer",
                path="strategy",
                pointer=f"{pointer}.num_layers",
                fix="only the first and the last stage may be empty of layers",
            )
        if micro_batch % stage.dp:
            raise InputError(
                f"dp {stage.dp} does not divide the micro-batch {micro_batch}",
                path="strategy",
                pointer=f"{pointer}.dp",
                fix="use a divisor, or another micro_batch",
            )
        alone = Strategy(
            tp=stage.tp,
            sequence_parallel=stage.sequence_parallel,
            cp=stage.cp,
            dp=stage.dp,
            ep=stage.ep,
            micro_batch=micro_batch // stage.dp,
            layers_per_chunk=(layers,),
            recompute=(stage.recompute,),
        )
        try:
            check_strategy(costs.costs[stage.group], alone)
        except InputError as error:
            tail = error.pointer.removeprefix("$.")
            raise InputError(
                error.what, path="strategy", pointer=f"{pointer}.{tail}", fix=error.fix
            ) from error


class _Builder:
    """Collects the figures of one plan."""

    def __init__(
        self,
        costs: MixedCosts,
        problem: MixedProblem,
        kinds: Sequence[Degrees],
        replicas: Sequence[Replica],
        ranges: Sequence[Sequence[Range]],
    ) -> None:
        self.costs, self.problem, self.kinds = costs, problem, kinds
        self.replicas, self.ranges = replicas, ranges
        self.figures = problem.costs(replicas)
        self.times = [
            replica_s(own, r.num_microbatches)
            for own, r in zip(self.figures, replicas, strict=True)
        ]

    def plan(self, certificate: Certificate | None) -> MixedPlan:
        costs, work = self.costs, self.costs.workload
        groups = self.problem.groups_of(self.replicas)
        step_s = max(self.times) + max(self.problem.fixed_s[g] for g in groups)
        used = [0] * len(costs.costs)
        for replica in self.replicas:
            for stage in replica.stages:
                used[self.kinds[stage.kind].group] += self.kinds[stage.kind].num_devices
        peak, watts, usd = 0.0, 0.0, 0.0
        priced = True
        for count, cost in zip(used, costs.costs, strict=True):
            if not count:
                continue
            peak += count * peak_flops_per_s(cost.device, work.dtype)
            watts += count * cost.watts_per_device
            rate = cost.usd_per_device_s
            priced = priced and rate is not None
            usd += count * (rate or 0.0)
        length = work.sequence_length
        if costs.costs[0].graph.encoder_decoder:
            length += work.decoder_sequence_length or work.sequence_length
        return MixedPlan(
            tool_version=__version__,
            model=costs.model,
            cluster=costs.cluster,
            workload=work,
            digests={
                "model": files.digest(costs.model),
                "cluster": files.digest(costs.cluster),
                "workload": files.digest(work),
            },
            cost_model=costs.name,
            micro_batch=self.problem.micro_batch,
            num_microbatches=sum(r.num_microbatches for r in self.replicas),
            replicas=tuple(self._replica(r) for r in range(len(self.replicas))),
            num_devices=sum(used),
            idle_devices=costs.cluster.num_devices - sum(used),
            step_time_s=step_s,
            mfu=float(costs.costs[0].model_flops_per_step / (step_s * peak)),
            tokens_per_s=work.global_batch * length / step_s,
            price_usd_per_step=usd * step_s if priced else None,
            energy_j_per_step=watts * step_s,
            breakdown_s=self._breakdown(step_s),
            step_time_error=self._error(groups),
            certificate=certificate,
        )

    def _error(self, groups: Sequence[int]) -> float | None:
        """The largest error that is known of the groups used, None where one is not known."""
        errors = [self.costs.costs[g].error for g in groups]
        known = [error.error_90 for error in errors if error is not None]
        return max(known) if len(known) == len(errors) else None

    def _replica(self, r: int) -> MixedReplica:
        own, micro = self.figures[r], self.replicas[r].num_microbatches
        return MixedReplica(
            index=r,
            num_microbatches=micro,
            stages=tuple(self._stage(r, i) for i in range(len(own))),
            first_s=sum(s.tau_s for s in own) + 2.0 * sum(s.link_s for s in own),
            slowest_s=max(s.tau_s for s in own),
            tail_s=max(s.tail_s for s in own),
            time_s=self.times[r],
        )

    def _stage(self, r: int, i: int) -> MixedStage:
        stages, cost = self.replicas[r].stages, self.figures[r][i]
        degrees = self.kinds[stages[i].kind]
        device = self.costs.cluster.nodes[degrees.group].device
        return MixedStage(
            index=i,
            group=degrees.group,
            device=device.name,
            tp=degrees.tp,
            sequence_parallel=degrees.sequence_parallel,
            cp=degrees.cp,
            dp=degrees.dp,
            ep=degrees.ep,
            num_devices=degrees.num_devices,
            devices=(self.ranges[r][i],),
            first_layer=sum(s.num_layers for s in stages[:i]),
            num_layers=stages[i].num_layers,
            embedding=i == 0,
            head=i + 1 == len(stages),
            recompute=stages[i].recompute,
            memory_bytes=self._memory(cost, degrees.group),
            capacity_bytes=device.memory_bytes,
            forward_s=cost.forward_s,
            backward_s=cost.backward_s,
            link_s=cost.link_s,
            tail_s=cost.tail_s,
        )

    def _memory(self, cost: StageCost, group: int) -> dict[str, int]:
        """Bytes by kind, each with its share of the allocator's gaps."""
        model = self.costs.costs[group]
        parts = {
            "states": cost.state_bytes,
            "activations": cost.held_bytes + cost.scratch_bytes,
            "logits": cost.logits_bytes,
            "buffers": model.device.memory_bytes - model.reserve_bytes - cost.capacity_bytes,
        }
        whole = {name: math.ceil(size - 1e-6) for name, size in parts.items()}
        return whole | {"total": sum(whole.values())}

    def _breakdown(self, step_s: float) -> dict[str, float]:
        """The replica that ends last, through its slowest stage; sums to the step time."""
        last = int(np.argmax(self.times))
        own, replica = self.figures[last], self.replicas[last]
        slow = int(np.argmax([s.tau_s for s in own]))
        cost, m = own[slow], replica.num_microbatches
        parts = dict.fromkeys(BREAKDOWN, 0.0)
        before = self._work_s(replica, slow, ())
        parts["recompute"] = m * (cost.tau_s - before)
        free: tuple[str, ...] = ()
        for axis, name in (
            ("tp", "tensor_parallel"),
            ("cp", "context_parallel"),
            ("ep", "expert_parallel"),
        ):
            free = (*free, axis)
            after = self._work_s(replica, slow, free)
            parts[name] = m * (before - after)
            before = after
        parts["compute"] = m * before
        tail = max(own, key=lambda s: s.tail_s)
        reduce, tied, update, gather = tail.parts_s
        parts["data_parallel"] = reduce + tied + gather
        parts["optimizer"] = update
        parts["fixed"] = step_s - max(self.times)
        parts["pipeline_idle"] = step_s - math.fsum(parts.values())
        return parts

    def _work_s(self, replica: Replica, i: int, free: tuple[str, ...]) -> float:
        """Passes of one micro-batch on a stage, the exchange of some axes left out."""
        stage = replica.stages[i]
        degrees = self.kinds[stage.kind]
        cost = self.costs.costs[degrees.group]
        meshes = self.costs.meshes([degrees], self.problem.micro_batch, 2)
        table, row = cost.layer_costs(meshes, free)
        k = int(row[0])
        seconds = table.forward_s[k] + table.backward_s[k] + table.weight_s[k]
        begin = sum(s.num_layers for s in replica.stages[:i])
        types = list(self.problem.sequence[begin : begin + stage.num_layers])
        types += [0] * (i == 0) + [len(seconds) - 1] * (i + 1 == len(replica.stages))
        return float(seconds[types].sum())
