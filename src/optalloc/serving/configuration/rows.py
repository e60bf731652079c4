"""Rows: engines with chunk, batch and load, timed together, and what rules some out beforehand.

A row is one engine that holds at most ``batch`` decoding sequences on each attention rank under a
closed loop of ``load`` requests. The loads tried depend on what is asked:

    no load, or a rate    load = batch * attention_dp: an engine as full as it may be
    concurrency Q         load = ceil( Q / count ), the fullest of ``count`` engines on one group;
                          over several groups see :mod:`fastest`

Rules that remove a row, each proven from the cost model (:mod:`optalloc.cost.engine.load`):

memory
    Not one request fits beside the weights, or fewer sequences than ``batch`` do: with a given
    concurrency the times then are those of the row whose batch is not limited.
tpot floor, ttft floor
    A decoding iteration takes at least that of one sequence, ``s1``: every term of ``decode_s``
    grows with the sequences, and prompts in between add time. So ``tpot >= s1 / tokens a step`` and
    ``ttft >= P + burst (held - 1) / 2 P + (q / held - 1) (P + (O - 1) tpot floor)`` with
    ``held = min(q, fit)``; all that is left out is waiting, which is not negative.
"""

from __future__ import annotations

import numpy as np

from optalloc.cost.engine.load import closed_loop_times
from optalloc.serving.configuration.columns import Columns, Flags, Floats, Ints
from optalloc.serving.configuration.problem import Problem
from optalloc.serving.configuration.space import batches, chunks
from optalloc.serving.configuration.table import EngineTable


class Rows(Columns, frozen=True, kw_only=True):
    """Columns of equal length; ``count`` is 0 where the load does not fix it."""

    engine: Ints
    chunk: Ints
    batch: Ints
    load: Ints
    count: Ints


class Floors(Columns, frozen=True, kw_only=True):
    """Least times of each row, seconds, and the requests per second of one engine at most."""

    ttft_s: Floats
    tpot_s: Floats
    request_s: Floats
    rate_per_s: Floats


class Timed(Columns, frozen=True, kw_only=True):
    """Times of each row, seconds, and the requests per second of one engine at its load."""

    ttft_s: Floats
    tpot_s: Floats
    request_s: Floats
    rate_per_s: Floats


def all_rows(
    problem: Problem,
    table: EngineTable,
    sizes: tuple[int, ...] = (),
    engines: Ints | None = None,
) -> Rows:
    """Every row of the space; ``sizes`` gives other batches than those of the space, ``engines``
    some of them alone."""
    sizes = sizes or batches(problem.limits, "serve")
    widths = chunks(problem.limits, "serve")
    concurrency = problem.workload.concurrency
    engines = np.arange(len(table)) if engines is None else engines
    if concurrency is None:
        index = np.repeat(engines, len(sizes))
        batch = np.tile(np.array(sizes, np.int64), len(engines))
        zero = np.zeros(len(index), np.int64)
        columns = [index, batch, batch * table.groups[index], zero]
    else:
        columns = _loads(problem, table, concurrency, np.array(sizes, np.int64), engines)
    many = [np.repeat(column, len(widths)) for column in columns]
    return Rows(
        engine=many[0],
        chunk=np.tile(np.array(widths, np.int64), len(columns[0])),
        batch=many[1],
        load=many[2],
        count=many[3],
    )


def numbers_of_rows(problem: Problem, table: EngineTable) -> Ints:
    """How many rows each engine has: as many as any of as many ranks that is there as often."""
    if problem.workload.concurrency is None:
        sizes = len(batches(problem.limits, "serve")) * len(chunks(problem.limits, "serve"))
        return np.full(len(table), sizes)
    alike = np.stack([table.most, table.groups])
    _, first, which = np.unique(alike, axis=1, return_index=True, return_inverse=True)
    rows = all_rows(problem, table, engines=first)
    found: Ints = np.bincount(rows.engine, minlength=len(table))[first][which.ravel()]
    return found


def _loads(
    problem: Problem, table: EngineTable, concurrency: int, sizes: Ints, engines: Ints
) -> list[Ints]:
    """Engine, batch, load and count of each row but for its chunk, where the requests in flight are
    given: every batch of the space that is filled, and one that holds them all."""
    most = np.minimum(table.most[engines], concurrency)
    allowed = np.array(counts(problem, int(most.max(initial=0))), np.int64)
    number = np.searchsorted(allowed, most, side="right")
    engine = np.repeat(engines, number)
    count = allowed[np.arange(len(engine)) - np.repeat(np.cumsum(number) - number, number)]
    load = -(-concurrency // count)
    full = -(-load // table.groups[engine])
    batch = np.concatenate([np.tile(sizes, (len(full), 1)), full[:, np.newaxis]], axis=1)
    kept = batch < full[:, np.newaxis]
    kept[:, -1] = allowed_batches(problem, full)
    number = kept.sum(axis=1)
    return [
        np.repeat(engine, number),
        batch[kept],
        np.repeat(load, number),
        np.repeat(count, number),
    ]


def allowed_batches(problem: Problem, batch: Ints) -> Flags:
    """Whether each batch of an engine that does both phases is left."""
    if not problem.limits.names("batch", "serve"):
        return np.ones(batch.shape, np.bool_)
    values, which = np.unique(batch, return_inverse=True)
    left = [problem.limits.allows("batch", b, "serve") for b in values]
    return np.array(left, np.bool_)[which].reshape(batch.shape)


def counts(problem: Problem, most: int, role: str = "serve") -> list[int]:
    """Numbers of equal engines that are tried."""
    return [n for n in range(1, most + 1) if problem.limits.allows("replicas", n, role)]


def holding(problem: Problem, table: EngineTable) -> Flags:
    """Whether each engine holds a request, with the chunk that leaves most room."""
    index, one = np.arange(len(table)), np.ones(len(table), np.int64)
    step = table.step(index, one * min(chunks(problem.limits, "serve")), one)
    work = problem.workload
    held: Flags = np.asarray(step.sequences_that_fit(work.input_len + work.output_len)) >= 1.0
    return held


def too_slow(problem: Problem, table: EngineTable) -> tuple[Flags, Flags]:
    """Which engines miss the target of a token, and that of the first, with one request alone."""
    index, one = np.arange(len(table)), np.ones(len(table), np.int64)
    work, widths = problem.workload, chunks(problem.limits, "serve")
    steps = [table.step(index, one * chunk, one) for chunk in widths]
    tpot_s = steps[0].decode_s(1.0, work.input_len + work.output_len / 2.0)
    new = work.input_len - work.prefix_len
    prompt_s = np.min([np.asarray(step.prefill_s(new)) for step in steps], axis=0)
    safe = 1.0 - 1e-12
    return (
        np.asarray(tpot_s) / steps[0].tokens_per_step * safe > problem.tpot_s,
        prompt_s * safe > problem.ttft_s,
    )


def floors(problem: Problem, table: EngineTable, rows: Rows) -> tuple[Floors, Flags]:
    """Least times of each row, and which rows memory leaves.

    Complexity: the cost model for each engine and chunk, and one pass over the rows.
    """
    work = problem.workload
    widths = np.unique(rows.chunk)
    engine, chunk = (a.ravel() for a in np.meshgrid(np.arange(len(table)), widths, indexing="ij"))
    step = table.step(engine, chunk, np.full(len(engine), 2**31))
    new, here = work.input_len - work.prefix_len, rows.engine * len(widths)
    here = here + np.searchsorted(widths, rows.chunk)
    room, prompt_s, each_s, one_s, burst = (
        np.broadcast_to(value, len(engine))[here]
        for value in (
            step.sequences_that_fit(work.input_len + work.output_len),
            step.prefill_s(new),
            step.another_prompt_s(new),
            step.decode_s(1.0, work.input_len + work.output_len / 2.0),
            step.constants.burst,
        )
    )
    q = np.maximum(1.0, rows.load / table.groups[rows.engine])
    keeps = room >= np.where((rows.batch < q) | (rows.count == 0), rows.batch, 1)
    fit = np.maximum(1.0, np.minimum(room, rows.batch))
    tpot = one_s / step.tokens_per_step
    held = np.minimum(q, fit)
    start = burst * np.maximum(0.0, held - 1.0) / 2.0 * each_s
    slots = (q / held - 1.0) * (prompt_s + (work.output_len - 1.0) * tpot)
    ttft = prompt_s + start + slots
    request = (ttft + (work.output_len - 1.0) * tpot) * (1.0 - 1e-12)
    return Floors(
        ttft_s=ttft * (1.0 - 1e-12),
        tpot_s=tpot * (1.0 - 1e-12),
        request_s=request,
        rate_per_s=rows.load / request,
    ), keeps


def timed(problem: Problem, table: EngineTable, rows: Rows) -> Timed:
    """Times of each row by the closed loop of the cost model.

    Complexity: a fixed number of passes over the rows.
    """
    work = problem.workload
    step = table.step(rows.engine, rows.chunk, rows.batch)
    found = closed_loop_times(
        step, work.input_len, work.output_len, rows.load.astype(np.float64), work.prefix_len
    )
    ttft, tpot = np.asarray(found.ttft_s), np.asarray(found.tpot_s)
    request = ttft + (work.output_len - 1.0) * tpot
    return Timed(ttft_s=ttft, tpot_s=tpot, request_s=request, rate_per_s=rows.load / request)
