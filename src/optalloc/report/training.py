"""Training plans on the screen: the answer, the stages, memory, time, the next best."""

from __future__ import annotations

import textwrap

from optalloc.cost.constants import read_constants, values
from optalloc.report.table import Cell, Table
from optalloc.result import Termination
from optalloc.training.plan import StagePlan, TrainingPlan
from optalloc.training.solve import Alternative, TrainingResult
from optalloc.units import GIB, format_seconds

#: Groups of stages shown in full; of more, the first, the fullest and the last are.
MOST_GROUPS = 9
_BAR = 30


# -- the answer ------------------------------------------------------------------------------------


def headline(result: TrainingResult, limits: str = "") -> str:
    """The answer and its gap, then the decisions and figures of the plan; four lines.

    ``limits`` says, as typed, what narrowed the space.
    """
    plan = result.best
    if plan is None:
        return no_plan_line(result)
    goal = result.objective
    first = (
        f"{plan.model.name} on {plan.cluster.name}: {value_text(goal.name, result.bounds.primal)} "
        f"({estimate_of(plan)}), {claim(result)}" + (f" with {limits}" if limits else "")
    )
    lines = _wrapped(first, "")
    return (
        "\n".join([*lines, *plan_lines(plan, step=goal.name != "step_time"), _counted(result)])
        + "\n"
    )


def estimate_of(plan: TrainingPlan) -> str:
    """The cost model behind a figure, and how far it was off on measurements like this."""
    if plan.step_time_error is None:
        return f"estimate of {plan.cost_model}"
    return f"estimate of {plan.cost_model}, +-{plan.step_time_error:.0%} in 9 of 10 measured cases"


def estimate_headline(plan: TrainingPlan) -> str:
    """What a written configuration is predicted to do, and whether it fits."""
    lines = [
        f"{plan.model.name} on {plan.cluster.name}: {format_seconds(plan.step_time_s, digits=3)} "
        f"a step ({estimate_of(plan)}) as written, without search",
        *plan_lines(plan, step=False),
    ]
    fullest = max(_total(stage) / stage.capacity_bytes for stage in plan.stages)
    error = values(read_constants(plan.cost_model)).memory_error
    if plan.fits and fullest * (1.0 + error) > 1.0:
        lines.append(
            f"  MAY NOT FIT: {fullest:.0%} of the memory is predicted to be used, and one such "
            f"estimate in ten is off by more than {error:.0%}."
        )
    if not plan.fits:
        most = max(plan.stages, key=lambda stage: _total(stage) - stage.capacity_bytes)
        over = sum(_total(stage) > stage.capacity_bytes for stage in plan.stages)
        lines.append(
            f"  DOES NOT FIT: {over} of {len(plan.stages)} stages; stage {most.index} needs "
            f"{_total(most) / GIB:.1f} GiB of {most.capacity_bytes / GIB:.1f} on each device."
        )
        lines.append(
            "  To fix: recompute=full, more tp or pp, a higher zero_stage, or let train choose"
        )
    return "\n".join(lines) + "\n"


def _counted(result: TrainingResult) -> str:
    """How many configurations there were, and what excluded most."""
    stats = result.stats
    text = f"{stats.configurations:,} configurations in {stats.wall_s:.2f} s"
    name, count = max(stats.pruned.items(), key=lambda item: item[1], default=("", 0))
    return f"  {text}, {count:,} of them excluded by {name}" if count else f"  {text}"


def claim(result: TrainingResult) -> str:
    """What is proven about the answer, in a few words."""
    gap = result.bounds.gap
    if result.termination is Termination.OPTIMAL:
        return "proven optimal, gap 0"
    if gap == float("inf"):
        return "stopped early, no bound yet"
    bound = value_text(result.objective.name, result.bounds.dual)
    return f"stopped early, gap {gap:.2%}: nothing is below {bound}"


def value_text(objective: str, value: float | None) -> str:
    """A value of an objective with its unit."""
    if value is None:
        return "unknown"
    if objective == "step_time":
        return f"{format_seconds(value, digits=3)} a step"
    if objective == "price":
        return f"${value:,.4g} a step"
    if objective == "energy":
        return f"{_energy(value)} a step"
    return _counted_devices(round(value))


def _counted_devices(count: int) -> str:
    return f"{count:,} device" if count == 1 else f"{count:,} devices"


def plan_lines(plan: TrainingPlan, *, step: bool) -> list[str]:
    """Decisions and figures of a plan in two lines; the step time only with ``step``."""
    figures = [format_seconds(plan.step_time_s) + " a step"] if step else []
    figures += [f"MFU {plan.mfu:.1%}", f"{plan.tokens_per_s:,.0f} tokens/s"]
    if plan.price_usd_per_step is not None:
        figures.append(f"${plan.price_usd_per_step:,.4g} a step")
    figures.append(f"{_energy(plan.energy_j_per_step)} a step")
    idle = f", {plan.idle_devices} idle" if plan.idle_devices else ""
    figures.append(f"{_counted_devices(plan.num_devices)}{idle}")
    return [
        line for text in (decisions_text(plan), ", ".join(figures)) for line in _wrapped(text, "  ")
    ]


def _wrapped(text: str, indent: str) -> list[str]:
    """Lines of at most 100 columns, broken between words alone."""
    return textwrap.wrap(
        text, 100, initial_indent=indent, subsequent_indent="  ", break_on_hyphens=False
    )


def decisions_text(plan: TrainingPlan) -> str:
    """Degrees and choices in one line; what is at its neutral value is left out."""
    d = plan.degrees
    words = [f"tp {d.tp}" + (" (sequence parallel)" if plan.sequence_parallel else "")]
    words += [f"cp {d.cp}"] if d.cp > 1 else []
    words += [f"pp {d.pp}", f"dp {d.dp}"]
    words += [f"ep {d.ep}"] if d.ep > 1 else []
    if d.pp > 1:
        chunks = f" ({d.virtual_stages} chunks a stage)" if d.virtual_stages > 1 else ""
        words.append(plan.schedule + chunks)
    group = f" over {plan.shard_group}" if plan.zero_stage and plan.shard_group else ""
    words.append(f"ZeRO {plan.zero_stage}{group}")
    many = "es" if plan.num_microbatches > 1 else ""
    words.append(f"{plan.num_microbatches} micro-batch{many} of {plan.micro_batch}")
    return ", ".join(words)


def _energy(value_j: float) -> str:
    return f"{value_j / 3.6e6:,.3g} kWh" if value_j >= 3.6e5 else f"{value_j:,.4g} J"


# -- stages and memory -----------------------------------------------------------------------------


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
    fullest = max(range(len(groups)), key=lambda g: _total(_fullest(groups[g])))
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
        used = _total(stage)
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
    return max(group, key=_total)


def _total(stage: StagePlan) -> int:
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


# -- time and the next best ------------------------------------------------------------------------


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


def rivals_table(result: TrainingResult) -> Table:
    """The best plans of other degrees, and why each lost."""
    goal = result.objective.name
    rows = tuple(
        (
            f"{rank}.",
            value_text(goal, rival.value).removesuffix(" a step"),
            _degrees(rival),
            rival.reason,
        )
        for rank, rival in enumerate(result.alternatives[:3], 2)
    )
    return Table(
        title="Next best, and why each lost",
        columns=("", "value", "plan", "why"),
        rows=rows,
        right=("value",),
    )


def _degrees(rival: Alternative) -> str:
    d = rival.plan.degrees
    parts = [f"{name} {getattr(d, name)}" for name in ("tp", "cp", "pp", "dp", "ep")]
    kept = [part for part in parts if not part.endswith(" 1")] or ["one device"]
    return " ".join(kept)


# -- whole screens ---------------------------------------------------------------------------------


def plan_tables(plan: TrainingPlan) -> list[Table]:
    """Stages, memory, time."""
    return [stages_table(plan), memory_table(plan), time_table(plan)]


def result_tables(result: TrainingResult) -> list[Table]:
    """The screen below the headline."""
    if result.best is None:
        return [no_plan_table(result)]
    tables = plan_tables(result.best)
    return [*tables, rivals_table(result)] if result.alternatives else tables


def next_command(path: str | None, targets: tuple[str, ...]) -> str:
    """What to type next: the plan is saved at ``path`` or not, and ``targets`` can express it."""
    if targets:
        export = f"optalloc export {path or 'plan.json'} --to {targets[0]} -o launch"
    else:
        export = "no tool runs this plan as it is: --for megatron finds the best that one does"
    if path is None:
        first = "Next: repeat with -o plan.json to keep the plan, then optalloc explain plan.json"
        return f"{first}\n      {export}"
    return (
        f"Saved {path}. Next: optalloc explain {path}\n"
        f"      optalloc simulate {path} --trace step.trace.json\n"
        f"      {export}"
    )


def no_plan_line(result: TrainingResult) -> str:
    """That there is no plan, and whether this is proven."""
    if result.termination is Termination.INFEASIBLE:
        if len(result.conflict) > 1:
            return "No plan exists (proven). These cannot all hold; without any one they can:"
        return "No plan exists (proven). This cannot hold with this model, batch and cluster:"
    bound = result.bounds.dual
    known = (
        "" if bound is None else f" Nothing is below {value_text(result.objective.name, bound)}."
    )
    return f"No plan yet: the search was stopped before it found one.{known}"


def no_plan_table(result: TrainingResult) -> Table:
    """What conflicts, and what would help."""
    if result.termination is not Termination.INFEASIBLE:
        return Table(
            title="",
            columns=("to fix",),
            rows=(("Give it more time with --time-limit, or pin some decisions.",),),
        )
    notes = [
        f"To fix: {fix.what}{f' ({fix.cost})' if fix.cost else ''}. A plan then exists."
        for fix in result.fixes
    ]
    return Table(
        title="",
        columns=("conflict",),
        rows=tuple((text,) for text in result.conflict),
        notes=tuple(notes or ["No single change that was tried helps."]),
    )
