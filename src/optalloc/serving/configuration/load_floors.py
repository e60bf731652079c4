"""Floors of the time of a request with every engine under every load, proven from the cost model.

A row is an engine with a chunk and a batch, or with as many sequences as come. The model starts
with all sequences that fit decoding among prompts; their t gives the sequences of the next round
(:mod:`load_lines`), these the next t, for as many rounds as the model makes. Both grow with each
other, so from the least t of a number of sequences or more (:mod:`token_table`) no round's is more
than the model's, and from the most none is less.

For one load, both ends together give the request: least but for the wait with the least t, and the
least wait with the most (LoadFloors.exact).

For all loads at once: between neighbours of a grid of q, one of them each batch, and between
multiples of a batch where that is full, t is that of the least q with the wait of the most. So each
row is at least a straight line in q there, or a constant in the one interval where memory fills.
The least of lines is concave, hence at least the chord between its values at both ends
(LoadFloors.all). What the reading of all prompts takes is a floor of every row.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np

from optalloc import _native
from optalloc.cost.engine.load import ROUNDS
from optalloc.cost.engine.step import StepModel
from optalloc.errors import InputError
from optalloc.serving.configuration.columns import Flags, Floats, Ints
from optalloc.serving.configuration.load_lines import ROUNDED, Lines, Load
from optalloc.serving.configuration.problem import Problem
from optalloc.serving.configuration.rows import allowed_batches
from optalloc.serving.configuration.space import BATCHES, batches, chunks
from optalloc.serving.configuration.table import EngineTable
from optalloc.serving.configuration.token_table import SAFE, TokenTable

_MANY = 2**31
_ENTRIES, _FEWEST, _MOST_TIMES, _FARTHEST = 500_000, 5, 32, 300.0
_MOST_LOADS, _MOST_FLIGHT = 30_000_000, 2**16
_COLUMN = (slice(None), None)
_CACHED = 32  # engines whose floors of all loads are computed together


class LoadFloors:
    """Floors of every engine, chunk and batch, by intervals of q.

    Row ``rank[e]`` of ``q``, ``full``, ``interval`` and ``allowed`` is of engine e: its requests a
    rank at each load, in real and whole numbers, the interval, and whether a batch of all of them
    is. ``edges`` are the right ends of the intervals. ``with_batch_s[c, e, s, m]`` are the least
    seconds of a token of engine e where more than the m-th multiple of batch s are in flight,
    ``free_s[c, e, k]`` where the batch is not limited and q lies in interval k.
    """

    def __init__(self, problem: Problem, table: EngineTable) -> None:
        self.problem, self.table, self.work = problem, table, problem.workload
        flight = self.work.concurrency or 0
        limit = min(_MOST_FLIGHT, _MOST_LOADS // max(1, len(table)))
        if flight > limit:
            raise InputError(
                f"{flight:,} requests in flight over several groups of nodes are more than a "
                "search splits",
                path="--concurrency",
                fix=f"ask for at most {limit:,}, or plan each group by itself",
            )
        self.answer = self.work.output_len - 1.0
        self.new = self.work.input_len - self.work.prefix_len
        load = np.arange(1, flight + 1)
        ranks, self.rank = np.unique(table.groups, return_inverse=True)
        self.full = -(-load // ranks[_COLUMN])
        self.q = np.maximum(1.0, load / ranks[_COLUMN])
        most = float(self.q.max())
        self.chunks = chunks(problem.limits, "serve")
        self.sizes = [b for b in batches(problem.limits, "serve") if b < self.full.max()]
        octaves = [2.0**k * (1 + part / 16) for k in range(4, 32) for part in range(16)]
        inner = {float(b) for b in (*BATCHES, *octaves, *self.sizes) if b < most}
        self.edges = np.array(sorted({1.0, most} | inner))
        self.lefts = np.concatenate([self.edges[:1], self.edges[:-1]])
        self.interval = np.searchsorted(self.edges, self.q)
        self.allowed = allowed_batches(problem, self.full)
        self.lines = [self._lines(chunk) for chunk in self.chunks]
        self.tokens = [self._tokens(c) for c in range(len(self.chunks))]
        self.times = self._times()
        self.with_batch_s = np.stack([self._with_batches_s(c) for c in range(len(self.chunks))])
        self.free_s = np.stack([self._free_s(c) for c in range(len(self.chunks))])
        self.rows = _native.LoadRows(
            np.array(self.chunks, np.float64),
            np.array(self.sizes, np.float64),
            self.times,
            np.stack([np.stack(np.broadcast_arrays(*one), 1) for one in self.lines]),
            self.with_batch_s,
            self.free_s,
            float(self.new),
            float(self.work.output_len),
        )

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
            step.least_prompt_s(self.new, work.prefix_len) / step.work.pp,
        )
        return Lines(*map(np.asarray, columns))

    def step(self, engine: Ints, chunk: int, batch: Ints) -> StepModel:
        """The step model of some rows."""
        return self.table.step(engine, np.full(engine.shape, chunk), batch)

    def _tokens(self, c: int) -> TokenTable:
        number = np.arange(len(self.table))[_COLUMN]
        step = self.step(number, self.chunks[c], np.full(number.shape, _MANY))
        most = np.minimum(self.q[self.rank, -1], np.maximum(1.0, self.lines[c].room))
        return TokenTable.of(step, self.work, float(most.max()))

    def _token_s(self, c: int, low: Load, high: Load) -> Floats:
        """The least seconds of a token under loads from ``low`` to ``high``, shape (engines,
        entries)."""
        lines, tokens = self.lines[c].at(_COLUMN), self.tokens[c]
        number = np.arange(len(self.table))[_COLUMN]
        token_s = tokens.least(number, low.fit)
        for _ in range(ROUNDS - 1):
            token_s = tokens.least(number, lines.decoding(token_s, self.answer, low, high) * SAFE)
        return token_s

    def _free_s(self, c: int) -> Floats:
        lines = self.lines[c].at(_COLUMN)
        room = np.maximum(1.0, lines.room)
        low = Load(self.lefts, np.minimum(self.lefts, room), lines.outside / self.lefts)
        high = Load(self.edges, np.minimum(self.edges, room), np.zeros(1))
        return self._token_s(c, low, high)

    def _times(self) -> Floats:
        """Multiples of a batch at which its floors are taken, the closer the smaller, for what
        waits are among fewer rounds: as many as keep the table small."""
        rows = [not self.same(c, b) for c in range(len(self.chunks)) for b in self.sizes]
        number = _ENTRIES // max(1, sum(rows) * len(self.table))
        part = np.linspace(0.0, 1.0, min(_MOST_TIMES, max(_FEWEST, number)))
        return np.asarray(np.exp(part**1.5 * np.log(_FARTHEST)))

    def _with_batches_s(self, c: int) -> Floats:
        found = np.zeros((len(self.table), len(self.sizes), len(self.times)))
        batch = np.repeat(np.array(self.sizes, np.float64), len(self.times))
        q = batch * np.tile(self.times, len(self.sizes))
        last = self.edges[-1]
        beyond = np.minimum(last, batch * np.tile([*self.times[1:], np.inf], len(self.sizes)))
        same = np.array([bool(self.same(c, b)) for b in self.sizes], np.bool_)
        wanted = np.flatnonzero(~np.repeat(same, len(self.times)) & (q <= last))
        if len(wanted):
            outside = self.lines[c].outside[_COLUMN] / q[wanted]
            low = Load(q[wanted], batch[wanted], outside)
            high = Load(beyond[wanted], batch[wanted], np.zeros(1))
            found.reshape(len(self.table), -1)[:, wanted] = self._token_s(c, low, high)
        return found

    def exact(self, c: int, engine: Ints, q: Floats, fit: Floats) -> tuple[Floats, Floats, Floats]:
        """The least seconds of the first token, of a further one, and of a request with so many
        requests a rank, of which so many fit."""
        ttft_s, token_s, request_s = np.empty((3, len(engine)))
        fit = np.ascontiguousarray(np.broadcast_to(fit, q.shape))
        self.rows.sharp(c, *self.tokens[c], ROUNDS, engine, q, fit, ttft_s, token_s, request_s)
        return ttft_s, token_s, request_s

    def same(self, c: int, fit: Floats | float, pp: Floats | float = 1.0) -> Flags:
        """Whether a chunk changes nothing against the one before where as many sequences fit: two
        prompts that fit that one, and as many as come in an iteration."""
        if c == 0 or self.chunks[c - 1] < 2.0 * self.new:
            return np.zeros(np.shape(fit), np.bool_)
        flow = (np.asarray(fit) - 1.0) / pp * self.new / self.work.output_len
        return np.asarray(flow <= self.chunks[c - 1])

    def promising(self, engine: Ints, place: Ints, below_s: Floats) -> tuple[Ints, Ints, Ints]:
        """Rows of engines under loads whose floor, with the seconds of a token of a whole interval,
        is below ``below_s``: number of the load, of the chunk, and the batch."""
        rank = self.rank[engine]
        return self.rows.promising(
            self.problem.ttft_s,
            self.problem.tpot_s,
            engine,
            self.full[rank, place],
            self.interval[rank, place],
            self.q[rank, place],
            self.allowed[rank, place].view(np.uint8),
            below_s,
        )

    def all(self) -> tuple[Floats, tuple[Ends, Ends]]:
        """The floors of every engine and load, and of what lines they are.

        Returns
        -------
        floors : ndarray of float64, shape (engines, loads from 1)
            Seconds; infinite where no row meets memory and targets.
        ends : tuple of Ends
            Those of rows whose batch is not limited, and of those whose batch is.

        Complexity: for E engines and Q requests O(E Q), and for each chunk and batch O(E) for each
        of some 100 intervals.
        """
        engines = len(self.table)
        seconds = np.empty((engines, self.q.shape[1]))
        both = Ends.none(engines, len(self.edges)), Ends.none(engines, len(self.edges))
        for rank, number in enumerate(self.interval[:, -1] + 1):
            same = np.flatnonzero(self.rank == rank)
            found = self._free_ends(same, int(number)), self._full_ends(same, int(number))
            k, part = self._parts(rank, np.arange(self.q.shape[1]))
            for one in range(0, len(same), _CACHED):
                rows = slice(one, one + _CACHED)
                free, full = (ends.rows(rows).chord_s((slice(None), k), part) for ends in found)
                free[:, ~self.allowed[rank]] = np.inf
                reads_s = self.lines[0].at(same[rows]).at(_COLUMN).reads_s(self.q[rank])
                reads_s[reads_s > self._latest_s] = np.inf
                least_s = np.minimum(free, full, out=full)
                seconds[same[rows]] = np.maximum(least_s, reads_s, out=full)
            for ends, here in zip(both, found, strict=True):
                for kept, column in zip(ends, here, strict=True):
                    kept[same, :number] = column
        return seconds, both

    @property
    def _latest_s(self) -> float:
        """The most seconds of a request within the targets."""
        answer_s = self.answer * self.problem.tpot_s if self.answer else 0.0
        return (self.problem.ttft_s + answer_s) / SAFE

    def most_loads(self) -> Ints:
        """No fewer requests in flight than each engine carries within the targets: what the floors
        of rows without a limit leave and, with a batch b that is full, what turns of a prompt and
        an answer leave, q / b (P + A) - A <= ttft, whose left side grows with A. Nor are there more
        than the engine reads the prompts of within both targets.

        Complexity: O(1) for each engine, chunk and batch or interval.
        """
        answer, ttft_s = self.answer, self.problem.ttft_s
        most = np.zeros(len(self.table))
        for rank, number in enumerate(self.interval[:, -1] + 1):
            same = np.flatnonzero(self.rank == rank)
            right_s = self._free_ends(same, int(number)).right_s
            within = np.where(np.isfinite(right_s), self.edges[:number], 0.0)
            most[same] = within.max(axis=1)
        for c, (lines, batches_s) in enumerate(zip(self.lines, self.with_batch_s, strict=True)):
            for b, token_s in zip(self.sizes, batches_s[:, :, 0].T, strict=True):
                if self.same(c, b):
                    continue
                answer_s = answer * token_s * SAFE
                q = b * (ttft_s + answer_s) / np.maximum((lines.prompt_s + answer_s) * SAFE, 1e-30)
                fine = (lines.room >= b) & (token_s * SAFE <= self.problem.tpot_s) & (q >= b)
                most = np.maximum(most, np.where(fine, q, 0.0))
        most = np.minimum(most, self._latest_s / (self.lines[0].read_s * ROUNDED))
        flight = float(self.work.concurrency or 0)
        return np.minimum(flight, most * self.table.groups * (1.0 + 1e-9)).astype(np.int64)

    def guess(self, both: tuple[Ends, Ends], engine: Ints, place: Ints) -> tuple[Ints, Ints]:
        """Chunk, by number, and batch (0: as many as there are) that give the floor of engines
        under loads."""
        k, part = self._parts(self.rank[engine], place)
        free, full = (ends.chord_s((engine, k), part) for ends in both)
        limited = full < np.where(self.allowed[self.rank[engine], place], free, np.inf)
        chunk, batch = (
            np.where(limited, *(getattr(ends, name)[engine, k] for ends in both[::-1]))
            for name in ("chunk", "batch")
        )
        return chunk, batch

    def _parts(self, rank: Ints | int, place: Ints) -> tuple[Ints, Floats]:
        """The interval of loads, and what part of the way through it they are."""
        span = np.where(self.edges > self.lefts, self.edges - self.lefts, 1.0)
        k = self.interval[rank, place]
        return k, (self.q[rank, place] - self.lefts[k]) / span[k]

    def _free_ends(self, engines: Ints, number: int) -> Ends:
        """Of the rows of engines whose batch is not limited, in so many intervals."""
        ends = Ends.none(len(engines), number)
        lefts, edges = self.lefts[:number], self.edges[:number]
        for c in range(len(self.chunks)):
            room = np.maximum(1.0, self.lines[c].room[engines][_COLUMN])
            qs = lefts, np.where((lefts < room) & (room < edges), lefts, edges)
            token_s = self.free_s[c][engines, :number]
            fits = [np.minimum(q, room) for q in qs]
            self._lower(ends, c, engines, qs, fits, token_s)
        return ends

    def _full_ends(self, engines: Ints, number: int) -> Ends:
        """Of the rows of engines with a batch that there are more requests than, as far as as many
        turns of a prompt and an answer meet the targets and are less than what another batch
        takes."""
        ends, targets = Ends.none(len(engines), number), (self.problem.ttft_s, self.problem.tpot_s)
        between = np.ascontiguousarray(self.lefts[:number]), self.edges[:number].copy()
        self.rows.lower_full_ends(
            *targets, engines, *between, ends.left_s, ends.right_s, ends.chunk, ends.batch
        )
        return ends

    def _lower(
        self,
        ends: Ends,
        c: int,
        engines: Ints,
        qs: Sequence[Floats],
        fits: Sequence[Floats],
        token_s: Floats,
    ) -> None:
        """Lower the ends to the lines of a chunk."""
        lines, answer_s = self.lines[c].at(engines).at(_COLUMN), self.answer * token_s * SAFE
        shares = [lines.outside_share(q[: token_s.shape[1]]) for q in (self.lefts, self.edges)]
        ttft_s = [
            lines.whole_s(token_s, self.answer, Load(q, fit, np.minimum(*shares))) * SAFE - answer_s
            for q, fit in zip(qs, fits, strict=True)
        ]
        fine = (lines.room >= 1.0) & (token_s * SAFE <= self.problem.tpot_s)
        fine = fine & (ttft_s[0] <= self.problem.ttft_s)
        wait_s = lines.least_wait_s(ttft_s[1] + answer_s, qs[0]) * SAFE
        low, high = (np.where(fine, one + answer_s + wait_s, np.inf) for one in ttft_s)
        ends.chunk[high < ends.right_s] = c
        for end, value in zip(ends[:2], (low, high), strict=True):
            np.minimum(end, value, out=end)


class Ends(NamedTuple):
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

    def rows(self, rows: slice) -> Self:
        """Those of some engines."""
        return type(self)(self.left_s[rows], self.right_s[rows], self.chunk[rows], self.batch[rows])

    def chord_s(self, index: tuple[Ints | slice, Ints], part: Floats) -> Floats:
        """Seconds of such entries at such a part of the way through the interval."""
        none = np.isinf(self.left_s)
        rise = np.where(none, 0.0, self.right_s) - np.where(none, 0.0, self.left_s)
        found: Floats = rise[index] * part
        found += self.left_s[index]
        found *= SAFE
        return found
