"""The route of least latency, exactly: shortest paths with a price on every node, and branching.

*Formulation.* A route runs layers ``0 .. L-1`` on nodes ``i_1, i_2, ..``, each at most once:

    min  source(i_1) + sum_j run(i_j, x_j, u_j) + sum_j link(i_j, i_j+1) + sink(i_last)    [s]
    s.t. x_1 = 0,   x_j+1 = x_j + u_j,   the last ends at L                      (Forward.solve)
         no node is met twice                                                 (prices, branching)

Without the last line it is a shortest path over (layers done, node). With a price ``p_i >= 0`` on
meeting node ``i``,

    (shortest path at these prices) - sum_i p_i   <=   the least latency         (Lagrange)

for a route that meets every node at most once pays at most ``sum p``. Where the best prices (by
subgradients) leave a gap, some node is met twice, at layers ``x < y``: either it begins before
``y`` or from ``y`` on, and each part gets prices of its own.

*Why it is exact.* The parts of a split hold every route, each excludes the path that was split,
and a node that may begin at one layer alone is met at most once: so branching ends, and the bound
is the least over the parts. Links and steps are those of the problem; with partial inference a
node may hold layers before those it runs.

Nodes that are alike make many parts that differ in names alone; so a table over classes of like
nodes (:mod:`optalloc.serving.flow.latency.classes`) comes first, and closes most problems.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.serving.flow.latency.classes import (
    classes_of,
    fastest_over_classes,
    laid_on_nodes,
)
from optalloc.serving.flow.latency.times import Floats, Times
from optalloc.serving.flow.witness import Begins, Counted, Fastest

#: Met by a path: (node, first layer run, layers run).
Visit = tuple[int, int, int]
_CLOSE = 1e-9
_STEPS = 150
_STEPS_BRANCH = 25
_MOST_PARTS = 3_000


class _Box(msgspec.Struct, frozen=True):
    """Where nodes may begin, the prices there, the bound, and where the last path doubles."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    prices: Floats
    bound: float
    split: tuple[int, int] | None


class RouteFound(msgspec.Struct, frozen=True, kw_only=True):
    """The best route met and what no route undercuts, seconds; no ``visits`` if there is none.

    ``finished`` says whether branching ended by itself, after ``parts`` of it; ``interrupted``
    whether Ctrl-C ended it.
    """

    visits: tuple[Visit, ...]
    latency_s: float
    witness: Fastest | Counted
    finished: bool
    parts: int
    interrupted: bool = False


def fastest_route(times: Times, expired: Callable[[float, float], bool]) -> RouteFound:
    """The route of least latency; a search that is stopped, also by Ctrl-C, keeps its best route
    and a valid bound.

    ``expired`` is asked with the best latency so far and the bound, seconds.

    Complexity: a shortest path takes O(L (n^2 + n K)); 150 for the first bound, 25 a branch.
    """
    return _Search(times, expired).run()


class _Search:
    def __init__(self, times: Times, expired: Callable[[float, float], bool]) -> None:
        self.times, self.expired = times, expired
        self.num_layers = times.problem.num_layers
        self.best: tuple[Visit, ...] = ()
        self.value = np.inf
        self.parts = 0
        self.counted = Counted(latency_s=0.0, classes=())
        self.open: tuple[_Box, ...] = ()  # together all routes

    def run(self) -> RouteFound:
        try:
            finished = self._search()
        except KeyboardInterrupt:
            return msgspec.structs.replace(self._found(finished=False), interrupted=True)
        return self._found(finished)

    def _search(self) -> bool:
        """Bound and branch; whether it ended by itself."""
        self.counted = counted = self._by_classes()
        count = len(self.times.source)
        if counted.latency_s >= self.value * (1.0 - _CLOSE):
            return True
        order = itertools.count()
        box = self._bound(
            np.zeros(count, dtype=np.int64),
            np.full(count, self.num_layers, dtype=np.int64),
            np.zeros(count),
            _STEPS,
        )
        waiting = [(box.bound, next(order), box)]
        closed: list[_Box] = []
        if box.split is not None and box.bound < counted.latency_s:
            return False  # parts would have to win back more
        while True:
            self.open = (*closed, *(box for _, _, box in waiting))
            if not waiting or waiting[0][0] >= self.value * (1.0 - _CLOSE):
                return True
            if self.expired(self.value, waiting[0][0]) or len(self.open) > _MOST_PARTS:
                return False
            _, _, box = heapq.heappop(waiting)
            if box.split is None:
                closed.append(box)
                continue
            node, at = box.split
            for low, high in ((box.low[node], at - 1), (at, box.high[node])):
                lows, highs = box.low.copy(), box.high.copy()
                lows[node], highs[node] = low, high
                part = self._bound(lows, highs, box.prices, _STEPS_BRANCH)
                if part.bound < box.bound:
                    part = msgspec.structs.replace(part, bound=box.bound, prices=box.prices)
                heapq.heappush(waiting, (part.bound, next(order), part))

    def _found(self, finished: bool) -> RouteFound:
        value = self._latency(self.best) if self.best else np.inf
        bound = float(min(value, *(box.bound for box in self.open))) if self.open else -np.inf
        witness: Fastest | Counted = self.counted
        if bound > self.counted.latency_s:
            witness = Fastest(latency_s=bound, parts=tuple(map(self._told, self.open)))
        return RouteFound(
            visits=self.best,
            latency_s=float(value),
            witness=witness,
            finished=finished,
            parts=self.parts,
        )

    def _by_classes(self) -> Counted:
        """Bound by counts of like nodes, and offer that route on real ones."""
        classes = classes_of(self.times)
        if not classes:
            return Counted(latency_s=0.0, classes=())
        bound, runs = fastest_over_classes(self.times, classes)
        self._offer(laid_on_nodes(self.times, classes, runs))
        return Counted(latency_s=min(bound, float(self.value)), classes=classes)

    def _told(self, box: _Box) -> Begins:
        where = [
            (node, int(low), int(high))
            for node, (low, high) in enumerate(zip(box.low, box.high, strict=True))
            if low > 0 or high < self.num_layers
        ]
        return Begins(windows=tuple(where), prices=tuple(box.prices.tolist()))

    def _bound(
        self, low: NDArray[np.int64], high: NDArray[np.int64], prices: Floats, steps: int
    ) -> _Box:
        """Raise the prices of nodes met twice, lower those of nodes not met."""
        self.parts += 1
        best, kept = -np.inf, prices
        split: tuple[int, int] | None = None
        scale, stale = 1.0, 0
        for turn in range(steps):
            path, priced = self._path(low, high, prices)
            bound = priced - float(prices.sum())
            met = np.zeros(len(prices))
            for node, _, _ in path:
                met[node] += 1.0
            double = _double(path)
            split = double or split
            if double is None and path:
                self._offer(path)
            if turn % 10 == 0 and path:
                self._offer(self._greedy(low, high, prices))
            if bound > best:
                best, kept, stale = bound, prices, 0
            else:
                stale += 1
                if stale >= 6:
                    scale, stale, prices = scale * 0.5, 0, kept
            if not path or best >= self.value * (1.0 - _CLOSE):
                break
            slope = met - 1.0
            slope[(prices <= 0.0) & (slope < 0.0)] = 0.0
            length = float(slope @ slope)
            if length == 0.0 or (turn > 10 and self.expired(self.value, best)):
                break
            goal = self.value if np.isfinite(self.value) else bound * 1.1
            prices = np.maximum(0.0, prices + slope * scale * max(goal - bound, 1e-12) / length)
        if split is None and best < self.value * (1.0 - _CLOSE):
            path, priced = self._path(low, high, prices * 0.0)
            split = _double(path)
            if split is None:  # without prices the path is a route: nothing here is faster
                if path:
                    self._offer(path)
                best, kept = priced, prices * 0.0
        return _Box(low, high, kept, best, split)

    def _offer(self, path: tuple[Visit, ...]) -> None:
        value = self._latency(path) if path else np.inf
        if value < self.value:
            self.value, self.best = value, path

    def _latency(self, path: tuple[Visit, ...]) -> float:
        times = self.times
        total = times.source[path[0][0]] + times.sink[path[-1][0]]
        for node, first, layers in path:
            total += times.run(first)[layers - 1, node]
        for (a, _, _), (b, _, _) in itertools.pairwise(path):
            total += times.links[a, b]
        return float(total)

    def _path(
        self, low: NDArray[np.int64], high: NDArray[np.int64], prices: Floats
    ) -> tuple[tuple[Visit, ...], float]:
        """The shortest path at these prices, nodes met as often as it likes."""
        times, num_layers = self.times, self.num_layers
        done: Floats = np.full((num_layers + 1, len(prices)), np.inf)
        arrive: Floats = np.full((num_layers, len(prices)), np.inf)
        for x in range(num_layers):
            arrive[x] = times.source if x == 0 else (done[x][:, None] + times.links).min(axis=0)
            arrive[x] += prices
            arrive[x][(x < low) | (x > high)] = np.inf
            run = times.run(x)[: num_layers - x]
            reach = done[x + 1 : x + 1 + len(run)]
            np.minimum(reach, arrive[x] + run, out=reach)
        ends = done[num_layers] + times.sink
        node, end = int(ends.argmin()), num_layers
        if not np.isfinite(ends[node]):
            return (), np.inf
        path: list[Visit] = []
        while True:
            longest = min(end, times.step.shape[1])
            ways = [arrive[end - u, node] + times.run(end - u)[u - 1, node]
                    for u in range(1, longest + 1)]  # fmt: skip
            layers = 1 + int(np.argmin(ways))
            end -= layers
            path.append((node, end, layers))
            if end == 0:
                return tuple(reversed(path)), float(ends.min())
            node = int((done[end] + times.links[:, node]).argmin())

    def _greedy(
        self, low: NDArray[np.int64], high: NDArray[np.int64], prices: Floats
    ) -> tuple[Visit, ...]:
        """A route: as the shortest path, but each partial one remembers which nodes it met."""
        times, num_layers, count = self.times, self.num_layers, len(prices)
        done: Floats = np.full((num_layers + 1, count), np.inf)
        met = np.zeros((num_layers + 1, count, count), dtype=bool)
        came = np.zeros((num_layers, count), dtype=np.int64)
        taken = np.zeros((num_layers + 1, count), dtype=np.int64)
        own = np.eye(count, dtype=bool)
        for x in range(num_layers):
            if x == 0:
                arrive, with_me = times.source + prices, own
            else:
                ways = np.where(met[x], np.inf, done[x][:, None] + times.links)
                came[x] = ways.argmin(axis=0)
                arrive = ways[came[x], np.arange(count)] + prices
                with_me = met[x][came[x]] | own
            arrive = np.where((x < low) | (x > high), np.inf, arrive)
            through = arrive + times.run(x)[: num_layers - x]
            better = through < done[x + 1 : x + 1 + len(through)]
            done[x + 1 : x + 1 + len(through)][better] = through[better]
            layers, nodes = np.nonzero(better)
            met[x + 1 + layers, nodes] = with_me[nodes]
            taken[x + 1 + layers, nodes] = layers + 1
        ends = done[num_layers] + times.sink
        node, end = int(ends.argmin()), num_layers
        if not np.isfinite(ends[node]):
            return ()
        path: list[Visit] = []
        while True:
            layers_run = int(taken[end, node])
            end -= layers_run
            path.append((node, end, layers_run))
            if end == 0:
                return tuple(reversed(path))
            node = int(came[end, node])


def _double(path: tuple[Visit, ...]) -> tuple[int, int] | None:
    """A node met twice, and where it begins the second time."""
    seen = set()
    for node, first, _ in path:
        if node in seen:
            return node, first
        seen.add(node)
    return None
