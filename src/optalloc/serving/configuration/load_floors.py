"""Floors of the time of a request with every engine under every load, proven from the cost model.

A floor of one row, engine with chunk and batch b under q = load / ranks requests a rank. P are the
seconds of a prompt, E <= P those that a further one adds, f = min(q, b, what memory holds), o =
min(outside, q - 1) and A a floor of the seconds of an answer of O tokens. All that
:mod:`optalloc.cost.engine.load` adds grows with A but for the wait:

    request >= (q/f) (P + A) + A (lag / (O-1) + o / q) + burst (f-1)/2 E            (Lines.ttft_s)
    share   <= (q - 1) E / request <= f E / (P + A),   wait <= queue P share / 2 (1 - share)
    D = min(f, q A / request) >= f / (1 + (f/q) (lag / (O-1) + outside / q)
                                      + (P + (f/q) (burst (f-1)/2 E + wait)) / A)  (Lines.decoding)

which grows with q, the wait left as it is at the most. All f sequences decoding among prompts give
the first A, the least D of that the next, for as many rounds as the model makes; each A is at most
the model's of its round. Time with prompts, alone + w (k (beside - alone) + ...), grows with D: the
products of a prompt take no less beside more of them. Where experts are read, those of a prompt may
be read already; then w k counts up to 1 alone, or all of it as if all experts were read anyway.

For all loads at once: between neighbours of a grid of q, one of them each batch, A is that of the
least q, or of q = b where the batch is full. So each row is at least a straight line in q there,
or a constant in the one interval where memory fills. The least of lines is concave, hence at least
the chord between its values at both ends                                          (LoadFloors.all)
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple, Self

import msgspec
import numpy as np

from optalloc.cost.engine.load import ROUNDS, mixed_s
from optalloc.cost.engine.step import StepModel
from optalloc.serving.configuration.columns import Flags, Floats, Ints
from optalloc.serving.configuration.problem import Problem
from optalloc.serving.configuration.space import BATCHES, batches, chunks
from optalloc.serving.configuration.table import EngineTable
from optalloc.workload import Serving

SAFE = 1.0 - 1e-9
_MANY = 2**31
_BUSIEST = 0.95  # share of time that reads prompts, at most: a limit of the model
_ENTRIES, _FEWEST, _MOST_TIMES, _FARTHEST = 150_000, 5, 32, 300.0
_COLUMN = (slice(None), None)


class Lines(NamedTuple):
    """What bounds the times of many rows with one chunk; an array of one entry a row each."""

    room: Floats
    prompt_s: Floats
    each_s: Floats
    lag: Floats
    burst: Floats
    outside: Floats
    queue: Floats
    pp: Floats

    def at(self, index: Ints | tuple[slice, None]) -> Self:
        """The entries of some rows."""
        return type(self)(*(column[index] for column in self))

    def ttft_s(
        self, tpot_s: Floats, answer: float, q: Floats, fit: Floats, outside: Floats
    ) -> Floats:
        """The least time to the first token where a further one takes at least ``tpot_s`` and the
        share ``outside`` of the requests waits."""
        slots = (q / fit - 1.0) * (self.prompt_s + answer * tpot_s) + outside * answer * tpot_s
        start = self.burst * (fit - 1.0) / 2.0 * self.each_s
        return self.prompt_s + self.lag * tpot_s + start + slots

    def outside_share(self, q: Floats) -> Floats:
        """The share of the requests that the server leaves outside."""
        return np.minimum(self.outside, q - 1.0) / q

    def wait_s(self, whole_s: Floats, q: Floats) -> Floats:
        """The least wait, and what is above ``whole_s``, where the rest takes so long at least."""
        reads, weight = (q - 1.0) * self.each_s, self.queue / 2.0 * self.prompt_s
        root = np.sqrt(weight * reads)
        busiest = weight * _BUSIEST / (1.0 - _BUSIEST)
        least = np.where(
            whole_s >= reads + root,
            weight * reads / np.maximum(whole_s - reads, 1e-30),
            reads + 2.0 * root - whole_s,
        )
        return np.minimum(np.minimum(busiest, reads), least)

    def decoding(
        self, tpot_s: Floats, answer: float, q: Floats, fit: Floats, most: Floats
    ) -> Floats:
        """The least number of sequences that decode at a time, ``most`` being the largest fit; no
        fewer do with more requests."""
        if answer <= 0.0:
            return np.ones_like(tpot_s * q)
        answer_s = answer * tpot_s
        share = np.minimum(_BUSIEST, most * self.each_s / (self.prompt_s + answer_s))
        waits = self.queue * share / (2.0 * (1.0 - share)) * self.prompt_s
        waits = waits + self.burst * (fit - 1.0) / 2.0 * self.each_s
        stretch = 1.0 + fit / q * (self.lag / answer + self.outside / q)
        stretch = stretch + (self.prompt_s + fit / q * waits) / answer_s
        return np.maximum(1.0, fit / stretch * SAFE)


def _among_prompts_s(step: StepModel, work: Serving, decoding: Floats) -> Floats:
    """The least seconds of a token of so many sequences or more, with prompts in between."""

    def mixed(one: StepModel, others: Floats) -> Floats:
        lengths = work.input_len, work.output_len, work.prefix_len
        return np.asarray(mixed_s(one, decoding, others, *lengths))

    c = step.constants
    if not np.any(step.work.routed_flops):
        return mixed(step, decoding - 1.0)
    new, chunk = work.input_len - work.prefix_len, step.chunk_tokens
    beside = c.interference * c.prefill * (1.0 - c.apart)
    each = new * step.tokens_per_step / step.work.pp / work.output_len  # tokens an iteration
    most = np.where(np.less_equal(beside, 1.0), chunk, np.minimum(new, chunk)) / beside
    read = msgspec.structs.replace(step, constants=msgspec.structs.replace(c, idle_experts=1.0))
    batch, context = np.maximum(1.0, decoding / step.work.pp), work.input_len + work.output_len / 2
    alone = (read.decode_s(batch, context) - step.decode_s(batch, context)) / step.tokens_per_step
    return np.maximum(
        mixed(step, np.minimum(decoding - 1.0, most / each)),
        mixed(read, decoding - 1.0) - alone,
    )


class LoadFloors:
    """Floors of every engine, chunk and batch, by intervals of q.

    ``edges`` are the right ends of the intervals. ``with_batch_s[c][s, m]`` are the least seconds
    of a token of each engine where more than the m-th multiple of batch s are in flight,
    ``free_s[c][:, k]`` where the batch is not limited and q lies in interval k.
    """

    def __init__(self, problem: Problem, table: EngineTable) -> None:
        self.problem, self.table, self.work = problem, table, problem.workload
        self.answer = self.work.output_len - 1.0
        self.new = self.work.input_len - self.work.prefix_len
        load = np.arange(1, (self.work.concurrency or 0) + 1)
        self.full = -(-load // table.groups[_COLUMN])
        self.q = np.maximum(1.0, load / table.groups[_COLUMN])
        most = float(self.q.max())
        self.chunks = chunks(problem.limits, "serve")
        self.sizes = [b for b in batches(problem.limits, "serve") if b < self.full.max()]
        octaves = [2.0**k * (1 + part / 8) for k in range(11, 32) for part in range(8)]
        inner = {float(b) for b in (*BATCHES, *octaves, *self.sizes) if b < most}
        self.edges = np.array(sorted({1.0, most} | inner))
        self.lefts = np.concatenate([self.edges[:1], self.edges[:-1]])
        self.interval = np.searchsorted(self.edges, self.q)
        allows = [problem.limits.allows("batch", b, "serve") for b in range(self.full.max() + 1)]
        self.allowed = np.array(allows)[self.full]
        self.lines = [self._lines(chunk) for chunk in self.chunks]
        self.times = self._times()
        self.with_batch_s = [self._with_batches_s(c) for c in range(len(self.chunks))]
        self.free_s = [self._free_s(c) for c in range(len(self.chunks))]

    def within(self, problem: Problem) -> LoadFloors:
        """The same floors for other targets, and no more requests in flight."""
        flight, found = problem.workload.concurrency or 0, copy.copy(self)
        found.problem, found.work = problem, problem.workload
        for name in ("full", "q", "interval", "allowed"):
            setattr(found, name, getattr(self, name)[:, :flight])
        return found

    def _lines(self, chunk: int) -> Lines:
        work = self.work
        step = self.step(np.arange(len(self.table)), chunk, np.full(len(self.table), _MANY))
        c = step.constants
        columns = (
            step.sequences_that_fit(work.input_len + work.output_len),
            step.prefill_s(self.new, 1.0, work.prefix_len),
            step.another_prompt_s(self.new, work.prefix_len),
            step.lag_iterations,
            c.burst,
            c.outside,
            c.queue,
            step.work.pp,
        )
        return Lines(*map(np.asarray, columns))

    def step(self, engine: Ints, chunk: int, batch: Ints) -> StepModel:
        """The step model of some rows."""
        return self.table.step(engine, np.full(engine.shape, chunk), batch)

    def _token_s(self, c: int, q: Floats, fit: Floats, most: Floats) -> Floats:
        """The least seconds of a token, shape (engines, entries of q)."""
        lines = self.lines[c].at(_COLUMN)
        number = np.arange(len(self.table))[_COLUMN]
        step = self.step(number, self.chunks[c], np.full(number.shape, _MANY))
        token_s = _among_prompts_s(step, self.work, fit)
        for _ in range(ROUNDS - 1):
            decoding = lines.decoding(token_s, self.answer, q, fit, most)
            token_s = _among_prompts_s(step, self.work, decoding)
        return token_s

    def _free_s(self, c: int) -> Floats:
        room = np.maximum(1.0, self.lines[c].room[_COLUMN])
        fit, most = np.minimum(self.lefts, room), np.minimum(self.edges, room)
        return self._token_s(c, self.lefts, fit, most)

    def _times(self) -> Floats:
        """Multiples of a batch at which its floors are taken, the closer the smaller, for what
        waits are among fewer rounds: as many as keep the table small."""
        rows = [not self.same(c, b) for c in range(len(self.chunks)) for b in self.sizes]
        number = _ENTRIES // max(1, sum(rows) * len(self.table))
        part = np.linspace(0.0, 1.0, min(_MOST_TIMES, max(_FEWEST, number)))
        return np.asarray(np.exp(part**1.5 * np.log(_FARTHEST)))

    def _with_batches_s(self, c: int) -> Floats:
        found = np.zeros((len(self.sizes), len(self.times), len(self.table)))
        batch = np.repeat(np.array(self.sizes, np.float64), len(self.times))
        q = batch * np.tile(self.times, len(self.sizes))
        same = np.array([bool(self.same(c, b)) for b in self.sizes], np.bool_)
        wanted = np.flatnonzero(~np.repeat(same, len(self.times)) & (q <= self.edges[-1]))
        if len(wanted):
            times_s = self._token_s(c, q[wanted], batch[wanted], batch[wanted])
            found.reshape(-1, len(self.table))[wanted] = times_s.T
        return found

    def same(self, c: int, fit: Floats | float, pp: Floats | float = 1.0) -> Flags:
        """Whether a chunk changes nothing against the one before where as many sequences fit: two
        prompts that fit that one, and as many as come in an iteration."""
        if c == 0 or self.chunks[c - 1] < 2.0 * self.new:
            return np.zeros(np.shape(fit), np.bool_)
        flow = (np.asarray(fit) - 1.0) / pp * self.new / self.work.output_len
        return np.asarray(flow <= self.chunks[c - 1])

    def full_s(self, c: int, s: int, q: Floats, engine: Ints | slice = slice(None)) -> Floats:
        """The least seconds of a token with so many requests or more, above the batch s."""
        times = np.searchsorted(self.times, q / self.sizes[s], side="right") - 1
        found: Floats = self.with_batch_s[c][s, np.maximum(0, times), engine]
        return found

    def all(self) -> tuple[Floats, Ints, Ints]:
        """Least seconds of a request, and chunk and batch (0: as many as there are) that give it.

        Returns
        -------
        floors : ndarray of float64, shape (engines, loads from 1)
            Seconds; infinite where no row meets memory and targets.
        chunk, batch : ndarray of int64, of the same shape

        Complexity: for E engines and Q requests O(E Q), and for each chunk and batch O(E) for each
        of some 100 intervals.
        """
        both = self._free_ends(), self._full_ends()
        least, chunk, batch = (np.zeros(self.q.shape, kind) for kind in (float, int, int))
        span = np.where(self.edges > self.lefts, self.edges - self.lefts, 1.0)
        for ranks in np.unique(self.table.groups):
            same = np.flatnonzero(self.table.groups == ranks)
            k, q = self.interval[same[0]], self.q[same[0]]
            free, full = (ends.chord_s(same, k, (q - self.lefts[k]) / span[k]) for ends in both)
            free[~self.allowed[same]] = np.inf
            limited = full < free
            least[same] = np.where(limited, full, free)
            for kept, columns in (
                (chunk, [e.chunk for e in both]),
                (batch, [e.batch for e in both]),
            ):
                kept[same] = np.where(limited, *(c[same][:, k] for c in columns[::-1]))
        return least, chunk, batch

    def _free_ends(self) -> _Ends:
        """Of the rows whose batch is not limited."""
        ends = _Ends.none(len(self.table), len(self.edges))
        for c in range(len(self.chunks)):
            room = np.maximum(1.0, self.lines[c].room[_COLUMN])
            fills = (self.lefts < room) & (room < self.edges)
            qs = self.lefts, np.where(fills, self.lefts, self.edges)
            self._lower(ends, c, 0, 0, qs, [np.minimum(q, room) for q in qs], self.free_s[c])
        return ends

    def _full_ends(self) -> _Ends:
        """Of the rows with a batch that there are more requests than."""
        ends = _Ends.none(len(self.table), len(self.edges))
        for c in range(len(self.chunks)):
            for s, b in enumerate(self.sizes):
                if not self.same(c, b):
                    first = max(1, int(np.searchsorted(self.lefts, b)))
                    qs, fit = (self.lefts[first:], self.edges[first:]), np.full(1, float(b))
                    self._lower(ends, c, b, first, qs, (fit, fit), self.full_s(c, s, qs[0]).T)
        return ends

    def _lower(
        self,
        ends: _Ends,
        c: int,
        batch: int,
        first: int,
        qs: Sequence[Floats],
        fits: Sequence[Floats],
        token_s: Floats,
    ) -> None:
        """Lower the ends from the ``first`` interval on to the lines of one chunk and batch."""
        lines, answer_s = self.lines[c].at(_COLUMN), self.answer * token_s * SAFE
        outside = np.minimum(*(lines.outside_share(q[first:]) for q in (self.lefts, self.edges)))
        ttft_s = [
            lines.ttft_s(token_s, self.answer, q, fit, outside) * SAFE
            for q, fit in zip(qs, fits, strict=True)
        ]
        fine = (lines.room >= max(1, batch)) & (token_s * SAFE <= self.problem.tpot_s)
        fine = fine & (ttft_s[0] <= self.problem.ttft_s)
        wait_s = lines.wait_s(ttft_s[1] + answer_s, qs[0]) * SAFE
        low, high = (np.where(fine, one + answer_s + wait_s, np.inf) for one in ttft_s)
        wins = high < ends.right_s[:, first:]
        np.minimum(ends.left_s[:, first:], low, out=ends.left_s[:, first:])
        np.minimum(ends.right_s[:, first:], high, out=ends.right_s[:, first:])
        ends.chunk[:, first:][wins], ends.batch[:, first:][wins] = c, batch


class _Ends(NamedTuple):
    """The least of some lines at both ends of each interval, seconds, and number of the chunk
    and batch of the least at the right one; shape (engines, intervals)."""

    left_s: Floats
    right_s: Floats
    chunk: Ints
    batch: Ints

    @classmethod
    def none(cls, engines: int, intervals: int) -> Self:
        """Of no lines."""
        least = np.full((2, engines, intervals), np.inf)
        return cls(*least, *np.zeros((2, engines, intervals), np.int64))

    def chord_s(self, engines: Ints, interval: Ints, part: Floats) -> Floats:
        """Seconds at such a part of the way through intervals."""
        left, right = self.left_s[engines][:, interval], self.right_s[engines][:, interval]
        none = np.isinf(left)
        rise = np.where(none, 0.0, right) - np.where(none, 0.0, left)
        found: Floats = (left + rise * part) * SAFE
        return found
