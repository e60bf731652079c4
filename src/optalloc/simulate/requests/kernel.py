"""The native simulation of requests: what it is given, in whole ticks, and what it answers.

A tick is 2^-46 s (14 fs), so that every time of an iteration is a whole number of ticks and the sum
over many equal iterations is the same number however it is taken. A run longer than 12 hours is
taken in ticks of 2^-32 s instead.
"""

from __future__ import annotations

from functools import partial

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc import _native
from optalloc.errors import InputError
from optalloc.interrupt import in_thread
from optalloc.simulate.requests.deployment import ROUTINGS, Deployment, Engines, Routing
from optalloc.simulate.requests.load import Requests
from optalloc.simulate.requests.prefixes import Paths, group_paths, hash_paths
from optalloc.simulate.requests.step_times import StepTimes

Longs = NDArray[np.int64]
Ints = NDArray[np.int32]

TICKS_PER_S = (2**46, 2**32)
"""Fine ticks, and coarse ones for runs that do not fit in 64 bits of fine ones."""

_DONE = 0
_FAR = 2.0**61


class TableTicks(msgspec.Struct, frozen=True, eq=False):
    """Times of iterations: without prompts, and a grid with them."""

    decode: Longs
    prompt_tokens: Ints
    sequences: Ints
    mixed: NDArray[np.float64]


class KindTicks(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Equal engines in ticks."""

    pool: int
    engines: int
    ranks: int
    weight: int
    chunk_tokens: int
    max_batch: int
    blocks: int
    extra_blocks: int
    times: TableTicks
    shared: TableTicks | None
    kv: int
    pair: int
    each_prompt: int


class Instance(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """All that a simulation depends on, in ticks."""

    kinds: tuple[KindTicks, ...]
    requests: Requests
    paths: Paths
    arrival: Longs
    output: Ints
    block_tokens: int
    transfer: int
    transfer_token: int
    routing: Routing


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
    kinds = tuple(
        _kind(engines, number, deployment.block_tokens, ticks_per_s)
        for number, pool in enumerate(deployment.pools)
        for engines in pool
    )
    for kind in kinds:
        whole = kind.pool + 1 == len(deployment.pools)
        _check_fit(requests, kind, deployment.block_tokens, whole)
    return Instance(
        kinds=kinds,
        requests=requests,
        paths=_paths(requests, deployment.block_tokens),
        arrival=_ticks(requests.arrival_s, ticks_per_s),
        output=iterations_of(requests.output_tokens, _tokens_per_step(deployment)),
        block_tokens=deployment.block_tokens,
        transfer=round(deployment.transfer_s * ticks_per_s),
        transfer_token=round(deployment.transfer_s_per_token * ticks_per_s),
        routing=deployment.routing,
    )


def _paths(requests: Requests, block_tokens: int) -> Paths:
    if requests.hashes is None:
        return group_paths(requests.group, requests.prefix_tokens, block_tokens)
    return hash_paths(requests.hashes, requests.input_tokens, block_tokens)


def fits_ticks(deployment: Deployment, requests: Requests, ticks_per_s: int) -> bool:
    """Whether arrivals and the longest iteration there may be are far from the end of 64 bits."""
    longest = float((requests.input_tokens.astype(np.int64) + requests.output_tokens).max())
    seconds = [float(requests.arrival_s.max())]
    seconds.append(deployment.transfer_s + deployment.transfer_s_per_token * longest)
    for engines in (engines for pool in deployment.pools for engines in pool):
        times = engines.times
        parts = [part for part in (times, engines.shared) if part is not None]
        base = sum(max(float(part.decode_s.max()), float(part.mixed_s.max())) for part in parts)
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
    answer = in_thread(partial(_call, instance, record, cancel), cancel)
    if cancel[0]:
        raise KeyboardInterrupt
    return Run(*answer[1:]) if answer[0] == _DONE else None


def _call(instance: Instance, record: bool, cancel: Ints) -> _native.RequestAnswer:
    kinds, requests, paths = instance.kinds, instance.requests, instance.paths
    rows = [
        (
            *(k.pool, k.engines, k.ranks, k.weight, k.chunk_tokens, k.max_batch),
            *(k.blocks, k.extra_blocks, k.kv, k.pair, k.each_prompt),
        )
        for k in kinds
    ]
    return _native.run_requests(
        np.array(rows, np.int64),
        *_columns([kind.times for kind in kinds]),
        *_columns([kind.shared or _NOTHING for kind in kinds]),
        instance.arrival,
        requests.input_tokens,
        instance.output,
        requests.cached_tokens,
        paths.shared,
        paths.start,
        paths.nodes,
        paths.node_blocks,
        requests.hashes is not None,
        requests.clients,
        instance.block_tokens,
        instance.transfer,
        instance.transfer_token,
        ROUTINGS.index(instance.routing),
        record,
        cancel,
    )


_NOTHING = TableTicks(
    np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros((0, 0))
)


def _columns(
    tables: list[TableTicks],
) -> tuple[list[Longs], list[Ints], list[Ints], list[NDArray[np.float64]]]:
    return (
        [table.decode for table in tables],
        [table.prompt_tokens for table in tables],
        [table.sequences for table in tables],
        [table.mixed for table in tables],
    )


def _table(times: StepTimes, ticks_per_s: int) -> TableTicks:
    return TableTicks(
        decode=np.maximum(_ticks(times.decode_s, ticks_per_s), 1),
        prompt_tokens=np.ascontiguousarray(times.prompt_tokens, np.int32),
        sequences=np.ascontiguousarray(times.sequences, np.int32),
        mixed=np.maximum(np.ascontiguousarray(times.mixed_s * ticks_per_s), 1.0),
    )


def _kind(engines: Engines, pool: int, block_tokens: int, ticks_per_s: int) -> KindTicks:
    times = engines.times
    return KindTicks(
        pool=pool,
        engines=engines.replicas,
        ranks=engines.ranks,
        weight=engines.weight,
        chunk_tokens=times.chunk_tokens,
        max_batch=times.max_batch,
        blocks=engines.kv_tokens // block_tokens,
        extra_blocks=-(-engines.sequence_tokens // block_tokens),
        times=_table(times, ticks_per_s),
        shared=None if engines.shared is None else _table(engines.shared, ticks_per_s),
        kv=round(times.kv_s_per_token * ticks_per_s),
        pair=round(times.pair_s * ticks_per_s),
        each_prompt=round(times.prompt_s * ticks_per_s),
    )


def _tokens_per_step(deployment: Deployment) -> float:
    """Of all engines that decode.

    Raises
    ------
    InputError
        If it differs: an answer would take other iterations on other engines.
    """
    found = {engines.tokens_per_step for engines in deployment.engines}
    if len(found) > 1:
        raise InputError(
            "engines gain different numbers of tokens in a step",
            path="Deployment",
            fix="simulate engines with the same drafted tokens and acceptance",
        )
    return found.pop()


def iterations_of(output_tokens: Ints, tokens_per_step: float) -> Ints:
    """Iterations that give an answer: its first token, then so many tokens at a time."""
    return (1 + np.ceil((output_tokens - 1) / tokens_per_step)).astype(np.int32)


def _ticks(seconds: NDArray[np.float64], ticks_per_s: int) -> Longs:
    return np.rint(seconds * ticks_per_s).astype(np.int64)


def _check_fit(requests: Requests, kind: KindTicks, block_tokens: int, whole: bool) -> None:
    """A rank must hold any request alone, or it would wait for ever."""
    tokens = requests.input_tokens.astype(np.int64)
    if whole:
        tokens = tokens + requests.output_tokens - 1
    largest = int(np.argmax(tokens))
    if -(-int(tokens[largest]) // block_tokens) + kind.extra_blocks > kind.blocks:
        raise InputError(
            f"request {largest} needs a cache of {tokens[largest]} tokens, and a rank holds "
            f"{(kind.blocks - kind.extra_blocks) * block_tokens}",
            path="load",
            fix="use shorter requests, a smaller kv_dtype or more devices an engine",
        )
