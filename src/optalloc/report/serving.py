"""Serving plans on the screen: the answer, its engines, the front, and the next best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from optalloc.cost.engine.setup import Engine
from optalloc.plan.certify import Claim
from optalloc.plan.explain_serving import ServingExplanation
from optalloc.plan.serving_cell import ServingRow
from optalloc.plan.turns import turn_section
from optalloc.report.sweep import plain_number
from optalloc.report.table import Cell, Table, fix_text
from optalloc.result import Termination
from optalloc.serving.configuration.certify import CHECKS
from optalloc.serving.configuration.plan import ServingPlan, Worker
from optalloc.serving.configuration.recommend import Offer
from optalloc.serving.configuration.solve import ServingResult
from optalloc.serving.configuration.targets import TARGETS
from optalloc.units import GIB, format_amount, format_seconds

_WIDTH, _HEIGHT = 64, 9
_COLUMNS = ("role", "engines", "on", "widths", "numbers", "batch", "chunk", "GiB", "binds")


def value_text(objective: str, value: float | None) -> str:
    """A value of an objective with its unit."""
    if value is None:
        return "unknown"
    if objective == "throughput":
        return f"{value:,.1f} output tokens/s"
    if objective == "price":
        return f"${format_amount(value, digits=4)} a million output tokens"
    if objective == "devices":
        return f"{value:,.0f} device{'s' if value > 1 else ''}"
    return f"{format_seconds(value, digits=3)} a request"


def headline(result: ServingResult) -> str:
    """The answer and its gap, then what the deployment does; or why there is none."""
    plan, spent = result.best, f"{result.stats.cpu_s:.2f} s of CPU"
    if plan is None:
        why = "\n".join(f"  - {text}" for text in result.conflict)
        fixes = "\n".join(f"  To fix: {fix_text(f)}" for f in result.fixes)
        what = "proven infeasible" if result.termination is Termination.INFEASIBLE else "stopped"
        if result.bounds.dual is not None:
            spent += f"; nothing is better than {value_text(result.objective, result.bounds.dual)}"
        return "\n".join(part for part in (f"No plan: {what}, {spent}.", why, fixes) if part)
    said = plan.predicted
    lines = [
        f"{plan.model.name} on {plan.cluster.name}: "
        f"{value_text(result.objective, result.bounds.primal)}, {_claim(result)}",
        f"  {plan.mode}, {plan.num_devices} of {plan.cluster.num_devices} devices; "
        f"first token {_time(said.ttft_s, said.errors.get('ttft'))}, then "
        f"{_time(said.tpot_s, said.errors.get('tpot'))} a token",
        f"  {format_amount(said.output_tokens_per_s, digits=2)} output tokens/s"
        f"{_share(said.errors.get('throughput'))}, {said.tokens_per_s_per_user:,.1f} a user, "
        f"{said.tokens_per_s_per_device:,.1f} a device" + _money(plan),
        f"  {result.stats.configurations:,} configurations, {_pruned(result)}, {spent}",
    ]
    if plan.workload.rate_per_s is not None:
        free = 1.0 - plan.workload.rate_per_s / said.capacity_per_s
        lines.insert(
            3,
            f"  could serve {format_amount(said.capacity_per_s, digits=4)} requests/s: {free:.0%} "
            "are kept free; the times are those of full engines",
        )
    return "\n".join(lines)


def _claim(result: ServingResult) -> str:
    gap = result.bounds.gap
    if result.termination is Termination.OPTIMAL:
        return "proven optimal, gap 0"
    if gap == float("inf"):
        return "stopped early, no bound yet"
    return f"stopped early, gap {gap:.2%}"


def _time(seconds: float, error: float | None) -> str:
    return f"{format_seconds(seconds, digits=1)}{_share(error)}"


def _share(error: float | None) -> str:
    return "" if error is None else f" (+-{error:.0%})"


def _money(plan: ServingPlan) -> str:
    usd = plan.predicted.usd_per_mtoken
    if usd is None:
        return ""
    return f"; ${plan.predicted.usd_per_h:,.2f}/h, ${format_amount(usd)} a million"


def _pruned(result: ServingResult) -> str:
    pruned = result.stats.pruned
    name, count = max(pruned.items(), key=lambda item: item[1], default=("", 0))
    return f"{count:,} excluded by {name}" if count else "all evaluated"


def result_tables(result: ServingResult, offers: tuple[Offer, ...] = ()) -> list[Table]:
    """The engines, and what came next; with offers, one row a kind of device."""
    tables = [] if result.best is None else plan_tables(result.best, result.objective)
    if offers:
        tables.insert(
            0,
            Table(
                title="The best of each kind of device",
                columns=("device", "devices", "$/h", "$/Mtoken", "tokens/s", "plan"),
                rows=tuple(
                    (
                        offer.device,
                        offer.num_devices,
                        _number(offer.usd_per_h),
                        _number(offer.usd_per_mtoken),
                        _number(offer.output_tokens_per_s),
                        offer.words,
                    )
                    for offer in offers
                ),
                right=("$/h", "$/Mtoken", "tokens/s"),
            ),
        )
    return tables


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}"


def plan_tables(plan: ServingPlan, objective: str) -> list[Table]:
    """The engines of a plan, and the next best shapes."""
    tables = [
        Table(
            title="Engines",
            columns=_COLUMNS,
            rows=tuple(_worker(worker) for worker in plan.workers),
            right=("batch", "chunk"),
        )
    ]
    if plan.alternatives:
        tables.append(
            Table(
                title="Next best of other widths (of those evaluated)",
                columns=("deployment", "value", "devices", "first token", "a token"),
                rows=tuple(
                    (
                        rival.setup,
                        value_text(objective, rival.value),
                        rival.num_devices,
                        format_seconds(rival.ttft_s, digits=1),
                        format_seconds(rival.tpot_s, digits=1),
                    )
                    for rival in plan.alternatives[:3]
                ),
                right=("value", "first token", "a token"),
            )
        )
    return tables


def _worker(worker: Worker) -> tuple[Cell, ...]:
    e = worker.engine
    widths = [f"tp {e.tp}", f"pp {e.pp}", f"dp {e.attention_dp}", f"ep {e.moe_ep}"]
    experts = f"/{e.expert_dtype}" if e.expert_dtype else ""
    used = sum(worker.memory_bytes.values())
    return (
        worker.role,
        worker.count,
        f"{e.num_devices} {worker.device}",
        " ".join(word for word in widths if not word.endswith(" 1")) or "one device",
        f"{e.weight_dtype}{experts}, kv {e.kv_dtype}",
        e.max_batch,
        e.chunk_tokens,
        f"{used / GIB:.1f} of {worker.capacity_bytes / GIB:.0f}",
        worker.binds,
    )


def workers_raw(result: ServingResult) -> Table:
    """One row a kind of engine, in plain numbers."""
    names = Worker.__struct_fields__
    names = tuple(n for n in names if n not in ("engine", "memory_bytes"))
    engine = Engine.__struct_fields__
    workers = () if result.best is None else result.best.workers
    rows = tuple(
        (*(getattr(w, n) for n in names), *(getattr(w.engine, n) for n in engine)) for w in workers
    )
    return Table(title="", columns=(*names, *engine), rows=rows)


def facts(result: ServingResult, offers: tuple[Offer, ...] = ()) -> dict[str, Any]:
    """The answer as plain data."""
    gap = result.bounds.gap
    return {
        "termination": result.termination.value,
        "objective": {
            "name": result.objective,
            "unit": result.unit,
            "value": result.bounds.primal,
        },
        "bounds": {
            **msgspec.to_builtins(result.bounds),
            "gap": None if gap == float("inf") else gap,
        },
        "stats": msgspec.to_builtins(result.stats),
        "conflict": list(result.conflict),
        "fixes": msgspec.to_builtins(result.fixes),
        "space": result.space,
        "offers": msgspec.to_builtins(offers),
        "plan": msgspec.to_builtins(result.best),
    }


def front_text(plan: ServingPlan) -> str:
    """The front as points: a user's speed to the right, a device's output upwards; ``a`` is
    aggregated, ``d`` has split phases."""
    points = plan.front
    if len(points) < 2:
        return ""
    across = [math.log(p.tokens_per_s_per_user) for p in points]
    up = [math.log(max(p.tokens_per_s_per_device, 1e-9)) for p in points]
    cells = [[" "] * _WIDTH for _ in range(_HEIGHT)]
    for x, y, point in zip(across, up, points, strict=True):
        line = _HEIGHT - 1 - _place(y, up, _HEIGHT)
        cells[line][_place(x, across, _WIDTH)] = point.mode[0]
    high = plain_number(max(p.tokens_per_s_per_device for p in points))
    low = plain_number(min(p.tokens_per_s_per_device for p in points))
    left = plain_number(min(p.tokens_per_s_per_user for p in points))
    right = plain_number(max(p.tokens_per_s_per_user for p in points))
    lines = [
        "Front: output tokens/s a device (up) against tokens/s a user (right), logarithmic; "
        "a aggregated, d split",
        f"{high:>12} |{''.join(cells[0])}",
    ]
    lines += [f"{'':12} |{''.join(line)}" for line in cells[1:-1]]
    lines += [f"{low:>12} |{''.join(cells[-1])}", f"{'':13}+{'-' * _WIDTH}"]
    lines.append(f"{'':14}{left}{right:>{_WIDTH - len(left)}}")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _place(value: float, all_: list[float], size: int) -> int:
    low, high = min(all_), max(all_)
    return size // 2 if high == low else round((value - low) / (high - low) * (size - 1))


def next_command(output: str | None, plan: ServingPlan) -> str:
    """What to type next."""
    saved = output or "plan.json"
    first = f"Saved {saved}. Next:" if output else f"Next: add -o {saved}, then"
    to = plan.limits.target or _target(plan)
    return (
        f"{first} optalloc explain {saved}, optalloc certify {saved},\n"
        f"      optalloc export {saved} --to {to} -o run"
    )


def _target(plan: ServingPlan) -> str:
    """Scripts for the software of the plan where they can be written, or else Dynamo."""
    software = plan.workers[0].engine.software
    fits = all(
        TARGETS[software].expresses(
            tp=w.engine.tp,
            pp=w.engine.pp,
            devices=w.engine.num_devices,
            node=plan.cluster.nodes[w.group].devices,
        )
        for w in plan.workers
    )
    return software if fits else "dynamo"


def claim_table(claim: Claim) -> tuple[Table, dict[str, Any]]:
    """What was checked of a plan, and what is proven of all others."""
    gap = None if claim.objective is None else claim.bounds.gap
    data = {
        "valid": True,
        "checks": list(CHECKS),
        "optimal": claim.is_optimal,
        **msgspec.to_builtins(claim),
        "bounds": {**msgspec.to_builtins(claim.bounds), "gap": gap},
    }
    words = "It claims nothing about other configurations."
    if claim.objective is not None:
        words = (
            f"Claim: {value_text(claim.objective, claim.bounds.primal)}; no configuration is "
            f"better than {value_text(claim.objective, claim.bounds.dual)}, proven once more by "
            f"other code, which bounds them in {claim.configurations:,} cases."
        )
    table = Table(
        title="",
        columns=("computed anew, and equal",),
        rows=tuple((text,) for text in CHECKS),
        notes=(words,),
    )
    return table, data


def explanation_tables(explanation: ServingExplanation) -> list[Table]:
    """Where an iteration goes, how near the targets are, and what relaxing would bring."""
    engines = Table(
        title="Engines: a decoding iteration at the mean batch, and one prompt",
        columns=("role", "on", "fixed", "cache", "more sequences", "a prompt", "memory", "binds"),
        rows=tuple(
            (
                e.role,
                e.device,
                *(
                    format_seconds(s, digits=1) if s > 0.0 else "-"
                    for s in (e.fixed_s, e.cache_s, e.growth_s)
                ),
                format_seconds(e.prompt_s, digits=1),
                f"{e.memory_share:.0%}",
                e.binds,
            )
            for e in explanation.engines
        ),
        right=("fixed", "cache", "more sequences", "a prompt", "memory"),
    )
    changes = Table(
        title="What relaxing one limit would bring, each solved anew",
        columns=("change", "value", "gain"),
        rows=tuple(
            (
                r.change,
                "no plan" if r.value is None else value_text(explanation.objective, r.value),
                "" if r.gain is None else f"{r.gain:+.1%}",
            )
            for r in explanation.relaxations
        ),
        right=("value", "gain"),
    )
    targets = Table(
        title="Targets",
        columns=("target", "found", "limit", "used"),
        rows=tuple((t.name, t.value, t.limit, f"{t.used:.0%}") for t in explanation.targets),
        right=("used",),
    )
    found = [changes, engines, *([targets] if explanation.targets else [])]
    if explanation.turns is not None:
        title, columns, rows = turn_section(explanation.turns, "better", "other engines")
        notes = () if rows else ("Other engines are better by more than that already.",)
        right = ("now", "holds to", "changes at")
        found.append(Table(title=title, columns=columns, rows=rows, notes=notes, right=right))
    return found


def sweep_table(rows: Sequence[ServingRow]) -> Table:
    """One row a cell: what was asked, and the best plan."""
    starred = any(row.front for row in rows)
    return Table(
        title="",
        columns=("device", "devices", "in", "out", "load", "value", "TTFT", "TPOT", "engines", ""),
        rows=tuple(
            (
                row.device,
                row.devices,
                row.input_len,
                row.output_len,
                load_words(row),
                "-" if row.value is None else plain_number(row.value),
                "-" if row.ttft_s is None else format_seconds(row.ttft_s, digits=1),
                "-" if row.tpot_s is None else format_seconds(row.tpot_s, digits=1),
                row.engines or row.status,
                "*" if row.front else "",
            )
            for row in rows
        ),
        notes=(
            *sorted({f"{r.status}: {r.reason}" for r in rows if r.value is None}),
            *(("* on the front: no other is better for a user and a device.",) if starred else ()),
        ),
        right=("value", "TTFT", "TPOT"),
    )


def load_words(row: ServingRow) -> str:
    """The load of a row in words."""
    if row.rate_per_s is not None:
        return f"{row.rate_per_s:g}/s"
    return "-" if row.concurrency is None else f"{row.concurrency} at once"
