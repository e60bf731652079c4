"""Proof where requests in flight are split over groups of nodes: is no split better than the bound?

Each engine is timed under every load from one request to all, and the least cost of every number of
requests on a group follows from its engines in every number. Groups are joined one after another:
the least cost of a total is the least over the requests that the next group takes.

Of the batches of an engine, eight at a time and the largest first, those are left aside which could
not be faster than one that was timed. For a batch b below q requests a rank the model's D, the
sequences that decode, has in every iteration, with P the seconds of a prompt and A those of O - 1
tokens of its sequences,

    D = q A / (ttft + A)
    ttft + A = (q / b) (P + A) + lag A / (O - 1) + outside A / q + start + wait
    start = burst (b - 1) / 2 P,   wait = queue P x / 2 (1 - x),   x <= min(0.95, b P / (P + A))

so D / b is least with q = b and the A of one sequence, and the request takes (q / b) (P + A') with
the A' of that D at least.
"""

from __future__ import annotations

import itertools
import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cluster.topology import NodeGroup
from optalloc.cost.engine.setup import Engine
from optalloc.serving.configuration.prove import Proof
from optalloc.serving.configuration.space import BATCHES

Floats = NDArray[np.float64]

_TOGETHER = 8
_LONGEST = 0.95


def prove_in_flight(proof: Proof) -> int:
    """The number of engine settings that were asked; no split of them is better than the bound.

    Raises
    ------
    CertificateError
        Naming one that is better.

    Complexity: for Q requests and G groups O(G Q^2), and one closed loop of every engine, load and
    one to some ten batches.
    """
    flight = proof.work.concurrency or 0
    none = -math.inf if proof.goal == "latency" else 0.0
    groups = proof.plan.cluster.nodes
    least: dict[str, list[Floats]] = {}
    asked = 0
    for number, group in enumerate(groups):
        engines = proof.engines(group, "serve")
        for engine, same in itertools.groupby(engines, lambda e: _but_chunk(e)):
            request = np.full(flight + 1, np.inf)
            for one in same:
                asked += _time(proof, group, one, request)
            if engine.software not in least:
                least[engine.software] = [np.full(flight + 1, np.inf) for _ in groups]
            _count(proof, group, engine, request, least[engine.software][number])
    for costs in least.values():
        total: Floats | None = None
        for cost in costs:
            cost[0] = none
            if proof.plan.limits.target == "llm-d":
                proof.check(float(cost[-1]), "a group that carries all requests")
            else:
                total = cost if total is None else _joined(proof, total, cost)
        if total is not None:
            proof.check(float(total[-1]), f"a split of {flight} requests in flight")
    return asked


def _but_chunk(engine: Engine) -> Engine:
    return msgspec.structs.replace(engine, chunk_tokens=1)


def _time(proof: Proof, group: NodeGroup, engine: Engine, request: Floats) -> int:
    """Lower the seconds of a request under each load to those of this engine; its settings."""
    flight, ranks = len(request) - 1, engine.attention_dp
    load = np.arange(1, flight + 1)
    full = -(-load // ranks)
    fine = np.array([proof.allows("batch", b, "serve") for b in range(full.max() + 1)])[full]
    _lower(proof, group, engine, request, load[fine], full[fine])
    sizes = sorted((int(b) for b in proof.values("batch", BATCHES, "serve")), reverse=True)
    sizes = [b for b in sizes if b < full.max()]
    for k in range(0, len(sizes), _TOGETHER):
        batch = np.array(sizes[k : k + _TOGETHER])
        prompt_s, token_s = _floors(proof, group, engine, batch)
        answer_s = (proof.work.output_len - 1.0) * token_s
        floor = (load / ranks / batch[:, None]) * (prompt_s + answer_s)[:, None] * (1.0 - 1e-9)
        may = (batch[:, None] < full) & (token_s <= proof.tpot * (1.0 + 1e-9))[:, None]
        row, place = np.nonzero(may & (floor < request[1:]))
        _lower(proof, group, engine, request, load[place], batch[row])
    return int(fine.sum()) + sum(int((full > b).sum()) for b in sizes)


def _lower(
    proof: Proof,
    group: NodeGroup,
    engine: Engine,
    request: Floats,
    load: NDArray[np.int64],
    batch: NDArray[np.int64],
) -> None:
    if len(load):
        sizes, loads = batch.astype(np.float64), load.astype(np.float64)
        _, found, fine = proof.timed(group, engine, sizes, loads, exact=False)
        np.minimum.at(request, load[fine], found[fine])


def _floors(
    proof: Proof, group: NodeGroup, engine: Engine, batch: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Seconds of a prompt, and of a token at least, where more than each batch are in flight."""
    work = proof.work
    most = batch.astype(np.float64)
    step = proof.step(group, engine, most)
    c, context = step.constants, work.input_len + work.output_len / 2.0
    prompt = np.full(
        len(most), float(step.prefill_s(work.input_len - work.prefix_len, 1.0, work.prefix_len))
    )
    one = float(step.decode_s(1.0, context))
    answer = (work.output_len - 1.0) * one
    if answer <= 0.0:
        return prompt, np.full(len(most), one)
    busy = np.minimum(_LONGEST, most * prompt / (prompt + answer))
    waits = prompt * (c.burst * (most - 1.0) / 2.0 + c.queue * busy / (2.0 * (1.0 - busy)))
    lags = step.lag_iterations / (work.output_len - 1.0) + c.outside / most
    held = most / (1.0 + lags + (prompt + waits) / answer)
    return prompt, np.asarray(step.decode_s(np.maximum(1.0, held / engine.pp), context))


def _count(proof: Proof, group: NodeGroup, engine: Engine, request: Floats, least: Floats) -> None:
    """Lower the cost of each number of requests to that of this engine, in every number."""
    size = engine.num_devices
    usd = (group.device.price_usd_per_h or 0.0) * size
    for n in proof.counts(group, size):
        requests = np.arange(n, len(request))
        if not len(requests):
            break
        seconds = request[-(-requests // n)]
        rate = requests / seconds
        cost = {
            "throughput": -rate * proof.work.output_len,
            "devices": np.full(len(rate), float(n * size)),
            "latency": seconds,
        }.get(proof.goal)
        if cost is None:
            cost = n * usd - proof.tokens(1.0) * rate
        least[n:] = np.minimum(least[n:], np.where(np.isfinite(seconds), cost, np.inf))


def _joined(proof: Proof, one: Floats, other: Floats) -> Floats:
    """The least cost of each total of requests that two groups share."""
    found = np.empty(len(one))
    for total in range(len(one)):
        pair = one[: total + 1], other[total::-1]
        both = np.maximum(*pair) if proof.goal == "latency" else np.add(*pair)
        found[total] = both.min()
    return found
