"""The tables of a training plan: its stages, their memory, and where the time goes."""

from __future__ import annotations

from optalloc.cost.constants import read_constants, values
from optalloc.report.table import Cell, Table
from optalloc.training.plan import StagePlan, TrainingPlan
from optalloc.units import GIB, format_seconds

#: Groups of stages shown in full; of more, the first, the fullest and the last are.
MOST_GROUPS = 9
_BAR = 30


def plan_tables(plan: TrainingPlan) -> list[Table]:
    """Stages, memory, time."""
    return [stages_table(plan), memory_table(plan), time_table(plan)]


def stage_groups(plan: TrainingPlan) -> list[list[StagePlan]]:
    """Neighbouring stages that hold and recompute the same, together."""
    groups: list[list[StagePlan]] = []
    for stage in plan.stages:
        if groups and _holds(groups[-1][0]) == _holds(stage):
            groups[-1].append(stage)
        else:
            groups.append([stage])
    return groups


def _holds(stage: StagePlan) -> tuple[object, ...]:
    ends = [(chunk.num_layers, chunk.embedding, chunk.head) for chunk in stage.chunks]
    return (stage.num_layers, ends, stage.recompute)


def _shown(groups: list[list[StagePlan]]) -> list[list[StagePlan] | None]:
    """The groups that fit on a screen; None stands for those left out."""
    if len(groups) <= MOST_GROUPS:
        return list(groups)
    fullest = max(range(len(groups)), key=lambda g: total_bytes(_fullest(groups[g])))
    last = len(groups) - 1
    kept = sorted({0, 1, 2, fullest, last - 2, last - 1, last})
    shown: list[list[StagePlan] | None] = []
    for before, index in zip([-1, *kept], kept, strict=False):
        if index > before + 1:
            shown.append(None)
        shown.append(groups[index])
    return shown


def stages_table(plan: TrainingPlan) -> Table:
    """What each stage holds and recomputes, and its time for one micro-batch."""
    groups = stage_groups(plan)
    rows: list[tuple[Cell, ...]] = []
    for group in _shown(groups):
        if group is None:
            rows.append(("...", "", "", "", "", ""))
            continue
        stage = group[0]
        rows.append(
            (
                _span(group),
                _devices(group),
                _layers(stage),
                recompute_text(stage),
                format_seconds(stage.forward_s),
                format_seconds(stage.backward_s),
            )
        )
    return Table(
        title="Stages (times of one micro-batch)",
        columns=("stage", "devices", "holds", "recomputes", "forward", "backward"),
        rows=tuple(rows),
        right=("forward", "backward"),
    )


def memory_table(plan: TrainingPlan) -> Table:
    """Memory by kind on the fullest device of each group of stages, against its capacity."""
    kinds = [kind for kind in plan.stages[0].memory_bytes if kind != "total"]
    capacity = plan.stages[0].capacity_bytes
    error = values(read_constants(plan.cost_model)).memory_error
    rows: list[tuple[Cell, ...]] = []
    for group in _shown(stage_groups(plan)):
        if group is None:
            rows.append(("...", *[""] * (len(kinds) + 2)))
            continue
        stage = _fullest(group)
        used = total_bytes(stage)
        cells = [f"{stage.memory_bytes.get(kind, 0) / GIB:.1f}" for kind in kinds]
        over = " OVER" if used > stage.capacity_bytes else ""
        rows.append(
            (
                str(stage.index),
                *cells,
                f"{used / GIB:.1f}",
                f"{used / stage.capacity_bytes:.1%}{over}",
            )
        )
    return Table(
        title=f"Memory of the fullest device, GiB (capacity {capacity / GIB:.1f}; "
        f"nine estimates in ten are within {error:.0%})",
        columns=("stage", *kinds, "total", "used"),
        rows=tuple(rows),
        right=(*kinds, "total", "used"),
    )


def _fullest(group: list[StagePlan]) -> StagePlan:
    return max(group, key=total_bytes)


def total_bytes(stage: StagePlan) -> int:
    """Memory of the fullest device of a stage."""
    return stage.memory_bytes["total"]


def _span(group: list[StagePlan]) -> str:
    first, last = group[0].index, group[-1].index
    return str(first) if first == last else f"{first}-{last}"


def _devices(group: list[StagePlan]) -> str:
    first, end = group[0].devices[0][0], group[-1].devices[-1][1]
    text = str(first) if end == first + 1 else f"{first}-{end - 1}"
    return text if len(group) == 1 else f"{text}, {group[0].num_devices} each"


def _layers(stage: StagePlan) -> str:
    parts = ["embedding"] if any(chunk.embedding for chunk in stage.chunks) else []
    parts += [f"{count} {name}" for name, count in stage.num_layers.items()]
    parts += ["head"] if any(chunk.head for chunk in stage.chunks) else []
    return " + ".join(parts) or "nothing"


def recompute_text(stage: StagePlan) -> str:
    """Recomputation of one stage in words; per chunk where the stage has several."""
    rule, most = stage.recompute, max(chunk.num_layers for chunk in stage.chunks)
    if rule.full >= most > 0:
        return "all layers"
    full, selective = rule.full, min(rule.selective, most - rule.full)
    parts = [f"{full} whole"] if full else []
    if selective:
        parts.append("all attention cores" if selective == most else f"{selective} attention cores")
    several = ", of each chunk" if len(stage.chunks) > 1 and parts else ""
    return (" + ".join(parts) or "nothing") + several


def time_table(plan: TrainingPlan) -> Table:
    """The step of the stage that ends last, by cause, the largest first."""
    step = plan.step_time_s
    causes = sorted(plan.breakdown_s.items(), key=lambda item: -item[1])
    rows = tuple(
        (
            name.replace("_", " "),
            format_seconds(seconds),
            f"{seconds / step:.1%}",
            _bar(seconds / step),
        )
        for name, seconds in causes
        if seconds >= 0.0005 * step
    )
    return Table(
        title="Where the time goes (stage that ends last)",
        columns=("cause", "time", "share", ""),
        rows=rows,
        right=("time", "share"),
    )


def _bar(share: float) -> str:
    return "#" * max(1, round(_BAR * share))
