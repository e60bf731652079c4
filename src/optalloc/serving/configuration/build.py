"""Build a ServingPlan from a deployment that the search chose: engines, memory and predictions."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from optalloc import __version__, files
from optalloc.cost.engine.constants import read_engine_constants
from optalloc.cost.engine.load import EngineEstimate, closed_loop
from optalloc.cost.engine.setup import Engine
from optalloc.cost.engine.step import StepModel, step_model
from optalloc.serving.configuration.plan import (
    Certificate,
    Predicted,
    Rival,
    Role,
    ServingPlan,
    Worker,
)
from optalloc.serving.configuration.problem import Problem
from optalloc.serving.configuration.search import Choice, Pick, Search
from optalloc.serving.configuration.workers import decode_chunk


def build_plan(search: Search, choice: Choice, certificate: Certificate | None) -> ServingPlan:
    """The plan of one deployment, with the cost model's predictions for each engine."""
    engines = [engine_of(search, pick) for pick in choice.picks]
    return plan_of(search.problem, choice, engines, certificate)


def plan_of(
    p: Problem,
    choice: Choice,
    engines: Sequence[tuple[int, Engine]],
    certificate: Certificate | None = None,
) -> ServingPlan:
    """The plan of a deployment whose picks have these groups and engines."""
    workers = tuple(
        _worker(p, choice, pick, *placed)
        for pick, placed in zip(choice.picks, engines, strict=True)
    )
    used = sum(worker.num_devices for worker in workers)
    return ServingPlan(
        tool_version=__version__,
        model=p.model,
        cluster=p.cluster,
        workload=p.workload,
        digests={
            "model": files.digest(p.model),
            "cluster": files.digest(p.cluster),
            "workload": files.digest(p.workload),
        },
        cost_model=p.constants,
        mode=choice.mode,
        workers=workers,
        num_devices=used,
        idle_devices=p.cluster.num_devices - used,
        predicted=_predicted(p, choice, engines, used),
        headroom=p.headroom,
        limits=p.limits,
        certificate=certificate,
    )


def engine_of(search: Search, pick: Pick) -> tuple[int, Engine]:
    """The group of a chosen engine and its complete setup."""
    table = search.table(pick.role)
    chunk, batch = pick.chunk, pick.batch
    if pick.role == "decode":
        chunk = decode_chunk(search.problem)
    elif pick.role == "prefill":
        work = search.problem.workload
        batch = max(1, chunk // (work.input_len - work.prefix_len))
    engine = msgspec.structs.replace(
        table.engines[pick.engine], chunk_tokens=chunk, max_batch=batch
    )
    return int(table.group[pick.engine]), engine


def step_of(problem: Problem, group: int, engine: Engine) -> StepModel:
    """The step model of an engine on one group of nodes."""
    node = problem.cluster.nodes[group]
    file = read_engine_constants(problem.constants)
    return step_model(problem.model, node.device, engine, group=node, file=file)


def _worker(p: Problem, choice: Choice, pick: Pick, group: int, engine: Engine) -> Worker:
    work = p.workload
    step = step_of(p, group, engine)
    role: Role = "serve"
    concurrency = float(pick.load)
    tokens, held = work.input_len + work.output_len, float(engine.max_batch)
    if pick.role == "serve":
        found = closed_loop(step, work.input_len, work.output_len, pick.load, work.prefix_len)
        ttft, tpot, rate, use = found.ttft_s, found.tpot_s, found.request_rate_per_s, found.kv_use
        batch, binds = found.mean_batch, found.binds
    else:
        rate = choice.rate_per_s / pick.count
        answer_s = (work.output_len - 1.0) * choice.tpot_s + choice.move_s
        use = 1.0
        if pick.role == "prefill":
            role, tokens, binds = "prefill", work.input_len, "prefill"
            ttft, tpot = choice.ttft_s, 0.0
            concurrency = rate * (choice.ttft_s - choice.move_s)
            batch = concurrency / engine.attention_dp
        else:
            role, ttft, tpot = "decode", 0.0, choice.tpot_s
            concurrency = rate * answer_s
            batch = concurrency / engine.attention_dp
            binds = _decode_binds(step, pick.batch, work.input_len, work.output_len)
        use = min(1.0, batch * tokens / max(1.0, float(step.kv_capacity_tokens)))
    one = float(step.sequence_bytes(tokens))
    return Worker(
        role=role,
        group=group,
        device=p.cluster.nodes[group].device.name,
        count=pick.count,
        engine=engine,
        concurrency=concurrency,
        share=pick.share,
        memory_bytes={
            "weights": round(float(step.weights_bytes)),
            "workspace": round(float(step.workspace_bytes)),
            "kv": round(min(float(step.free_bytes), held * one)),
        },
        capacity_bytes=p.cluster.nodes[group].device.memory_bytes,
        kv_capacity_tokens=int(float(step.kv_capacity_tokens) * engine.attention_dp),
        kv_use=use,
        mean_batch=batch,
        ttft_s=ttft,
        tpot_s=tpot,
        request_rate_per_s=rate,
        binds=binds,
    )


def _decode_binds(step: StepModel, batch: int, input_len: int, output_len: int) -> str:
    """What limits an iteration of a full decode worker: as a closed loop of so many says, without
    prompts in between."""
    found: EngineEstimate = closed_loop(step, 1, 2 * input_len + output_len, batch)
    return "bandwidth" if found.binds == "prefill" else found.binds


def _predicted(
    p: Problem, choice: Choice, engines: Sequence[tuple[int, Engine]], devices: int
) -> Predicted:
    work = p.workload
    served = choice.rate_per_s if work.rate_per_s is None else work.rate_per_s
    tokens = served * work.output_len
    prices = []
    errors: dict[str, float] = {}
    for pick, (group, engine) in zip(choice.picks, engines, strict=True):
        usd = p.cluster.nodes[group].device.price_usd_per_h
        prices.append(None if usd is None else usd * engine.num_devices * pick.count)
        known = step_of(p, group, engine).errors
        for name in ("ttft", "tpot", "throughput"):
            errors[name] = max(errors.get(name, 0.0), getattr(known, name))
    known_prices = [usd for usd in prices if usd is not None]
    usd_per_h = sum(known_prices) if len(known_prices) == len(prices) else None
    return Predicted(
        ttft_s=choice.ttft_s,
        tpot_s=choice.tpot_s,
        request_s=choice.ttft_s + (work.output_len - 1.0) * choice.tpot_s,
        request_rate_per_s=served,
        capacity_per_s=choice.rate_per_s,
        output_tokens_per_s=tokens,
        tokens_per_s_per_user=1.0 / choice.tpot_s,
        tokens_per_s_per_device=tokens / devices,
        usd_per_h=usd_per_h,
        usd_per_mtoken=None if usd_per_h is None else usd_per_h / 3600.0 / tokens * 1e6,
        transfer_s=choice.move_s,
        errors=errors,
    )


def rival_of(search: Search, choice: Choice) -> Rival:
    """A deployment that lost, in short."""
    served = search.problem.workload.rate_per_s or choice.rate_per_s
    return Rival(
        value=choice.value,
        mode=choice.mode,
        num_devices=choice.devices,
        setup=setup_words(search, choice),
        ttft_s=choice.ttft_s,
        tpot_s=choice.tpot_s,
        output_tokens_per_s=served * search.problem.workload.output_len,
    )


def setup_words(search: Search, choice: Choice) -> str:
    """``4 x tp4 batch 24``, or both phases: ``5 x tp4 prefill + 3 x tp4 batch 48 decode``."""
    parts = []
    for pick in choice.picks:
        group, engine = engine_of(search, pick)
        device = search.problem.cluster.nodes[group].device.name
        parts.append(engine_words(engine, pick.count, pick.role, device, search.problem))
    return " + ".join(parts)


def engine_words(engine: Engine, count: int, role: str, device: str, problem: Problem) -> str:
    """One kind of worker in a few words."""
    widths = [f"tp{engine.tp}"]
    widths += [f"pp{engine.pp}"] if engine.pp > 1 else []
    widths += [f"dp{engine.attention_dp}"] if engine.attention_dp > 1 else []
    widths += [f"ep{engine.moe_ep}"] if engine.moe_ep > 1 else []
    words = f"{count} x {' '.join(widths)}"
    if len(problem.cluster.device_names) > 1:
        words += f" {device}"
    if role != "prefill":
        words += f" batch {engine.max_batch}"
    return words if role == "serve" else f"{words} {role}"
