"""plan_mixed: the best training plan on a cluster of unequal nodes, with its proof."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import msgspec

from optalloc.cluster.topology import Cluster
from optalloc.cost.constants import DEFAULT
from optalloc.cost.uncertainty import stated_uncertainty
from optalloc.model.spec import ModelSpec
from optalloc.result import Bounds, Fix, Result, Stats, Termination
from optalloc.stop import OnProgress, StopRule
from optalloc.training.mixed.build import MixedCosts, undominated
from optalloc.training.mixed.certify import check_mixed_plan
from optalloc.training.mixed.estimate import build_mixed_plan
from optalloc.training.mixed.near import Near, NearSearch, way_of
from optalloc.training.mixed.parts import chosen
from optalloc.training.mixed.plan import MixedPlan
from optalloc.training.mixed.problem import MOST_STAGES, MixedProblem, Replica
from optalloc.training.mixed.proof import MixedProof
from optalloc.training.mixed.search import Outcome, Search
from optalloc.training.mixed.space import describe_mixed_space, parse_mixed_limits
from optalloc.training.mixed.strategy import (
    Degrees,
    MixedStrategy,
    ReplicaChoice,
    StageChoice,
)
from optalloc.training.mixed.ties import MixedAlternative, mixed_alternative
from optalloc.training.plan import Certificate
from optalloc.training.solve import check_margin
from optalloc.training.ties import Robustness
from optalloc.workload import Training


class MixedResult(Result, frozen=True, kw_only=True):
    """The answer of :func:`plan_mixed`; ``space`` states what was searched.

    ``alternatives`` holds what a ``margin`` asked for; where ``complete`` is True, all of it.
    ``error`` is the stated error of the cost model: values closer than that are ties.
    """

    space: str
    best: MixedPlan | None = None
    open_parts: int = 0
    alternatives: tuple[MixedAlternative, ...] = ()
    margin: float | None = None
    complete: bool = False
    error: float = 0.0
    robustness: Robustness | None = None

    @property
    def plan(self) -> MixedPlan:
        """The best plan.

        Raises
        ------
        NoPlan
            If there is none; the message says why.
        """
        return self._planned(self.best, "training")


def plan_mixed(
    model: ModelSpec,
    cluster: Cluster,
    workload: Training,
    *,
    target_step_time_s: float | None = None,
    pin: list[str] | tuple[str, ...] = (),
    forbid: list[str] | tuple[str, ...] = (),
    margin: float | None = None,
    stop: StopRule | None = None,
    on_progress: OnProgress | None = None,
    cost_model: str = DEFAULT,
) -> MixedResult:
    """The fastest step on a mixed cluster, proven.

    Stages of one pipeline may lie on different groups of nodes with different degrees, replicas
    may have unequal pipelines and unequal shares of the micro-batches, and devices may stay idle.

    Parameters
    ----------
    target_step_time_s : float, optional
        Only plans at or below this step time, seconds.
    pin, forbid : list of str
        Fix or exclude decisions of every stage; see :data:`~optalloc.training.mixed.space.
        MIXED_PINNABLE`.
    margin : float, optional
        List in ``alternatives`` the best plan of every set of groups, number of replicas and
        micro-batch size that has one within this share of the optimum, for example 0.05; see
        :mod:`optalloc.training.mixed.near`. They come after the proof, once it is done.
    stop : StopRule, optional
        Ends the search early; the result then is LIMIT with the bound proven so far.

    Returns
    -------
    MixedResult
        OPTIMAL; LIMIT, also where a part of the space was too large to close, with a bound; or
        INFEASIBLE.

    Raises
    ------
    InputError
        For more than eight groups of nodes, an unknown decision, or a margin that is no share.

    Complexity: exponential in the number of groups in the worst case.
    """
    return posed_and_solved(
        model,
        cluster,
        workload,
        pose=_undominated,
        search=lambda problems, **how: Search(problems, **how).run(),
        space=describe_mixed_space,
        target_step_time_s=target_step_time_s,
        pin=pin,
        forbid=forbid,
        margin=margin,
        stop=stop,
        on_progress=on_progress,
        cost_model=cost_model,
    )


def _undominated(
    problem: MixedProblem, _kinds: Sequence[Degrees]
) -> list[tuple[MixedProblem, list[int]]]:
    """The problem without kinds that others replace."""
    kept = undominated(problem)
    return [(chosen(problem, kept), kept)]


class Find(Protocol):
    """Searches problems, each of one micro-batch size."""

    def __call__(
        self,
        problems: Sequence[MixedProblem],
        *,
        stop: StopRule | None,
        on_progress: OnProgress | None,
        ceiling_s: float,
    ) -> Outcome: ...


def posed_and_solved(
    model: ModelSpec,
    cluster: Cluster,
    workload: Training,
    *,
    pose: Callable[[MixedProblem, Sequence[Degrees]], Iterable[tuple[MixedProblem, list[int]]]],
    search: Find,
    space: Callable[[MixedCosts], str],
    target_step_time_s: float | None,
    pin: list[str] | tuple[str, ...],
    forbid: list[str] | tuple[str, ...],
    stop: StopRule | None,
    on_progress: OnProgress | None,
    cost_model: str,
    margin: float | None = None,
    rules: Sequence[str] = (),
) -> MixedResult:
    """The answer of a search of the problems that ``pose`` makes of each micro-batch size: with the
    kinds that each keeps, by their place among all. ``space`` says what they cover; ``rules`` of
    recomputation, that all stages have the same degrees."""
    begin, begin_cpu = time.perf_counter(), time.process_time()
    check_margin(margin)
    limits = parse_mixed_limits(pin, forbid)
    costs = MixedCosts(model, cluster, workload, name=cost_model, limits=limits)
    problems, names = [], []
    all_kinds = [(size, costs.all_kinds(size)) for size in costs.micro_batches()]
    wanted = [(size, kinds) for size, kinds in all_kinds if kinds]
    for (_, kinds), whole in zip(wanted, costs.problems(wanted), strict=True):
        for problem, own in pose(whole, kinds):
            problems.append(problem)
            names.append([kinds[k] for k in own])
    ceiling = float("inf") if target_step_time_s is None else target_step_time_s * (1.0 + 1e-12)
    outcome = search(problems, stop=stop, on_progress=on_progress, ceiling_s=ceiling)
    near: tuple[Near, ...] = ()
    complete = False
    if margin is not None and outcome.value is not None and not outcome.stopped:
        most_s = min(ceiling, outcome.value * (1.0 + margin) * (1.0 + 1e-12))
        others = NearSearch(problems, outcome, ceiling_s=most_s, begin=begin, stop=stop)
        near, complete = others.plans()
    stats = Stats(
        wall_s=time.perf_counter() - begin,
        cpu_s=time.process_time() - begin_cpu,
        nodes=outcome.solved,
        configurations=outcome.shapes,
        pruned=outcome.pruned,
    )
    if outcome.problem is None:
        return _without_plan(costs, outcome, stats, space(costs), ceiling)
    named = {id(problem): own for problem, own in zip(problems, names, strict=True)}
    proof = None
    if rules or outcome.closed is not None:
        proof = MixedProof(
            pin=limits.pin, forbid=limits.forbid, parts=outcome.closed or (), rules=tuple(rules)
        )
    result = _with_plan(costs, outcome, named[id(outcome.problem)], stats, space(costs), proof)
    error = stated_uncertainty(costs.name).step_time
    best = way_of(outcome.problem, outcome.replicas)
    rivals = tuple(
        mixed_alternative(
            result.plan,
            build_mixed_plan(costs, written(one.problem, one.replicas, named[id(one.problem)])),
            error,
        )
        for one in near
        if one.way != best
    )
    return msgspec.structs.replace(
        result,
        best=msgspec.structs.replace(result.plan, alternatives=tuple(r.brief for r in rivals)),
        alternatives=rivals,
        margin=margin,
        complete=complete,
        error=error,
    )


def written(
    problem: MixedProblem, replicas: Sequence[Replica], kinds: Sequence[Degrees]
) -> MixedStrategy:
    """The strategy of a plan of a problem whose kinds of stage have these degrees."""
    rows = sorted(
        replicas,
        key=lambda r: (min(kinds[s.kind].group for s in r.stages), -r.num_microbatches),
    )
    return MixedStrategy(
        micro_batch=problem.micro_batch,
        replicas=tuple(
            ReplicaChoice(
                num_microbatches=r.num_microbatches,
                stages=tuple(
                    StageChoice(
                        **msgspec.structs.asdict(kinds[s.kind]),
                        num_layers=s.num_layers,
                        recompute=s.recompute,
                    )
                    for s in r.stages
                ),
            )
            for r in rows
        ),
    )


def _with_plan(
    costs: MixedCosts,
    outcome: Outcome,
    kinds: list[Degrees],
    stats: Stats,
    space: str,
    proof: MixedProof | None,
) -> MixedResult:
    assert outcome.problem is not None
    plan = build_mixed_plan(costs, written(outcome.problem, outcome.replicas, kinds))
    bound = plan.step_time_s if outcome.bound is None else min(outcome.bound, plan.step_time_s)
    if not outcome.stopped:
        bound = plan.step_time_s
    certificate = Certificate(
        objective="step_time",
        value=plan.step_time_s,
        bound=bound,
        space=space,
        configurations=outcome.shapes,
        pruned=outcome.pruned,
        checked=True,
    )
    plan = msgspec.structs.replace(plan, certificate=certificate, proof=proof)
    check_mixed_plan(plan)
    return MixedResult(
        termination=Termination.LIMIT if outcome.stopped else Termination.OPTIMAL,
        bounds=Bounds(primal=plan.step_time_s, dual=bound),
        stats=stats,
        incumbents=outcome.incumbents,
        space=space,
        best=plan,
        open_parts=outcome.open,
    )


def _without_plan(
    costs: MixedCosts, outcome: Outcome, stats: Stats, space: str, ceiling: float
) -> MixedResult:
    conflict: tuple[str, ...] = ()
    fixes: tuple[Fix, ...] = ()
    if not outcome.stopped:
        what = "memory: no pipeline of at most "
        what += f"{MOST_STAGES} stages on these nodes holds the model with its activations"
        if ceiling < float("inf"):
            what = f"no plan takes at most {ceiling:.6g} s a step"
        if costs.limits.pin or costs.limits.forbid:
            what += " under what is pinned and forbidden"
        conflict = (what,)
        fixes = (
            Fix(what="more devices, or devices with more memory"),
            Fix(what="a shorter sequence length"),
        )
        if ceiling < float("inf"):
            fixes = (Fix(what="a longer step time"),)
    return MixedResult(
        termination=Termination.LIMIT if outcome.stopped else Termination.INFEASIBLE,
        bounds=Bounds(dual=outcome.bound),
        stats=stats,
        conflict=conflict,
        fixes=fixes,
        space=space,
        open_parts=outcome.open,
    )
