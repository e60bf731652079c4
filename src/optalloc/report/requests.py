"""Tables of a simulation of requests: latencies beside targets and plan, and what happened."""

from __future__ import annotations

from typing import Any

import msgspec

from optalloc.report.table import Cell, Table
from optalloc.serving.configuration.plan import ServingPlan
from optalloc.simulate.requests.max_rate import MaxRate
from optalloc.simulate.requests.outcome import Quantiles, RequestSimulation
from optalloc.simulate.requests.percentiles import PercentileResult
from optalloc.simulate.requests.plans import asked_of
from optalloc.simulate.requests.timeline import Timeline
from optalloc.units import format_amount, format_seconds

_NAMES = {
    "ttft": "first token",
    "tpot": "next tokens",
    "e2e": "request",
    "queue": "in queue",
}
_BARS = "▁▂▃▄▅▆▇█"
_WIDE = 40
_FINE = 25


def request_table(simulation: RequestSimulation, plan: ServingPlan, most: MaxRate | None) -> Table:
    """Latencies, a row each: mean and percentiles, what the plan says, and the target."""
    told, said = simulation.summary, plan.predicted
    planned = {"ttft": said.ttft_s, "tpot": said.tpot_s, "e2e": said.request_s}
    targets = {"ttft": simulation.ttft_target_s, "tpot": simulation.tpot_target_s}
    rows = tuple(
        (
            words,
            *_times(getattr(told, name)),
            _seconds(planned.get(name)),
            _seconds(targets.get(name)),
        )
        for name, words in _NAMES.items()
    )
    return Table(
        title=f"{told.num_requests:,} request{'s' * (told.num_requests > 1)} at "
        f"{told.requests_per_s:.4g}/s, {format_amount(told.output_tokens_per_s, digits=2)} "
        "output tokens/s (estimate)",
        columns=("", "mean", "P50", "P90", "P95", "P99", "plan", "target"),
        rows=rows,
        notes=tuple(_notes(simulation, plan, most)),
        right=("mean", "P50", "P90", "P95", "P99", "plan", "target"),
    )


def _notes(simulation: RequestSimulation, plan: ServingPlan, most: MaxRate | None) -> list[str]:
    told, over = simulation.summary, simulation.over_time(_WIDE * _FINE)
    said = plan.predicted
    rate = said.request_rate_per_s if plan.workload.rate_per_s is None else said.capacity_per_s
    notes = [f"The plan's figures are means with full engines, at {rate:.4g} requests/s."]
    if simulation.ttft_target_s is not None or simulation.tpot_target_s is not None:
        notes.append(
            f"{told.met_share:.1%} of the requests meet every target: goodput "
            f"{told.goodput_per_s:.4g} requests/s."
        )
    if most is not None:
        notes.append(max_rate_line(most, asked_of(plan).percentile))
    notes.append(
        f"In the mean {told.mean_in_system:.4g} requests in the system, {told.mean_waiting:.3g} of "
        f"them waiting; {told.preemptions:,} preemptions; {told.prefix_hit_share:.1%} of prompt "
        f"tokens found cached; caches at most {told.kv_peak_share:.1%} full."
    )
    notes.append(f"Waiting  {_bars(over.waiting)}  at most {over.waiting.max():,.0f}")
    notes.append(f"Decoding {_bars(over.decoding)}  at most {over.decoding.max():,.0f}")
    notes.append(f"Cache    {_bars(over.kv_share, 1.0)}  of all blocks")
    if simulation.run.hits.any():
        found = simulation.over_time(_WIDE + 1).hit_share[1:]
        notes.append(f"Found    {''.join(map(_bar, found))}  of the tokens of prompts")
    stages = max(worker.engine.pp for worker in plan.workers)
    apart = stages > 1 and simulation.deployment.routing != "prefix"
    if simulation.requests.hashes is not None and apart:
        notes.append(
            f"A pipeline is simulated as {stages} caches in place of one: more is found in "
            "reality. --routing prefix comes nearer."
        )
    return notes


def max_rate_line(most: MaxRate, percentile: float | None) -> str:
    """What :func:`max_rate` found, in a sentence."""
    who = "the mean" if percentile is None else f"{percentile:g} % of the requests"
    if most.rate_per_s == 0.0:
        return f"At no rate {who} would meet the target of {most.binds}, not even one by one."
    if most.binds == "nothing":
        return "The engines serve all of these requests at once: simulate more for a greatest rate."
    return (
        f"Up to {most.rate_per_s:.4g} requests/s {who} would meet the targets; above, "
        f"{'the queue grows' if most.binds == 'throughput' else most.binds + ' fails'}."
    )


def percentile_line(met: PercentileResult) -> str:
    """What the simulation of a plan for a percentile says, below the plan's headline."""
    plan, facts = met.result.plan, percentile_facts(met)
    words = [
        f"{name} {format_seconds(value)}"
        for name, value in (("first token", facts["ttft_s"]), ("a token", facts["tpot_s"]))
        if value is not None
    ]
    verdict = "meets its targets"
    if met.missed:
        worst = max(met.missed, key=lambda name: met.missed[name])
        verdict = f"misses {worst.removesuffix('_s')} by {met.missed[worst] - 1.0:.1%}"
    line = f"  simulated: P{facts['percentile']:g} {verdict}: {', '.join(words)}"
    if met.num_plans > 1:
        tightened = [
            f"{name.removesuffix('_s')} {format_seconds(getattr(plan.workload, name))}"
            for name in ("ttft_s", "tpot_s")
            if getattr(plan.workload, name) is not None
        ]
        line += (
            f"\n  the optimum is that of {' and '.join(tightened)} in the mean, the loosest of "
            f"{met.num_plans} tried {'that come near' if met.missed else 'that do'}"
        )
    return line


def percentile_facts(met: PercentileResult) -> dict[str, Any]:
    """The same as plain values; the times are those of the percentile, by the simulation."""
    plan, simulation = met.result.best, met.simulation
    percentile = None if plan is None or plan.asked is None else plan.asked.percentile
    if plan is None or plan.asked is None or simulation is None or percentile is None:
        return {"met": False, "num_plans": met.num_plans}
    times = {
        name: None
        if getattr(plan.asked, name) is None
        else simulation.percentile_s(name, percentile)
        for name in ("ttft_s", "tpot_s")
    }
    return {"percentile": percentile, "met": not met.missed, "num_plans": met.num_plans, **times}


def raw_table(simulation: RequestSimulation, most: MaxRate | None) -> Table:
    """Plain numbers, one row a latency; the greatest rate stands in each, where it was asked."""
    fields, added = Quantiles.__struct_fields__, _max_rate(most)
    rows = []
    for name in _NAMES:
        found = getattr(simulation.summary, name)
        times = (_number(getattr(found, field)) for field in fields)
        rows.append((name, *times, *added.values()))
    columns = ("latency", *fields, *(f"max_{name}" for name in added))
    return Table(title="", columns=columns, rows=tuple(rows))


def _max_rate(most: MaxRate | None) -> dict[str, Any]:
    if most is None:
        return {}
    return {name: getattr(most, name) for name in ("rate_per_s", "failing_rate_per_s", "binds")}


def plain(simulation: RequestSimulation, plan: ServingPlan, most: MaxRate | None) -> dict[str, Any]:
    """The answer as plain values."""
    data = {
        "summary": without_nan(msgspec.to_builtins(simulation.summary)),
        "planned": {
            name: getattr(plan.predicted, name)
            for name in ("ttft_s", "tpot_s", "request_s", "request_rate_per_s")
        },
        "over_time": without_nan(_plain_timeline(simulation.over_time(100))),
    }
    if most is not None:
        data["max_rate"] = _max_rate(most)
    return data


def without_nan(data: Any) -> Any:
    """Plain values with null in place of what there is none of."""
    if isinstance(data, dict):
        return {key: without_nan(value) for key, value in data.items()}
    if isinstance(data, list):
        return [without_nan(value) for value in data]
    return _number(data) if isinstance(data, float) else data


def _plain_timeline(over: Timeline) -> dict[str, list[float]]:
    return {name: getattr(over, name).tolist() for name in over.__struct_fields__}


def _times(found: Quantiles) -> tuple[Cell, ...]:
    return tuple(_seconds(_number(getattr(found, name))) for name in found.__struct_fields__)


def _number(value: float) -> float | None:
    return None if value != value else value


def _seconds(value: float | None) -> str | None:
    return None if value is None else format_seconds(value)


def _bars(values: Any, most: float | None = None) -> str:
    """The highest of each part of the time, as a row of bars."""
    top = max(float(values.max()), 1e-9) if most is None else most
    peaks = values.reshape(_WIDE, _FINE).max(axis=1)
    return "".join(_bar(float(peak) / top) for peak in peaks)


def _bar(share: float) -> str:
    return " " if share != share else _BARS[min(7, int(8.0 * share))]
