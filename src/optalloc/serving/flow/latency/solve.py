"""The two answers about latency: the fastest route, and a begin for most tokens within a limit."""

from __future__ import annotations

import math
import time

import numpy as np

from optalloc.result import Bounds, Fix, Incumbent, Stats, Termination
from optalloc.serving.flow.certify_latency import certify_latency
from optalloc.serving.flow.journal import TOLERANCE, Journal
from optalloc.serving.flow.latency.bound import bound_by_latency
from optalloc.serving.flow.latency.fastest import RouteFound, fastest_route
from optalloc.serving.flow.latency.routes import routes_within
from optalloc.serving.flow.latency.times import Times
from optalloc.serving.flow.problem import FlowProblem
from optalloc.serving.flow.result import FlowResult
from optalloc.stop import OnProgress, Progress, StopRule

_FASTEST_S = 2.0
_TRIES = 12


def place_fastest(
    problem: FlowProblem, *, stop: StopRule | None, on_progress: OnProgress | None
) -> FlowResult:
    """The placement with the route of least one-token latency, and a proven bound in seconds."""
    begin, begin_cpu = time.perf_counter(), time.process_time()
    incumbents: list[Incumbent] = []
    stopped = False

    def expired(value: float, bound: float) -> bool:
        nonlocal stopped
        spent = time.perf_counter() - begin
        if value < math.inf and (not incumbents or value < incumbents[-1].value):
            incumbents.append(Incumbent(elapsed_s=spent, value=value))
        progress = Progress(
            elapsed_s=spent,
            incumbent=value if value < math.inf else None,
            bound=bound if bound > -math.inf else None,
        )
        if on_progress is not None:
            on_progress(progress)
        stopped = stopped or (stop is not None and stop(progress))
        return stopped

    times = Times(problem)
    found = fastest_route(times, expired)
    stopped = stopped or found.interrupted
    expired(found.latency_s, found.witness.latency_s)
    stats = Stats(
        wall_s=time.perf_counter() - begin,
        cpu_s=time.process_time() - begin_cpu,
        nodes=found.parts,
    )
    if not found.visits:
        return _no_route(found, stats)
    placement = _placed(times, found)
    routes = routes_within(problem, placement, found.latency_s * (1.0 + TOLERANCE / 10.0))
    bound = min(found.latency_s, found.witness.latency_s)
    certify_latency(
        problem, placement, routes, latency_s=found.latency_s, bound=bound, witness=found.witness
    )
    closed = bound >= found.latency_s * (1.0 - TOLERANCE)
    return FlowResult(
        termination=Termination.OPTIMAL
        if closed
        else Termination.LIMIT
        if stopped
        else Termination.FEASIBLE,
        bounds=Bounds(primal=found.latency_s, dual=found.latency_s if closed else bound),
        stats=stats,
        incumbents=tuple(incumbents),
        objective="latency",
        latency_s=found.latency_s,
        routes=routes,
        placed=placement,
        witness=found.witness,
        partial_inference=problem.partial_inference,
    )


def begin_within(journal: Journal, limit_s: float) -> FlowResult | None:
    """Offer fast routes and bound what the limit forbids; an answer only where no route is fast
    enough, or none was found."""
    problem = journal.arrays.problem
    times = Times(problem)
    late = journal.within(_FASTEST_S)
    found = fastest_route(
        times, lambda value, bound: value <= limit_s or bound > limit_s * (1.0 + 1e-9) or late()
    )
    if found.interrupted:
        raise KeyboardInterrupt
    if found.latency_s > limit_s:
        stats = Stats(wall_s=journal.elapsed_s(), cpu_s=journal.cpu_s())
        return _too_slow(found, limit_s, stats, journal)
    journal.offer(_placed(times, found))
    witness = bound_by_latency(times, journal.arrays.throughput, limit_s, journal.bound)
    if witness is not None:
        journal.lower(witness.flow_tokens_per_s, witness)
    _widest_route(journal, times, limit_s)
    return None


def _widest_route(journal: Journal, times: Times, limit_s: float) -> None:
    """Offer single routes of more and more tokens/s that are still fast enough."""
    arrays = journal.arrays
    capacity = np.vstack([arrays.links, arrays.source, arrays.sink])
    low, high = journal.value, journal.bound
    flow = high
    for _ in range(_TRIES):
        if high - low <= TOLERANCE * high or journal.expired():
            return
        fit = times.passing(arrays.throughput, capacity, flow)
        found = fastest_route(fit, lambda *_: True)
        if found.interrupted:
            raise KeyboardInterrupt
        if found.visits and found.latency_s <= limit_s:
            low = max(flow, journal.offer(_placed(fit, found)))
        else:
            high = flow
        flow = (low + high) / 2.0 if low > 0.0 else high / 2.0


def _placed(times: Times, found: RouteFound) -> dict[int, tuple[int, int]]:
    placement = {}
    for node, first, layers in sorted(found.visits):
        held = times.held(node, first, layers)
        placement[node] = (first + layers - held, first + layers)
    return placement


def _no_route(found: RouteFound, stats: Stats) -> FlowResult:
    why = "no route of nodes holds all layers and is linked from source to sink"
    if found.finished:
        return FlowResult(
            termination=Termination.INFEASIBLE,
            bounds=Bounds(),
            stats=stats,
            objective="latency",
            conflict=(why,),
            fixes=(Fix(what="add nodes or links, or memory for more layers on the nodes"),),
            message=why,
        )
    return FlowResult(
        termination=Termination.LIMIT,
        bounds=Bounds(dual=found.witness.latency_s),
        stats=stats,
        objective="latency",
        message="no route from source to sink was found before the search was stopped",
    )


def _too_slow(found: RouteFound, limit_s: float, stats: Stats, journal: Journal) -> FlowResult:
    """No route within the limit: proven where the bound says so."""
    least = found.witness.latency_s
    if not found.visits:
        if found.finished:
            return _no_route(found, stats)
        known = "and no route at all was found"
    else:
        known = f"the fastest route found takes {found.latency_s:.6g} s"
    if least > limit_s * (1.0 + 1e-9):
        conflict = (f"no route takes less than {least:.6g} s, the limit is {limit_s:.6g} s", known)
        more = found.latency_s - limit_s
        fixes = (
            Fix(what=f"allow {found.latency_s:.6g} s a token", cost=f"{more:.6g} s more"),
            Fix(what="links of less latency, or fewer nodes with more memory"),
        )
        return FlowResult(
            termination=Termination.INFEASIBLE,
            bounds=Bounds(),
            stats=stats,
            latency_limit_s=limit_s,
            conflict=conflict,
            fixes=fixes if found.visits else fixes[1:],
            message=conflict[0],
        )
    return FlowResult(
        termination=Termination.LIMIT,
        bounds=Bounds(dual=journal.bound),
        stats=stats,
        latency_limit_s=limit_s,
        witness=journal.witness,
        message=f"no route within {limit_s:.6g} s was found, {known}",
    )
