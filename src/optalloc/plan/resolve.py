"""Resolve: search again around a plan, with changed inputs or within its mesh."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec
import numpy as np

from optalloc.cost.model import CostModel
from optalloc.plan.turns import Stopped
from optalloc.stop import StopRule
from optalloc.training.plan import TrainingPlan
from optalloc.training.search import Search
from optalloc.training.solve import TrainingResult, plan_training
from optalloc.training.space import Limits, Space, parse_limits

Spaces = Sequence[list[str]]
"""Pins of each of several spaces; what is searched is their union."""


def mesh_pins(plan: TrainingPlan) -> list[str]:
    """Pins of every decision of the mesh; cuts and recomputation stay free."""
    d = plan.degrees
    replicas = d.dp * d.cp
    # Where there is nothing to shard or to order, the space has one way to say so.
    sharded = replicas > 1 or d.tp * replicas > d.ep
    decisions = {
        **msgspec.structs.asdict(d),
        "micro_batch": plan.micro_batch,
        "zero_stage": plan.zero_stage if sharded else 0,
        "shard_group": plan.shard_group if plan.shard_group < replicas else 0,
        "schedule": plan.schedule if d.pp > 1 else "1f1b",
        "sequence_parallel": "on" if plan.sequence_parallel else "off",
    }
    return [f"{name}={value}" for name, value in decisions.items()]


def objective_of(plan: TrainingPlan) -> str:
    """What the plan was found for: step_time, price or energy.

    The fewest devices are a step time on as many devices.
    """
    found = plan.certificate.objective if plan.certificate is not None else "step_time"
    return found if found in ("price", "energy") else "step_time"


def best_value(
    cost: CostModel,
    pin: list[str],
    forbid: list[str],
    stop: StopRule | None,
    *,
    objective: str = "step_time",
    below_s: float = np.inf,
) -> float | None:
    """The best step under some limits: seconds, dollars or joules by ``objective``.

    None: no plan, or none with a step ``below_s`` seconds.

    Raises
    ------
    Stopped
        If ``stop`` ended the search before the answer was proven.
    KeyboardInterrupt
        If the keyboard did.
    """
    limits: Limits = parse_limits(pin, forbid)
    space = Space(cost.graph, cost.cluster, cost.workload, limits)
    rate = {"price": cost.usd_per_device_s, "energy": cost.watts_per_device}.get(objective)
    weight = None if rate is None else partial(np.multiply, rate)
    outcome = Search(cost, space, weight=weight, leaders=1, ceiling_s=below_s).run(stop)
    if outcome.stopped and (not outcome.found or below_s == np.inf):
        if stop is None:
            raise KeyboardInterrupt
        raise Stopped
    return outcome.found[0].value if outcome.found else None


def best_of(
    cost: CostModel,
    spaces: Spaces,
    forbid: list[str],
    stop: StopRule | None,
    *,
    objective: str = "step_time",
    below_s: float = np.inf,
) -> float | None:
    """The best of several spaces, each given by its pins; see :func:`best_value`."""
    found = [
        best_value(cost, pin, forbid, stop, objective=objective, below_s=below_s) for pin in spaces
    ]
    return min((value for value in found if value is not None), default=None)


def replanned(
    plan: TrainingPlan,
    cost: CostModel,
    spaces: Spaces,
    forbid: list[str],
    stop: StopRule | None,
    objective: str = "step_time",
) -> TrainingResult:
    """The best plan of several spaces under a cost model, with its rivals."""
    results = [
        plan_training(
            plan.model,
            cost.cluster,
            cost.workload,
            objective=objective,
            pin=pin,
            forbid=forbid,
            stop=stop,
            cost_model=cost.name,
        )
        for pin in spaces
    ]
    with_plan = [result for result in results if result.best is not None]
    return min(with_plan or results, key=lambda result: result.bounds.primal or 0.0)
