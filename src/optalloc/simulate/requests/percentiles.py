"""Plan for percentile targets: tighten the targets on the mean until the simulation meets them.

The cost model knows means; what a percentile of the requests meets, only a simulation does. A plan
for the targets on the mean is simulated under its own load; where its percentile misses a target,
the target on the mean is divided by how much it missed, and planned again, with the same random
numbers. Among the plans that meet the percentile the least tightened one is kept: between the last
that failed and the first that met, the tightening is bisected.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np

from optalloc.serving.configuration.plan import ServingPlan
from optalloc.simulate.requests.arrivals import ClosedLoop
from optalloc.simulate.requests.outcome import RequestSimulation
from optalloc.simulate.requests.plans import deployment_of, load_of
from optalloc.simulate.requests.simulate import simulate_requests
from optalloc.workload import Serving

_MOST_TIGHTENED = 5
_BISECTED = 3
_ROUNDS = 10


class PercentilePlan(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A plan whose simulation meets the percentile targets.

    ``workload`` has the targets on the mean that it was made for, ``simulation`` what the requests
    of the true workload met, ``num_plans`` how many were made.
    """

    plan: ServingPlan
    workload: Serving
    simulation: RequestSimulation
    num_plans: int


def plan_for_percentile(
    workload: Serving,
    plan_of: Callable[[Serving], ServingPlan | None],
    *,
    num_requests: int = 2000,
    seed: int = 0,
) -> PercentilePlan | None:
    """The first plan on the way of tightened targets that meets the workload's percentile.

    Parameters
    ----------
    workload : Serving
        With targets and a percentile.
    plan_of : callable
        The best plan for targets on the mean; None where there is none.

    Returns
    -------
    PercentilePlan or None
        None where tightened targets leave no plan, or do not lead to one that meets them.

    Complexity: at most 9 plans and simulations.
    """
    made = 0

    def attempt(tightened: Serving) -> tuple[PercentilePlan | None, dict[str, float]]:
        nonlocal made
        made += 1
        plan = plan_of(tightened)
        if plan is None:
            return None, {}
        simulation = simulate_plan(plan, num_requests=num_requests, seed=seed)
        found = PercentilePlan(plan=plan, workload=tightened, simulation=simulation, num_plans=made)
        return found, missed(simulation, workload)

    tightened = failed = workload
    met = None
    for _ in range(_MOST_TIGHTENED):
        found, ratios = attempt(tightened)
        if found is None:
            return None
        if not ratios:
            met = found
            break
        failed = tightened
        tightened = _scaled(tightened, ratios)
    if met is None or met.workload is workload:
        return met
    for _ in range(_BISECTED):
        found, ratios = attempt(_between(failed, met.workload))
        if found is not None and not ratios:
            met = found
        elif found is not None:
            failed = found.workload
    return msgspec.structs.replace(met, num_plans=made)


def simulate_plan(
    plan: ServingPlan, *, num_requests: int = 2000, seed: int = 0
) -> RequestSimulation:
    """A plan under its own load, behind a tenth of the requests as warm-up."""
    load, work = load_of(plan), plan.workload
    if isinstance(load.arrivals, ClosedLoop):
        num_requests = max(num_requests, _ROUNDS * load.arrivals.clients)
    return simulate_requests(
        deployment_of(plan),
        load,
        num_requests=num_requests,
        seed=seed,
        ttft_s=work.ttft_s,
        tpot_s=work.tpot_s,
        warm_up=0.1,
    )


def missed(simulation: RequestSimulation, workload: Serving) -> dict[str, float]:
    """By field of a target that the percentile misses: how many times the target it takes."""
    ratios = {}
    for name, times in (("ttft_s", simulation.ttft_s), ("tpot_s", simulation.tpot_s)):
        target = getattr(workload, name)
        counted = times[simulation.warm_up :]
        counted = counted[~np.isnan(counted)]
        if target is None or workload.percentile is None or not counted.size:
            continue
        ratio = float(np.percentile(counted, workload.percentile)) / target
        if ratio > 1.0:
            ratios[name] = ratio
    return ratios


def _scaled(workload: Serving, ratios: dict[str, float]) -> Serving:
    """Targets divided by how much they were missed."""
    return msgspec.structs.replace(
        workload, **{name: getattr(workload, name) / ratio for name, ratio in ratios.items()}
    )


def _between(loose: Serving, tight: Serving) -> Serving:
    """Targets half way between two."""
    return msgspec.structs.replace(
        loose,
        **{
            name: (getattr(loose, name) + getattr(tight, name)) / 2.0
            for name in ("ttft_s", "tpot_s")
            if getattr(loose, name) is not None
        },
    )
