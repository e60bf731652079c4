"""The native simulation of requests: what it is given, in whole ticks, and what it answers.

A tick is 2^-46 s (14 fs), so that every time of an iteration is a whole number of ticks and the sum
over many equal iterations is the same number however it is taken. A run longer than 12 hours is
taken in ticks of 2^-32 s instead.
"""

from __future__ import annotations

import threading

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc import _native
from optalloc.errors import InputError
from optalloc.simulate.requests.deployment import Deployment, EnginePool
from optalloc.simulate.requests.load import Requests

Longs = NDArray[np.int64]
Ints = NDArray[np.int32]

TICKS_PER_S = (2**46, 2**32)
"""Fine ticks, and coarse ones for runs that do not fit in 64 bits of fine ones."""

_POLL_S = 0.1
_DONE = 0
_FAR = 2.0**61


class PoolTicks(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One pool in ticks."""

    engines: int
    ranks: int
    chunk_tokens: int
    max_batch: int
    blocks: int
    extra_blocks: int
    least_loaded: bool
    decode: Longs
    prompt_tokens: Ints
    sequences: Ints
    mixed: NDArray[np.float64]
    kv: int
    pair: int
    each_prompt: int


class Instance(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """All that a simulation depends on, in ticks."""

    pools: tuple[PoolTicks, ...]
    requests: Requests
    arrival: Longs
    output: Ints
    block_tokens: int
    transfer: int
    transfer_token: int


class Run(msgspec.Struct, frozen=True, eq=False):
    """What happened, in ticks; a request that never got there has -1.

    By request: ``arrival``, ``start`` (first scheduled), ``first`` (token), ``handed`` (arrival in
    the second pool), ``finish``, ``preemptions``, ``hits`` (tokens of the prompt that were cached),
    ``rank`` and ``second_rank``, counted over all pools. By engine: ``busy`` and ``iterations``. By
    rank: ``peak_blocks``. ``stretches`` has a row for each stretch of equal iterations: engine,
    start, end, iterations, prompt tokens, sequences, requests waiting, blocks in use.
    """

    arrival: Longs
    start: Longs
    first: Longs
    handed: Longs
    finish: Longs
    preemptions: Ints
    hits: Ints
    rank: Ints
    second_rank: Ints
    busy: Longs
    iterations: Longs
    peak_blocks: Longs
    stretches: Longs


def instance_of(deployment: Deployment, requests: Requests, ticks_per_s: int) -> Instance:
    """The simulation in ticks.

    Raises
    ------
    InputError
        If a rank's cache cannot hold some request alone.
    """
    pools = tuple(_pool(pool, deployment.block_tokens, ticks_per_s) for pool in deployment.pools)
    for number, pool in enumerate(pools):
        whole = number + 1 == len(pools)
        _check_fit(requests, pool, deployment.block_tokens, whole)
    return Instance(
        pools=pools,
        requests=requests,
        arrival=_ticks(requests.arrival_s, ticks_per_s),
        output=iterations_of(requests.output_tokens, deployment.engines.tokens_per_step),
        block_tokens=deployment.block_tokens,
        transfer=round(deployment.transfer_s * ticks_per_s),
        transfer_token=round(deployment.transfer_s_per_token * ticks_per_s),
    )


def fits_ticks(deployment: Deployment, requests: Requests, ticks_per_s: int) -> bool:
    """Whether arrivals and the longest iteration there may be are far from the end of 64 bits."""
    longest = float((requests.input_tokens.astype(np.int64) + requests.output_tokens).max())
    seconds = [float(requests.arrival_s.max())]
    seconds.append(deployment.transfer_s + deployment.transfer_s_per_token * longest)
    for times in (pool.times for pool in deployment.pools):
        base = max(float(times.decode_s.max()), float(times.mixed_s.max()))
        context = times.kv_s_per_token * times.max_batch * longest
        prompts = (times.pair_s * longest + times.prompt_s) * times.chunk_tokens
        seconds.append(base + context + prompts)
    return max(seconds) * ticks_per_s < _FAR


def run_native(instance: Instance, *, record: bool) -> Run | None:
    """The run by the native kernel; None where 64 bits of ticks do not hold it.

    The kernel works in a thread, so that Ctrl-C ends it at once.

    Complexity: O(log) for each stretch of equal iterations, of which a request causes a few.
    """
    cancel = np.zeros(1, np.int32)
    answers: list[_native.RequestAnswer] = []
    thread = threading.Thread(target=lambda: answers.append(_call(instance, record, cancel)))
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_POLL_S)
    except KeyboardInterrupt:
        cancel[0] = 1
        thread.join()
        raise
    answer = answers[0]
    return Run(*answer[1:]) if answer[0] == _DONE else None


def _call(instance: Instance, record: bool, cancel: Ints) -> _native.RequestAnswer:
    pools, requests = instance.pools, instance.requests
    rows = [
        (
            *(p.engines, p.ranks, p.chunk_tokens, p.max_batch, p.blocks, p.extra_blocks),
            *(p.least_loaded, p.kv, p.pair, p.each_prompt),
        )
        for p in pools
    ]
    return _native.run_requests(
        np.array(rows, np.int64),
        [pool.decode for pool in pools],
        [pool.prompt_tokens for pool in pools],
        [pool.sequences for pool in pools],
        [pool.mixed for pool in pools],
        instance.arrival,
        requests.input_tokens,
        instance.output,
        requests.cached_tokens,
        requests.group,
        requests.prefix_tokens,
        requests.clients,
        instance.block_tokens,
        instance.transfer,
        instance.transfer_token,
        record,
        cancel,
    )


def _pool(pool: EnginePool, block_tokens: int, ticks_per_s: int) -> PoolTicks:
    times = pool.times
    return PoolTicks(
        engines=pool.replicas,
        ranks=pool.ranks,
        chunk_tokens=times.chunk_tokens,
        max_batch=times.max_batch,
        blocks=pool.kv_tokens // block_tokens,
        extra_blocks=-(-pool.sequence_tokens // block_tokens),
        least_loaded=pool.routing == "least-loaded",
        decode=np.maximum(_ticks(times.decode_s, ticks_per_s), 1),
        prompt_tokens=np.ascontiguousarray(times.prompt_tokens, np.int32),
        sequences=np.ascontiguousarray(times.sequences, np.int32),
        mixed=np.maximum(np.ascontiguousarray(times.mixed_s * ticks_per_s), 1.0),
        kv=round(times.kv_s_per_token * ticks_per_s),
        pair=round(times.pair_s * ticks_per_s),
        each_prompt=round(times.prompt_s * ticks_per_s),
    )


def iterations_of(output_tokens: Ints, tokens_per_step: float) -> Ints:
    """Iterations that give an answer: its first token, then so many tokens at a time."""
    return (1 + np.ceil((output_tokens - 1) / tokens_per_step)).astype(np.int32)


def _ticks(seconds: NDArray[np.float64], ticks_per_s: int) -> Longs:
    return np.rint(seconds * ticks_per_s).astype(np.int64)


def _check_fit(requests: Requests, pool: PoolTicks, block_tokens: int, whole: bool) -> None:
    """A rank must hold any request alone, or it would wait for ever."""
    tokens = requests.input_tokens.astype(np.int64)
    if whole:
        tokens = tokens + requests.output_tokens - 1
    largest = int(np.argmax(tokens))
    if -(-int(tokens[largest]) // block_tokens) + pool.extra_blocks > pool.blocks:
        raise InputError(
            f"request {largest} needs a cache of {tokens[largest]} tokens, and a rank holds "
            f"{(pool.blocks - pool.extra_blocks) * block_tokens}",
            path="load",
            fix="use shorter requests, a smaller kv_dtype or more devices an engine",
        )
