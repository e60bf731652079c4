"""Mixed plans on the screen: the answer, replicas and stages, time by cause."""

from __future__ import annotations

import textwrap

from optalloc.report.table import Cell, Table
from optalloc.report.training import estimate_of, robust_text
from optalloc.result import Termination
from optalloc.training.mixed.plan import MixedPlan, MixedReplica, MixedStage
from optalloc.training.mixed.solve import MixedResult
from optalloc.training.mixed.ties import degrees_text
from optalloc.training.ties import headroom_bytes
from optalloc.units import GIB, format_bytes, format_seconds

_MOST_ROWS = 24
_MOST_RIVALS = 12
_TRIALS = "shapes of pipelines"


def mixed_headline(result: MixedResult, limits: str = "") -> str:
    """The answer, its gap and the figures of the plan; a few lines."""
    plan = result.best
    if plan is None:
        if result.termination is Termination.INFEASIBLE:
            fixes = "; ".join(fix.what for fix in result.fixes)
            return f"No plan: {'; '.join(result.conflict)}.\nWhat would help: {fixes}.\n"
        bound = result.bounds.dual
        known = "" if bound is None else f": nothing is below {format_seconds(bound)} a step"
        return f"Stopped before a plan was found{known}.\n"
    robust = result.robustness
    value = format_seconds(result.bounds.primal or plan.step_time_s, digits=3)
    first = (
        f"{plan.model.name} on {plan.cluster.name}: {'at worst ' if robust else ''}{value} "
        f"a step ({estimate_of(plan)}), {_claim(result)}"
    )
    first += f" with {limits}" if limits else ""
    lines = _wrapped(first, "")
    if robust is not None:
        lines += _wrapped(robust_text(robust, "step_time"), "  ")
        lines += [f"  {format_seconds(plan.step_time_s, digits=3)} a step where the model is right"]
    count = f"{result.stats.configurations:,} {_TRIALS} in {result.stats.wall_s:.2f} s"
    return "\n".join([*lines, *mixed_lines(plan), f"  {count}"]) + "\n"


def estimate_mixed_headline(plan: MixedPlan) -> str:
    """What a written mixed configuration is predicted to do, and whether it fits."""
    lines = [
        f"{plan.model.name} on {plan.cluster.name}: {format_seconds(plan.step_time_s, digits=3)} "
        f"a step ({estimate_of(plan)}) as written, without search",
        *mixed_lines(plan),
    ]
    if not plan.fits:
        worst = max(plan.stages, key=lambda s: s.memory_bytes["total"] - s.capacity_bytes)
        over = worst.memory_bytes["total"] - worst.capacity_bytes
        lines.append(f"  does not fit: a stage on {worst.device} lacks {format_bytes(over)}")
    return "\n".join(lines) + "\n"


def _claim(result: MixedResult) -> str:
    if result.termination is Termination.OPTIMAL:
        return "proven optimal, gap 0"
    if result.bounds.dual is None:
        return "stopped early, no bound yet"
    why = "stopped early"
    if result.open_parts:
        why = f"{result.open_parts} parts of the space are too large to close"
    below = format_seconds(result.bounds.dual, digits=3)
    return f"{why}, gap {result.bounds.gap:.2%}: nothing is below {below} a step"


def mixed_lines(plan: MixedPlan) -> list[str]:
    """Decisions and figures of a plan in two lines."""
    many = "s" if len(plan.replicas) > 1 else ""
    shares = " + ".join(str(r.num_microbatches) for r in plan.replicas[:12])
    more = " + ..." if len(plan.replicas) > 12 else ""
    decisions = (
        f"{len(plan.replicas)} replica{many}, micro-batch {plan.micro_batch}, "
        f"{shares}{more} micro-batches"
    )
    figures = [f"MFU {plan.mfu:.1%}", f"{plan.tokens_per_s:,.0f} tokens/s"]
    if plan.price_usd_per_step is not None:
        figures.append(f"${plan.price_usd_per_step:,.4g} a step")
    idle = f", {plan.idle_devices} idle" if plan.idle_devices else ""
    figures.append(f"{plan.num_devices} devices{idle}")
    return [line for text in (decisions, ", ".join(figures)) for line in _wrapped(text, "  ")]


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, 100, initial_indent=indent, subsequent_indent="  ", break_on_hyphens=False
    )


def mixed_tables(plan: MixedPlan) -> list[Table]:
    """Stages of every replica, equal neighbours together, and the time by cause."""
    rows: list[tuple[Cell, ...]] = []
    for names, replica in _replicas(plan):
        for first, last in _runs(replica.stages):
            stage = replica.stages[first]
            index = str(first) if first == last else f"{first}-{last}"
            rows.append(
                (
                    names,
                    index,
                    f"{stage.num_devices} {stage.device}",
                    degrees_text(stage),
                    stage.num_layers,
                    _recompute(stage),
                    format_seconds(stage.forward_s + stage.backward_s),
                    f"{stage.memory_bytes['total'] / GIB:.1f}",
                    f"{stage.capacity_bytes / GIB:.1f}",
                )
            )
    notes = []
    if len(rows) > _MOST_ROWS:
        notes.append(f"{len(rows) - _MOST_ROWS} more rows are in the plan.")
        rows = rows[:_MOST_ROWS]
    stages = Table(
        title="Replicas and stages",
        columns=(
            "replica",
            "stage",
            "devices",
            "degrees",
            "layers",
            "recomputed",
            "a micro-batch",
            "GiB",
            "of",
        ),
        rows=tuple(rows),
        notes=tuple(notes),
        right=("a micro-batch", "GiB", "of"),
    )
    causes = tuple(
        (name.replace("_", " "), format_seconds(seconds), f"{seconds / plan.step_time_s:.1%}")
        for name, seconds in plan.breakdown_s.items()
        if abs(seconds) >= 0.0005 * plan.step_time_s
    )
    time = Table(
        title="Time of the replica that ends last, on its slowest stage",
        columns=("cause", "time", "share"),
        rows=causes,
        right=("time", "share"),
    )
    return [stages, time]


def mixed_result_tables(result: MixedResult) -> list[Table]:
    """The screen below the headline."""
    if result.best is None:
        return []
    tables = mixed_tables(result.best)
    if result.margin is None and not result.alternatives:
        return tables
    return [*tables, _rivals_table(result, result.best)]


def _rivals_table(result: MixedResult, best: MixedPlan) -> Table:
    """The best plans of other groups, replicas and micro-batches, and what they do otherwise."""
    rows = tuple(
        (
            f"{rank}.",
            format_seconds(rival.value, digits=3),
            f"{rival.value / best.step_time_s - 1.0:+.2%}",
            format_bytes(rival.headroom_bytes),
            "; ".join(rival.differences),
        )
        for rank, rival in enumerate(result.alternatives[:_MOST_RIVALS], 2)
    )
    title = "Other plans"
    if result.margin is not None:
        among = "All ways" if result.complete else "Ways found so far"
        title = (
            f"{among} to use the cluster (groups, replicas, micro-batch) within "
            f"{result.margin:.1%} of the best"
        )
    ties = sum(rival.tie for rival in result.alternatives)
    notes = [
        f"{ties} within {result.error:.0%}, the mean error of the model: ties in practice. "
        f"The best plan leaves {format_bytes(headroom_bytes(best))}."
    ]
    if len(result.alternatives) > _MOST_RIVALS:
        notes.insert(0, f"{len(result.alternatives) - _MOST_RIVALS} more are in the plan.")
    return Table(
        title=title,
        columns=("", "a step", "more", "memory left", "what it does otherwise"),
        rows=rows,
        notes=tuple(notes),
        right=("a step", "more", "memory left"),
    )


def stages_raw(plan: MixedPlan) -> Table:
    """Plain numbers, one row a stage, for CSV."""
    columns: tuple[str, ...] = ("replica", "num_microbatches", "index", "group", "device")
    columns += ("num_devices",)
    columns += ("tp", "cp", "dp", "ep", "first_layer", "num_layers", "forward_s", "backward_s")
    rows = tuple(
        (
            replica.index,
            replica.num_microbatches,
            *(getattr(stage, name) for name in columns[2:]),
            stage.memory_bytes["total"],
            stage.capacity_bytes,
        )
        for replica in plan.replicas
        for stage in replica.stages
    )
    return Table(title="", columns=(*columns, "memory_bytes", "capacity_bytes"), rows=rows)


def _replicas(plan: MixedPlan) -> list[tuple[str, MixedReplica]]:
    """Equal neighbours once, with their numbers."""
    groups: list[list[MixedReplica]] = []
    for replica in plan.replicas:
        if groups and _same(groups[-1][0], replica):
            groups[-1].append(replica)
        else:
            groups.append([replica])
    return [
        (str(g[0].index) if len(g) == 1 else f"{g[0].index}-{g[-1].index}", g[0]) for g in groups
    ]


def _same(a: MixedReplica, b: MixedReplica) -> bool:
    return a.num_microbatches == b.num_microbatches and [_key(s) for s in a.stages] == [
        _key(s) for s in b.stages
    ]


def _key(stage: MixedStage) -> tuple[int | str, ...]:
    rule = stage.recompute
    return (stage.group, degrees_text(stage), stage.num_layers, rule.full, rule.selective)


def _runs(stages: tuple[MixedStage, ...]) -> list[tuple[int, int]]:
    """Runs of neighbours that differ in nothing but their place."""
    runs: list[tuple[int, int]] = []
    for i, stage in enumerate(stages):
        alike = i > 1 and i + 1 < len(stages) and _key(stages[i - 1]) == _key(stage)
        if runs and alike:
            runs[-1] = (runs[-1][0], i)
        else:
            runs.append((i, i))
    return runs


def _recompute(stage: MixedStage) -> str:
    rule = stage.recompute
    words = [f"{rule.full} whole"] if rule.full else []
    words += [f"{rule.selective} core"] if rule.selective else []
    return ", ".join(words) or "none"
