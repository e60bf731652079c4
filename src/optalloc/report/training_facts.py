"""Training plans as data: the published JSON of an answer, and the stages in plain numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from optalloc.cost.constants import read_constants, values
from optalloc.report.table import Cell, Table
from optalloc.training.plan import StagePlan, TrainingPlan
from optalloc.training.solve import TrainingResult
from optalloc.training.ties import Alternative

if TYPE_CHECKING:  # loads what only mixed clusters need
    from optalloc.training.mixed.ties import MixedAlternative


def result_facts(result: TrainingResult, *, cpu_s: float, limits: str = "") -> dict[str, Any]:
    """The answer in the published JSON form.

    ``cpu_s`` is the processor time of the whole process, seconds; ``limits`` says, as typed, what
    narrowed the space.
    """
    goal, stats = result.objective, result.stats
    gap = result.bounds.gap
    return {
        "format_version": "1.0",
        "termination": result.termination.value,
        "objective": {"name": goal.name, "value": goal.value, "unit": goal.unit},
        "bounds": {
            "primal": result.bounds.primal,
            "dual": result.bounds.dual,
            "gap": None if gap == float("inf") else gap,
        },
        "stats": {
            "cpu_s": cpu_s,
            "search_cpu_s": stats.cpu_s,
            "wall_s": stats.wall_s,
            "configurations": stats.configurations,
            "pruned": stats.pruned,
            "nodes": stats.nodes,
        },
        "space": result.space,
        "limits": limits,
        "alternatives": [
            {**rival_facts(rival), "step_time_s": rival.plan.step_time_s}
            for rival in result.alternatives
        ],
        "alternatives_margin": result.margin,
        "alternatives_complete": result.complete,
        "cost_model_error": result.error,
        "robustness": msgspec.to_builtins(result.robustness),
        "incumbents": msgspec.to_builtins(result.incumbents),
        "conflict": list(result.conflict),
        "fixes": [{"what": fix.what, "cost": fix.cost} for fix in result.fixes],
        "plan": None if result.best is None else msgspec.to_builtins(result.best),
    }


def rival_facts(rival: Alternative | MixedAlternative) -> dict[str, Any]:
    """An alternative in the published JSON form, on equal devices or a mixed cluster."""
    plan = rival.plan
    return {
        "value": rival.value,
        "reason": rival.reason,
        "tie": rival.tie,
        "differences": list(rival.differences),
        "headroom_bytes": rival.headroom_bytes,
        "mfu": plan.mfu,
        "num_devices": plan.num_devices,
        "num_microbatches": plan.num_microbatches,
        "breakdown_s": plan.breakdown_s,
        "strategy": msgspec.to_builtins(plan.strategy),
    }


def estimate_facts(plan: TrainingPlan) -> dict[str, Any]:
    """A predicted configuration in the published JSON form."""
    return {
        "format_version": "1.0",
        "fits": plan.fits,
        "too_large": [
            {
                "stage": stage.index,
                "excess_bytes": stage.memory_bytes["total"] - stage.capacity_bytes,
            }
            for stage in plan.stages
            if stage.memory_bytes["total"] > stage.capacity_bytes
        ],
        "memory_error": values(read_constants(plan.cost_model)).memory_error,
        "plan": msgspec.to_builtins(plan),
    }


def stages_raw(plan: TrainingPlan) -> Table:
    """One row a stage in plain numbers: the CSV."""
    kinds = list(plan.stages[0].memory_bytes)
    types = list(dict.fromkeys(name for stage in plan.stages for name in stage.num_layers))
    columns = (
        "stage",
        "first_device",
        "num_devices",
        *(f"{name}_layers" for name in types),
        "recompute_full",
        "recompute_selective",
        "forward_s",
        "backward_s",
        *(f"{kind}_bytes" for kind in kinds),
        "capacity_bytes",
    )
    return Table(title="", columns=columns, rows=tuple(_raw(plan.stages, types, kinds)))


def _raw(
    stages: Iterable[StagePlan], types: list[str], kinds: list[str]
) -> Iterable[tuple[Cell, ...]]:
    for stage in stages:
        yield (
            stage.index,
            stage.devices[0][0],
            stage.num_devices,
            *(stage.num_layers.get(name, 0) for name in types),
            stage.recompute.full,
            stage.recompute.selective,
            stage.forward_s,
            stage.backward_s,
            *(stage.memory_bytes.get(kind, 0) for kind in kinds),
            stage.capacity_bytes,
        )
