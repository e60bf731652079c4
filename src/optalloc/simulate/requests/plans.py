"""A serving plan as a deployment and a load of the simulation."""

from __future__ import annotations

from collections.abc import Sequence

from optalloc.cost.engine.constants import read_engine_constants
from optalloc.cost.engine.step import StepModel, step_model
from optalloc.errors import InputError
from optalloc.serving.configuration.plan import ServingPlan, Worker
from optalloc.simulate.requests.arrivals import Arrivals, ClosedLoop, Poisson
from optalloc.simulate.requests.deployment import Deployment, Engines
from optalloc.simulate.requests.engines import engines_of
from optalloc.simulate.requests.lengths import Fixed, Lengths, Uniform
from optalloc.simulate.requests.load import Load
from optalloc.workload import Serving

SPREAD = 0.2
"""Lengths lie within this share of their mean, unless said otherwise."""

_WEIGHTS = 1000


def deployment_of(plan: ServingPlan) -> Deployment:
    """The engines of a plan, with times and caches of the cost model that it was made with.

    Unequal engines get requests in proportion to the rate that the plan gives them; a split plan
    hands the cache of a mean prompt over in the time that it states.

    Raises
    ------
    InputError
        If the cost model's file cannot be read, or an engine serves no requests.
    """
    steps = [_step(plan, worker) for worker in plan.workers]
    pairs = list(zip(plan.workers, steps, strict=True))
    return Deployment(
        engines=_engines([pair for pair in pairs if pair[0].role != "prefill"]),
        prefill=_engines([pair for pair in pairs if pair[0].role == "prefill"]),
        transfer_s_per_token=plan.predicted.transfer_s / plan.workload.input_len,
        lag_iterations=max(
            float(step.lag_iterations if worker.role == "serve" else step.constants.lag)
            for worker, step in pairs
        ),
    )


def _step(plan: ServingPlan, worker: Worker) -> StepModel:
    group = plan.cluster.nodes[worker.group]
    file = read_engine_constants(plan.cost_model)
    return step_model(plan.model, group.device, worker.engine, group=group, file=file)


def _engines(pairs: Sequence[tuple[Worker, StepModel]]) -> tuple[Engines, ...]:
    for index, (worker, _) in enumerate(pairs):
        if not worker.request_rate_per_s > 0.0:
            raise InputError(
                f"worker {index} serves {worker.request_rate_per_s:g} requests/s",
                pointer="$.workers",
                fix="make the plan again with 'optalloc serve'",
            )
    most = max((_rate(worker) for worker, _ in pairs), default=1.0)
    return tuple(
        engines_of(
            worker.engine,
            step,
            replicas=worker.count,
            weight=max(1, round(_WEIGHTS * _rate(worker) / most)),
        )
        for worker, step in pairs
    )


def _rate(worker: Worker) -> float:
    """Of one rank of one stage."""
    return worker.request_rate_per_s / (worker.engine.attention_dp * worker.engine.pp)


def load_of(plan: ServingPlan, arrivals: Arrivals | None = None, spread: float = SPREAD) -> Load:
    """The workload of a plan.

    Parameters
    ----------
    arrivals : optional
        Default: Poisson at the workload's rate, or as many clients as it has requests in flight;
        with neither, as many as the plan's engines hold.
    spread : float
        Lengths are uniform within this share of their mean.
    """
    work = plan.workload
    return Load(
        arrivals=arrivals or arrivals_of(plan),
        input=_around(work.input_len, spread, work.prefix_len + 1),
        output=_around(work.output_len, spread, 1),
        prefix_tokens=work.prefix_len,
    )


def asked_of(plan: ServingPlan) -> Serving:
    """The workload with the targets that were asked for."""
    return plan.asked or plan.workload


def arrivals_of(plan: ServingPlan) -> Arrivals:
    """How the requests of a plan's workload come."""
    work = plan.workload
    if work.rate_per_s is not None:
        return Poisson(work.rate_per_s)
    return ClosedLoop(work.concurrency or in_flight(plan))


def in_flight(plan: ServingPlan) -> int:
    """Requests that the engines of a plan hold."""
    return max(1, round(sum(worker.concurrency * worker.count for worker in plan.workers)))


def _around(mean: int, spread: float, least: int) -> Lengths:
    """Lengths about a mean, none below ``least``; the mean is kept."""
    lengths = Uniform.around(mean, min(spread, (mean - least) / mean))
    return Fixed(mean) if lengths.low == lengths.high else lengths
