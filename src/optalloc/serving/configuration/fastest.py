"""Fastest: the least time of a request with an engine under a load, within the targets, on demand.

T_e(l) is the least over chunk and batch of the time of a request when l of them are in flight in
engine e, and infinite where none meets memory and targets. Every T has a floor from the start, of
whole intervals of loads; a sharper one is of its own load; it is known once each row of that engine
and load was timed, or has a floor (:mod:`load_floors`) above a target or above the time of another.
A larger chunk that takes as long, and leaves no more room, is not timed either. Nor are engines
whose floor is above T of one that is as good in all else: in any split that one may take its place.
"""

from __future__ import annotations

import numpy as np

from optalloc.serving.configuration.columns import Columns, Floats, Ints
from optalloc.serving.configuration.load_floors import LoadFloors
from optalloc.serving.configuration.problem import Problem
from optalloc.serving.configuration.rows import Rows, timed
from optalloc.serving.configuration.table import EngineTable

_BLOCK = 65536


class _Candidates(Columns, frozen=True, kw_only=True):
    """Rows of wanted loads: the place among these, the chunk by number, and the batch."""

    where: Ints
    chunk: Ints
    batch: Ints


class Fastest:
    """T of every engine (rows) for 1 to Q requests in flight (columns), as far as it is known.

    ``floor_s`` is proven for each, and T itself where ``known``. ``found`` holds the fastest that
    was timed, with seconds of a request (infinite: none yet), of its first and of a further token,
    chunk and batch. ``timed`` counts the settings that were timed.
    """

    def __init__(self, problem: Problem, table: EngineTable, floors: LoadFloors) -> None:
        self.problem, self.table, self.floors = problem, table, floors
        self.floor_s, self._ends = self.floors.all()
        self._sharpest = np.zeros((2, *self.floor_s.shape), np.int64)  # chunk and batch, once sharp
        self.known = np.isinf(self.floor_s)
        self.sharp = self.known.copy()
        self.found = np.zeros((5, *self.floor_s.shape))
        self.found[0] = np.inf
        alike = np.stack([table.group, table.software, table.devices])
        self._kind = np.unique(alike, axis=1, return_inverse=True)[1].ravel()
        self.timed = 0

    @property
    def request_s(self) -> Floats:
        """Seconds of a request with the fastest that was timed."""
        found: Floats = self.found[0]
        return found

    def sharpen(self, engine: Ints, place: Ints) -> None:
        """Raise the floors of these engines under these loads to those of their own load."""
        first = self._rows(engine, place, *self.floors.guess(self._ends, engine, place))
        least = self._sharp(engine, place, first)
        others = self._others(engine, place, least)
        seconds = self._sharp(engine, place, others)
        order = np.lexsort((seconds, others.where))
        best = order[np.flatnonzero(np.diff(others.where[order], prepend=-1))]
        where = others.where[best]
        lower = seconds[best] < least[where]
        where, best = where[lower], best[lower]
        least[where] = seconds[best]
        first.chunk[where], first.batch[where] = others.chunk[best], others.batch[best]
        self._sharpest[:, engine, place] = first.chunk, first.batch
        self.floor_s[engine, place] = np.maximum(self.floor_s[engine, place], least)
        self.sharp[engine, place] = True
        self.known[engine, place] = np.isinf(least)

    def find(self, engine: Ints, place: Ints) -> None:
        """Find T of these engines under these loads (``place`` 0 is a load of one request).

        Complexity: for n of them O(n) for each chunk and batch, and the time of the cost model for
        the rows that are left: about two each.
        """
        first = self._rows(engine, place, *self._sharpest[:, engine, place])
        self._time(engine, place, first)
        others = self._others(engine, place, self.request_s[engine, place])
        again = (others.chunk == first.chunk[others.where]) & (
            others.batch == first.batch[others.where]
        )
        others = others.take(~again)
        best_s = self.request_s[engine, place][others.where]
        others = others.take(self._sharp(engine, place, others) < best_s)
        for k in range(0, len(others), _BLOCK):
            part = others.take(np.arange(k, min(k + _BLOCK, len(others))))
            self._time(engine, place, part)
        self.floor_s[engine, place] = self.request_s[engine, place]
        self.known[engine, place] = True
        self._leave_out(engine, place)

    def _leave_out(self, engine: Ints, place: Ints) -> None:
        """Leave out engines that under one of these loads cannot be as fast as these here, which
        are as good in everything else: on the same group, of as many devices and one software."""
        for kind in np.unique(self._kind[engine]):
            mine = self._kind[engine] == kind
            places, which = np.unique(place[mine], return_inverse=True)
            least = np.full(len(places), np.inf)
            np.minimum.at(least, which, self.request_s[engine[mine], place[mine]])
            alike = np.flatnonzero(self._kind == kind)
            row, column = np.nonzero(self.floor_s[np.ix_(alike, places)] > least)
            self.floor_s[alike[row], places[column]] = np.inf
            self.known[alike[row], places[column]] = True

    def _rows(self, engine: Ints, place: Ints, chunk: Ints, batch: Ints) -> _Candidates:
        """One row of each load."""
        full = self.floors.full[self.floors.rank[engine], place]
        return _Candidates(
            where=np.arange(len(engine)), chunk=chunk, batch=np.where(batch > 0, batch, full)
        )

    def _others(self, engine: Ints, place: Ints, best_s: Floats) -> _Candidates:
        """Rows whose floor is below ``best_s``."""
        where, chunk, batch = self.floors.promising(engine, place, best_s)
        return _Candidates(where=where, chunk=chunk, batch=batch)

    def _sharp(self, engine: Ints, place: Ints, rows: _Candidates) -> Floats:
        """The least seconds of a request with each row, infinite where a target is missed."""
        f, found = self.floors, np.empty(len(rows))
        for c in range(len(f.chunks)):
            mine = np.flatnonzero(rows.chunk == c)
            for k in range(0, len(mine), _BLOCK):
                part = mine[k : k + _BLOCK]
                where = rows.where[part]
                e = engine[where]
                q = f.q[f.rank[e], place[where]]
                room = np.maximum(1.0, f.lines[c].room[e])
                fit = np.minimum(np.minimum(q, rows.batch[part]), room)
                ttft_s, tpot_s, request_s = f.exact(c, e, q, fit)
                late = (ttft_s > self.problem.ttft_s) | (tpot_s > self.problem.tpot_s)
                found[part] = np.where(late, np.inf, request_s)
        return found

    def _time(self, engine: Ints, place: Ints, rows: _Candidates) -> None:
        """Time the rows, and keep the fastest of each load that meets the targets."""
        e, at = engine[rows.where], place[rows.where]
        chunk = np.array(self.floors.chunks)[rows.chunk]
        times = timed(
            self.problem,
            self.table,
            Rows(engine=e, chunk=chunk, batch=rows.batch, load=at + 1, count=np.zeros_like(e)),
        )
        self.timed += len(e)
        late = (times.ttft_s > self.problem.ttft_s) | (times.tpot_s > self.problem.tpot_s)
        request = np.where(late, np.inf, times.request_s)
        order = np.lexsort((request, rows.where))
        firsts = np.flatnonzero(np.diff(rows.where[order], prepend=-1))
        kept = order[firsts]
        kept = kept[request[kept] < self.request_s[e[kept], at[kept]]]
        values = (request, times.ttft_s, times.tpot_s, chunk, rows.batch)
        # In one assignment, so that an interrupt leaves a row whole.
        self.found[:, e[kept], at[kept]] = np.stack([value[kept] for value in values])
