"""plan_robust: the plan whose worst case over a box of efficiencies is best, proven.

Formulation
-----------
Let T(x; c) be the value of plan x when the efficiencies of compute, node link and network are those
of the cost model times a corner c of the box
(:mod:`optalloc.cost.uncertainty`):

    minimise   W(x) = max over the eight corners c of T(x; c)      over the space X of plan_training

Why it is exact
---------------
Let s be the corner where everything is slow, and V = min over X of T(x; s), proven by the exact
search with the costs of s. Every plan has W(x) >= T(x; s) >= V. The minimiser x* is evaluated at
all corners; where none is worse than s, as it is whenever less speed nowhere saves time,
W(x*) = T(x*; s) = V and x* is optimal. Where one is, the result is FEASIBLE with the bound V.
The space does not depend on c: speeds decide neither what is valid nor what fits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from optalloc.cluster.topology import Cluster
from optalloc.cost.constants import DEFAULT
from optalloc.cost.model import CostModel
from optalloc.cost.uncertainty import Uncertainty, scaled, stated_uncertainty
from optalloc.errors import InputError
from optalloc.model.spec import ModelSpec
from optalloc.result import Bounds, Termination
from optalloc.stop import OnProgress, StopRule
from optalloc.training.certify import check_plan
from optalloc.training.estimate import build_plan
from optalloc.training.solve import TrainingResult, plan_training
from optalloc.training.strategy import Strategy
from optalloc.training.ties import Robustness, alternative
from optalloc.workload import Training

_SAME = 1e-9


def plan_robust(
    model: ModelSpec,
    cluster: Cluster,
    workload: Training,
    *,
    box: Uncertainty | None = None,
    objective: str = "step_time",
    target_step_time_s: float | None = None,
    pin: list[str] | tuple[str, ...] = (),
    forbid: list[str] | tuple[str, ...] = (),
    margin: float | None = None,
    stop: StopRule | None = None,
    on_progress: OnProgress | None = None,
    planner: Callable[..., TrainingResult] = plan_training,
    cost_model: str = DEFAULT,
) -> TrainingResult:
    """The training plan with the least worst case over a box of efficiencies.

    Parameters
    ----------
    box : Uncertainty, optional
        Default: the stated uncertainty of the cost model.
    objective : {"step_time", "price", "energy"}
        Whose worst case counts.
    target_step_time_s : float, optional
        Only plans that are this fast in the worst case, seconds.
    pin, forbid, margin, stop, on_progress
        As for :func:`~optalloc.training.solve.plan_training`, for each of two searches.
    planner : callable
        What finds the best plan on one cluster: ``plan_training`` or one with its arguments.

    Returns
    -------
    TrainingResult
        ``bounds`` are those of the worst case; ``plan`` is predicted with the efficiencies of the
        cost model, and its certificate's bound is the optimum there; ``robustness`` compares both.
        Without a plan, the answer of the planner.

    Raises
    ------
    InputError
        As the planner, or if the objective is ``devices``.

    Complexity: two searches and sixteen evaluations.
    """
    if objective == "devices":
        raise InputError(
            "the fewest devices have no worst case: pin them and compare their times",
            path="objective",
            fix="use step_time, price or energy",
        )
    find = partial(
        planner,
        objective=objective,
        target_step_time_s=target_step_time_s,
        pin=pin,
        forbid=forbid,
        stop=stop,
        on_progress=on_progress,
        cost_model=cost_model,
    )
    nominal = find(model, cluster, workload, margin=margin)
    if nominal.best is None or nominal.bounds.primal is None:
        return nominal
    box = box or stated_uncertainty(nominal.best.cost_model)
    corners = list(box.corners())
    slow = find(model, scaled(cluster, corners[0]), workload)
    if slow.best is None or slow.bounds.primal is None:
        return slow  # stopped, or too slow for the target
    name = nominal.best.cost_model
    costs = [CostModel(model, scaled(cluster, c), workload, name=name) for c in corners]

    def worst_of(strategy: Strategy) -> float:
        return max(value_of(cost, strategy, objective) for cost in costs)

    chosen = slow.best.strategy
    worst, rival_worst = worst_of(chosen), worst_of(nominal.best.strategy)
    if rival_worst <= worst:
        chosen, worst = nominal.best.strategy, rival_worst
    bound = min(worst, slow.bounds.primal if slow.bounds.dual is None else slow.bounds.dual)
    exact = worst <= bound * (1.0 + _SAME)
    cost = CostModel(model, cluster, workload, name=name)
    value = value_of(cost, chosen, objective)
    certificate = nominal.best.certificate
    if certificate is not None:  # its bound holds for every plan
        certificate = msgspec.structs.replace(certificate, value=value)
    plan = build_plan(cost, chosen, certificate)
    check_plan(plan)
    others = [(nominal.best, nominal.bounds.primal)]
    others += [(rival.plan, rival.value) for rival in nominal.alternatives]
    rivals = tuple(
        alternative(plan, value, other, theirs, objective, nominal.error)
        for other, theirs in others
        if other.strategy != chosen
    )
    stopped = Termination.LIMIT in (slow.termination, nominal.termination)
    return msgspec.structs.replace(
        nominal,
        termination=(
            Termination.OPTIMAL if exact else Termination.LIMIT if stopped else Termination.FEASIBLE
        ),
        bounds=Bounds(primal=worst, dual=bound),
        stats=msgspec.structs.replace(
            nominal.stats,
            wall_s=nominal.stats.wall_s + slow.stats.wall_s,
            cpu_s=nominal.stats.cpu_s + slow.stats.cpu_s,
            nodes=nominal.stats.nodes + slow.stats.nodes,
        ),
        objective=msgspec.structs.replace(nominal.objective, value=worst),
        best=msgspec.structs.replace(plan, alternatives=tuple(r.brief for r in rivals)),
        alternatives=rivals,
        robustness=Robustness(
            box=box,
            worst=worst,
            bound=bound,
            nominal_worst=rival_worst,
            price=value / nominal.bounds.primal - 1.0,
        ),
    )


def value_of(cost: CostModel, strategy: Strategy, objective: str) -> float:
    """The value of a written configuration in the unit of the objective."""
    plan = build_plan(cost, strategy)
    if objective == "energy":
        return plan.energy_j_per_step
    if objective == "price" and plan.price_usd_per_step is not None:
        return plan.price_usd_per_step
    return plan.step_time_s
