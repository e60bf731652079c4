"""A load on an engine: times to the first and to each further token, and the rate of answers.

Closed loop of Q requests, q = Q / groups of them in a data-parallel group, I prompt and O answer
tokens. D of them decode, at most as many as the cache holds. With P the time of one prompt's
iterations (*prefill_s*), E what a further prompt adds to them (*another_prompt_s*), s(D) the time
of a decoding iteration and x(D) that of the prompts that come with it (*mixed_s*):

    tpot = ( s(D) + x(D) ) / tokens a step
    ttft = P + lag tpot + burst (D - 1)/2 E + min( queue P rho / 2 (1 - rho), (q - 1) E ) + slots
    rho  = (q - 1) E / (ttft + (O - 1) tpot)                 the share of time that reads prompts
    slots = (q / D - 1) (P + (O - 1) tpot) + min(outside, q - 1)/q (O - 1) tpot
    rate = Q / (ttft + (O - 1) tpot)                         Little's law
    ttft >= q R / pp - (O - 1) tpot                          no more prompts than are read

with R the least time of a prompt in whatever chunks (*least_prompt_s*).

D and rho depend on the times and are found by iteration. The burst is the start, when every client
sends at once and a prompt waits for half of the others; its weight is the share of such requests in
a run. ``lag`` are iterations until a client sees the first token, with those for prompts of other
ranks where attention is data-parallel. Requests wait for a slot where the cache holds too few, or
where the server takes ``outside`` fewer than there are.
"""

from __future__ import annotations

import msgspec
import numpy as np

from optalloc.cost.engine.constants import Value
from optalloc.cost.engine.mixed import mixed_s
from optalloc.cost.engine.step import StepModel
from optalloc.errors import InputError

ROUNDS = 6
"""Repetitions that find the times of a closed loop."""


class EngineEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine does under a load, estimated.

    Rates are of the whole engine. ``mean_batch`` are the decoding sequences of a data-parallel
    group in the mean, ``kv_use`` the share of its cache that they fill. ``binds`` names what limits
    the rate: "kv" (the cache holds too few sequences), "prefill", "bandwidth", "compute" or
    "latency". The errors are relative; 90 % of measurements that were not fitted lie within.
    """

    ttft_s: float
    tpot_s: float
    request_s: float
    output_tokens_per_s: float
    request_rate_per_s: float
    mean_batch: float
    kv_use: float
    binds: str
    ttft_error: float
    tpot_error: float
    throughput_error: float


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds and sequences of a load; arrays where the step model holds arrays."""

    ttft_s: Value
    tpot_s: Value
    decoding: Value
    fit: Value
    prefill_s: Value
    prefill_share: Value


def closed_loop_times(
    step: StepModel,
    input_len: Value,
    output_len: Value,
    concurrency: Value,
    prefix_len: Value = 0,
    reserved: Value = 1.0,
) -> Times:
    """Times of a closed loop; every argument may be an array of one entry a setup.

    ``reserved`` is the share of an answer for which a request needs room to be admitted: 1 where no
    request is ever evicted, a half where requests come in while there is room.

    Complexity: a fixed number of passes over the arrays.
    """
    c, work = step.constants, step.work
    q = np.maximum(1.0, concurrency / work.groups)
    fit = np.maximum(1.0, step.sequences_that_fit(input_len + reserved * output_len))
    decoding = np.minimum(q, fit)
    prompt_s = step.prefill_s(input_len - prefix_len, 1.0, prefix_len)
    each_s = step.another_prompt_s(input_len - prefix_len, prefix_len)
    lag = step.lag_iterations
    ttft, tpot = prompt_s, prompt_s
    share: Value = 0.0
    for _ in range(ROUNDS):
        tpot = mixed_s(
            step, decoding, np.maximum(0.0, decoding - 1.0), input_len, output_len, prefix_len
        )
        answer = (output_len - 1.0) * tpot
        slots = (q / np.minimum(q, fit) - 1.0) * (prompt_s + answer)
        slots = slots + np.minimum(c.outside, q - 1.0) / q * answer
        start = c.burst * np.maximum(0.0, np.minimum(q, fit) - 1.0) / 2.0 * each_s
        whole = prompt_s + lag * tpot + start + slots + answer
        share = np.minimum(0.95, (q - 1.0) * each_s / whole)
        wait = c.queue * prompt_s * share / (2.0 * (1.0 - share))
        wait = np.minimum(wait, (q - 1.0) * each_s)  # all others are ahead
        ttft = prompt_s + lag * tpot + start + wait + slots
        decoding = np.clip(q * answer / (ttft + answer), 1.0, fit)
    busy = q * step.least_prompt_s(input_len - prefix_len, prefix_len) / work.pp
    return Times(
        ttft_s=np.maximum(ttft, busy - (output_len - 1.0) * tpot),
        tpot_s=tpot,
        decoding=decoding,
        fit=fit,
        prefill_s=prompt_s,
        prefill_share=share,
    )


def closed_loop(
    step: StepModel, input_len: float, output_len: float, concurrency: float, prefix_len: float = 0
) -> EngineEstimate:
    """The engine with ``concurrency`` requests in flight, each followed at once by the next.

    Raises
    ------
    InputError
        If not even one request fits beside the weights.
    """
    _check_fit(step, input_len + output_len)
    found = closed_loop_times(step, input_len, output_len, concurrency, prefix_len)
    return _estimate(step, found, input_len, output_len, concurrency)


def _estimate(
    step: StepModel, found: Times, input_len: float, output_len: float, concurrency: float
) -> EngineEstimate:
    request_s = float(found.ttft_s + (output_len - 1.0) * found.tpot_s)
    rate = concurrency / request_s
    held = float(found.decoding) * (input_len + output_len / 2.0)
    return EngineEstimate(
        ttft_s=float(found.ttft_s),
        tpot_s=float(found.tpot_s),
        request_s=request_s,
        output_tokens_per_s=rate * output_len,
        request_rate_per_s=rate,
        mean_batch=float(found.decoding),
        kv_use=min(1.0, held / max(1.0, float(step.kv_capacity_tokens))),
        binds=_binds(step, found, input_len, output_len, concurrency),
        ttft_error=step.errors.ttft,
        tpot_error=step.errors.tpot,
        throughput_error=step.errors.throughput,
    )


def _binds(
    step: StepModel, found: Times, input_len: float, output_len: float, concurrency: float
) -> str:
    """What a faster or larger device would help most."""
    if found.fit < concurrency / step.work.groups:
        return "kv"
    if found.prefill_share > 0.5:
        return "prefill"
    w, c = step.work, step.constants
    tokens = float(found.decoding) * (1.0 + float(step.drafted))
    read = float(w.dense_bytes + w.routed_bytes * step.experts_read(tokens * w.groups))
    read += float(w.kv_bytes) * float(found.decoding) * (input_len + output_len / 2.0)
    stream = read / float(w.bandwidth_bytes_per_s * c.memory_efficiency)
    compute = tokens * float(w.dense_flops + w.routed_flops * w.groups)
    compute = compute / float(w.matrix_flops_per_s * c.gemm_efficiency)
    whole = float(step.decode_s(found.decoding, input_len + output_len / 2.0))
    if max(stream, compute) < 0.5 * whole:
        return "latency"
    return "bandwidth" if stream >= compute else "compute"


def _check_fit(step: StepModel, tokens: float) -> None:
    if step.sequences_that_fit(tokens) >= 1.0:
        return
    short = float(step.sequence_bytes(tokens) - step.free_bytes)
    raise InputError(
        f"a request of {tokens:.0f} tokens does not fit beside the weights: {short / 2**30:.1f} "
        "GiB are missing on a device",
        path="engine",
        fix="use more devices (tp, pp or moe_ep), smaller weights, or a smaller kv_dtype",
    )


def static_batch(
    step: StepModel, input_len: float, output_len: float, batch: float
) -> EngineEstimate:
    """``batch`` requests that start together and end together."""
    _check_fit(step, input_len + output_len)
    found = static_batch_times(step, input_len, output_len, batch)
    return _estimate(step, found, input_len, output_len, batch)


def static_batch_times(step: StepModel, input_len: Value, output_len: Value, batch: Value) -> Times:
    """Times of a static batch; arguments may be arrays."""
    q = np.maximum(1.0, batch / step.work.groups)
    prompt_s = step.prefill_s(input_len, q)
    iteration = step.decode_s(np.maximum(1.0, q / step.work.pp), input_len + output_len / 2.0)
    return Times(
        ttft_s=prompt_s,
        tpot_s=iteration / step.tokens_per_step,
        decoding=q,
        fit=np.maximum(q, step.sequences_that_fit(input_len + output_len)),
        prefill_s=prompt_s,
        prefill_share=0.0,
    )


def offline_times(
    step: StepModel,
    input_len: Value,
    output_len: Value,
    requests: Value,
    reserved: Value = 0.5,
) -> tuple[Value, Times]:
    """Seconds until ``requests`` queued requests are answered, and the times of its full part.

    ``reserved`` is as in :func:`closed_loop_times`.

    n requests a group, D of them at a time, O iterations each, with x seconds of prompts beside an
    iteration of s(D): while the last D drain, half of them decode in the mean, so of the n O / D
    iterations with a full batch O / 2 become O with half:

        n O / D x + (n / D - 1/2) O s(D) + O s(D / 2)
    """
    per_group = requests / step.work.groups
    fit = np.maximum(1.0, step.sequences_that_fit(input_len + reserved * output_len))
    batch = np.minimum(fit, per_group)
    # More prompts than a chunk holds in each iteration keep the batch from filling.
    batch = np.maximum(1.0, np.minimum(batch, step.chunk_tokens * output_len / input_len))
    context = input_len + output_len / 2.0
    tpot = mixed_s(step, batch, batch, input_len, output_len)
    full, half = (
        step.decode_s(np.maximum(1.0, batch * part / step.work.pp), context) / step.tokens_per_step
        for part in (1.0, 0.5)
    )
    rounds = np.maximum(1.0, per_group / batch)
    whole = output_len * (rounds * (tpot - full) + (rounds - 0.5) * full + half)
    times = Times(
        ttft_s=whole / 2.0,
        tpot_s=tpot,
        decoding=batch,
        fit=fit,
        prefill_s=step.prefill_s(input_len),
        prefill_share=1.0 - full / tpot,
    )
    return whole, times


def offline(
    step: StepModel, input_len: float, output_len: float, requests: float = 3000.0
) -> EngineEstimate:
    """``requests`` requests queued at once: rates over the whole run, ramp-up and drain included.

    ``ttft_s`` is the mean wait of a request in the queue.
    """
    _check_fit(step, input_len + output_len)
    whole, times = offline_times(step, input_len, output_len, requests)
    rate = requests / float(whole)
    found = _estimate(step, times, input_len, output_len, requests)
    return msgspec.structs.replace(
        found, request_rate_per_s=rate, output_tokens_per_s=rate * output_len
    )


def disaggregated_times(
    prefill: StepModel,
    num_prefill: Value,
    decode: StepModel,
    num_decode: Value,
    input_len: Value,
    output_len: Value,
    concurrency: Value,
    link_bytes_per_s: Value = 50e9,
    reserved: Value = 1.0,
) -> Times:
    """Times of a closed loop over workers that read prompts and workers that decode.

    A prompt waits for others at ``num_prefill`` workers times their groups, its cache travels at
    ``link_bytes_per_s`` from one worker's device to another's, and it decodes without prompts in
    between. With P the time of a prompt, U what each takes where many are read together, m the
    handing over, A = (O - 1) tpot, S = servers / U and x = rate / S:

        ttft = max( P + m + lag tpot + queue P x / 2 (1 - x) + burst Q / 2 S, Q / rate - A )

    where the rate is at most S and that of decode workers whose places are always taken, each for A
    + m.
    """
    servers = num_prefill * prefill.work.groups
    prompt_s = prefill.prefill_s(input_len)
    each_s = prefill.prompt_interval_s(input_len)
    moved = prefill.work.kv_bytes * input_len + prefill.work.fixed_kv_bytes
    context = input_len + output_len / 2.0
    places = num_decode * decode.work.groups
    fit = np.maximum(1.0, decode.sequences_that_fit(input_len + reserved * output_len))
    c = prefill.constants
    move_s = moved / link_bytes_per_s + c.handover_s
    decoding = np.minimum(concurrency / places, fit)
    ttft, tpot, share = prompt_s, prompt_s, np.zeros_like(prompt_s)
    for _ in range(2 * ROUNDS):
        batch = np.maximum(1.0, decoding / decode.work.pp)
        tpot = decode.decode_s(batch, context) / decode.tokens_per_step
        answer = (output_len - 1.0) * tpot
        held = answer + move_s  # a place to decode, by each request
        share = np.minimum(1.0, concurrency / servers * each_s / (ttft + answer))
        # Where prompts or places bind, a request takes its turn of what binds, waiting until then.
        turn = concurrency * np.maximum(each_s / servers, held / (places * fit))
        open_share = np.minimum(0.9, share)
        wait = c.split_queue * prompt_s * open_share / (2.0 * (1.0 - open_share))
        start = c.split_burst * concurrency / servers / 2.0 * each_s
        alone = prompt_s + move_s + c.split_lag * tpot
        ttft = np.maximum(alone + wait + start, turn - answer)
        busy = held / (ttft + answer)
        decoding = np.minimum(np.maximum(concurrency * busy / places, 0.1), fit)
    return Times(
        ttft_s=ttft,
        tpot_s=tpot,
        decoding=decoding,
        fit=fit,
        prefill_s=prompt_s,
        prefill_share=share,
    )


def disaggregated(
    prefill: StepModel,
    num_prefill: int,
    decode: StepModel,
    num_decode: int,
    input_len: float,
    output_len: float,
    concurrency: float,
    link_bytes_per_s: float = 50e9,
) -> EngineEstimate:
    """A closed loop of ``concurrency`` requests over prefill and decode workers.

    See :func:`disaggregated_times` for the formulas.
    """
    _check_fit(prefill, input_len)
    _check_fit(decode, input_len + output_len)
    found = disaggregated_times(
        prefill,
        float(num_prefill),
        decode,
        float(num_decode),
        input_len,
        output_len,
        concurrency,
        link_bytes_per_s,
    )
    return _estimate(decode, found, input_len, output_len, concurrency)
