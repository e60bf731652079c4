"""The answer of a search for training plans on the screen: what was found, and the next best."""

from __future__ import annotations

import textwrap

from optalloc.cost.constants import read_constants, values
from optalloc.report.plan_tables import plan_tables, total_bytes
from optalloc.report.table import Table, fix_text
from optalloc.result import Termination
from optalloc.training.mixed.plan import MixedPlan
from optalloc.training.plan import TrainingPlan
from optalloc.training.solve import TrainingResult
from optalloc.training.ties import Alternative, Robustness, headroom_bytes
from optalloc.units import GIB, format_bytes, format_seconds

# -- the answer ------------------------------------------------------------------------------------


def headline(result: TrainingResult, limits: str = "") -> str:
    """The answer and its gap, then the decisions and figures of the plan; four lines.

    ``limits`` says, as typed, what narrowed the space.
    """
    plan = result.best
    if plan is None:
        return no_plan_line(result)
    goal, robust = result.objective, result.robustness
    first = (
        f"{plan.model.name} on {plan.cluster.name}: {'at worst ' if robust else ''}"
        f"{value_text(goal.name, result.bounds.primal)} "
        f"({estimate_of(plan)}), {claim(result)}" + (f" with {limits}" if limits else "")
    )
    lines = _wrapped(first, "")
    if robust is not None:
        lines += _wrapped(robust_text(robust, goal.name), "  ")
    step = robust is not None or goal.name != "step_time"
    return "\n".join([*lines, *plan_lines(plan, step=step), _counted(result)]) + "\n"


def robust_text(robust: Robustness, objective: str) -> str:
    """The box, what the worst case of the other plan would be, and the price."""
    box = robust.box
    other = value_text(objective, robust.nominal_worst).removesuffix(" a step")
    gain = robust.nominal_worst / robust.worst - 1.0
    compared = (
        f"the plan that is best without: {other} at worst, {gain:.1%} more"
        if gain > 5e-4
        else "the plan that is best without is as good at worst"
    )
    return (
        f"while compute is up to {box.compute:.0%}, node links {box.node_link:.0%} and the network "
        f"{box.network:.0%} slower or faster than the model's; {compared}; price "
        f"{robust.price:.1%} where the model is right"
    )


def estimate_of(plan: TrainingPlan | MixedPlan) -> str:
    """The cost model behind a figure, and the error that 9 of 10 measurements like it had."""
    if plan.step_time_error is None:
        return f"estimate of {plan.cost_model}"
    return f"estimate +-{plan.step_time_error:.0%}"


def estimate_headline(plan: TrainingPlan) -> str:
    """What a written configuration is predicted to do, and whether it fits."""
    first = (
        f"{plan.model.name} on {plan.cluster.name}: {format_seconds(plan.step_time_s, digits=3)} "
        f"a step ({estimate_of(plan)}) as written, without search"
    )
    lines = [*_wrapped(first, ""), *plan_lines(plan, step=False)]
    fullest = max(total_bytes(stage) / stage.capacity_bytes for stage in plan.stages)
    error = values(read_constants(plan.cost_model)).memory_error
    if plan.fits and fullest * (1.0 + error) > 1.0:
        lines.append(
            f"  MAY NOT FIT: {fullest:.0%} of the memory is used, and one estimate in ten is off "
            f"by more than {error:.0%}."
        )
    if not plan.fits:
        most = max(plan.stages, key=lambda stage: total_bytes(stage) - stage.capacity_bytes)
        over = sum(total_bytes(stage) > stage.capacity_bytes for stage in plan.stages)
        lines.append(
            f"  DOES NOT FIT: {over} of {len(plan.stages)} stages; stage {most.index} needs "
            f"{total_bytes(most) / GIB:.1f} GiB of {most.capacity_bytes / GIB:.1f} on each device."
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


# -- the next best ---------------------------------------------------------------------------------


def rivals_table(result: TrainingResult) -> Table:
    """The best plans of other degrees, and why each lost; all of them where they were asked for."""
    goal = result.objective.name
    rivals = result.alternatives if result.margin is not None else result.alternatives[:3]
    rows = tuple(
        (
            f"{rank}.",
            value_text(goal, rival.value).removesuffix(" a step"),
            _degrees(rival),
            format_bytes(rival.headroom_bytes),
            rival.reason,
        )
        for rank, rival in enumerate(rivals, 2)
    )
    title = "Next best, and why each lost"
    if result.margin is not None:
        among = "All degrees" if result.complete else "Degrees found so far"
        title = f"{among} within {result.margin:.1%} of the best, and the next three at least"
    notes: tuple[str, ...] = ()
    ties = sum(rival.tie for rival in result.alternatives)
    if ties and result.best is not None:
        more = "" if result.margin is not None else "at least "
        notes = (
            f"{more.capitalize()}{ties} within {result.error:.0%}, the mean error of the model: "
            f"ties in practice. The best plan leaves {format_bytes(headroom_bytes(result.best))}.",
        )
    return Table(
        title=title,
        columns=("", "value", "plan", "memory left", "why"),
        rows=rows,
        notes=notes,
        right=("value", "memory left"),
    )


def _degrees(rival: Alternative) -> str:
    d = rival.plan.degrees
    parts = [f"{name} {getattr(d, name)}" for name in ("tp", "cp", "pp", "dp", "ep")]
    kept = [part for part in parts if not part.endswith(" 1")] or ["one device"]
    return " ".join(kept)


# -- whole screens ---------------------------------------------------------------------------------


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
    notes = [f"To fix: {fix_text(fix)}. A plan then exists." for fix in result.fixes]
    return Table(
        title="",
        columns=("conflict",),
        rows=tuple((text,) for text in result.conflict),
        notes=tuple(notes or ["No single change that was tried helps."]),
    )
