"""plan_serving: the best deployment for a goal, with its proof and rivals, or why there is none."""

from __future__ import annotations

import time
from collections.abc import Iterable

import msgspec

from optalloc.cluster.topology import Cluster
from optalloc.cost.engine.constants import DEFAULT
from optalloc.model.spec import ModelSpec
from optalloc.result import Bounds, Result, Stats, Termination
from optalloc.serving.configuration.build import build_plan, rival_of
from optalloc.serving.configuration.certify import check_serving_plan
from optalloc.serving.configuration.devices import check_devices
from optalloc.serving.configuration.front import front
from optalloc.serving.configuration.infeasible import explain_infeasible
from optalloc.serving.configuration.limits import Limits, parse_limits
from optalloc.serving.configuration.plan import Certificate, ServingPlan
from optalloc.serving.configuration.problem import OBJECTIVES, Problem
from optalloc.serving.configuration.search import Outcome, Search
from optalloc.serving.configuration.space import BATCHES, CHUNKS
from optalloc.serving.configuration.targets import for_target
from optalloc.stop import OnProgress, StopRule
from optalloc.workload import Serving

_RIVALS = 4


class ServingResult(Result, frozen=True, kw_only=True):
    """The answer of :func:`plan_serving`; ``space`` states what was searched.

    ``objective`` is what was asked for, in ``unit``.
    """

    objective: str
    unit: str
    space: str
    best: ServingPlan | None = None

    @property
    def plan(self) -> ServingPlan:
        """The best plan.

        Raises
        ------
        NoPlan
            If there is none; the message says why.
        """
        return self._planned(self.best, "serving")


def plan_serving(
    model: ModelSpec,
    cluster: Cluster,
    workload: Serving,
    *,
    objective: str = "throughput",
    pin: Iterable[str] = (),
    forbid: Iterable[str] = (),
    headroom: float = 0.1,
    target: str | None = None,
    stop: StopRule | None = None,
    on_progress: OnProgress | None = None,
    cost_model: str = DEFAULT,
) -> ServingResult:
    """The best way to serve a model on a cluster in the whole stated space, proven.

    Parameters
    ----------
    workload : Serving
        Lengths, targets, and the load: requests per second, requests in flight, or neither (as many
        as are served best).
    objective : {"throughput", "price", "devices", "latency"}
        Most output tokens per second (with a rate: that could be served); least dollars per million
        output tokens; fewest devices; least mean seconds of a request.
    pin, forbid : iterable of str
        Fix, widen or exclude decisions: ``"tp=8"``, ``"kv=bf16,fp8"``, ``"decode.batch=64"``,
        ``"mode=aggregated"``; see :mod:`optalloc.serving.configuration.limits`.
    headroom : float
        Share of the capacity that is kept free where a rate is given.
    target : {"vllm", "sglang", "trtllm", "dynamo", "llm-d", "lws"}, optional
        Only plans that can be exported to it; its software is chosen where none is pinned.
    stop : StopRule, optional
        Ends the search early; the result then is LIMIT with the bound proven so far.

    Returns
    -------
    ServingResult
        OPTIMAL, LIMIT, or INFEASIBLE with what conflicts and fixes that were tried.

    Raises
    ------
    InputError
        For an unknown objective, decision or target, an objective without data, requests longer
        than the model's positions, or more than :data:`MOST_DEVICES` devices.
    UnsupportedModel
        If the model is not decoder-only.

    Complexity: linear in the engine settings of the space, in array operations.
    """
    begin, begin_cpu = time.perf_counter(), time.process_time()
    problem = Problem(
        model=model,
        cluster=cluster,
        workload=workload,
        objective=objective,
        limits=_limits(pin, forbid, target),
        headroom=headroom,
        constants=cost_model,
    )
    check_devices(problem)
    search = Search(problem, stop, on_progress)
    interrupted = False
    try:
        outcome = search.run()
    except KeyboardInterrupt:
        outcome, interrupted = search.so_far(), True
    best = None
    if outcome.best is not None:
        best = _plan(search, outcome)
    conflict, fixes = (
        ((), ()) if best or outcome.stopped or interrupted else (explain_infeasible(search, stop))
    )
    stopped = outcome.stopped or interrupted
    return ServingResult(
        termination=(
            Termination.LIMIT
            if stopped
            else Termination.INFEASIBLE
            if best is None
            else Termination.OPTIMAL
        ),
        bounds=Bounds(
            primal=None if outcome.best is None else outcome.best.value, dual=outcome.bound
        ),
        stats=Stats(
            wall_s=time.perf_counter() - begin,
            cpu_s=time.process_time() - begin_cpu,
            nodes=outcome.configurations - sum(outcome.pruned.values()),
            configurations=outcome.configurations,
            pruned=outcome.pruned,
        ),
        incumbents=outcome.incumbents,
        conflict=conflict,
        fixes=fixes,
        objective=objective,
        unit=OBJECTIVES[objective][0],
        space=describe_space(problem),
        best=best,
    )


def _limits(pin: Iterable[str], forbid: Iterable[str], target: str | None) -> Limits:
    limits = parse_limits(pin, forbid)
    return limits if target is None else for_target(limits, target)


def _plan(search: Search, outcome: Outcome) -> ServingPlan:
    assert outcome.best is not None
    bound = outcome.bound
    certificate = None
    if bound is not None:
        certificate = Certificate(
            objective=search.problem.objective,
            value=outcome.best.value,
            bound=bound,
            space=describe_space(search.problem),
            configurations=outcome.configurations,
            pruned=outcome.pruned,
            checked=True,
        )
    plan = build_plan(search, outcome.best, certificate)
    check_serving_plan(plan)
    return msgspec.structs.replace(
        plan,
        front=front(search),
        alternatives=tuple(rival_of(search, r) for r in outcome.rivals[:_RIVALS]),
    )


def describe_space(problem: Problem) -> str:
    """The decision space in words, stated with each answer."""
    limits = [f"what {problem.limits.target} expresses"] if problem.limits.target else []
    limits += [f"{k}={','.join(v)}" for k, v in sorted(problem.limits.pin.items())]
    limits += [f"not {k}={','.join(v)}" for k, v in sorted(problem.limits.forbid.items())]
    return (
        "tp, pp, attention dp and the spread of experts that fill nodes evenly; chunks of "
        f"{', '.join(map(str, CHUNKS))} tokens; {len(BATCHES)} batches of 1 to {BATCHES[-1]}; "
        "equal engines in each role and group of nodes; aggregated, or prefill and decode workers "
        "in whole numbers" + (f"; {'; '.join(limits)}" if limits else "")
    )
