"""plan_training: the best plan for a goal, with its proof and rivals, or why there is none."""

from __future__ import annotations

import time

import msgspec
import numpy as np

from optalloc.cluster.topology import Cluster
from optalloc.cost.constants import DEFAULT
from optalloc.cost.model import CostModel
from optalloc.cost.uncertainty import stated_uncertainty
from optalloc.errors import InputError
from optalloc.model.spec import ModelSpec
from optalloc.result import Bounds, Fix, Result, Stats, Termination
from optalloc.stop import OnProgress, StopRule
from optalloc.training.bounds import Array, Ints, StemFacts
from optalloc.training.certify import check_plan
from optalloc.training.estimate import build_plan, share_layer_costs
from optalloc.training.infeasible import explain_infeasible
from optalloc.training.plan import Certificate, TrainingPlan
from optalloc.training.search import Outcome, Search
from optalloc.training.space import Space, parse_limits
from optalloc.training.ties import Alternative, Robustness, alternatives
from optalloc.workload import Training

OBJECTIVES = {"step_time": "s", "price": "USD/step", "energy": "J/step", "devices": "devices"}


class Objective(msgspec.Struct, frozen=True, kw_only=True):
    """What was minimised, and the value reached (None: no plan)."""

    name: str
    unit: str
    value: float | None = None


class TrainingResult(Result, frozen=True, kw_only=True):
    """The answer of :func:`plan_training`; ``space`` states what was searched.

    ``alternatives`` holds the next best combinations of degrees, each with its best plan; where a
    ``margin`` was asked for and ``complete`` is True, they are all whose value is within it.
    ``error`` is the stated error of the cost model: values closer than that are ties.
    """

    objective: Objective
    space: str
    best: TrainingPlan | None = None
    alternatives: tuple[Alternative, ...] = ()
    margin: float | None = None
    complete: bool = False
    error: float = 0.0
    robustness: Robustness | None = None

    @property
    def plan(self) -> TrainingPlan:
        """The best plan.

        Raises
        ------
        NoPlan
            If there is none; the message says why.
        """
        return self._planned(self.best, "training")


def plan_training(
    model: ModelSpec,
    cluster: Cluster,
    workload: Training,
    *,
    objective: str = "step_time",
    target_step_time_s: float | None = None,
    pin: list[str] | tuple[str, ...] = (),
    forbid: list[str] | tuple[str, ...] = (),
    margin: float | None = None,
    stop: StopRule | None = None,
    on_progress: OnProgress | None = None,
    cost_model: str = DEFAULT,
) -> TrainingResult:
    """The best training plan in the whole decision space, proven.

    Parameters
    ----------
    objective : {"step_time", "price", "energy", "devices"}
        Seconds, dollars or joules per step; or the fewest devices (with the best time on them).
    target_step_time_s : float, optional
        Only plans at or below this step time, seconds; what ``devices`` has to reach.
    pin, forbid : list of str
        Fix or exclude decisions: ``"tp=8"``, ``"schedule=1f1b,gpipe"``; see ``space.PINNABLE``.
    margin : float, optional
        List in ``alternatives`` every combination of degrees (tp, pp, ep, cp x dp) whose best plan
        is within this share of the optimum, for example 0.1; else the next best three.
    stop : StopRule, optional
        Ends the search early; the result then is LIMIT with the bound proven so far.

    Returns
    -------
    TrainingResult
        OPTIMAL, LIMIT, or INFEASIBLE with what conflicts and fixes that were tried.

    Raises
    ------
    InputError
        For a mixed cluster (that is for ``plan_mixed``), an unknown objective or decision, an
        objective without data, or a negative margin.

    Complexity: exponential in the worst case; bounds of O(1) work cut nearly all configurations.
    """
    begin, begin_cpu = time.perf_counter(), time.process_time()
    if objective not in OBJECTIVES:
        raise InputError(
            f"unknown objective {objective!r}",
            path="objective",
            fix=f"use one of {', '.join(OBJECTIVES)}",
        )
    check_margin(margin)
    limits = parse_limits(list(pin), list(forbid))
    cost = CostModel(model, cluster, workload, name=cost_model)
    space = Space(cost.graph, cluster, workload, limits)
    ceiling = np.inf if target_step_time_s is None else target_step_time_s * (1.0 + 1e-12)
    if objective == "devices":
        outcome = _fewest(cost, space, ceiling, margin or 0.0, stop, on_progress)
    else:
        search = Search(
            cost,
            space,
            weight=lambda count: _weight(cost, objective, count),
            margin=margin or 0.0,
            ceiling_s=ceiling,
        )
        outcome = search.run(stop, on_progress)
    stats = Stats(
        wall_s=time.perf_counter() - begin,
        cpu_s=time.process_time() - begin_cpu,
        nodes=outcome.nodes,
        configurations=outcome.configurations,
        pruned=outcome.pruned,
    )
    goal = Objective(name=objective, unit=OBJECTIVES[objective])
    if not outcome.found:
        return _without_plan(cost, space, ceiling, outcome, goal, stats, stop)
    return _with_plan(cost, outcome, goal, stats, margin)


def check_margin(margin: float | None) -> None:
    """Raise InputError for a margin that is no share of an optimum."""
    if margin is not None and not 0.0 <= margin <= 10.0:
        raise InputError(
            f"a margin of {margin} is no share of the optimum",
            path="margin",
            fix="give a share such as 0.05 for 5 %",
        )


def _weight(cost: CostModel, objective: str, num_devices: Ints) -> Array:
    """What one second of step costs on so many devices, in the unit of the objective."""
    if objective == "step_time":
        return np.ones(num_devices.shape)
    if objective == "energy":
        return np.multiply(num_devices, cost.watts_per_device, dtype=np.float64)
    usd = cost.usd_per_device_s
    if usd is None:
        raise InputError(
            f"{cost.device.name} has no public price",
            path="--objective price",
            fix="give price_usd_per_h for the device in cluster.toml, or use another objective",
        )
    return np.multiply(num_devices, usd, dtype=np.float64)


def _fewest(
    cost: CostModel,
    space: Space,
    ceiling: float,
    margin: float,
    stop: StopRule | None,
    on_progress: OnProgress | None,
) -> Outcome:
    """Device counts, ascending; the first that has a plan below the ceiling is the fewest."""
    stems = StemFacts(cost, space, np.ones(space.num_devices + 1))
    shapes, *_, excluded = stems.promising(np.inf, float(np.nextafter(ceiling, np.inf)))
    sizes = np.unique(shapes.num_devices)
    pruned = {name: count for name, count in excluded.items() if count}
    nodes, total = 0, stems.configurations
    for count in sizes:
        limits = msgspec.structs.replace(
            space.limits, pin=space.limits.pin | {"num_devices": (int(count),)}
        )
        part = Space(space.graph, space.cluster, space.workload, limits)
        outcome = Search(cost, part, margin=margin, ceiling_s=ceiling).run(stop, on_progress)
        nodes += outcome.nodes
        for name, number in outcome.pruned.items():
            pruned[name] = pruned.get(name, 0) + number
        if outcome.found or outcome.stopped:
            found = tuple(
                msgspec.structs.replace(f, value=float(f.strategy.num_devices))
                for f in outcome.found
            )
            return msgspec.structs.replace(
                outcome,
                found=found,
                bound=float(count),
                configurations=total,
                pruned=pruned,
                nodes=nodes,
            )
    return Outcome(
        found=(),
        bound=None,
        configurations=total,
        pruned=pruned,
        nodes=nodes,
        incumbents=(),
        stopped=False,
    )


def _with_plan(
    cost: CostModel, outcome: Outcome, goal: Objective, stats: Stats, margin: float | None
) -> TrainingResult:
    value = outcome.found[0].value
    space_text = describe_space(cost)
    error = stated_uncertainty(cost.name).step_time
    certificate = Certificate(
        objective=goal.name,
        value=value,
        bound=value if outcome.bound is None else outcome.bound,
        space=space_text,
        configurations=outcome.configurations,
        pruned=outcome.pruned,
        checked=True,
    )
    share_layer_costs(cost, [one.strategy for one in outcome.found])
    plan = build_plan(cost, outcome.found[0].strategy, certificate)
    check_plan(plan)
    rivals = alternatives(cost, plan, outcome.found, goal.name, error)
    return TrainingResult(
        termination=Termination.LIMIT if outcome.stopped else Termination.OPTIMAL,
        bounds=Bounds(primal=value, dual=certificate.bound),
        stats=stats,
        incumbents=outcome.incumbents,
        objective=msgspec.structs.replace(goal, value=value),
        space=space_text,
        best=msgspec.structs.replace(plan, alternatives=tuple(r.brief for r in rivals)),
        alternatives=rivals,
        margin=margin,
        complete=margin is not None and outcome.complete,
        error=error,
    )


def _without_plan(
    cost: CostModel,
    space: Space,
    ceiling: float,
    outcome: Outcome,
    goal: Objective,
    stats: Stats,
    stop: StopRule | None,
) -> TrainingResult:
    conflict: tuple[str, ...] = ()
    fixes: tuple[Fix, ...] = ()
    if not outcome.stopped:
        conflict, fixes = explain_infeasible(
            cost, space, ceiling, stop=stop, begin=time.perf_counter() - stats.wall_s
        )
    return TrainingResult(
        termination=Termination.LIMIT if outcome.stopped else Termination.INFEASIBLE,
        bounds=Bounds(dual=outcome.bound),
        stats=stats,
        conflict=conflict,
        fixes=fixes,
        objective=goal,
        space=describe_space(cost),
    )


def describe_space(cost: CostModel) -> str:
    """The decision space in words, stated with each answer."""
    return (
        f"tp, cp, pp, dp, ep with tp x cp x pp x dp <= {cost.cluster.num_devices} (rules of "
        "heads, key-value heads, widths, experts, sequence and batch); sequence parallelism; "
        "ZeRO 0-3 over all replicas or one node's; every micro-batch; gpipe, 1f1b, zb-h1 and "
        "interleaved schedules with up to 32 chunks a stage; recomputation whole, of the attention "
        "core or none, counted per stage; cuts: all (interleaved: all where at most 1,000, else "
        "equal middle chunks with smaller ends)"
    )
