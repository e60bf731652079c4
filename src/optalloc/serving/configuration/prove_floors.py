"""Can an engine under a load be faster than is needed? By floors of its rows, then by timing them.

A row is an engine with a chunk and a batch b, or with as many sequences as come; under q requests a
rank it holds f = min(q, b, what memory holds). In the model's first round all f decode. The seconds
of a token then give the sequences of the next round (:mod:`prove_lines`), these its seconds; each
grows with the other. So from the least seconds of a token of so many sequences or more
(:mod:`prove_tokens`) on, no round takes less here than in the model, and from the most on, none
takes more. A request takes at least what the least seconds make of it, but for the queue, and the
queue is at least that of the most (:meth:`Floors._sharp_s`).

Before that, all rows have floors of whole intervals of q, with the queue of their most requests:
an answer is asked for once an interval where f = q, and for a batch at some multiples of it, the
closer the smaller.
"""

from __future__ import annotations

import numpy as np

from optalloc.cost.engine.load import ROUNDS, closed_loop_times
from optalloc.serving.configuration.prove_lines import ROUNDINGS, Lines, Requests
from optalloc.serving.configuration.prove_space import (
    Engines,
    Flags,
    Floats,
    Ints,
    Space,
    blocks,
    target_s,
)
from optalloc.serving.configuration.prove_tokens import LESS, Tokens, tokens

_NO_LIMIT = 2.0**31
_ROUNDED_UP = 1.0 + 2 * ROUNDINGS
_TABLE = 2_000_000
_TIMES = (5, 30)
_OCTAVE = 32


class Floors:
    """The rows of all engines for up to ``flight`` requests in flight in one of them."""

    def __init__(self, space: Space, engines: Engines, flight: int) -> None:
        work = space.plan.workload
        self.engines, self.work, self.answers = engines, work, work.output_len - 1.0
        self.ttft, self.tpot = target_s(work.ttft_s), target_s(work.tpot_s)
        self.new = float(work.input_len - work.prefix_len)
        self.pp = np.array([engine.pp for engine in engines.engines])
        self.chunks = space.chunks("serve")
        most = -(-flight // int(engines.ranks.min()))
        self.sizes = [float(b) for b in space.batches("serve") if b < most]
        self.allowed = np.array([space.allows("batch", b, "serve") for b in range(most + 1)])
        steps = range(_OCTAVE * int(np.ceil(np.log2(max(1, most)))))
        inner = {float(int(2.0 ** (k / _OCTAVE))) for k in steps} | set(self.sizes)
        self.edges = np.array(sorted({1.0, *(q for q in inner if q < most), float(most)}))
        self.lefts = np.concatenate([self.edges[:1], self.edges[:-1]])
        self.lines = [self._lines(chunk) for chunk in self.chunks]
        rows = [
            ~self._same(c, np.arange(len(self.pp)), np.array(self.sizes)[:, None])
            for c in range(len(self.chunks))
        ]
        number = _TABLE // max(1, sum(int(row.sum()) for row in rows))
        part = np.linspace(0.0, 1.0, min(_TIMES[1], max(_TIMES[0], number)))
        self.times = np.exp(part**1.5 * np.log(float(most) + 1.0))
        self.tokens = [self._tokens(c) for c in range(len(self.chunks))]
        self.free_s = [self._free_s(c) for c in range(len(self.chunks))]
        self.full_s = [self._full_s(c) for c in range(len(self.chunks))]
        self.free_ends = self._ends_s(None)
        self.full_ends = np.full(self.free_ends.shape, np.inf)
        for s in range(len(self.sizes)):
            np.minimum(self.full_ends, self._ends_s(s), out=self.full_ends)

    def _lines(self, chunk: float) -> Lines:
        number, work = np.arange(len(self.engines.engines)), self.work
        step = self.engines.step(number, chunk, _NO_LIMIT)
        c, ones = step.constants, np.ones(len(number))
        columns = (
            step.sequences_that_fit(work.input_len + work.output_len),
            step.prefill_s(self.new, 1.0, work.prefix_len),
            step.another_prompt_s(self.new, work.prefix_len),
            step.lag_iterations,
            c.outside,
            c.burst,
            c.queue,
            step.least_prompt_s(self.new, work.prefix_len) / step.work.pp,
        )
        return Lines(*(np.asarray(column) * ones for column in columns))

    def _tokens(self, c: int) -> Tokens:
        number, work = np.arange(len(self.engines.engines))[:, None], self.work
        step = self.engines.step(number, self.chunks[c], _NO_LIMIT)
        largest = np.minimum(self.edges[-1], np.maximum(1.0, self.lines[c].room)).max()
        return tokens(step, self.new, work.input_len, work.output_len, float(largest))

    def _token_s(self, c: int, engine: Ints, few: Requests, many: Requests) -> Floats:
        """Seconds of a token at least after all rounds of the model; an entry a row."""
        found = np.empty(len(engine))
        for part in blocks(len(engine)):
            e, lines = engine[part], self.lines[c].at(engine[part])
            low, high = (Requests(*(x[part] for x in load)) for load in (few, many))
            seconds = self.tokens[c].at_least(e, low.fit)
            for _ in range(ROUNDS - 1):
                held = lines.decoding(seconds, self.answers, low, high) * LESS
                seconds = self.tokens[c].at_least(e, held)
            found[part] = seconds
        return found

    def _free_s(self, c: int) -> Floats:
        """Of rows without a batch, by engine and interval of q."""
        engine, k = (x.ravel() for x in np.indices((len(self.engines.engines), len(self.edges))))
        left, right, lines = self.lefts[k], self.edges[k], self.lines[c].at(engine)
        room = np.maximum(1.0, lines.room)
        few = Requests(left, np.minimum(left, room), lines.outside / left)
        many = Requests(right, np.minimum(right, room), np.zeros(len(right)))
        return self._token_s(c, engine, few, many).reshape(-1, len(self.edges))

    def _full_s(self, c: int) -> Floats:
        """Of rows whose batch is full, by engine, batch and times that it is asked for."""
        shape = len(self.engines.engines), len(self.sizes), len(self.times)
        engine, s, m = (x.ravel() for x in np.indices(shape))
        if not len(engine):
            return np.zeros(shape)
        batch, last = np.array(self.sizes)[s], self.edges[-1]
        found = np.zeros(len(engine))
        q = batch * self.times[m]
        next_q = np.minimum(last, batch * np.append(self.times[1:], np.inf)[m])
        differ = np.flatnonzero(~self._same(c, engine, batch) & (q <= last))
        e, b, q, next_q = engine[differ], batch[differ], q[differ], next_q[differ]
        few = Requests(q, b, self.lines[c].outside[e] / q)
        found[differ] = self._token_s(c, e, few, Requests(next_q, b, np.zeros(len(q))))
        return found.reshape(shape)

    def _same(self, c: int, engine: Ints, fit: Floats) -> Flags:
        """Rows whose times are those of a smaller chunk, which leaves no less memory: it holds
        two whole prompts, and those that come in an iteration."""
        if c == 0 or self.chunks[c - 1] < 2.0 * self.new:
            return np.zeros(np.broadcast_shapes(engine.shape, fit.shape), np.bool_)
        flow = (fit - 1.0) / self.pp[engine] * self.new / self.work.output_len
        return np.asarray(flow <= self.chunks[c - 1])

    def number(self, engine: Ints, load: Ints) -> int:
        """Rows of these engines and loads: every chunk, with every batch that there is."""
        full = self._loads(engine, load)[1]
        batches = np.searchsorted(np.array(self.sizes), full) + self.allowed[full]
        return len(self.chunks) * int(batches.sum())

    def _ends_s(self, s: int | None) -> Floats:
        """Seconds of a request at least with a batch (None: as many as come), at both ends of each
        interval of q: between them a line, or as at the left one where memory fills. Shape (2,
        engines, intervals); infinite where no row is in memory and targets."""
        found = np.full((2, len(self.engines.engines), len(self.edges)), np.inf)
        column = (slice(None), None)
        engine = np.arange(len(self.engines.engines))[column]
        first = 0 if s is None else int(np.searchsorted(self.lefts, self.sizes[s], side="left"))
        first = first if s is None else max(1, first)
        left, right = self.lefts[first:], self.edges[first:]
        for c in range(len(self.chunks)):
            lines = self.lines[c].at(column)
            outside = np.minimum(*(lines.left_out(q) for q in (left, right)))
            if s is None:
                room = np.maximum(1.0, lines.room)
                right_here = np.where((left < room) & (room < right), left, right)
                fits = [np.minimum(q, room) for q in (left, right_here)]
                exists = (lines.room >= 1.0) & ~(
                    self._same(c, engine, fits[1]) & (right <= lines.room)
                )
                token_s = self.free_s[c][:, first:]
            else:
                right_here, fits = right, [np.full(1, self.sizes[s])] * 2
                exists = (lines.room >= self.sizes[s]) & ~self._same(c, engine, fits[0])
                token_s = self.full_s[c][:, s, self._times(s, left)]
            firsts = [
                lines.first_s(token_s, self.answers, Requests(q, fit, outside)) * LESS
                for q, fit in zip((left, right_here), fits, strict=True)
            ]
            exists = exists & (firsts[0] <= self.ttft) & (token_s <= self.tpot)
            answer = self.answers * token_s
            wait = lines.wait_s(firsts[1] + answer, left)
            for end, first_s in enumerate(firsts):
                request = np.where(exists, first_s + answer + wait, np.inf)
                np.minimum(found[end, :, first:], request, out=found[end, :, first:])
        return found

    def _times(self, s: int, q: Floats) -> Ints:
        """The largest multiple of a batch that q is not below, by number."""
        return np.maximum(0, np.searchsorted(self.times, q / self.sizes[s], side="right") - 1)

    def least_s(self, engine: Ints, load: Ints) -> Floats:
        """Seconds of a request at least, over all rows of each engine and load: the least of lines
        is at least the chord between its values at both ends of an interval. Nor is any below the
        reading of all prompts, which may be later than both targets together."""
        q, full = self._loads(engine, load)
        k = np.searchsorted(self.edges, q)
        part = (q - self.lefts[k]) / np.maximum(self.edges[k] - self.lefts[k], 1e-9)
        found = np.full(len(engine), np.inf)
        for ends, exists in ((self.free_ends, self.allowed[full]), (self.full_ends, True)):
            left, right = ends[:, engine, k]
            with np.errstate(invalid="ignore"):
                chord = np.where(exists & np.isfinite(left), left + (right - left) * part, np.inf)
            np.minimum(found, chord * LESS, out=found)
        read = self.lines[0].at(engine).all_read_s(q)
        last = self.ttft + (self.answers * self.tpot if self.answers else 0.0)
        late = read * LESS > last
        return np.where(late, np.inf, np.maximum(found, read))

    def _loads(self, engine: Ints, load: Ints) -> tuple[Floats, Ints]:
        """Requests a rank, and the batch that holds them all."""
        ranks = self.engines.ranks[engine]
        return np.maximum(1.0, load / ranks), -(-load // ranks)

    def _rows_s(self, engine: Ints, load: Ints, c: int, s: int | None) -> Floats:
        """Seconds of a request at least, of engines under loads with one chunk and batch (None: as
        many as come); infinite where it is in no memory or not within the targets."""
        lines, (q, full) = self.lines[c].at(engine), self._loads(engine, load)
        if s is None:
            fit = np.minimum(q, np.maximum(1.0, lines.room))
            exists = self.allowed[full] & (lines.room >= 1.0)
            exists &= ~(self._same(c, engine, fit) & (q <= lines.room))
            token_s = self.free_s[c][engine, np.searchsorted(self.edges, q)]
        else:
            fit = np.full(1, self.sizes[s])
            exists = (q > fit) & (lines.room >= fit) & ~self._same(c, engine, fit)
            token_s = self.full_s[c][engine, s, self._times(s, q)]
        here = Requests(q, fit, lines.left_out(q))
        first_s = lines.first_s(token_s, self.answers, here) * LESS
        exists = exists & (first_s <= self.ttft) & (token_s <= self.tpot)
        whole_s = first_s + self.answers * token_s
        return np.where(exists, whole_s + lines.wait_s(whole_s, q), np.inf)

    def sharper_s(self, engine: Ints, load: Ints) -> Floats:
        """As :meth:`least_s`, from rounds at each load of every row that may be the least."""
        found, kinds = np.full(len(engine), np.inf), self._kinds()
        for part in blocks(len(engine)):
            e, load_, best = engine[part], load[part], found[part]
            least = np.array([self._rows_s(e, load_, c, s) for c, s in kinds])
            which, place = least.argmin(axis=0), np.arange(len(e))
            best[:] = self._sharp_s(e, load_, which, kinds)
            least[which, place] = np.inf
            number, where = np.nonzero((least < best) & (self._read_s(e, load_) < best))
            sharp = self._sharp_s(e[where], load_[where], number, kinds)
            np.minimum.at(best, where, sharp)
        return found

    def fastest_s(self, engine: Ints, load: Ints, needed_s: Floats) -> Floats:
        """Seconds of a request of each engine and load, over all rows that may need less than
        ``needed_s``; infinite where none does.

        The row with the least floor is timed first, then those whose floors are below its time,
        where reading all prompts does not take as long, which every row does.
        """
        found = np.full(len(engine), np.inf)
        kinds = self._kinds()
        for part in blocks(len(engine)):
            e, load_, best = engine[part], load[part], needed_s[part].copy()
            read = self._read_s(e, load_)
            least = np.array([self._rows_s(e, load_, c, s) for c, s in kinds])
            which, place = least.argmin(axis=0), np.arange(len(e))
            first = np.flatnonzero((least[which, place] < best) & (read < best))
            sharp = self._sharp_s(e[first], load_[first], which[first], kinds) < best[first]
            first = first[sharp]
            self._lower(found[part], e, load_, first, which[first], kinds)
            np.minimum(best, found[part], out=best)
            least[which, place] = np.inf
            number, where = np.nonzero((least < best) & (read < best))
            sharp = self._sharp_s(e[where], load_[where], number, kinds) < best[where]
            number, where = number[sharp], where[sharp]
            self._lower(found[part], e, load_, where, number, kinds)
        return found

    def _kinds(self) -> list[tuple[int, int | None]]:
        """Chunks and batches of rows, by number."""
        return [(c, s) for c in range(len(self.chunks)) for s in (None, *range(len(self.sizes)))]

    def _read_s(self, engine: Ints, load: Ints) -> Floats:
        """The reading of all prompts, and a few roundings: what a row takes no less than."""
        return self.lines[0].at(engine).all_read_s(self._loads(engine, load)[0]) * _ROUNDED_UP

    def _sharp_s(
        self, engine: Ints, load: Ints, which: Ints, kinds: list[tuple[int, int | None]]
    ) -> Floats:
        """Seconds of a request at least, of rows of some kinds, from rounds at their own load."""
        found, q = np.empty(len(engine)), self._loads(engine, load)[0]
        chunk = np.array([c for c, _ in kinds])[which]
        size = np.array([np.inf if s is None else self.sizes[s] for _, s in kinds])[which]
        for c, tokens_ in enumerate(self.tokens):
            mine = np.flatnonzero(chunk == c)
            for part in blocks(len(mine)):
                row = mine[part]
                e, lines = engine[row], self.lines[c].at(engine[row])
                fit = np.minimum(np.minimum(q[row], size[row]), np.maximum(1.0, lines.room))
                here = Requests(q[row], fit, lines.left_out(q[row]))
                low, high = tokens_.at_least(e, fit), tokens_.at_most(e, fit)
                for _ in range(ROUNDS - 1):
                    fewest = lines.decoding(low, self.answers, here, here) * LESS
                    number = lines.decoding(high, self.answers, here, here) / LESS
                    low, high = tokens_.at_least(e, fewest), tokens_.at_most(e, number)
                longest_s = lines.first_s(high, self.answers, here) + self.answers * high
                first_s = lines.first_s(low, self.answers, here) + lines.queue_s(longest_s, here.q)
                read = lines.all_read_s(here.q)
                last_s = np.maximum(first_s, read - self.answers * high)
                late = (last_s * LESS > self.ttft) | (low > self.tpot)
                request = np.maximum((first_s + self.answers * low) * LESS, read)
                found[row] = np.where(late, np.inf, request)
        return found

    def _lower(
        self,
        found: Floats,
        engine: Ints,
        load: Ints,
        where: Ints,
        which: Ints,
        kinds: list[tuple[int, int | None]],
    ) -> None:
        """Lower what was found to the times of some rows: places, and numbers of their kinds."""
        full = self._loads(engine, load)[1]
        chunk = np.array([self.chunks[c] for c, _ in kinds])
        size = np.array([0.0 if s is None else self.sizes[s] for _, s in kinds])
        for rows in blocks(len(where)):
            at, kind = where[rows], which[rows]
            batch = np.where(size[kind] > 0.0, size[kind], full[at])
            np.minimum.at(found, at, self._timed(engine[at], load[at], chunk[kind], batch))

    def _timed(self, engine: Ints, load: Ints, chunk: Floats, batch: Floats) -> Floats:
        """Seconds of a request by the cost model; infinite where a target is missed."""
        work = self.work
        step = self.engines.step(engine, chunk, batch)
        found = closed_loop_times(
            step, work.input_len, work.output_len, load.astype(np.float64), work.prefix_len
        )
        ttft, tpot = np.asarray(found.ttft_s), np.asarray(found.tpot_s)
        late = (ttft > self.ttft) | (tpot > self.tpot)
        return np.where(late, np.inf, ttft + self.answers * tpot)
