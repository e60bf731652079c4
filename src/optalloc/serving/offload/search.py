"""Search: the best placement, proven, by widening a band above the bound until nothing is left.

*Formulation.* :mod:`~optalloc.serving.offload.problem`. Variables: the chain of ranges (device,
mode, first and end place), and for every range and kind of part how many are at home on the GPU, in
CPU memory and on disk. The sizes of the buffers for parts on disk are tried one after the other
(:func:`~optalloc.serving.offload.tables.disk_buffers`), those of the GPUs are modes.

*Why it is exact.* Equal parts are interchangeable, so counts say everything. Let ``v(x)`` be the
seconds of a placement x and ``r(x)`` those with CPU memory sold at the best prices, less what it
brings at least (:mod:`~optalloc.serving.offload.duals`); a placement that fits has
``r(x) <= v(x)``. A pass with a limit t visits every x with ``r(x) <= t``: chains whose shortest
completion is below t (:meth:`_chains`), then fills of the GPUs
(:func:`~optalloc.serving.offload.fills.gpu_fills`), then the best fill of CPU memory under its true
limit (:func:`~optalloc.serving.offload.fills.cpu_fill`). After it no
placement below t was missed, so ``min(best, t)`` is a bound; once the best is at most t it is
optimal. Fills that leave room for a part which is never slower on the GPU are skipped: moving the
part there costs no time and no other memory.

A space of placements that takes too many visits is halved by the number of one kind of part in CPU
memory, and each half has prices of its own: few coarse parts leave a wide gap to a price alone.
Every pass widens the band fourfold, so the last one costs about as much as all before.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator

import msgspec
import numpy as np

from optalloc.serving.offload.duals import Space, best_space, whole_space
from optalloc.serving.offload.fills import best_fill, cpu_fill, gpu_fills
from optalloc.serving.offload.placement import Held, Placed, Placement
from optalloc.serving.offload.prices import Layouts, Range
from optalloc.serving.offload.problem import Device, Home, OffloadProblem
from optalloc.serving.offload.tables import (
    CPU,
    DEVICE,
    DISK,
    Counts,
    Floats,
    Mode,
    Tables,
    disk_buffers,
)
from optalloc.stop import OnProgress, Progress, StopRule

_FIRST_BAND = 1e-6
_WIDER = 4.0
#: Ranges on chains within this share of the shortest get the bound of a whole knapsack.
_SHARPEN = 0.002
#: Nodes of a space in one pass after which it is halved.
_PATIENCE = 1000
_NOTHING = (np.zeros((0, 0), dtype=np.int64), np.zeros(0))
#: Two placements closer than this, relative, count as equally fast.
TOLERANCE = 1e-12


class Best(msgspec.Struct):
    """The best placement so far: its ranges and the parts at every home, by range and kind."""

    seconds: float = math.inf
    tables: Tables | None = None
    ranges: tuple[Range, ...] = ()
    homes: tuple[Counts, ...] = ()  # one array (kinds, 3) a range


class Stopped(Exception):
    """The stop rule ended the search."""


class _TooMany(Exception):
    """A space has too many nodes within the limit: halve it."""


class Search:
    """One run: ``best`` and ``bound`` are valid at any time."""

    def __init__(
        self,
        problem: OffloadProblem,
        stop: StopRule,
        on_progress: OnProgress | None = None,
        *,
        most: float = math.inf,
    ) -> None:
        self.problem, self.stop = problem, stop
        self.best = Best(most)
        self.bound = -math.inf
        self.nodes = 0
        self.root = -math.inf
        self._begin = time.perf_counter()
        self._report = on_progress
        self._fills: dict[object, tuple[float, Counts, Floats]] = {}
        self._patience = math.inf

    def run(self) -> bool:
        """Search to the proof or to the stop; False if it was stopped."""
        spaces: list[Space] = []
        try:
            for disk in disk_buffers(self.problem):
                self._poll()
                space = whole_space(Tables(self.problem, disk), _SHARPEN, above=self.best.seconds)
                if space is not None:
                    spaces.append(space)
                    self._try_relaxed(space)
            most = max((space.pool.most for space in spaces), default=0.0)
            self.bound = self.root = min((s.bound for s in spaces), default=self.best.seconds)
            band = _FIRST_BAND * max(abs(self.bound), 1e-9)
            while self.best.seconds > self.bound:
                limit = min(self.bound + band, self.best.seconds)
                spaces = self._pass(spaces, limit)
                lowest = min((space.bound for space in spaces), default=math.inf)
                self.bound = min(max(limit, lowest), self.best.seconds)
                if limit > most or not spaces:  # every placement was visited
                    self.bound = self.best.seconds
                band *= _WIDER
        except (Stopped, KeyboardInterrupt):
            return False
        return True

    def _pass(self, spaces: list[Space], limit: float) -> list[Space]:
        """Visit all placements up to the limit; the spaces that are left, some of them halved."""
        todo, left = sorted(spaces, key=lambda space: -space.bound), []
        while todo:
            space = todo.pop()
            if space.bound >= self.best.seconds * (1.0 - TOLERANCE):
                continue
            if space.bound > limit:
                left.append(space)
                continue
            halves = space.halves()
            try:
                self._patience = math.inf if halves is None else self.nodes + _PATIENCE
                self._fills = {}
                self._chains(space, limit)
                left.append(space)
            except _TooMany:
                self._patience = math.inf
                for low, high in halves or ():
                    self._poll()
                    half = best_space(
                        space.pool, low, high, _SHARPEN, above=self.best.seconds, whole=True
                    )
                    if half is not None:
                        todo.append(half)
                        self._try_relaxed(half)
        return left

    def _poll(self) -> None:
        progress = Progress(
            elapsed_s=time.perf_counter() - self._begin,
            incumbent=None if math.isinf(self.best.seconds) else self.best.seconds,
            bound=None if math.isinf(self.bound) else self.bound,
            nodes=self.nodes,
        )
        if self._report is not None:
            self._report(progress)
        if self.stop(progress):
            raise Stopped

    def _count(self) -> None:
        """One more node; ends the visit of a space that takes too many."""
        self.nodes += 1
        if not self.nodes & 15:
            self._poll()
        if self.nodes > self._patience:
            raise _TooMany

    def _chains(self, space: Space, limit: float) -> None:
        """Every chain of ranges whose shortest completion is within the limit."""
        tables, layouts, paid = space.pool.tables, space.layouts, space.paid
        last = tables.num_places

        def extend(used: int, previous: Device, place: int, cost: float, made: list[Range]) -> None:
            if place == last:
                self._placements(space, made, limit)
                return
            for device, m, step, rest in layouts.onward(used, previous, place):
                if device is None and self._shifts_left(tables, made):
                    continue
                whole = cost + step + rest
                for end in np.flatnonzero(whole <= self._below(limit) + paid):
                    if whole[end] > self._below(limit) + paid:
                        continue  # a better placement was found meanwhile
                    then = used if device is None else used | 1 << device
                    here = Range(m, device, place, int(end))
                    extend(then, device, int(end), cost + float(step[end]), [*made, here])

        extend(0, None, 0, 0.0, [])

    def _shifts_left(self, tables: Tables, made: list[Range]) -> bool:
        """Whether the GPU ranges since the last one of the CPU could begin a place earlier, equal
        parts for equal parts: that chain is visited in place of this one with the CPU after it.
        """
        cpu = next((k for k in reversed(range(len(made))) if made[k].device is None), None)
        if cpu is None or cpu == len(made) - 1:
            return False
        before = made[cpu]
        if before.begin and before.end - before.begin < 2:
            return False
        places = tables.problem.chain.places
        passed = places[before.end - 1]
        if before.end == 1 and tables.problem.limits.embedding_on_cpu:
            return False
        return all(places[one.end - 1] == passed for one in made[cpu + 1 :])

    def _below(self, limit: float) -> float:
        """Priced seconds up to which placements are of interest."""
        return min(limit, self.best.seconds * (1.0 - TOLERANCE))

    def _placements(self, space: Space, made: list[Range], limit: float) -> None:
        """Every fill of the GPUs of one chain within the limit."""
        tables, layouts, paid = space.pool.tables, space.layouts, space.paid
        self._count()
        hops = _hops_s(layouts, made)
        least = [layouts.costs[r.device][r.mode][r.begin, r.end] for r in made]
        onward = np.concatenate([np.cumsum(least[::-1])[::-1], [0.0]])

        def extend(k: int, cost: float, homes: list[Counts]) -> None:
            if k == len(made):
                self._finish(tables, made, homes, hops)
                return
            here = made[k]
            for held, seconds in self._fills_of(
                tables, layouts, here, self._below(limit) + paid - cost - float(onward[k + 1])
            ):
                if cost + seconds + onward[k + 1] > self._below(limit) + paid:
                    break
                extend(k + 1, cost + seconds, [*homes, held])

        extend(0, hops, [])

    def _try_relaxed(self, space: Space) -> None:
        """The placement nearest to the relaxed optimum: its chain, the best fills at its prices."""
        tables, layouts = space.pool.tables, space.layouts
        _, made = layouts.shortest()
        held = []
        for one in made:
            counts = tables.counts(one.begin, one.end)
            mode = tables.modes[one.device][one.mode]
            none = one.device is None
            held.append(
                np.zeros_like(counts)
                if none
                else best_fill(mode, tables.sizes, counts, layouts.prices)[1]
            )
        self._finish(tables, made, held, _hops_s(layouts, made))

    def _fills_of(
        self, tables: Tables, layouts: Layouts, here: Range, allowed: float
    ) -> Iterator[tuple[Counts, float]]:
        """Parts on the GPU by kind with the priced seconds of the range, the best first."""
        counts = tables.counts(here.begin, here.end)
        mode = tables.modes[here.device][here.mode]
        if here.device is None:
            yield np.zeros_like(counts), float(layouts.costs[None][0][here.begin, here.end])
            return
        key = (id(tables), here.device, here.mode, tuple(counts.tolist()))
        reach, held, seconds = self._fills.get(key, (-math.inf, *_NOTHING))
        if allowed > reach:
            held, seconds = gpu_fills(mode, tables.sizes, counts, layouts.prices, allowed)
            self._fills[key] = (allowed, held, seconds)
        yield from zip(held, seconds, strict=True)

    def _finish(self, tables: Tables, made: list[Range], held: list[Counts], hops: float) -> None:
        """Fill CPU memory for one fill of the GPUs; keep the placement if it is the best."""
        self._count()
        seconds, room, on_disk = hops, tables.room, 0
        gains: list[float] = []
        sizes: list[int] = []
        counts: list[int] = []
        where: list[tuple[int, int, int]] = []
        homes: list[Counts] = []
        for k, (here, on_gpu) in enumerate(zip(made, held, strict=True)):
            mode = tables.modes[here.device][here.mode]
            total = tables.counts(here.begin, here.end)
            own = np.zeros((len(total), 3), dtype=np.int64)
            own[:, DEVICE] = on_gpu
            memory = DEVICE if here.device is None else CPU
            for c in np.flatnonzero(total - on_gpu):
                away = int(total[c] - on_gpu[c])
                in_memory, from_disk = mode.seconds[c, memory], mode.seconds[c, DISK]
                if math.isinf(from_disk):
                    seconds += away * in_memory
                    room -= away * int(tables.sizes[c])
                    own[c, memory] = away
                    continue
                seconds += away * from_disk
                on_disk += away * int(tables.sizes[c])
                sizes.append(int(tables.sizes[c]))
                gains.append(float(from_disk - in_memory))
                counts.append(away)
                where.append((k, int(c), memory))
            some = np.flatnonzero(on_gpu)
            seconds += float((on_gpu[some] * mode.seconds[some, DEVICE]).sum())
            homes.append(own)
        if room < 0:
            return
        need = seconds - self.best.seconds * (1.0 - TOLERANCE)
        found = cpu_fill(
            np.array(sizes, dtype=np.int64),
            np.array(gains),
            np.array(counts, dtype=np.int64),
            room,
            need=max(need, -1.0),
            least=max(0, on_disk - tables.disk_room),
        )
        if found is None:
            return
        taken, gain = found
        for (k, kind, memory), away, kept in zip(where, counts, taken.tolist(), strict=True):
            homes[k][kind, memory] = kept
            homes[k][kind, DISK] = away - kept
        self.best = Best(float(seconds - gain), tables, tuple(made), tuple(homes))


def _hops_s(layouts: Layouts, made: list[Range]) -> float:
    """Seconds of all hops of a chain."""
    path: list[Device] = [None, *(one.device for one in made), None]
    return sum(layouts.hop(a, b) for a, b in itertools.pairwise(path))


def placement_of(best: Best) -> Placement:
    """The places of a solution; of equal parts of a range the first ones are away from a GPU."""
    tables = best.tables
    assert tables is not None
    places = tables.problem.chain.places
    names = tables.problem.chain.names
    index = {part: c for c, part in enumerate(tables.kinds)}
    placed: list[Placed] = []
    for here, homes in zip(best.ranges, best.homes, strict=True):
        mode: Mode = tables.modes[here.device][here.mode]
        left = homes.copy()
        for k in range(here.begin, here.end):
            parts = []
            for part in places[k]:
                c = index[part]
                h = next(h for h in (DISK, CPU, DEVICE) if left[c, h])
                left[c, h] -= 1
                option = mode.best[c][h]
                assert option is not None
                home: Home = option.home
                parts.append(Held(part.kind, home, option.on_cpu))
            placed.append(Placed(names[k], here.device, tuple(parts)))
    return tuple(placed)
