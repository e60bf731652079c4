"""What the verbs do with mixed clusters and mixed plans."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial

import msgspec

from optalloc.cli.answers import answered, colored, status
from optalloc.cli.plans import checked, with_true_figures
from optalloc.cli.progress import progress_line
from optalloc.cli.training_inputs import cost_model
from optalloc.cluster.topology import Cluster
from optalloc.errors import InputError
from optalloc.export.pins import plan_mixed_for_target
from optalloc.model.spec import ModelSpec
from optalloc.plan.mixed import certify_mixed
from optalloc.report import mixed as report
from optalloc.report.table import Table, render
from optalloc.report.training import value_text
from optalloc.report.training_facts import rival_facts
from optalloc.stop import StopRule
from optalloc.training.mixed.plan import MixedPlan
from optalloc.training.mixed.proof import MixedProof
from optalloc.training.mixed.robust import plan_mixed_robust
from optalloc.training.mixed.solve import MixedResult, plan_mixed
from optalloc.units import format_bytes, format_seconds
from optalloc.workload import Training


def train(
    arguments: argparse.Namespace,
    inputs: tuple[ModelSpec, Cluster, Training],
    *,
    stop: StopRule | None,
    target_s: float | None,
    margin: float | None,
    limits: str,
) -> int:
    """Plan over a mixed cluster and print; returns the exit status."""
    if arguments.objective != "step_time":
        raise InputError(
            f"mixed clusters are planned for the step time, not for {arguments.objective}",
            path="--objective",
            fix="leave it out, or plan each group of equal nodes by itself",
        )
    planner: Callable[..., MixedResult] = plan_mixed
    if arguments.tool is not None:
        planner = partial(plan_mixed_for_target, arguments.tool)
    if arguments.robust:
        planner = partial(plan_mixed_robust, planner=planner)
    with progress_line(lambda value: value_text("step_time", value)) as line:
        result = planner(
            *inputs,
            target_step_time_s=target_s,
            pin=arguments.pin,
            forbid=arguments.forbid,
            margin=margin,
            stop=stop,
            on_progress=line,
            cost_model=cost_model(arguments),
        )
    plan = result.best
    tables = report.mixed_result_tables(result)
    if arguments.format == "csv":
        tables = [] if plan is None else [report.stages_raw(plan)]
    data = {
        "termination": result.termination.value,
        "objective": {"name": "step_time", "unit": "s", "value": result.bounds.primal},
        "bounds": {**msgspec.to_builtins(result.bounds), "gap": _finite(result.bounds.gap)},
        "stats": msgspec.to_builtins(result.stats) | {"cpu_s": time.process_time()},
        "conflict": list(result.conflict),
        "fixes": msgspec.to_builtins(result.fixes),
        "space": result.space,
        "alternatives": [rival_facts(rival) for rival in result.alternatives],
        "alternatives_margin": result.margin,
        "alternatives_complete": result.complete,
        "cost_model_error": result.error,
        "robustness": msgspec.to_builtins(result.robustness),
        "plan": msgspec.to_builtins(plan),
    }
    with answered(arguments.output, None if plan is None else plan.save):
        if arguments.format == "table":
            print(report.mixed_headline(result, limits))
        if tables or arguments.format == "json":
            print(render(tables, data, arguments.format, color=colored()), end="")
    if arguments.format == "table" and plan is not None:
        saved = arguments.output or "plan.json"
        first = "Next:" if arguments.output else f"Next: add -o {saved}, then"
        to = arguments.tool or "pytorch"
        print(f"{first} optalloc simulate {saved}, or optalloc export {saved} --to {to} -o D")
    return status(result, plan, require_optimal=arguments.require_optimal)


def _finite(value: float) -> float | None:
    return None if value == float("inf") else value


def show_estimate(arguments: argparse.Namespace, plan: MixedPlan) -> int:
    """Print the prediction of a written mixed configuration."""
    tables = report.mixed_tables(plan) if arguments.format == "table" else [report.stages_raw(plan)]
    with answered(arguments.output, plan.save):
        if arguments.format == "table":
            print(report.estimate_mixed_headline(plan))
        print(render(tables, plan, arguments.format, color=colored()), end="")
    return 0


def certify(arguments: argparse.Namespace, plan: MixedPlan) -> int:
    """Check a mixed plan and print its claim."""
    if plan.proof is not None:
        print(f"optalloc: proving the bound once more, {_proved(plan.proof)} ...", file=sys.stderr)
    with checked(arguments.plan):
        claim = certify_mixed(plan)
    data = {"valid": True, "optimal": claim.is_optimal, **msgspec.to_builtins(claim)}
    words = "It was estimated, not searched: it claims nothing about other configurations."
    if claim.bounds.primal is not None and claim.bounds.dual is not None:
        known = "the search proved that nothing is better"
        if not claim.is_optimal:
            known = f"nothing is below {value_text('step_time', claim.bounds.dual)}"
        words = (
            f"Claim: {value_text('step_time', claim.bounds.primal)}, and of "
            f"{claim.configurations:,} shapes {known}. "
        )
        if plan.proof is not None:
            words += "Proved once more, by code that the search does not use."
        else:
            words += (
                "That is the word of the search: this check is about the plan alone and proves "
                "nothing about others; 'optalloc train' with the same inputs repeats the search."
            )
    checks: tuple[str, ...] = (
        "the rules of the space",
        "stages, layers and devices",
        "memory of every stage",
    )
    checks += ("times of every stage and replica, and the step", "rates, price, energy, digests")
    if plan.proof is not None:
        checks += (f"the bound, {_proved(plan.proof)}",)
    table = Table(
        title="",
        columns=("computed anew, and equal",),
        rows=tuple((text,) for text in checks),
        notes=(words,),
    )
    if arguments.format == "table":
        print(f"{arguments.plan} says the truth about itself.")
    print(render([table], data, arguments.format, color=colored()), end="")
    return 0


def _proved(proof: MixedProof) -> str:
    """What a proof is made of."""
    if proof.rules:
        return "over all plans of equal degrees"
    return f"from the prices of {len(proof.parts)} parts of the space"


def simulate(arguments: argparse.Namespace, plan: MixedPlan) -> int:
    """Replay a mixed plan and print idle time and memory of every stage."""
    from optalloc.simulate.mixed import simulate_mixed

    simulation = simulate_mixed(plan)
    if arguments.trace is not None:
        simulation.trace.write(arguments.trace)
    fields = simulation.stages[0].__struct_fields__
    data = {
        "step_time_s": simulation.step_time_s,
        "planned_step_time_s": simulation.planned_step_time_s,
        "difference": simulation.difference,
        "idle_share": simulation.idle_share,
        "replica_end_s": list(simulation.replica_end_s),
        "stages": msgspec.to_builtins(simulation.stages),
    }
    notes = [
        f"The plan says {format_seconds(simulation.planned_step_time_s)} by the closed form; the "
        f"events say {simulation.difference:+.1%}.",
        f"Devices in use are idle for {simulation.idle_share:.1%} of the step.",
    ]
    if arguments.trace is not None:
        notes.append(f"Trace: {arguments.trace} (open it at https://ui.perfetto.dev).")
    rows = tuple(
        (
            use.replica,
            use.index,
            f"{use.num_devices} {use.device}",
            f"{use.busy_share:.1%}",
            f"{use.idle_share:.1%}",
            format_seconds(use.end_s),
            format_bytes(use.peak_memory_bytes),
            format_bytes(use.capacity_bytes),
        )
        for use in simulation.stages
    )
    table = Table(
        title=f"Simulated step: {format_seconds(simulation.step_time_s)} (estimate)",
        columns=("replica", "stage", "devices", "busy", "idle", "last pass", "peak", "of"),
        rows=rows,
        notes=tuple(notes),
        right=("busy", "idle", "last pass", "peak", "of"),
    )
    if arguments.format == "csv":
        rows_ = tuple(tuple(getattr(use, name) for name in fields) for use in simulation.stages)
        table = Table(title="", columns=fields, rows=rows_)
    print(render([table], data, arguments.format, color=colored()), end="")
    return 0


def explain(arguments: argparse.Namespace, plan: MixedPlan, stop: StopRule | None) -> int:
    """Explain a mixed plan and print."""
    from optalloc.plan.explain_mixed import explain_mixed

    plan = with_true_figures(plan, arguments.plan)
    explanation = explain_mixed(plan, replan=arguments.replan, stop=stop)
    data = {**msgspec.to_builtins(explanation), "summary": explanation.summary}
    causes = Table(
        title="Where the time goes (the slowest stage of the replica that ends last)",
        columns=("cause", "time", "share"),
        rows=tuple(
            (c.name.replace("_", " "), format_seconds(c.time_s), f"{c.share:.1%}")
            for c in explanation.causes
            if c.share >= 0.0005
        ),
        right=("time", "share"),
    )
    groups = Table(
        title="Groups of nodes",
        columns=("group", "device", "used", "idle", "work", "computing"),
        rows=tuple(
            (
                use.group,
                use.device,
                use.used_devices,
                use.idle_devices,
                f"{use.work_share:.1%}",
                f"{use.busy_share:.1%}",
            )
            for use in explanation.groups
        ),
        right=("work", "computing"),
    )
    tables = [causes, groups]
    if explanation.marginals:
        tables.append(
            Table(
                title="What a little more would bring, planned anew",
                columns=("change", "step", "gain"),
                rows=tuple(
                    (
                        m.change,
                        "no plan" if m.step_time_s is None else format_seconds(m.step_time_s),
                        "" if m.gain_s is None else format_seconds(m.gain_s),
                    )
                    for m in explanation.marginals
                ),
                right=("step", "gain"),
            )
        )
    if arguments.format == "table":
        print(explanation.summary + "\n")
    print(render(tables, data, arguments.format, color=colored()), end="")
    return 0
