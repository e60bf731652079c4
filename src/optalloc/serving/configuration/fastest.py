"""fastest: the least time of a request with each engine under each load, within the targets.

T_e(l) is the least over chunk and batch of the time of a request when l of them are in flight in
engine e, and infinite where none meets memory and targets.

Rows that are not timed, each removed by a proof from :mod:`optalloc.cost.engine.load`:

the same
    A prompt that fits a chunk, beside as many others as come in an iteration, takes as long with a
    larger chunk if as many sequences fit.
too slow
    Let P be the seconds of a prompt, q = l / ranks, f = min(q, fit), o = min(outside, q - 1) and A
    a floor of the seconds of an answer. All that the model adds grows with A but for the wait:

        request >= (q/f) (P + A) + A (lag / (O-1) + o / q) + burst (f-1)/2 P        (_Bounds.ttft_s)
        share   <= (q - 1) P / request <= f P / (P + A),   wait <= queue P share / 2 (1 - share)
        D = min(f, q A / request) >= f / (1 + (f/q) (lag / (O-1) + outside / q)
                                          + (P + (f/q) (burst (f-1)/2 P + wait)) / A)    (decoding)

    which grows with q where a batch limits f. One sequence that decodes alone gives the first A,
    the D of that a better one, and so on, at last with prompts in between. Time with prompts,
    alone + w (k (beside - alone) + ...), grows with D while w k <= 1, so no more of them are
    counted than that. A row whose floor is above a target, or the time with another batch, need
    not be timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Self

import msgspec
import numpy as np

from optalloc.cost.engine.load import mixed_s
from optalloc.cost.engine.step import StepModel
from optalloc.serving.configuration.columns import Flags, Floats, Ints
from optalloc.serving.configuration.problem import Problem
from optalloc.serving.configuration.rows import Rows, timed
from optalloc.serving.configuration.space import batches, chunks
from optalloc.serving.configuration.table import EngineTable
from optalloc.workload import Serving

_MANY = 2**31
_SAFE = 1.0 - 1e-9
_BUSIEST = 0.95  # share of time that reads prompts, at most: a limit of the model
_BLOCK = 65536


class Fastest(msgspec.Struct, frozen=True):
    """Seconds of a request, of its first and of a further token, chunk and batch, shape (engines,
    loads from 1); ``rows`` counts all settings, ``timed`` those that were timed."""

    request_s: Floats
    ttft_s: Floats
    tpot_s: Floats
    chunk: Ints
    batch: Ints
    rows: int
    timed: int
    stopped: bool


def fastest(problem: Problem, table: EngineTable, halted: Callable[[int], bool]) -> Fastest:
    """T of every engine for 1 to Q requests in flight.

    ``halted(rows timed)`` is asked between chunks and batches.

    Complexity: for E engines and Q requests O(E Q) for each chunk and batch, and the time of the
    cost model for the rows that are left: about one an engine and load.
    """
    search = _Search(problem, table)
    try:
        stopped = any(halted(search.timed) for _ in search.passes())
    except KeyboardInterrupt:
        stopped = True
    return search.result(stopped=stopped)


class _Bounds(NamedTuple):
    """What bounds the times of many rows with one chunk; an array of one entry a row each."""

    room: Floats
    prompt_s: Floats
    one_s: Floats
    lag: Floats
    burst: Floats
    outside: Floats
    queue: Floats
    pp: Floats

    def at(self, index: Ints | tuple[slice, None]) -> Self:
        """The entries of some rows."""
        return type(self)(*(column[index] for column in self))

    def ttft_s(self, tpot_s: Floats, answer: float, q: Floats, fit: Floats) -> Floats:
        """The least time to the first token where a further one takes at least ``tpot_s``."""
        slots = (q / fit - 1.0) * (self.prompt_s + answer * tpot_s)
        slots = slots + np.minimum(self.outside, q - 1.0) / q * answer * tpot_s
        start = self.burst * (fit - 1.0) / 2.0 * self.prompt_s
        return self.prompt_s + self.lag * tpot_s + start + slots

    def decoding(self, tpot_s: Floats, answer: float, q: Floats, fit: Floats) -> Floats:
        """The least number of sequences that decode at a time; no fewer do with more requests."""
        if answer <= 0.0:
            return np.ones_like(q)
        answer_s = answer * tpot_s
        share = np.minimum(_BUSIEST, fit * self.prompt_s / (self.prompt_s + answer_s))
        waits = self.burst * (fit - 1.0) / 2.0 + self.queue * share / (2.0 * (1.0 - share))
        stretch = 1.0 + fit / q * (self.lag / answer + self.outside / q)
        stretch = stretch + self.prompt_s * (1.0 + fit / q * waits) / answer_s
        return np.maximum(1.0, fit / stretch * _SAFE)


def _alone_s(step: StepModel, work: Serving, decoding: Floats) -> Floats:
    """Seconds of a token without prompts in between."""
    context = work.input_len + work.output_len / 2.0
    one = step.decode_s(np.maximum(1.0, decoding / step.work.pp), context)
    return np.asarray(one / step.tokens_per_step)


def _mixed_s(step: StepModel, work: Serving, decoding: Floats) -> Floats:
    """Seconds of a token with prompts in between, no more than grow with the sequences."""
    c, new = step.constants, work.input_len - work.prefix_len
    beside = c.interference * c.prefill * (1.0 - c.apart)
    most = np.minimum(1.0, 1.0 / beside) * np.minimum(1.0, step.chunk_tokens / new)
    others = np.minimum(decoding - 1.0, most * step.work.pp * work.output_len)
    found = mixed_s(step, decoding, others, work.input_len, work.output_len, work.prefix_len)
    return np.asarray(found)


class _Search:
    """T as far as it is known."""

    def __init__(self, problem: Problem, table: EngineTable) -> None:
        self.problem, self.table, self.work = problem, table, problem.workload
        self.chunks, self.sizes = chunks(problem.limits, "serve"), batches(problem.limits, "serve")
        self.load = np.arange(1, (self.work.concurrency or 0) + 1)
        self.full = -(-self.load // table.groups[:, None])
        allows = [problem.limits.allows("batch", b, "serve") for b in range(self.full.max() + 1)]
        self.allowed = np.array(allows)[self.full]
        self.q = np.maximum(1.0, self.load / table.groups[:, None])
        self.times = [np.full(self.full.shape, np.inf) for _ in range(3)]  # request, ttft, tpot
        self.chosen = [np.zeros(self.full.shape, np.int64) for _ in range(2)]  # chunk, batch
        below = np.searchsorted(np.array(self.sizes), self.full)
        self.rows = len(self.chunks) * int(below.sum() + self.allowed.sum())
        self.timed = 0

    def result(self, *, stopped: bool) -> Fastest:
        (request, ttft, tpot), (chunk, batch) = self.times, self.chosen
        return Fastest(request, ttft, tpot, chunk, batch, self.rows, self.timed, stopped)

    def passes(self) -> Iterator[None]:
        """Chunk after chunk: as many sequences as there are requests, then fewer and fewer."""
        smaller: int | None = None
        for chunk in self.chunks:
            engines = self._engines(chunk)
            for batch in (0, *(b for b in self.sizes[::-1] if b < self.full.max())):
                token_s = engines.one_s if not batch else self._token_s(chunk, batch, engines)
                rows = self._rows(batch, engines, token_s, smaller)
                for k in range(0, len(rows[0]), _BLOCK):
                    self._time(chunk, batch, engines, *(part[k : k + _BLOCK] for part in rows))
                yield
            smaller = chunk

    def _engines(self, chunk: int) -> _Bounds:
        work, number = self.work, np.arange(len(self.table))
        step = self._step(number, chunk, np.full(len(number), _MANY))
        c = step.constants
        return _Bounds(
            *map(
                np.asarray,
                (
                    step.sequences_that_fit(work.input_len + work.output_len),
                    step.prefill_s(work.input_len - work.prefix_len, 1.0, work.prefix_len),
                    _alone_s(step, work, np.ones(len(number))),
                    step.lag_iterations,
                    c.burst,
                    c.outside,
                    c.queue,
                    step.work.pp,
                ),
            )
        )

    def _step(self, engine: Ints, chunk: int, batch: Ints) -> StepModel:
        return self.table.step(engine, np.full(len(engine), chunk), batch)

    def _token_s(self, chunk: int, batch: int, engines: _Bounds) -> Floats:
        """The least seconds of a token where more requests than ``batch`` are in flight."""
        held = np.full(len(self.table), float(batch))
        step = self._step(np.arange(len(self.table)), chunk, np.full(len(held), batch))
        token_s = engines.one_s
        for floor_s in (_alone_s, _mixed_s):
            decoding = engines.decoding(token_s, self.work.output_len - 1.0, held, held)
            token_s = floor_s(step, self.work, decoding)
        return token_s

    def _rows(
        self, batch: int, engines: _Bounds, token_s: Floats, smaller: int | None
    ) -> tuple[Ints, Ints]:
        """Engines and loads (from 0) that hold a request, differ from those with the chunk before,
        and may be the fastest with so much a token."""
        e = engines.at((slice(None), None))
        if batch:
            fine, fit = (self.full > batch) & (e.room >= batch), np.minimum(self.q, batch)
        else:
            fine, fit = self.allowed & (e.room >= 1.0), np.minimum(self.q, np.maximum(1.0, e.room))
        new = self.work.input_len - self.work.prefix_len
        if smaller is not None and smaller >= new:
            flow = (fit - 1.0) / e.pp * new / self.work.output_len
            fine &= (flow > smaller) | (self.q > e.room) & (batch == 0)
        engine, place = np.nonzero(
            fine & self._may_win(e, token_s[:, None], self.q, fit, self.times[0])
        )
        return engine, place

    def _may_win(
        self, engines: _Bounds, tpot_s: Floats, q: Floats, fit: Floats, best_s: Floats
    ) -> Flags:
        """Whether floors, of so much a token at least, are below the targets and the best times."""
        answer = self.work.output_len - 1.0
        ttft = engines.ttft_s(tpot_s, answer, q, fit) * _SAFE
        request = ttft + answer * tpot_s * _SAFE
        on_time = (tpot_s * _SAFE <= self.problem.tpot_s) & (ttft <= self.problem.ttft_s)
        return on_time & (request < best_s)

    def _time(self, chunk: int, batch: int, engines: _Bounds, engine: Ints, place: Ints) -> None:
        """Time the rows whose better floor may win, and keep the times that do."""
        q, size = self.q[engine, place], self.full[engine, place]
        size = np.minimum(size, batch) if batch else size
        tpot, answer = engines.one_s[engine], self.work.output_len - 1.0
        for floor_s in (_alone_s, _mixed_s):
            e = engines.at(engine)
            fit = np.minimum(q, np.minimum(size, np.maximum(1.0, e.room)))
            step = self._step(engine, chunk, size)
            tpot = floor_s(step, self.work, e.decoding(tpot, answer, q, fit))
            kept = self._may_win(e, tpot, q, fit, self.times[0][engine, place])
            engine, place, size = engine[kept], place[kept], size[kept]
            q, tpot = q[kept], tpot[kept]
        self.timed += len(engine)
        rows = Rows(
            engine=engine,
            chunk=np.full(len(engine), chunk),
            batch=size,
            load=place + 1,
            count=np.zeros_like(engine),
        )
        found = timed(self.problem, self.table, rows)
        fine = (found.ttft_s <= self.problem.ttft_s) & (found.tpot_s <= self.problem.tpot_s)
        wins = fine & (found.request_s < self.times[0][engine, place])
        where = engine[wins], place[wins]
        for k, column in enumerate((found.request_s, found.ttft_s, found.tpot_s)):
            self.times[k][where] = column[wins]
        self.chosen[0][where], self.chosen[1][where] = chunk, size[wins]
