"""check_serving_plan: does a serving plan say the truth about itself?

From the plan alone, engine by engine and without arrays: the rules of the space, the places on the
nodes, memory, times of each engine by the cost model's closed loop (split phases: by its iterations
and Little's law, solved by repetition), and what follows for rates, money, digests and the value of
the certificate. No code is shared with the search.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from optalloc import files
from optalloc.cluster.topology import Cluster
from optalloc.cost.engine.constants import read_engine_constants
from optalloc.cost.engine.load import closed_loop
from optalloc.cost.engine.step import StepModel, step_model
from optalloc.errors import CertificateError
from optalloc.model.spec import Experts
from optalloc.serving.configuration.certify_target import refusal
from optalloc.serving.configuration.plan import ServingPlan, Worker

#: Relative difference below which two sums of the same floats in another order are equal.
TOLERANCE = 1e-8

#: What :func:`check_serving_plan` computes anew and compares.
CHECKS = (
    "the rules of the space",
    "engines, nodes and devices",
    "memory of every engine",
    "times and rates of every engine and of the whole",
    "tokens, price and objective",
    "digests of model, cluster and workload",
)

#: How what is wrong with a deployment itself begins, in place of a figure of it.
INVALID = "the plan is not valid: "

_MORE_IS_BETTER = "throughput"
BUSIEST = 0.9
_BYTES = 16


def check_serving_plan(plan: ServingPlan) -> None:
    """Check everything a serving plan claims, but for the proof that nothing better exists.

    Raises
    ------
    CertificateError
        Naming what differs, with the claimed and the true value.

    Complexity: O(engines).
    """
    check_deployment(plan)
    steps = [_step(plan, worker) for worker in plan.workers]
    for worker, step in zip(plan.workers, steps, strict=True):
        _check_memory(plan, worker, step)
    if plan.mode == "aggregated":
        _check_aggregated(plan, steps)
    else:
        _check_split(plan, steps)
    _check_rates(plan)


def check_deployment(plan: ServingPlan) -> None:
    """Check that the engines of a plan follow the rules and have a place, whatever its figures.

    Raises
    ------
    CertificateError
        Naming what is broken.
    """
    for broken in (*_broken_rules(plan), *_broken_places(plan)):
        raise CertificateError(f"{INVALID}{broken}")


def _same(what: str, claimed: float, true: float, tolerance: float = TOLERANCE) -> None:
    if not abs(claimed - true) <= tolerance * max(abs(claimed), abs(true), 1e-300):
        raise CertificateError(f"{what} is {true!r}, the plan says {claimed!r}")


def _step(plan: ServingPlan, worker: Worker) -> StepModel:
    group = plan.cluster.nodes[worker.group]
    file = read_engine_constants(plan.cost_model)
    return step_model(plan.model, group.device, worker.engine, group=group, file=file)


def _broken_rules(plan: ServingPlan) -> Iterator[str]:
    """Rules of the space that an engine breaks."""
    roles = [worker.role for worker in plan.workers]
    wanted = {"serve"} if plan.mode == "aggregated" else {"prefill", "decode"}
    if set(roles) != wanted or (plan.mode == "disaggregated" and len(roles) != 2):
        yield f"its workers are {', '.join(roles) or 'missing'}"
        return
    kinds = {layer.name: layer for layer in plan.model.layer_types}
    layers = [(kinds[run.layer], run.count) for run in plan.model.layers]
    for worker in plan.workers:
        e = worker.engine
        if not 0 <= worker.group < len(plan.cluster.nodes) or worker.count < 1:
            yield f"there is no group {worker.group}, or no engine in it"
            return
        node = plan.cluster.nodes[worker.group]
        wide = e.tp * e.attention_dp
        mixtures = [x.feed_forward for x, _ in layers if isinstance(x.feed_forward, Experts)]
        if worker.device != node.device.name:
            yield f"group {worker.group} has no {worker.device}"
        for layer, _ in layers:
            if layer.stack != "vision" and layer.attention.heads % e.tp:
                yield f"tp {e.tp} does not divide {layer.attention.heads} heads"
        if e.tp > node.domain:
            yield f"tp {e.tp} is wider than {node.domain} joined devices"
        if e.attention_dp > 1 and not mixtures:
            yield "attention dp without experts"
        if e.pp > sum(n for layer, n in layers if layer.stack != "vision"):
            yield f"pp {e.pp} is more than the layers"
        for experts in mixtures:
            if experts.num_experts % e.moe_ep or experts.width % e.expert_tp:
                yield f"experts do not split {e.moe_ep} x {e.expert_tp}"
        if mixtures and e.software == "vllm" and e.moe_ep not in (1, wide):
            yield f"vllm spreads experts over none or all devices, not {e.moe_ep}"
        for size in (e.tp, wide, e.num_devices):
            if node.devices % size and size % node.devices:
                yield f"{size} devices fill no nodes of {node.devices}"
        if why := refusal(plan.limits.target, e, node.devices):
            yield why
    if len({worker.engine.software for worker in plan.workers}) > 1:
        yield "its workers run different software"
    if plan.limits.target == "llm-d" and len(roles) > len(wanted):
        yield "llm-d has one kind of engine a role"
    if plan.mode == "disaggregated":
        a, b = (worker.engine for worker in plan.workers)
        if a.kv_dtype != b.kv_dtype:
            yield "prefill and decode workers differ in their type of cache"


def _broken_places(plan: ServingPlan) -> Iterator[str]:
    """Engines that do not fit on the nodes, and device counts that do not add up."""
    used = sum(worker.count * worker.engine.num_devices for worker in plan.workers)
    if plan.num_devices != used or plan.idle_devices != plan.cluster.num_devices - used:
        yield (
            f"its engines take {used} of {plan.cluster.num_devices} devices, it says "
            f"{plan.num_devices} and {plan.idle_devices} idle"
        )
    for index, group in enumerate(plan.cluster.nodes):
        here = [w for w in plan.workers if w.group == index]
        whole = sum(
            w.count * (w.engine.num_devices // group.devices)
            for w in here
            if w.engine.num_devices >= group.devices
        )
        small = [(w.engine.num_devices, w.count) for w in here]
        small = [(size, count) for size, count in small if size < group.devices]
        if whole > group.count or not _packs(group.devices, group.count - whole, small):
            nodes = f"{group.count} node{'s' if group.count > 1 else ''}"
            taken = sum(w.num_devices for w in here)
            yield (
                f"its engines take {taken} devices of group {index} and do not fit its {nodes} of "
                f"{group.devices}"
            )


def _packs(node: int, count: int, kinds: list[tuple[int, int]]) -> bool:
    """Can these (size, number) of engines be laid on the nodes?

    Where each size divides the next and the largest the node, laying the largest first leaves no
    room that a smaller one cannot use: only the sum counts. Else each way to fill one by one.
    """
    sizes = [*sorted({size for size, _ in kinds}), node]
    if all(b % a == 0 for a, b in itertools.pairwise(sizes)):
        return sum(size * number for size, number in kinds) <= node * count
    left = {tuple(number for _, number in kinds)}
    for _ in range(count):
        left = {rest for state in left for rest in _filled(node, state, [s for s, _ in kinds])}
        if any(not any(state) for state in left):
            return True
    return any(not any(state) for state in left)


def _filled(node: int, state: tuple[int, ...], sizes: list[int]) -> set[tuple[int, ...]]:
    """What is left to place after one node, filled as far as it goes in each way."""
    if not state:
        return {()}
    found = set()
    for here in range(min(state[0], node // sizes[0]) + 1):
        rest = node - here * sizes[0]
        later = [min(n, rest // s) for n, s in zip(state[1:], sizes[1:], strict=True)]
        found.add((state[0] - here, *(n - m for n, m in zip(state[1:], later, strict=True))))
    return found


def _check_memory(plan: ServingPlan, worker: Worker, step: StepModel) -> None:
    """Weights, workspace and the sequences that the engine may hold, on its fullest device."""
    work, memory = plan.workload, worker.memory_bytes
    if worker.capacity_bytes != plan.cluster.nodes[worker.group].device.memory_bytes:
        raise CertificateError(f"{worker.device} has not {worker.capacity_bytes} bytes")
    for name, true in (("weights", step.weights_bytes), ("workspace", step.workspace_bytes)):
        claimed = memory.get(name, 0)
        if abs(claimed - float(true)) > _BYTES:
            raise CertificateError(f"{name} need {float(true):.0f} bytes, not {claimed}")
    room = worker.engine.memory_fraction * worker.capacity_bytes
    if sum(memory.values()) > room + _BYTES:
        raise CertificateError(f"an engine needs {sum(memory.values())} bytes of {room:.0f}")
    tokens = work.input_len + (0 if worker.role == "prefill" else work.output_len)
    held = float(step.sequences_that_fit(tokens))
    needed = 1.0 if worker.role == "prefill" or work.concurrency is not None else step.max_batch
    needed = step.max_batch if worker.role == "decode" else needed
    if held < needed:
        raise CertificateError(f"an engine holds {held:.0f} sequences, not {needed:.0f}")


def _check_aggregated(plan: ServingPlan, steps: list[StepModel]) -> None:
    work, said = plan.workload, plan.predicted
    rate, ttft, tpot = 0.0, 0.0, 0.0
    for worker, step in zip(plan.workers, steps, strict=True):
        found = closed_loop(
            step, work.input_len, work.output_len, worker.concurrency, work.prefix_len
        )
        name = f"of {worker.count} engines on group {worker.group}"
        _same(f"the ttft {name}", worker.ttft_s, found.ttft_s)
        _same(f"the tpot {name}", worker.tpot_s, found.tpot_s)
        _same(f"the rate {name}", worker.request_rate_per_s, found.request_rate_per_s)
        ttft, tpot = max(ttft, found.ttft_s), max(tpot, found.tpot_s)
        rate += worker.count * found.request_rate_per_s
        full = worker.engine.max_batch * worker.engine.attention_dp
        if work.concurrency is None and worker.concurrency != full:
            raise CertificateError(f"an engine {name} holds {full}, not {worker.concurrency}")
    if work.concurrency is not None:
        for w in plan.workers:
            if w.count * w.concurrency < work.concurrency * w.share * (1.0 - TOLERANCE):
                raise CertificateError(f"{w.count} engines of {w.concurrency} requests are too few")
        request = [w.ttft_s + (work.output_len - 1.0) * w.tpot_s for w in plan.workers]
        rate = sum(
            work.concurrency * w.share / r for w, r in zip(plan.workers, request, strict=True)
        )
    shares = sum(worker.share for worker in plan.workers)
    if (work.concurrency or work.rate_per_s) and abs(shares - 1.0) > TOLERANCE:
        raise CertificateError(f"the engines carry {shares:.4g} of the load")
    if work.rate_per_s is not None:
        asked = work.rate_per_s / (1.0 - plan.headroom)
        for w in plan.workers:
            if w.count * w.request_rate_per_s < asked * w.share * (1.0 - TOLERANCE):
                raise CertificateError(f"{w.count} engines of group {w.group} are too few")
    _same("the capacity", said.capacity_per_s, rate)
    _check_targets(plan, ttft, tpot)


def _check_split(plan: ServingPlan, steps: list[StepModel]) -> None:
    """Rate and times of split phases, from the plan's own busy share of prefill."""
    work, said = plan.workload, plan.predicted
    prefill, decode = plan.workers
    one, other = steps
    prompt_s = float(one.prefill_s(work.input_len - work.prefix_len))
    context = work.input_len + work.output_len / 2.0
    batch = decode.engine.max_batch
    tpot = float(other.decode_s(max(1.0, batch / decode.engine.pp), context))
    tpot /= decode.engine.tokens_per_step
    moved = float(one.work.kv_bytes * work.input_len + one.work.fixed_kv_bytes)
    move_s = moved / link_between(plan.cluster, prefill.group, decode.group) + float(
        one.constants.handover_s
    )
    answer_s = (work.output_len - 1.0) * tpot
    interval_s = float(one.prompt_interval_s(work.input_len - work.prefix_len))
    most = prefill.count * prefill.engine.attention_dp / interval_s
    places = decode.count * decode.engine.attention_dp * batch
    rate = said.capacity_per_s
    _same("the transfer", said.transfer_s, move_s)
    if rate > places / (answer_s + move_s) * (1.0 + TOLERANCE):
        raise CertificateError(f"the decode workers do not keep up with {rate:.6g} requests/s")
    if rate > most * BUSIEST * (1.0 + TOLERANCE):
        raise CertificateError(f"the prefill workers do not keep up with {rate:.6g} requests/s")
    c = one.constants
    fixed = prompt_s + move_s + float(c.split_lag) * tpot
    half = float(c.split_burst) / 2.0
    if work.concurrency is not None:
        _same("the ttft", said.ttft_s, work.concurrency / rate - answer_s)
        busy = rate / most
        alone = fixed + half * work.concurrency / most
        alone += float(c.split_queue) * prompt_s * busy / (2.0 * (1.0 - busy))
        if said.ttft_s < alone * (1.0 - 1e-6):
            raise CertificateError(f"the ttft is at least {alone!r}, the plan says {said.ttft_s!r}")
    else:
        alone_s = fixed + answer_s
        single = _objective(plan) == "latency" and work.rate_per_s is None
        busy = 0.0 if single else rate / most
        if single:
            _same("the rate", rate, 1.0 / alone_s)
        asked = (work.rate_per_s or 0.0) / (1.0 - plan.headroom)
        if work.rate_per_s is not None and _objective(plan) != _MORE_IS_BETTER:
            busy = min(busy, asked / most)
        wait = float(c.split_queue) * prompt_s * busy / (2.0 * (1.0 - busy))
        ttft = fixed + wait
        for _ in range(200):
            ttft = fixed + wait + half * busy * (ttft + answer_s)
        _same("the ttft", said.ttft_s, ttft)
    _check_targets(plan, said.ttft_s, tpot)


def _objective(plan: ServingPlan) -> str:
    return "" if plan.certificate is None else plan.certificate.objective


def link_between(cluster: Cluster, first: int, second: int) -> float:
    """Bytes per second between devices of two groups."""
    a, b = cluster.nodes[first], cluster.nodes[second]
    if first == second:
        return a.outer_link.shared_bandwidth_bytes_per_s
    speeds = [a.network.shared_bandwidth_bytes_per_s, b.network.shared_bandwidth_bytes_per_s]
    if a.zone != b.zone and cluster.zone_link is not None:
        speeds.append(cluster.zone_link.shared_bandwidth_bytes_per_s)
    return min(speeds)


def _check_targets(plan: ServingPlan, ttft_s: float, tpot_s: float) -> None:
    work, said = plan.workload, plan.predicted
    _same("the time to the first token", said.ttft_s, ttft_s)
    _same("the time of a further token", said.tpot_s, tpot_s)
    for name, found, target in (("ttft", ttft_s, work.ttft_s), ("tpot", tpot_s, work.tpot_s)):
        if target is not None and found > target * (1.0 + TOLERANCE):
            raise CertificateError(f"the {name} is {found:.6g} s, above its target {target:.6g} s")
    if work.rate_per_s is not None:
        free = said.capacity_per_s * (1.0 - plan.headroom)
        if free < work.rate_per_s * (1.0 - TOLERANCE):
            raise CertificateError(f"it serves {free:.6g} requests/s, not {work.rate_per_s:.6g}")


def _check_rates(plan: ServingPlan) -> None:
    """Tokens, money and the objective follow from rate and times; digests from the inputs."""
    work, said = plan.workload, plan.predicted
    served = said.capacity_per_s if work.rate_per_s is None else work.rate_per_s
    _same("the rate", said.request_rate_per_s, served)
    tokens = served * work.output_len
    _same("the output", said.output_tokens_per_s, tokens)
    request = said.ttft_s + (work.output_len - 1.0) * said.tpot_s
    _same("the time of a request", said.request_s, request)
    _same("the speed for a user", said.tokens_per_s_per_user, 1.0 / said.tpot_s)
    _same("the output of a device", said.tokens_per_s_per_device, tokens / plan.num_devices)
    prices = [
        (w.num_devices, plan.cluster.nodes[w.group].device.price_usd_per_h) for w in plan.workers
    ]
    if all(usd is not None for _, usd in prices):
        usd_per_h = sum(n * (usd or 0.0) for n, usd in prices)
        _same("the price", said.usd_per_h or 0.0, usd_per_h)
        million = usd_per_h / 3600.0 / tokens * 1e6
        _same("the price of tokens", said.usd_per_mtoken or 0.0, million)
    elif said.usd_per_h is not None or said.usd_per_mtoken is not None:
        raise CertificateError("the plan has a price and a device none")
    for name, value in (
        ("model", plan.model),
        ("cluster", plan.cluster),
        ("workload", plan.workload),
    ):
        if plan.digests.get(name) != files.digest(value):
            raise CertificateError(f"the digest of the {name} is not that of the plan's")
    _check_certificate(plan)


def objective_of(plan: ServingPlan, objective: str) -> float:
    """The value of one objective, from the plan's predictions.

    Raises
    ------
    CertificateError
        If the plan has none of that name.
    """
    said = plan.predicted
    values = {
        "throughput": said.capacity_per_s * plan.workload.output_len,
        "price": said.usd_per_mtoken,
        "devices": float(plan.num_devices),
        "latency": max(
            (w.ttft_s + (plan.workload.output_len - 1.0) * w.tpot_s for w in plan.workers),
        )
        if plan.mode == "aggregated"
        else said.request_s,
    }
    found = values.get(objective)
    if found is None:
        raise CertificateError(f"the plan has no value of the objective {objective!r}")
    return found


def _check_certificate(plan: ServingPlan) -> None:
    certificate = plan.certificate
    if certificate is None:
        return
    _same("the objective", certificate.value, objective_of(plan, certificate.objective))
    ahead = certificate.value - certificate.bound
    if certificate.objective == _MORE_IS_BETTER:
        ahead = -ahead
    if ahead < -TOLERANCE * abs(certificate.value):
        raise CertificateError(
            f"the bound {certificate.bound!r} is worse than the value {certificate.value!r}"
        )
