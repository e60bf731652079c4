"""View: what two plans of any kind are compared by."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from optalloc.cost.model import CostModel
from optalloc.plan.account import account
from optalloc.plan.edited import as_written, mixed_as_written
from optalloc.plan.figures import figures, memory_kinds
from optalloc.training.mixed.plan import MixedPlan, MixedReplica, MixedStage
from optalloc.training.plan import StagePlan, TrainingPlan
from optalloc.training.strategy import Recompute

Plan = TrainingPlan | MixedPlan


class View(msgspec.Struct, frozen=True, kw_only=True):
    """One side of a comparison; ``memory`` is that of the fullest device by kind, bytes."""

    plan: Plan
    edited: str
    decisions: dict[str, int | str]
    measures: dict[str, float | None]
    parts: dict[str, float]
    memory: dict[str, int]
    total_bytes: int
    capacity_bytes: int


def view(plan: Plan) -> View:
    """A plan with true figures, in parts; those of a mixed plan are its causes.

    Raises
    ------
    InputError
        If an edited plan breaks a rule.
    """
    if isinstance(plan, MixedPlan):
        mixed, edited = mixed_as_written(plan)
        return _made(mixed, edited, mixed_decisions(mixed), {}, dict(mixed.breakdown_s))
    even, edited = as_written(plan)
    cost = CostModel(even.model, even.cluster, even.workload, name=even.cost_model)
    f = figures(cost, even)
    parts = {part.name: part.mean_s for part in account(cost, even)}
    more = {"mfu_square": f.mfu_square, "hfu_causal": f.hfu_causal}
    return _made(even, edited, decisions(even), more, parts)


def _made(
    plan: Plan,
    edited: str,
    decided: dict[str, int | str],
    more: dict[str, float],
    parts: dict[str, float],
) -> View:
    stages: tuple[StagePlan | MixedStage, ...] = plan.stages
    fullest = max(stages, key=lambda stage: stage.memory_bytes["total"] / stage.capacity_bytes)
    tokens = plan.tokens_per_s * plan.step_time_s / 1e12
    usd = plan.price_usd_per_step
    return View(
        plan=plan,
        edited=edited,
        decisions=decided,
        measures={
            "step_time_s": plan.step_time_s,
            "tokens_per_s": plan.tokens_per_s,
            "tokens_per_s_per_device": plan.tokens_per_s / plan.num_devices,
            "mfu_causal": plan.mfu,
            "mfu_square": more.get("mfu_square"),
            "hfu_causal": more.get("hfu_causal"),
            "price_usd_per_step": usd,
            "usd_per_trillion_tokens": None if usd is None else usd / tokens,
            "energy_j_per_step": plan.energy_j_per_step,
            "energy_j_per_trillion_tokens": plan.energy_j_per_step / tokens,
        },
        parts=parts,
        memory=memory_kinds(fullest),
        total_bytes=fullest.memory_bytes["total"],
        capacity_bytes=fullest.capacity_bytes,
    )


def decisions(plan: TrainingPlan) -> dict[str, int | str]:
    """Everything a plan decides, by name, as numbers or short words."""
    return {
        **msgspec.structs.asdict(plan.degrees),
        "sequence_parallel": "yes" if plan.sequence_parallel else "no",
        "zero_stage": plan.zero_stage,
        "shard_group": plan.shard_group or "all replicas",
        "micro_batch": plan.micro_batch,
        "num_microbatches": plan.num_microbatches,
        "schedule": plan.schedule,
        "num_devices": plan.num_devices,
        "idle_devices": plan.idle_devices,
        "layers_per_chunk": _runs(str(n) for n in plan.strategy.layers_per_chunk),
        "recompute": _runs(_recompute(stage.recompute) for stage in plan.stages),
    }


def mixed_decisions(plan: MixedPlan) -> dict[str, int | str]:
    """What a mixed plan decides: a line for each replica, equal ones together."""
    found: dict[str, int | str] = {
        "micro_batch": plan.micro_batch,
        "num_microbatches": plan.num_microbatches,
        "num_devices": plan.num_devices,
        "idle_devices": plan.idle_devices,
    }
    shapes: dict[str, list[str]] = {}
    for replica in plan.replicas:
        shapes.setdefault(_replica(replica), []).append(str(replica.index))
    return found | {f"replica {', '.join(who)}": shape for shape, who in shapes.items()}


def _replica(replica: MixedReplica) -> str:
    stages = [
        f"{s.num_layers} layers on {s.num_devices} {s.device} (tp {s.tp} cp {s.cp} dp {s.dp} "
        f"ep {s.ep}, recompute {_recompute(s.recompute)})"
        for s in replica.stages
    ]
    return f"{replica.num_microbatches} micro-batches: {_runs(stages)}"


def _recompute(rule: Recompute) -> str:
    parts = [f"{n} {kind}" for n, kind in ((rule.full, "full"), (rule.selective, "selective")) if n]
    return " + ".join(parts) or "none"


def _runs(words: Iterable[str]) -> str:
    """``"11 10*6 9"``: equal neighbours are counted."""
    runs: list[tuple[str, int]] = []
    for word in words:
        if runs and runs[-1][0] == word:
            runs[-1] = (word, runs[-1][1] + 1)
        else:
            runs.append((word, 1))
    shown = [word if count == 1 else f"{word}*{count}" for word, count in runs]
    return ", ".join(shown)
