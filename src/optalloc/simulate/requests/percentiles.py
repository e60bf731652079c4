"""Plan for percentile targets: tighten the targets on the mean until the simulation meets them.

The cost model knows means; what a percentile of the requests meets, only a simulation does. A plan
for the targets on the mean is simulated under its own load; where its percentile misses a target,
the target on the mean is divided by how much it missed, or by less where that leaves no plan, and
planned again, with the same random numbers. Among the plans that meet the percentile the least
tightened one is kept: between the last that failed and the first that met, the tightening is
bisected.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from optalloc.serving.configuration.plan import ServingPlan
from optalloc.serving.configuration.solve import ServingResult
from optalloc.simulate.requests.arrivals import ClosedLoop
from optalloc.simulate.requests.outcome import RequestSimulation
from optalloc.simulate.requests.plans import asked_of, deployment_of, load_of
from optalloc.simulate.requests.simulate import simulate_requests
from optalloc.workload import Serving

_MOST_TIGHTENED = 8
_BISECTED = 3
_ROUNDS = 10


class PercentileResult(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A plan, and what the requests of the workload as asked meet with it.

    ``result`` is that of the (tightened) targets on the mean; its plan names what was asked.
    ``missed`` says by target how many times it the percentile takes: nothing where all are met.
    Without a plan there is no ``simulation``. ``num_plans`` were made.
    """

    result: ServingResult
    simulation: RequestSimulation | None
    missed: dict[str, float]
    num_plans: int


def plan_for_percentile(
    workload: Serving,
    plan_of: Callable[[Serving], ServingResult],
    *,
    num_requests: int = 2000,
    seed: int = 0,
) -> PercentileResult:
    """The least tightened plan found that meets the workload's percentile; else the nearest.

    Parameters
    ----------
    workload : Serving
        With targets and a percentile.
    plan_of : callable
        The best plan for targets on the mean.

    Complexity: at most 11 plans and simulations.
    """
    made = 0

    def attempt(tightened: Serving) -> PercentileResult:
        nonlocal made
        made += 1
        result = plan_of(tightened)
        if result.best is None:
            return PercentileResult(result=result, simulation=None, missed={}, num_plans=made)
        plan = msgspec.structs.replace(result.best, asked=workload)
        simulation = simulate_plan(plan, num_requests=num_requests, seed=seed)
        return PercentileResult(
            result=msgspec.structs.replace(result, best=plan),
            simulation=simulation,
            missed=missed(simulation, workload),
            num_plans=made,
        )

    loose = tight = msgspec.structs.replace(workload, percentile=None)
    best = found = attempt(tight)
    while found.missed and made < _MOST_TIGHTENED:
        loose, tight = tight, _scaled(tight, found.missed)
        found = attempt(tight)
        while found.simulation is None and made < _MOST_TIGHTENED:
            tight = _between(loose, tight)
            found = attempt(tight)
        if found.simulation is not None and _worst(found) < _worst(best):
            best = found
    if loose is tight or best.missed:
        return msgspec.structs.replace(best, num_plans=made)
    for _ in range(_BISECTED):
        middle = _between(loose, tight)
        found = attempt(middle)
        if found.missed or found.simulation is None:
            loose = middle
        else:
            tight, best = middle, found
    return msgspec.structs.replace(best, num_plans=made)


def _worst(found: PercentileResult) -> float:
    return max(found.missed.values(), default=0.0)


def simulate_plan(
    plan: ServingPlan, *, num_requests: int = 2000, seed: int = 0
) -> RequestSimulation:
    """A plan under its own load, behind a tenth of the requests as warm-up."""
    load, work = load_of(plan), asked_of(plan)
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
    for name in ("ttft_s", "tpot_s"):
        target = getattr(workload, name)
        if target is not None and workload.percentile is not None:
            ratios[name] = simulation.percentile_s(name, workload.percentile) / target
    return {name: ratio for name, ratio in ratios.items() if ratio > 1.0}


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
