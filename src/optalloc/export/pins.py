"""Plan within what an export target can express: the pins of each target, and the best plan."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from optalloc.cluster.topology import Cluster
from optalloc.cost.constants import DEFAULT
from optalloc.errors import ExportError, InputError
from optalloc.export.base import TARGETS, artefacts, check_target
from optalloc.model.spec import Attention, ModelSpec
from optalloc.result import Bounds, Stats, Termination
from optalloc.stop import OnProgress, StopRule
from optalloc.training.plan import TrainingPlan
from optalloc.training.solve import TrainingResult, plan_training
from optalloc.training.space import divisors
from optalloc.training.ties import Alternative, alternative
from optalloc.workload import Training

if TYPE_CHECKING:
    from optalloc.training.mixed.solve import MixedResult

# What each target can express, whatever else is decided. Without a pipeline all shard more.
_PIPELINE = ("zero_stage=0,1",)
_NO_PIPELINE = ("pp=1", "zero_stage=0,1,2,3", "shard_group=0")
_ALWAYS = {
    "megatron": ("schedule=1f1b,interleaved", "recompute=none,selective,full,equal"),
    "deepspeed": ("tp=1", "cp=1", "ep=1", "shard_group=0", "schedule=1f1b"),
    "pytorch": (),
}
# The same on a mixed cluster.
_MIXED = {
    "megatron": (),
    "deepspeed": ("tp=1", "cp=1", "ep=1"),
    "pytorch": ("cp=1", "ep=1"),
}


def pin_sets(target: str, model: ModelSpec) -> tuple[tuple[str, ...], ...]:
    """Pins under which the target can express every plan; the best plan of all sets is the best.

    Raises
    ------
    InputError
        If no target has that name.
    """
    check_target(target, "--for")
    always = _ALWAYS[target]
    if target == "pytorch":
        heads = [
            layer.attention.kv_heads
            for layer in model.layer_types
            if isinstance(layer.attention, Attention)
        ]
        always = (*always, f"tp={','.join(map(str, divisors(math.gcd(*heads) or 1)))}")
    return tuple(_once((*part, *always)) for part in (_PIPELINE, _NO_PIPELINE))


def targets_of(plan: TrainingPlan) -> tuple[str, ...]:
    """The targets that can express a plan, sorted."""
    found = []
    for target in sorted(TARGETS):
        try:
            artefacts(plan, target)
        except ExportError:
            continue
        found.append(target)
    return tuple(found)


def _once(pins: tuple[str, ...]) -> tuple[str, ...]:
    """The first pin of each name."""
    first: dict[str, str] = {}
    for pin in pins:
        first.setdefault(pin.partition("=")[0], pin)
    return tuple(first.values())


def plan_for_target(
    target: str,
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
    """The best training plan among those that an export target can express.

    Parameters are those of :func:`~optalloc.training.solve.plan_training`; a decision pinned in
    ``pin`` is not pinned for the target as well.

    Returns
    -------
    TrainingResult
        The better of the answers with and without a pipeline; its bound holds for both.

    Raises
    ------
    InputError
        If no target has that name, or an input is wrong.
    ExportError
        If the target cannot express the plan found, though nothing was pinned: the model, or the
        types of numbers.
    """
    results: list[TrainingResult] = []
    for pins in pins_for(target, model, pin):
        results.append(
            plan_training(
                model,
                cluster,
                workload,
                objective=objective,
                target_step_time_s=target_step_time_s,
                pin=[*pin, *pins],
                forbid=forbid,
                margin=margin,
                stop=stop,
                on_progress=on_progress,
                cost_model=cost_model,
            )
        )
    found = better_of(results)
    if found.best is not None and not pin:
        artefacts(found.best, target)
    return found


def pins_for(
    target: str, model: ModelSpec, pin: list[str] | tuple[str, ...] = ()
) -> list[tuple[str, ...]]:
    """The :func:`pin_sets` that are left beside pins of one's own, which come first."""
    own = _pinned(pin)
    sets = [_without(s, own) for s in pin_sets(target, model)]
    if "pp" in own or "zero_stage" in own:
        sets = sets[:1] if "zero_stage" in own or not _only_one(pin) else sets[1:]
    return sets


def plan_mixed_for_target(
    target: str,
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
    """The best plan on a mixed cluster among those that an export target can express.

    The PyTorch script runs unequal stages and replicas without context and expert parallelism.
    Megatron-LM and DeepSpeed run plans whose stages have the same degrees; Megatron-LM has one rule
    of recomputation for all of them, DeepSpeed leaves tensor, context and expert parallelism out.

    Raises
    ------
    InputError
        If no target has that name, an input is wrong, or a ``margin`` is given for plans whose
        stages have the same degrees: what is near to the best is listed of unequal stages alone.
    """
    from optalloc.training.mixed.alike import ALIKE_RULES, plan_alike
    from optalloc.training.mixed.solve import plan_mixed

    check_target(target, "--for")
    pins = _without(_MIXED[target], _pinned(pin))
    planner: Callable[..., MixedResult]
    if target == "pytorch":
        planner = partial(plan_mixed, margin=margin)
    else:
        if margin is not None:
            raise InputError(
                f"on a mixed cluster no alternatives are listed of plans for {target}",
                path="--alternatives",
                fix="leave it out, or plan for pytorch or without --for",
            )
        rules = ALIKE_RULES[1:] if target == "megatron" else ALIKE_RULES[:1]
        planner = partial(plan_alike, rules=rules)
    return planner(
        model,
        cluster,
        workload,
        target_step_time_s=target_step_time_s,
        pin=[*pin, *pins],
        forbid=forbid,
        stop=stop,
        on_progress=on_progress,
        cost_model=cost_model,
    )


def _pinned(pin: list[str] | tuple[str, ...]) -> set[str]:
    """The names of the decisions that the user pinned."""
    return {word.partition("=")[0].strip().replace("-", "_") for word in pin}


def _without(pins: tuple[str, ...], names: set[str]) -> tuple[str, ...]:
    """The pins of other decisions than these."""
    return tuple(p for p in pins if p.partition("=")[0] not in names)


def _only_one(pin: list[str] | tuple[str, ...]) -> bool:
    """True if the user pinned pp to 1 alone."""
    return [word.replace(" ", "") for word in pin if word.strip().startswith("pp")] == ["pp=1"]


def _rivals(best: TrainingResult, results: list[TrainingResult]) -> tuple[Alternative, ...]:
    """The next best plans of all answers: as many as one answer lists, or all within the margin."""
    first, value = best.best, best.bounds.primal
    if first is None or value is None:
        return best.alternatives
    rivals = list(best.alternatives)
    for result in results:
        if result is best or result.best is None or result.bounds.primal is None:
            continue
        for plan, theirs in (
            (result.best, result.bounds.primal),
            *((rival.plan, rival.value) for rival in result.alternatives),
        ):
            rivals.append(alternative(first, value, plan, theirs, best.objective.name, best.error))
    rivals.sort(key=lambda rival: rival.value)
    most = value * (1.0 + (best.margin or 0.0))
    return tuple(r for k, r in enumerate(rivals) if k < 3 or r.value <= most)


def better_of(results: list[TrainingResult]) -> TrainingResult:
    """The best of several answers, with the bound and the counts of all of them."""
    with_plan = [r for r in results if r.best is not None]
    best = min(with_plan, key=lambda r: r.bounds.primal or 0.0) if with_plan else results[0]
    open_ = [r for r in results if r.termination is Termination.LIMIT]
    if not with_plan and open_:
        best = open_[0]
    duals = [r.bounds.dual for r in results if r.termination is not Termination.INFEASIBLE]
    known = [dual for dual in duals if dual is not None]
    dual = min(known) if known and len(known) == len(duals) else None
    bounds = Bounds(primal=best.bounds.primal, dual=dual)
    proven = bounds.gap <= 1e-9
    limit = bool(open_) and not proven
    rivals = _rivals(best, results)
    pruned: dict[str, int] = {}
    for result in results:
        for name, count in result.stats.pruned.items():
            pruned[name] = pruned.get(name, 0) + count
    return msgspec.structs.replace(
        best,
        termination=Termination.LIMIT if limit else best.termination,
        bounds=bounds,
        best=None
        if best.best is None
        else msgspec.structs.replace(best.best, alternatives=tuple(r.brief for r in rivals)),
        alternatives=rivals,
        complete=all(r.complete or r.termination is Termination.INFEASIBLE for r in results),
        stats=Stats(
            wall_s=sum(r.stats.wall_s for r in results),
            cpu_s=sum(r.stats.cpu_s for r in results),
            nodes=sum(r.stats.nodes for r in results),
            configurations=sum(r.stats.configurations for r in results),
            pruned=pruned,
        ),
    )
