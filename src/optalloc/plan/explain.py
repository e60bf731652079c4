"""explain: where the time of a plan goes, what binds it, and what would change the choice.

Every figure is the cost model's: inputs are changed and the plan is evaluated or searched for
again; none is a derivative or a rule of thumb.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from optalloc.cost.model import CostModel
from optalloc.plan.account import account
from optalloc.plan.edited import as_written
from optalloc.plan.explanation import Explanation, Rival, Share, StageMemory, summarised
from optalloc.plan.figures import figures, memory_kinds
from optalloc.plan.marginals import marginals
from optalloc.plan.resolve import best_value, mesh_pins, replanned
from optalloc.plan.sensitivity import turns
from optalloc.plan.turns import Stopped, Turn
from optalloc.stop import StopRule
from optalloc.training.estimate import build_plan, last_stage
from optalloc.training.plan import TrainingPlan
from optalloc.training.solve import TrainingResult
from optalloc.training.space import parse_limits
from optalloc.training.strategy import Recompute

# What limits a plan, and the parts of its breakdown that count as it.
_LIMITS = {
    "compute": ("compute", "optimizer"),
    "memory (recomputation)": ("recompute",),
    "links": ("tensor_parallel", "context_parallel", "expert_parallel", "data_parallel"),
    "bubble": ("pipeline_idle",),
    "overhead": ("fixed",),
}


def explain(
    plan: TrainingPlan,
    *,
    replan: bool = False,
    sensitivity: bool = False,
    pin: list[str] | tuple[str, ...] = (),
    forbid: list[str] | tuple[str, ...] = (),
    pin_sets: Sequence[Sequence[str]] = ((),),
    stop: StopRule | None = None,
    on_turn: Callable[[Turn], None] | None = None,
) -> Explanation:
    """Where the time of a plan goes, what binds it, and what a little more would bring.

    Parameters
    ----------
    plan : TrainingPlan
        Found, written or edited. An edited one is explained by its decisions, and said to be so.
    replan : bool
        Also search the whole space again, as it is and after each change.
    sensitivity : bool
        Also find at which bandwidths, batch and sequence length another mesh is better.
    pin, forbid : list of str
        What narrows the space in these searches, as it was given to :func:`optalloc.plan_training`.
    pin_sets : sequence of sequence of str
        Further pins of each part of the space, as those of an export target.
    stop : StopRule, optional
        Ends each of these searches early.
    on_turn : callable, optional
        Called with every turn as it is found: progress of ``sensitivity``.

    Returns
    -------
    Explanation
        Estimates of the plan's cost model, seconds and bytes.

    Raises
    ------
    InputError
        If an edited plan breaks a rule of the space, or a limit names no decision.

    Complexity: about thirty evaluations and two searches of one mesh; with ``replan`` seven
    searches, with ``sensitivity`` at most nine pairs for each of eight turns.
    """
    plan, edited = as_written(plan)
    spaces, forbids = [[*pin, *more] for more in pin_sets], list(forbid)
    for pins in spaces:  # also where nothing is searched for, a misspelt one is an error
        parse_limits(pins, forbids)
    cost = CostModel(plan.model, plan.cluster, plan.workload, name=plan.cost_model)
    try:
        degrees_s = best_value(cost, mesh_pins(plan), [], stop)
    except Stopped:
        degrees_s = None
    again = replanned(plan, cost, spaces, forbids, stop) if replan else None
    replanned_s = again.best.step_time_s if again is not None and again.best is not None else None
    busy = [stage.forward_s + stage.backward_s for stage in plan.stages]
    return summarised(
        Explanation(
            model=plan.model.name,
            cluster=plan.cluster.name,
            cost_model=plan.cost_model,
            edited=edited,
            step_time_s=plan.step_time_s,
            fits=plan.fits,
            last_stage=last_stage(cost, plan.strategy),
            slowest_stage=busy.index(max(busy)),
            parts=account(cost, plan),
            causes=_shares({name: (name,) for name in plan.breakdown_s}, plan),
            limits=_shares(_LIMITS, plan),
            figures=figures(cost, plan),
            memory=_memory(cost, plan),
            marginals=marginals(
                cost,
                plan,
                degrees_s=degrees_s,
                replanned_s=replanned_s,
                spaces=spaces,
                forbid=forbids,
                stop=stop,
            ),
            degrees_step_time_s=degrees_s,
            replanned_step_time_s=replanned_s,
            rivals=() if again is None else _rivals(again),
            turns=(
                turns(cost, plan, spaces=spaces, forbid=forbids, stop=stop, on_turn=on_turn)
                if sensitivity
                else None
            ),
        )
    )


def _rivals(result: TrainingResult) -> tuple[Rival, ...]:
    return tuple(
        Rival(
            step_time_s=rival.plan.step_time_s,
            degrees=msgspec.structs.asdict(rival.plan.degrees),
            num_devices=rival.plan.num_devices,
            reason=rival.reason,
        )
        for rival in result.alternatives
    )


def _shares(parts: dict[str, tuple[str, ...]], plan: TrainingPlan) -> tuple[Share, ...]:
    shares = []
    for name, members in parts.items():
        seconds = sum(plan.breakdown_s.get(member, 0.0) for member in members)
        shares.append(Share(name=name, time_s=seconds, share=seconds / plan.step_time_s))
    return tuple(sorted(shares, key=lambda s: -s.time_s))


def _memory(cost: CostModel, plan: TrainingPlan) -> tuple[StageMemory, ...]:
    """Memory by stage, with what one recomputed layer less would take."""
    fewer = tuple(_one_less(stage.recompute) for stage in plan.stages)
    less = plan
    if fewer != tuple(stage.recompute for stage in plan.stages):
        less = build_plan(cost, msgspec.structs.replace(plan.strategy, recompute=fewer))
    rows = []
    for stage, then in zip(plan.stages, less.stages, strict=True):
        total = stage.memory_bytes["total"]
        kinds = memory_kinds(stage)
        free = stage.capacity_bytes - total
        takes = None
        if stage.recompute != then.recompute:
            takes = then.memory_bytes["total"] - total
        rows.append(
            StageMemory(
                stage=stage.index,
                kinds=kinds,
                total_bytes=total,
                capacity_bytes=stage.capacity_bytes,
                free_bytes=free,
                margin_bytes=round(cost.reserve_bytes),
                largest_kind=max(kinds, key=lambda kind: kinds[kind]),
                next_layer_bytes=takes,
                binds=takes is not None and takes > free - cost.reserve_bytes,
            )
        )
    return tuple(rows)


def _one_less(rule: Recompute) -> Recompute:
    if rule.full:
        return Recompute(full=rule.full - 1, selective=rule.selective)
    return Recompute(full=0, selective=max(0, rule.selective - 1))
