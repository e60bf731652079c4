"""Certify an offload plan: every figure again from model, machine and placement alone.

Shares no code with the search, the parts or the evaluation. Besides the plan's own claim it gives a
bound of its own: the linear programme that divides every kind of part freely over all homes, with
the memories as its only rows and neither hops, work space nor buffers (:func:`linear_bound`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import msgspec

from optalloc import files
from optalloc.errors import CertificateError
from optalloc.model.facts import attended_positions, kv_cache_bytes_per_token
from optalloc.model.graph import Op
from optalloc.model.lower import lower
from optalloc.model.parameters import layer_parameters, total_parameters
from optalloc.model.spec import Experts, Layer, LinearAttention
from optalloc.serving.offload.generation import BITS, KV_BITS
from optalloc.serving.offload.plan import OffloadPlan

_CLOSE = 1e-6

#: What :func:`certify_offload` computes anew and compares.
CHECKS = (
    "every tensor group of the model, once",
    "one range of layers on each GPU, and the limits of the runtime",
    "memory of every device, byte by byte",
    "time of a request, its first and further tokens, and its breakdown",
    "digests of model, machine and generation",
)


class _Group(msgspec.Struct, frozen=True):
    """A tensor group: bytes, and (passes, bytes read, bytes brought, FLOPs) of both phases."""

    kind: str
    size: int
    phases: tuple[tuple[float, float, float, float], tuple[float, float, float, float]]


def certify_offload(plan: OffloadPlan) -> float:
    """Check everything a plan says about itself.

    Returns
    -------
    float
        A bound of its own, seconds: no placement is faster than that.

    Raises
    ------
    CertificateError
        For the first figure that is not true, with the claimed and the true value.

    Complexity: O(places), and one small linear programme.
    """
    groups = list(_groups(plan))
    _check_shape(plan, groups)
    for name in ("model", "machine", "generation"):
        if plan.digests.get(name) != files.digest(getattr(plan, name)):
            raise CertificateError(f"The digest of the {name} is not that of the plan's {name}.")
    seconds, first, causes = _times(plan, groups)
    passes = plan.generation.output_tokens - 1
    _same("request_s", plan.request_s, seconds)
    _same("ttft_s", plan.ttft_s, first)
    _same("tpot_s", plan.tpot_s, (seconds - first) / passes if passes else 0.0)
    tokens = plan.generation.batch * plan.generation.output_tokens
    _same("output_tokens_per_s", plan.output_tokens_per_s, tokens / seconds)
    for cause in {*causes, *plan.breakdown_s}:
        _same(f"breakdown_s of {cause}", plan.breakdown_s.get(cause, 0.0), causes.get(cause, 0.0))
    _check_memory(plan, groups)
    bound = linear_bound(plan)
    if bound > plan.request_s * (1.0 + _CLOSE):
        raise CertificateError(f"The plan takes {plan.request_s} s, less than the bound {bound}.")
    if plan.proof is not None and not (
        plan.proof.root_bound_s <= plan.proof.bound_s * (1.0 + 1e-12)
        and plan.proof.bound_s <= plan.request_s * (1.0 + 1e-12)
    ):
        raise CertificateError("The bounds of the plan are above what it reaches.")
    return bound


def _same(name: str, claimed: float, true: float) -> None:
    if not math.isclose(claimed, true, rel_tol=_CLOSE, abs_tol=1e-9):
        raise CertificateError(f"{name} is {claimed} in the plan and {true} in truth.")


def _groups(plan: OffloadPlan) -> Iterator[list[_Group]]:
    """The groups of every place, in order."""
    model, g = plan.model, plan.generation
    types = {layer.name: layer for layer in model.layer_types}
    runs = [(types[r.layer], r.count) for r in model.layers if types[r.layer].stack != "vision"]
    cores = {
        layer.name: next((op for op in layer.ops if op.kind == "attention"), None)
        for layer in lower(model).layers
    }
    width = BITS[g.dtype] / 8.0
    vocabulary = model.vocabulary * model.hidden
    head = model.head_extra + model.final_norm + model.encoder_final_norm + vocabulary
    inside = sum(layer_parameters(layer).total * count for layer, count in runs)
    table = total_parameters(model) - inside - head
    if table > 0:
        size = math.ceil(table * width)
        rows = model.hidden * width
        turns = _turns(plan)
        yield [
            _Group(
                "embedding",
                size,
                (
                    (turns[0][0], rows * turns[0][1], size, 0.0),
                    (turns[1][0], rows * turns[1][1], size, 0.0),
                ),
            )
        ]
    else:
        yield []
    for layer, count in runs:
        one = list(_layer_groups(plan, layer, cores[layer.name]))
        for _ in range(count):
            yield one
    whole = _dense(plan, "head", head, g.dtype)
    once = (1.0, float(whole.size), float(whole.size), 2.0 * head * g.batch)
    yield [_Group("head", whole.size, (once, whole.phases[1]))]


def _turns(plan: OffloadPlan) -> tuple[tuple[int, int], tuple[int, int]]:
    """Passes and tokens a pass, of prefill and of decoding."""
    g = plan.generation
    passes = math.ceil(g.prompt_tokens / g.chunk_tokens)
    return (
        (passes, math.ceil(g.batch * g.prompt_tokens / passes)),
        (g.output_tokens - 1, g.batch),
    )


def _dense(plan: OffloadPlan, kind: str, parameters: int, dtype: str) -> _Group:
    size = math.ceil(parameters * BITS[dtype] / 8.0)
    first, then = (
        (float(passes), float(size), float(size), 2.0 * parameters * tokens)
        for passes, tokens in _turns(plan)
    )
    return _Group(kind, size, (first, then))


def _layer_groups(plan: OffloadPlan, layer: Layer, core: Op | None) -> Iterator[_Group]:
    g, sizes = plan.generation, layer_parameters(layer)
    yield _dense(plan, "attention", sizes.attention + sizes.norms + sizes.router, g.dtype)
    kept = _cached(plan, layer, core)
    if kept.size:
        yield kept
    block = layer.feed_forward
    if not isinstance(block, Experts):
        yield _dense(plan, "ffn", sizes.feed_forward, g.dtype)
        return
    whole = _dense(plan, "experts", sizes.routed, g.expert_dtype or g.dtype)
    phases = []
    for passes, tokens in _turns(plan):
        missed = (1.0 - block.top_k / block.num_experts) ** tokens
        touched = whole.size * (1.0 - missed)
        flops = 2.0 * sizes.routed_active * tokens
        phases.append((float(passes), touched, touched, flops))
    yield _Group("experts", whole.size, (phases[0], phases[1]))
    if sizes.shared:
        yield _dense(plan, "shared", sizes.shared, g.dtype)


def _cached(plan: OffloadPlan, layer: Layer, core: Op | None) -> _Group:
    """Keys and values of a context, or the numbers that linear attention keeps of a sequence."""
    g = plan.generation
    (turns, tokens), (steps, _) = _turns(plan)
    linear = layer.attention
    if isinstance(linear, LinearAttention):
        numbers = g.batch * linear.value_heads * linear.value_head_dim * linear.key_head_dim
        moved = 8.0 * numbers  # read and written, four bytes each
        first = (float(turns), moved, moved, 6.0 * numbers / g.batch * tokens)
        return _Group("kv", 4 * numbers, (first, (float(steps), moved, moved, 6.0 * numbers)))
    assert core is not None
    window = core.window or math.inf
    value = g.batch * kv_cache_bytes_per_token(layer, value_bytes=1) * KV_BITS[g.kv_dtype] / 8.0
    pair = 2.0 * g.batch * core.heads * (core.qk_dim + core.v_dim)
    half = value * min(g.prompt_tokens / 2.0, window)
    middle = min(g.prompt_tokens + g.output_tokens / 2.0, window)
    seen = attended_positions(core, g.prompt_tokens, g.prompt_tokens)
    return _Group(
        "kv",
        math.ceil(value * min(g.context_tokens, window)),
        (
            (turns, half, half, pair * seen / turns),
            (steps, value * middle, value * middle, pair * middle),
        ),
    )


def _check_shape(plan: OffloadPlan, groups: list[list[_Group]]) -> None:
    if len(plan.placement) != len(groups):
        raise CertificateError(
            f"The plan has {len(plan.placement)} places and the model {len(groups)}."
        )
    limits = plan.limits
    left: set[int | None] = set()
    previous: int | None = None
    for k, (place, here) in enumerate(zip(plan.placement, groups, strict=True)):
        if [one.kind for one in place.parts] != [one.kind for one in here]:
            raise CertificateError(f"{place.name} does not hold the groups of the model.")
        if place.gpu != previous:
            if place.gpu is not None and place.gpu in left:
                raise CertificateError(f"gpu{place.gpu} runs two ranges.")
            if place.gpu is None and limits.cpu_first and left | {previous} != {None}:
                raise CertificateError(f"{place.name} is on the CPU after a GPU.")
            left |= {previous}
            previous = place.gpu
        wrong = limits.devices is not None and place.gpu not in limits.devices
        wrong |= place.gpu is not None and not 0 <= place.gpu < len(plan.machine.gpus)
        wrong |= limits.embedding_on_cpu and k == 0 and place.gpu is not None
        for one in place.parts:
            away = one.home != "device"
            wrong |= one.home == "disk" and (plan.machine.disk is None or not limits.disk)
            wrong |= one.kind == "kv" and away and not limits.cache_moves
            wrong |= place.gpu is None and (one.home == "cpu" or one.on_cpu)
            if place.gpu is not None and one.on_cpu:
                wrong |= not away or one.kind in ("attention", "embedding")
                wrong |= limits.cpu_computes is not None and one.kind not in limits.cpu_computes
            elif place.gpu is not None and away:
                wrong |= limits.stream_to is not None and place.gpu not in limits.stream_to
                wrong |= limits.streams is not None and one.kind not in limits.streams
        if wrong:
            raise CertificateError(f"{place.name} is placed as {plan.runtime} does not allow.")


def _cost(
    plan: OffloadPlan, group: _Group, gpu: int | None, home: str, on_cpu: bool
) -> tuple[list[float], float, float, str]:
    """Seconds by phase, of them loading and hops, and who computes."""
    machine = plan.machine
    computes = None if on_cpu else gpu
    unit = machine.cpu if computes is None else machine.gpus[computes]
    wait = slow = 0.0
    if home == "disk" and machine.disk is not None:
        wait, slow = machine.disk.latency_s, 1.0 / machine.disk.bandwidth_bytes_per_s
    if home != "device" and computes is not None:
        wait += machine.gpus[computes].link_latency_s
        slow += 1.0 / machine.gpus[computes].link_bandwidth_bytes_per_s
    phases, load, hops = [], 0.0, 0.0
    for phase, (passes, read, brought, flops) in enumerate(group.phases):
        loading = passes * (wait + brought * slow)
        through = 2.0 * _hop(plan, gpu, None)[phase] if on_cpu else 0.0
        from_own = read if home == "device" or (on_cpu and home == "cpu") else brought
        work = passes * max(from_own / unit.memory_bandwidth_bytes_per_s, flops / unit.flops_per_s)
        phases.append(loading + through + work)
        load += loading
        hops += through
    return phases, load, hops, "cpu" if computes is None else f"gpu{computes}"


def _hop(plan: OffloadPlan, begin: int | None, end: int | None) -> list[float]:
    """Seconds of both phases between two devices."""
    if begin == end:
        return [0.0, 0.0]
    machine = plan.machine
    direct = [link for link in machine.links if set(link.between) == {begin, end}]
    if direct:
        wait, slow = direct[0].latency_s, 1.0 / direct[0].bandwidth_bytes_per_s
    else:
        ends = [machine.gpus[k] for k in (begin, end) if k is not None]
        wait = sum(gpu.link_latency_s for gpu in ends)
        slow = sum(1.0 / gpu.link_bandwidth_bytes_per_s for gpu in ends)
    return [
        passes * (wait + 2.0 * plan.model.hidden * tokens * slow) for passes, tokens in _turns(plan)
    ]


def _times(plan: OffloadPlan, groups: list[list[_Group]]) -> tuple[float, float, dict[str, float]]:
    causes = {"weights and cache are loaded": 0.0, "hops": 0.0}
    total = first = 0.0
    path = [None, *(place.gpu for place in plan.placement), None]
    for begin, end in itertools.pairwise(path):
        prefill, decode = _hop(plan, begin, end)
        causes["hops"] += prefill + decode
        total += prefill + decode
        first += prefill
    for place, here in zip(plan.placement, groups, strict=True):
        for one, group in zip(place.parts, here, strict=True):
            phases, load, hops, who = _cost(plan, group, place.gpu, one.home, one.on_cpu)
            total += sum(phases)
            first += phases[0]
            causes["weights and cache are loaded"] += load
            causes["hops"] += hops
            name = f"{who} computes"
            causes[name] = causes.get(name, 0.0) + sum(phases) - load - hops
    return total, first, causes


def _check_memory(plan: OffloadPlan, groups: list[list[_Group]]) -> None:
    model, g, machine = plan.model, plan.generation, plan.machine
    held: dict[str, int] = {}
    buffers: dict[str, int] = {}
    for place, here in zip(plan.placement, groups, strict=True):
        own = "cpu" if place.gpu is None else f"gpu{place.gpu}"
        for one, group in zip(place.parts, here, strict=True):
            home = own if one.home == "device" else one.home
            held[home] = held.get(home, 0) + group.size
            if one.home == "disk":
                buffers["cpu"] = max(buffers.get("cpu", 0), group.size)
            if one.home != "device" and place.gpu is not None and not one.on_cpu:
                buffers[own] = max(buffers.get(own, 0), group.size)
    widest = 0
    for layer in model.layer_types:
        if layer.stack == "decoder":
            block = layer.feed_forward
            width = block.width
            if isinstance(block, Experts):
                width = block.width * block.top_k + block.shared_width
            widest = max(widest, width * (2 if block.gated else 1))
    tokens = g.batch * min(g.chunk_tokens, g.prompt_tokens)
    work = 2 * tokens * (6 * model.hidden + 2 * widest) + 4 * g.batch * model.vocabulary
    capacities = {f"gpu{k}": gpu.memory_bytes for k, gpu in enumerate(machine.gpus)}
    capacities["cpu"] = machine.cpu.memory_bytes
    if machine.disk is not None:
        capacities["disk"] = machine.disk.size_bytes
    runs = {f"gpu{place.gpu}" for place in plan.placement} | {"cpu"}
    if {use.device for use in plan.memory} != set(capacities):
        raise CertificateError("The memory of a device is not accounted for.")
    for use in plan.memory:
        name = use.device
        true = (
            held.get(name, 0),
            work if name in runs else 0,
            buffers.get(name, 0),
            capacities[name],
        )
        said = (use.parts_bytes, use.workspace_bytes, use.buffer_bytes, use.capacity_bytes)
        if said != true:
            raise CertificateError(f"Memory of {name} is {said} in the plan and {true} in truth.")
        if sum(true[:3]) > true[3]:
            raise CertificateError(f"{name} needs {sum(true[:3])} bytes and has {true[3]}.")


def linear_bound(plan: OffloadPlan) -> float:
    """Seconds that no placement within the plan's limits undercuts, by a linear programme.

    Variables: the number of parts of a kind that run on a device and live at a home; rows: every
    part somewhere, and the memories. Hops between places, work space and buffers are left out,
    which can only lower the optimum.
    """
    from optalloc.assignment.milp import QuietHighs

    limits, machine = plan.limits, plan.machine
    counts: dict[_Group, int] = {}
    for here in _groups(plan):
        for group in here:
            counts[group] = counts.get(group, 0) + 1
    highs = QuietHighs()
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("threads", 1)  # HiGHS refuses another number later in the process
    memory: dict[str, list[tuple[float, Any]]] = {}
    for group, count in counts.items():
        shares = []
        for gpu in (*range(len(machine.gpus)), None):
            for home in ("device", "cpu", "disk"):
                for on_cpu in (False, True):
                    if limits.devices is not None and gpu not in limits.devices:
                        continue
                    if gpu is None and (home == "cpu" or on_cpu):
                        continue
                    if home == "disk" and (machine.disk is None or not limits.disk):
                        continue
                    if on_cpu and (home == "device" or group.kind in ("attention", "embedding")):
                        continue
                    phases, *_ = _cost(plan, group, gpu, home, on_cpu)
                    share = highs.addVariable(lb=0.0, ub=float(count), obj=sum(phases))
                    shares.append(share)
                    own = "cpu" if gpu is None else f"gpu{gpu}"
                    memory.setdefault(own if home == "device" else home, []).append(
                        (group.size / 1e6, share)
                    )
        highs.addConstr(sum(shares) == float(count))
    capacities = {f"gpu{k}": gpu.memory_bytes for k, gpu in enumerate(machine.gpus)}
    capacities |= {"cpu": machine.cpu.memory_bytes}
    capacities |= {} if machine.disk is None else {"disk": machine.disk.size_bytes}
    for name, terms in memory.items():
        highs.addConstr(sum(size * share for size, share in terms) <= capacities[name] / 1e6)
    highs.run()
    found = highs.getInfo().objective_function_value
    return float(found) * (1.0 - _CLOSE)
