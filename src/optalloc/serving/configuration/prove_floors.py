"""Can an engine under a load be faster than is needed? By floors of its rows, then by timing them.

A row is an engine with a chunk and a batch b, or with as many sequences as come. Under q requests a
rank its f = min(q, b, what memory holds) sequences take P seconds to read a prompt, E <= P more for
a further one, t a token and A = (O - 1) t an answer. All terms of the closed loop but the queue,
which is not negative, grow with t:

    ttft >= P + lag t + burst (f - 1) / 2 E + (q / f - 1) (P + A) + min(outside, q - 1) / q A

The sequences that decode are D = q A / (ttft + A). Prompts are read for at most the share x =
min(0.95, f E / (P + A)) of the time, so the queue is at most queue P x / 2 (1 - x), and

    D >= f / (1 + (f/q) (lag / (O-1) + outside / q)
                + (P + (f/q) (burst (f - 1) / 2 E + queue P x / 2 (1 - x))) / A)

which grows with A and, along f = min(q, M), with q. A token of D sequences or more takes at least
t(D) (:meth:`Floors.token_s`). In the model's first round all f decode; each further round starts
from a D that is at least the one here, so its t is at least t of that.

So the floor of one q holds for all above it, up to which x is taken: an answer is asked for once an
interval of q where f = q, and for a batch at some multiples of it, the closer the smaller.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np

from optalloc.cost.engine.load import ROUNDS, closed_loop_times
from optalloc.cost.engine.step import StepModel
from optalloc.serving.configuration.prove_space import (
    Engines,
    Flags,
    Floats,
    Ints,
    Space,
    blocks,
    target_s,
)

_LESS = 1.0 - 1e-9
_NO_LIMIT = 2.0**31
_LONGEST = 0.95
_TABLE = 200_000
_TIMES = (5, 30)
_OCTAVE = 8


class Lines(NamedTuple):
    """What the floors of many rows with one chunk are made of, an array of one entry a row."""

    room: Floats
    prompt_s: Floats
    each_s: Floats
    lag: Floats
    outside: Floats
    burst: Floats
    queue: Floats

    def at(self, index: Ints | tuple[slice, None]) -> Lines:
        return Lines(*(column[index] for column in self))

    def first_s(
        self, token_s: Floats, answers: float, q: Floats, fit: Floats, outside: Floats
    ) -> Floats:
        """Seconds to the first token at least, where a further one takes so many at least."""
        answer = answers * token_s
        start = self.burst * (fit - 1.0) / 2.0 * self.each_s
        slots = (q / fit - 1.0) * (self.prompt_s + answer)
        return (self.prompt_s + self.lag * token_s + start + slots + outside * answer) * _LESS

    def wait_s(self, whole_s: Floats, q: Floats) -> Floats:
        """What the queue adds at least where all else takes ``whole_s`` or more, less what is more.

        With r = (q - 1) E seconds of reading in w, w >= whole, and k = queue P / 2, it is at most k
        x / (1 - x) of x = r / w: w + k r / (w - r) is least at w = r + (k r)^(1/2).
        """
        reads, weight = (q - 1.0) * self.each_s, self.queue * self.prompt_s / 2.0
        at = np.maximum(whole_s, reads + np.sqrt(weight * reads))
        least = at - whole_s + weight * reads / np.maximum(at - reads, 1e-30)
        most = np.minimum(weight * _LONGEST / (1.0 - _LONGEST), reads)
        return np.minimum(most, least) * _LESS

    def decoding(
        self, token_s: Floats, answers: float, q: Floats, fit: Floats, most: Floats
    ) -> Floats:
        """Sequences that decode at least, where at most ``most`` are held."""
        if answers <= 0.0:
            return np.ones_like(token_s * q)
        answer = answers * token_s
        busy = np.minimum(_LONGEST, most * self.each_s / (self.prompt_s + answer))
        waits = self.queue * busy / (2.0 * (1.0 - busy)) * self.prompt_s
        waits = waits + self.burst * (fit - 1.0) / 2.0 * self.each_s
        part = fit / q
        others = 1.0 + part * (self.lag / answers + self.outside / q)
        found = fit / (others + (self.prompt_s + part * waits) / answer) * _LESS
        return np.maximum(1.0, found)


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
        )
        return Lines(*(np.asarray(column) * ones for column in columns))

    def token_s(self, engine: Ints, chunk: float, decoding: Floats) -> Floats:
        """Seconds of a token at least where so many sequences or more decode.

        Prompts of the others come as w = flow / lump lumps an iteration. One takes k (beside -
        alone) + own seconds, k the share that overlaps, beside an iteration with it and alone one
        without. Streams and products take (x^p + y^p)^(1/p), which grows by no less with y the
        larger y, and the smaller x. So beside - alone grows with the sequences where x does not;
        experts are a stream that does, and it is at least that with all of them read. With what
        is true of these sequences, all grows too while w k <= 1, and above that w k counts as 1.
        """
        step, work = self.engines.step(engine, chunk, _NO_LIMIT), self.work
        c, pp = step.constants, step.work.pp
        context = work.input_len + work.output_len / 2.0
        batch = np.maximum(1.0, decoding / pp)
        flow = (decoding - 1.0) / pp * self.new / work.output_len
        lump = np.clip(np.maximum(self.new, flow), 1.0, chunk)
        pairs = lump * (work.input_len + work.prefix_len + 1.0) / 2.0

        def more_s(one: StepModel) -> Floats:
            beside = one.latency_s(lump, batch, batch * context, pairs)
            return np.asarray(beside - one.decode_s(batch, context))

        own = c.prefill * c.apart * step.latency_s(lump, 0.0, 0.0, pairs)
        own = own + c.prompt_s * lump / self.new
        lumps = c.interference * flow / lump
        overlaps = lumps * c.prefill * (1.0 - c.apart)
        more = more_s(step)
        if np.any(step.work.routed_flops):
            read = msgspec.structs.replace(c, idle_experts=1.0)
            least = more_s(msgspec.structs.replace(step, constants=read))
            more = np.maximum(np.minimum(1.0, overlaps) * more, overlaps * least)
        else:
            more = overlaps * more
        return np.asarray(step.decode_s(batch, context) + more + lumps * own) * _LESS

    def _rounds(self, c: int, engine: Ints, q: Floats, fit: Floats, most: Floats) -> Floats:
        """Seconds of a token at least after all rounds of the model; an entry a row."""
        found = np.empty(len(engine))
        for part in blocks(len(engine)):
            e, lines = engine[part], self.lines[c].at(engine[part])
            token_s = self.token_s(e, self.chunks[c], fit[part])
            for _ in range(ROUNDS - 1):
                held = lines.decoding(token_s, self.answers, q[part], fit[part], most[part])
                token_s = self.token_s(e, self.chunks[c], held)
            found[part] = token_s
        return found

    def _free_s(self, c: int) -> Floats:
        """Of rows without a batch, by engine and interval of q."""
        engine, k = (x.ravel() for x in np.indices((len(self.engines.engines), len(self.edges))))
        room = np.maximum(1.0, self.lines[c].room[engine])
        fit, most = (np.minimum(q[k], room) for q in (self.lefts, self.edges))
        return self._rounds(c, engine, self.lefts[k], fit, most).reshape(-1, len(self.edges))

    def _full_s(self, c: int) -> Floats:
        """Of rows whose batch is full, by engine, batch and times that it is asked for."""
        shape = len(self.engines.engines), len(self.sizes), len(self.times)
        engine, s, m = (x.ravel() for x in np.indices(shape))
        if not len(engine):
            return np.zeros(shape)
        batch = np.array(self.sizes)[s]
        found = np.zeros(len(engine))
        q = batch * self.times[m]
        differ = np.flatnonzero(~self._same(c, engine, batch) & (q <= self.edges[-1]))
        e, b = engine[differ], batch[differ]
        found[differ] = self._rounds(c, e, q[differ], b, b)
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
            outside = np.minimum(*(np.minimum(lines.outside, q - 1.0) / q for q in (left, right)))
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
                lines.first_s(token_s, self.answers, q, fit, outside)
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
        is at least the chord between its values at both ends of an interval."""
        q, full = self._loads(engine, load)
        k = np.searchsorted(self.edges, q)
        part = (q - self.lefts[k]) / np.maximum(self.edges[k] - self.lefts[k], 1e-9)
        found = np.full(len(engine), np.inf)
        for ends, exists in ((self.free_ends, self.allowed[full]), (self.full_ends, True)):
            left, right = ends[:, engine, k]
            with np.errstate(invalid="ignore"):
                chord = np.where(exists & np.isfinite(left), left + (right - left) * part, np.inf)
            np.minimum(found, chord * _LESS, out=found)
        return found

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
        outside = np.minimum(lines.outside, q - 1.0) / q
        first_s = lines.first_s(token_s, self.answers, q, fit, outside)
        exists = exists & (first_s <= self.ttft) & (token_s <= self.tpot)
        whole_s = first_s + self.answers * token_s
        return np.where(exists, whole_s + lines.wait_s(whole_s, q), np.inf)

    def fastest_s(self, engine: Ints, load: Ints, needed_s: Floats) -> Floats:
        """Seconds of a request of each engine and load, over all rows that may need less than
        ``needed_s``; infinite where none does.

        The row with the least floor is timed first, then those whose floors are below its time.
        """
        found = np.full(len(engine), np.inf)
        kinds = [(c, s) for c in range(len(self.chunks)) for s in (None, *range(len(self.sizes)))]
        for part in blocks(len(engine)):
            e, load_, best = engine[part], load[part], needed_s[part].copy()
            least = np.array([self._rows_s(e, load_, c, s) for c, s in kinds])
            which, place = least.argmin(axis=0), np.arange(len(e))
            first = np.flatnonzero(least[which, place] < best)
            self._lower(found[part], e, load_, first, which[first], kinds)
            np.minimum(best, found[part], out=best)
            least[which, place] = np.inf
            number, where = np.nonzero(least < best)
            self._lower(found[part], e, load_, where, number, kinds)
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
