"""The same plan for fewer processes: stages stay, the other degrees shrink."""

from __future__ import annotations

import itertools
import math

import msgspec

from optalloc.errors import InputError
from optalloc.training.plan import StagePlan, TrainingPlan


def reduce_plan(plan: TrainingPlan, processes: int) -> TrainingPlan:
    """A plan of the same stages, schedule and recomputation for at most ``processes`` devices.

    tp, cp and dp become divisors of themselves, with the largest product that fits; among equals
    the most axes stay in use, then dp is kept before tp before cp. The batch shrinks with dp.
    Predicted times stay those of the original plan.

    Raises
    ------
    InputError
        If there are fewer processes than stages.
    """
    degrees = plan.degrees
    if processes < degrees.pp:
        raise InputError(
            f"{processes} processes cannot hold {degrees.pp} pipeline stages",
            path="--processes",
            fix=f"give at least {degrees.pp}",
        )
    if processes >= degrees.tp * degrees.cp * degrees.pp * degrees.dp:
        return plan
    budget = processes // degrees.pp
    choices = itertools.product(*(_divisors(d) for d in (degrees.dp, degrees.tp, degrees.cp)))
    dp, tp, cp = max(
        (choice for choice in choices if math.prod(choice) <= budget),
        key=lambda choice: (math.prod(choice), sum(d > 1 for d in choice), choice),
    )
    size, replicas = tp * cp * dp, dp * cp
    shard = max(d for d in _divisors(replicas) if d <= (plan.shard_group or replicas))
    batch = dp * plan.micro_batch * plan.num_microbatches
    return msgspec.structs.replace(
        plan,
        degrees=msgspec.structs.replace(
            degrees, tp=tp, cp=cp, dp=dp, ep=math.gcd(degrees.ep, size)
        ),
        sequence_parallel=plan.sequence_parallel and tp > 1,
        shard_group=shard if plan.shard_group and shard < replicas else 0,
        workload=msgspec.structs.replace(plan.workload, global_batch=batch),
        num_devices=size * degrees.pp,
        idle_devices=plan.num_devices + plan.idle_devices - size * degrees.pp,
        stages=tuple(_moved(stage, size) for stage in plan.stages),
    )


def _moved(stage: StagePlan, size: int) -> StagePlan:
    devices = ((stage.index * size, (stage.index + 1) * size),)
    return msgspec.structs.replace(stage, num_devices=size, devices=devices)


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
