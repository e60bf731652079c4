"""plan_fleet: search, share the load, check."""

from __future__ import annotations

import numpy as np

from optalloc.result import Bounds, Stats, Termination
from optalloc.serving.mix.arrays import FleetArrays
from optalloc.serving.mix.certify import certify_fleet
from optalloc.serving.mix.infeasible import why_infeasible
from optalloc.serving.mix.problem import FleetProblem
from optalloc.serving.mix.result import FleetResult
from optalloc.serving.mix.route import route
from optalloc.serving.mix.search import Search
from optalloc.serving.mix.witness import FleetWitness
from optalloc.stop import OnProgress, StopRule


def plan_fleet(
    problem: FleetProblem,
    *,
    stop: StopRule | None = None,
    on_progress: OnProgress | None = None,
) -> FleetResult:
    """The cheapest fleet that serves every bucket of requests, proven.

    Parameters
    ----------
    problem : FleetProblem
    stop : StopRule, optional
        Ends the search early, for example ``TimeLimit(10)``; the best fleet and bound so far are
        returned.

    Returns
    -------
    FleetResult
        ``counts`` by offer, ``routes`` (who serves what), ``headroom``, ``bounds`` in USD/h and
        their ``witness``. Infeasible results say which limits conflict and what would help.
    """
    arrays = FleetArrays(problem)
    if arrays.unserved:
        return _infeasible(problem, Stats(), None, stop)
    search = Search(arrays, stop, on_progress)
    search.run()
    witness = search.witness
    stats = Stats(wall_s=search.elapsed_s(), cpu_s=search.cpu_s(), nodes=search.visited)
    if search.counts is None:
        if search.stopped or search.bound < float("inf"):
            return FleetResult(
                termination=Termination.LIMIT,
                bounds=Bounds(dual=search.bound),
                stats=stats,
                witness=witness,
                message="stopped before a fleet was found",
            )
        return _infeasible(problem, stats, witness, stop)
    counts = tuple(np.asarray(search.counts).tolist())
    routes = route(problem, counts, arrays.scenarios[0])
    value = problem.price_usd_per_h(counts)
    closed = search.bound >= search.value
    bound = value if closed else min(value, search.bound)
    certify_fleet(
        problem,
        counts,
        routes.shares,
        value_usd_per_h=value,
        bound_usd_per_h=bound,
        witness=witness,
    )
    return FleetResult(
        termination=Termination.OPTIMAL if closed else Termination.LIMIT,
        bounds=Bounds(primal=value, dual=bound),
        stats=Stats(wall_s=search.elapsed_s(), cpu_s=search.cpu_s(), nodes=search.visited),
        incumbents=tuple(search.incumbents),
        rented=counts,
        routes=routes,
        headroom=1.0 / routes.busy - 1.0 if routes.busy > 0.0 else None,
        busiest=routes.busy * problem.utilization,
        witness=witness,
    )


def _infeasible(
    problem: FleetProblem, stats: Stats, witness: FleetWitness | None, stop: StopRule | None
) -> FleetResult:
    certify_fleet(problem, None, witness=witness)
    conflict, fixes = why_infeasible(problem, stop)
    return FleetResult(
        termination=Termination.INFEASIBLE,
        bounds=Bounds(),
        stats=stats,
        witness=witness,
        conflict=conflict,
        fixes=fixes,
        message=conflict[0],
    )
