"""plan_mixed_robust: the mixed plan whose worst case over a box of efficiencies is best, proven.

Formulation
-----------
Let J(x; c) be the step time of plan x when the efficiencies of compute, node link and network of
each group g are those of the cost model times a corner c_g of the box
(:mod:`optalloc.cost.uncertainty`), each group at a corner of its own:

    minimise   W(x) = max over c_g, for all groups g, of J(x; c)     over the space of plan_mixed

Why it is exact
---------------
J never falls when a time of a stage, a latency or the time of a byte grows: the tail falls by at
most ``overlap`` <= 1 of what a pass grows by, and the passes themselves are in S. So W(x) is at
most the value of x with each of its costs as great as in any corner (:func:`slowest`), and at least
J(x; s), s being the corner in which everything is slow. V = min of J(x; s) is proven by the exact
search with the costs of s, and W(x) >= V for all x. Where both ends meet for the minimiser x*, as
they do whenever less speed nowhere saves time, W(x*) = V and x* is optimal. Where they do not, the
upper end is stated and the result is FEASIBLE with the bound V. The space does not depend on c:
speeds decide neither what is valid nor what fits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import msgspec
import numpy as np

from optalloc.cluster.topology import Cluster
from optalloc.cost.constants import DEFAULT
from optalloc.cost.uncertainty import Uncertainty, scaled, stated_uncertainty
from optalloc.model.spec import ModelSpec
from optalloc.result import Bounds, Termination
from optalloc.stop import OnProgress, StopRule
from optalloc.training.mixed.build import MixedCosts
from optalloc.training.mixed.certify import check_mixed_plan
from optalloc.training.mixed.estimate import build_mixed_plan, posed
from optalloc.training.mixed.problem import MixedProblem, Wire
from optalloc.training.mixed.solve import MixedResult, plan_mixed
from optalloc.training.mixed.strategy import MixedStrategy
from optalloc.training.mixed.ties import mixed_alternative
from optalloc.training.ties import Robustness
from optalloc.workload import Training

_SAME = 1e-9


def plan_mixed_robust(
    model: ModelSpec,
    cluster: Cluster,
    workload: Training,
    *,
    box: Uncertainty | None = None,
    target_step_time_s: float | None = None,
    pin: list[str] | tuple[str, ...] = (),
    forbid: list[str] | tuple[str, ...] = (),
    margin: float | None = None,
    stop: StopRule | None = None,
    on_progress: OnProgress | None = None,
    planner: Callable[..., MixedResult] = plan_mixed,
    cost_model: str = DEFAULT,
) -> MixedResult:
    """The plan on a mixed cluster with the least worst case over a box of efficiencies.

    Parameters
    ----------
    box : Uncertainty, optional
        Default: the stated uncertainty of the cost model. Each group of nodes may be anywhere in
        it, whatever the others are.
    target_step_time_s : float, optional
        Only plans that are this fast in the worst case, seconds.
    pin, forbid, margin, stop, on_progress
        As for :func:`~optalloc.training.mixed.solve.plan_mixed`; ``stop`` for each of two searches.
    planner : callable
        What finds the best plan on one cluster: ``plan_mixed`` or one with its arguments.

    Returns
    -------
    MixedResult
        ``bounds`` are those of the worst case; ``plan`` is predicted with the efficiencies of the
        cost model, and its certificate's bound is the optimum there; ``robustness`` compares both.
        Without a plan, the answer of the planner.

    Raises
    ------
    InputError
        As the planner.

    Complexity: two searches and eight cost models a group.
    """
    find = partial(
        planner,
        target_step_time_s=target_step_time_s,
        pin=pin,
        forbid=forbid,
        stop=stop,
        on_progress=on_progress,
        cost_model=cost_model,
    )
    nominal = find(model, cluster, workload, margin=margin)
    if nominal.best is None:
        return nominal
    box = box or stated_uncertainty(nominal.best.cost_model)
    corners = list(box.corners())
    slow = find(model, scaled(cluster, corners[0]), workload)
    if slow.best is None:
        return slow  # stopped, or too slow for the target
    name = nominal.best.cost_model
    costs = [MixedCosts(model, scaled(cluster, c), workload, name=name) for c in corners]
    chosen, worst = slow.best.strategy, worst_s(costs, slow.best.strategy)
    nominal_worst = worst_s(costs, nominal.best.strategy)
    if nominal_worst <= worst:
        chosen, worst = nominal.best.strategy, nominal_worst
    bound = min(worst, slow.best.step_time_s if slow.bounds.dual is None else slow.bounds.dual)
    certificate = nominal.best.certificate
    plan = build_mixed_plan(MixedCosts(model, cluster, workload, name=name), chosen)
    if certificate is not None:  # its bound holds for every plan
        certificate = msgspec.structs.replace(certificate, value=plan.step_time_s)
    plan = msgspec.structs.replace(plan, certificate=certificate, proof=nominal.best.proof)
    check_mixed_plan(plan)
    rivals = tuple(
        mixed_alternative(plan, other, nominal.error)
        for other in (nominal.best, *(rival.plan for rival in nominal.alternatives))
        if other.strategy != chosen
    )
    termination = Termination.OPTIMAL
    if worst > bound * (1.0 + _SAME):
        stopped = Termination.LIMIT in (slow.termination, nominal.termination)
        termination = Termination.LIMIT if stopped else Termination.FEASIBLE
    return msgspec.structs.replace(
        nominal,
        termination=termination,
        bounds=Bounds(primal=worst, dual=bound),
        stats=msgspec.structs.replace(
            nominal.stats,
            wall_s=nominal.stats.wall_s + slow.stats.wall_s,
            cpu_s=nominal.stats.cpu_s + slow.stats.cpu_s,
            nodes=nominal.stats.nodes + slow.stats.nodes,
            configurations=nominal.stats.configurations + slow.stats.configurations,
        ),
        best=msgspec.structs.replace(plan, alternatives=tuple(r.brief for r in rivals)),
        alternatives=rivals,
        robustness=Robustness(
            box=box,
            worst=worst,
            bound=bound,
            nominal_worst=nominal_worst,
            price=plan.step_time_s / nominal.best.step_time_s - 1.0,
        ),
    )


def worst_s(costs: Sequence[MixedCosts], strategy: MixedStrategy) -> float:
    """No less than the step time of a strategy with each group at any of these costs, seconds."""
    all_posed = [posed(cost, strategy) for cost in costs]
    return slowest([problem for problem, _, _ in all_posed]).evaluate(all_posed[0][2])


def slowest(problems: Sequence[MixedProblem]) -> MixedProblem:
    """The problem in which every cost is the greatest of these, which differ in speeds alone."""

    def wires(name: str) -> tuple[Wire, ...]:
        joined: list[Wire] = list(getattr(problems[0], name))
        for problem in problems[1:]:
            own = getattr(problem, name)
            joined = [a.slower(b) for a, b in zip(joined, own, strict=True)]
        return tuple(joined)

    zone = problems[0].zone_wire
    for problem in problems[1:]:
        if zone is not None and problem.zone_wire is not None:
            zone = zone.slower(problem.zone_wire)
    return msgspec.structs.replace(
        problems[0],
        layers=np.max([p.layers for p in problems], axis=0),
        near=wires("near"),
        far=wires("far"),
        network=wires("network"),
        zone_wire=zone,
        fixed_s=tuple(np.max([p.fixed_s for p in problems], axis=0).tolist()),
    )
