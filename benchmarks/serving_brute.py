"""Brute force over serving configurations: plain loops and repetition, no array and no rule of
dominance; shares only the cost model with the package."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from optalloc.cluster.topology import NodeGroup
from optalloc.cost.engine.load import EngineEstimate, closed_loop
from optalloc.cost.engine.setup import Engine
from optalloc.cost.engine.step import StepModel, step_model
from optalloc.errors import InputError
from optalloc.model.spec import Experts
from optalloc.serving.configuration.certify_target import refusal
from optalloc.serving.configuration.problem import Problem


class Part(NamedTuple):
    """Equal engines on one group that carry ``flight`` of the requests in flight."""

    software: str
    flight: int
    devices: int
    rate: float
    request: float
    usd: float


def engines(problem: Problem, group: NodeGroup, role: str) -> Iterator[Engine]:
    """Engines by the rules of the space, with every chunk and batch that is pinned."""
    kinds = {layer.name: layer for layer in problem.model.layer_types}
    layers = [kinds[run.layer] for run in problem.model.layers]
    mixture = next((x.feed_forward for x in layers if isinstance(x.feed_forward, Experts)), None)
    depth = sum(run.count for run in problem.model.layers)
    pins, total = problem.limits.pin, group.num_devices
    fills = [n for n in range(1, total + 1) if group.devices % n == 0 or n % group.devices == 0]
    for tp, pp, dp in itertools.product(fills, range(1, total + 1), range(1, total + 1)):
        wide = tp * dp
        if wide not in fills or wide * pp not in fills or pp > depth or tp > group.domain:
            continue
        if any(x.attention.heads % tp for x in layers) or (dp > 1 and mixture is None):
            continue
        if str(pp) not in pins.get("pp", (str(pp),)):
            continue
        for ep in range(1, wide + 1):
            if wide % ep or (ep > 1 and mixture is None):
                continue
            if mixture and (mixture.num_experts % ep or mixture.width % (wide // ep)):
                continue
            for software, kv, chunk, batch in itertools.product(
                pins.get("software", ("vllm",)),
                pins.get("kv", ("bf16",)),
                pins["chunk"],
                pins[f"{role}.batch"],
            ):
                if mixture and software == "vllm" and ep not in (1, wide):
                    continue
                engine = msgspec.convert(
                    {
                        "software": software,
                        "tp": tp,
                        "pp": pp,
                        "attention_dp": dp,
                        "moe_tp": wide // ep,
                        "moe_ep": ep,
                        "kv_dtype": kv,
                        "chunk_tokens": int(chunk),
                        "max_batch": int(batch),
                    },
                    Engine,
                )
                if not refusal(problem.limits.target, engine, group.devices):
                    yield engine


def step_of(problem: Problem, group: NodeGroup, engine: Engine) -> StepModel:
    """The cost model of one engine."""
    return step_model(problem.model, group.device, engine, group=group)


def packs(group: NodeGroup, kinds: list[tuple[int, int]]) -> bool:
    """Do so many engines fit on the nodes, none across a node that it does not fill?"""
    nodes = group.count
    small = []
    for size, number in kinds:
        if size >= group.devices:
            nodes -= number * size // group.devices
        else:
            small += [size] * number
    if nodes < 0:
        return False
    states = {(group.devices,) * nodes}
    for size in small:
        states = {
            tuple(sorted((*state[:i], room - size, *state[i + 1 :])))
            for state in states
            for i, room in enumerate(state)
            if room >= size
        }
    return bool(states)


def best(problem: Problem) -> float | None:
    """The best value of all deployments; None where there is none."""
    found = [*_aggregated(problem), *_split(problem)]
    if not found:
        return None
    return max(found) if problem.objective == "throughput" else min(found)


def _value(problem: Problem, devices: int, rate: float, request: float, usd: float) -> float:
    length = problem.workload.output_len
    if problem.objective == "throughput":
        return rate * length
    if problem.objective == "price":
        served = problem.workload.rate_per_s or rate
        return usd / (served * length * 3600.0) * 1e6
    return devices if problem.objective == "devices" else request


def _aggregated(problem: Problem) -> Iterator[float]:
    if not problem.limits.allows("mode", "aggregated"):
        return
    work = problem.workload
    parts = [[None, *_unbeaten(_parts(problem, group))] for group in problem.cluster.nodes]
    for chosen in itertools.product(*parts):
        used = [part for part in chosen if part is not None]
        if not used or len({part.software for part in used}) > 1:
            continue
        if problem.limits.target == "llm-d" and len(used) > 1:
            continue
        if work.concurrency is not None and sum(part.flight for part in used) != work.concurrency:
            continue
        if sum(part.rate for part in used) < problem.asked_per_s:
            continue
        yield _value(
            problem,
            sum(part.devices for part in used),
            sum(part.rate for part in used),
            max(part.request for part in used),
            sum(part.usd for part in used),
        )


def _unbeaten(parts: Iterable[Part]) -> list[Part]:
    """Without those that another of the same software and requests is nowhere worse than."""
    kept: list[Part] = []
    for part in sorted(parts, key=lambda p: (p.software, p.flight, p.devices, p.request, -p.rate)):
        if not any(
            (k.software, k.flight) == (part.software, part.flight)
            and k.devices <= part.devices
            and k.usd <= part.usd
            and k.request <= part.request
            and k.rate >= part.rate
            for k in kept
        ):
            kept.append(part)
    return kept


def _parts(problem: Problem, group: NodeGroup) -> Iterator[Part]:
    work = problem.workload
    alone = len(problem.cluster.nodes) == 1
    usd = group.device.price_usd_per_h or 0.0
    for engine in engines(problem, group, "serve"):
        size, ranks = engine.num_devices, engine.attention_dp
        loose = msgspec.structs.replace(engine, max_batch=10**9)
        step = step_of(problem, group, engine)
        room = float(
            step_of(problem, group, loose).sequences_that_fit(work.input_len + work.output_len)
        )
        timed: dict[int, EngineEstimate] = {}
        counts = [n for n in range(1, group.num_devices + 1) if packs(group, [(size, n)])]
        flights = [0]
        if work.concurrency is not None:
            flights = [work.concurrency] if alone else list(range(1, work.concurrency + 1))
        for n, flight in itertools.product(counts, flights):
            batch = engine.max_batch
            load = -(-flight // n) if flight else batch * ranks
            if flight and (batch * ranks >= load + ranks or n > flight):
                continue
            if not flight and room < batch:
                continue
            if load not in timed:
                try:
                    timed[load] = closed_loop(
                        step, work.input_len, work.output_len, load, work.prefix_len
                    )
                except InputError:
                    continue
            found = timed[load]
            if found.ttft_s > problem.ttft_s or found.tpot_s > problem.tpot_s:
                continue
            request = found.ttft_s + (work.output_len - 1.0) * found.tpot_s
            rate = n * load / request
            if flight:
                rate = flight / request
            yield Part(engine.software, flight, n * size, rate, request, n * size * usd)


def _split(problem: Problem) -> Iterator[float]:
    if not problem.limits.allows("mode", "disaggregated"):
        return
    work, groups = problem.workload, problem.cluster.nodes
    sides: dict[str, list[list[tuple[Engine, StepModel]]]] = {}
    for role, tokens in (("prefill", work.input_len), ("decode", work.input_len + work.output_len)):
        found = [
            [(e, step_of(problem, group, e)) for e in engines(problem, group, role)]
            for group in groups
        ]
        sides[role] = [
            [
                (e, step)
                for e, step in one
                if step.sequences_that_fit(tokens) >= (e.max_batch if role == "decode" else 1)
            ]
            for one in found
        ]
    for a, b in itertools.product(range(len(groups)), repeat=2):
        for first, second in itertools.product(sides["prefill"][a], sides["decode"][b]):
            one, other = first[0], second[0]
            if (one.kv_dtype, one.software) == (other.kv_dtype, other.software):
                yield from _numbers(problem, a, b, first, second)


def _numbers(
    problem: Problem,
    a: int,
    b: int,
    first: tuple[Engine, StepModel],
    second: tuple[Engine, StepModel],
) -> Iterator[float]:
    """Every number of prefill and decode workers of one pair."""
    left, right = problem.cluster.nodes[a], problem.cluster.nodes[b]
    one, other = first[0], second[0]
    for n, m in itertools.product(
        range(1, left.num_devices // one.num_devices + 1),
        range(1, right.num_devices // other.num_devices + 1),
    ):
        here = [(one.num_devices, n)], [(other.num_devices, m)]
        fits = (
            packs(left, here[0] + here[1])
            if a == b
            else packs(left, here[0]) and packs(right, here[1])
        )
        if fits:
            found = _operate(problem, a, b, first, second, n, m)
            if found is not None:
                rate, request = found
                usd = n * one.num_devices * (left.device.price_usd_per_h or 0.0)
                usd += m * other.num_devices * (right.device.price_usd_per_h or 0.0)
                devices = n * one.num_devices + m * other.num_devices
                yield _value(problem, devices, rate, request, usd)


def _operate(
    problem: Problem,
    a: int,
    b: int,
    first: tuple[Engine, StepModel],
    second: tuple[Engine, StepModel],
    n: int,
    m: int,
) -> tuple[float, float] | None:
    """Requests per second and seconds of a request; None where a target is broken."""
    work = problem.workload
    left, right = problem.cluster.nodes[a], problem.cluster.nodes[b]
    (one, prefill), (other, decode) = first, second
    prompt = float(prefill.prefill_s(work.input_len - work.prefix_len))
    context = work.input_len + work.output_len / 2.0
    tpot = float(decode.decode_s(max(1.0, other.max_batch / other.pp), context))
    if tpot > problem.tpot_s:
        return None
    link = min(
        (left.outer_link if a == b else left.network).shared_bandwidth_bytes_per_s,
        (right.outer_link if a == b else right.network).shared_bandwidth_bytes_per_s,
    )
    moved = float(prefill.work.kv_bytes * work.input_len + prefill.work.fixed_kv_bytes)
    c = prefill.constants
    move, answer = moved / link + float(c.handover_s), (work.output_len - 1.0) * tpot
    most = n * one.attention_dp / float(prefill.prompt_interval_s(work.input_len - work.prefix_len))
    most_decode = m * other.attention_dp * other.max_batch / (answer + move)
    fixed = prompt + move + float(c.split_lag) * tpot

    def ttft(busy: float) -> float:
        found, before = fixed, 0.0
        wait = float(c.split_queue) * prompt * busy / (2.0 * (1.0 - busy))
        while abs(found - before) > 1e-13 * found:
            start = float(c.split_burst) / 2.0 * busy * (found + answer)
            found, before = fixed + wait + start, found
        return found

    if work.concurrency is not None:
        start = float(c.split_burst) / 2.0 * work.concurrency / most

        def held(busy: float) -> float:
            wait = float(c.split_queue) * prompt * busy / (2.0 * (1.0 - busy))
            return busy * most * (fixed + start + wait + answer)

        busy = _largest(lambda x: held(x) <= work.concurrency)
        rate = min(busy * most, most_decode)
        request = work.concurrency / rate
        return None if request - answer > problem.ttft_s else (rate, request)
    if work.rate_per_s is None and problem.objective == "latency":
        alone = ttft(0.0)
        return None if alone > problem.ttft_s else (1.0 / (alone + answer), alone + answer)
    if ttft(0.0) > problem.ttft_s:
        return None
    busy = _largest(lambda x: ttft(x) <= problem.ttft_s)
    rate = min(busy * most, most_decode)
    if rate < problem.asked_per_s * (1.0 - 1e-9):
        return None
    asked = problem.asked_per_s if work.rate_per_s is not None else rate
    return rate, ttft(min(asked, rate) / most) + answer


def _largest(fine: object) -> float:
    """The largest share up to 0.9 for which it holds, by halving."""
    assert callable(fine)
    low, high = 0.0, 0.9
    if fine(high):
        return high
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if fine(middle) else (low, middle)
    return low
