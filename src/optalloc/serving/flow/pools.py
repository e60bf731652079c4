"""What one region can do at one flow: the stages its nodes make, and the most layers they cover.

Stages whose lanes are single nodes are all listed, as far as none of their lanes can be left out;
lanes of several nodes come from :class:`~optalloc.serving.flow.stages.Lanes` at a few prices. With
``n`` nodes of every kind, stages ``p`` of ``k_p`` layers on ``v_p`` nodes cover at most

    D(n) = max over p with v_p <= n of  k_p + D(n - v_p),   D >= 0                          (Layers)

layers: exact over the stages there are, for all ``n`` at once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from optalloc import _native
from optalloc.serving.flow.kinds import Kind
from optalloc.serving.flow.stages import Lanes, Stage

_LONGEST = 24  # layers of a stage with lanes of several nodes
_MOST_LANES = 14
_MOST_STAGES = 150  # of one length
_MOST_ENDS = 50  # stages tried at a crossing, with as many at the other end of the region
_MOST_STATES = 300_000  # numbers of free nodes of all kinds

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Shorts = NDArray[np.int32]


class Pool:
    """Stages at a flow whose lanes give out or take in at most a share ``most`` of it each.

    ``layers[p]`` and ``nodes[p]`` (by kind) of stage ``stages[p]``; none holds no more layers than
    another that needs no node it does not need.
    """

    def __init__(self, kinds: Sequence[Kind], flow: float, most: float, prices: Floats) -> None:
        counts = np.array([len(kind.nodes) for kind in kinds])
        longest = max(len(kind.table) for kind in kinds)
        found = [s for k in range(1, longest + 1) for s in _side_by_side(kinds, flow, most, k)]
        lanes = Lanes(kinds, flow, _LONGEST, most)
        found += [stage for row in prices for stage, _ in lanes.cheapest(row)]
        nodes: Ints = np.zeros((len(found), len(kinds)), dtype=np.int64)
        for p, stage in enumerate(found):
            for kind, number in stage.nodes().items():
                nodes[p, kind] = number
        layers: Ints = np.array([stage.layers for stage in found], dtype=np.int64)
        kept = np.flatnonzero((nodes <= counts).all(axis=1))
        kept = kept[np.lexsort((nodes[kept].sum(axis=1), -layers[kept]))]
        outdone = np.tri(len(kept), k=-1, dtype=bool)  # [p, q]: q is before p and needs no more
        for column in nodes[kept].T:
            outdone &= column[None, :] <= column[:, None]
        kept = kept[~outdone.any(axis=1)]
        self.stages = [found[p] for p in kept.tolist()]
        self.layers, self.nodes = layers[kept], nodes[kept]


def _side_by_side(kinds: Sequence[Kind], flow: float, most: float, layers: int) -> list[Stage]:
    """Single nodes that all hold the same ``layers``, just enough of them."""
    able = [
        (min(most, kind.table[layers - 1] / flow), len(kind.nodes), t)
        for t, kind in enumerate(kinds)
        if layers <= len(kind.table) and kind.table[layers - 1] > 0.0
    ]
    able.sort(reverse=True)
    rest = [sum(weight * count for weight, count, _ in able[place:]) for place in range(len(able))]
    found = list[Stage]()

    def add(place: int, lacks: float, lanes: tuple[tuple[tuple[int, int], ...], ...]) -> None:
        if lacks <= 1e-12:
            found.append(Stage(layers, lanes, flow))
        elif place < len(able) and len(found) < _MOST_STAGES:
            weight, count, kind = able[place]
            free = _MOST_LANES - len(lanes)
            if lacks <= min(rest[place], free * weight) + 1e-12:
                for number in range(min(count, free, math.ceil(lacks / weight - 1e-12)), -1, -1):
                    more = (((kind, layers),),) * number
                    add(place + 1, lacks - number * weight, lanes + more)

    add(0, 1.0, ())
    return found


class Layers:
    """The most layers that nodes of a region cover at a flow, whatever is taken from them first."""

    def __init__(
        self, kinds: Sequence[Kind], flow: float, caps: Sequence[float], seed: int
    ) -> None:
        self.kinds = joined(kinds, _MOST_STATES)
        self.counts: Ints = np.array([len(kind.nodes) for kind in self.kinds], dtype=np.int64)
        worth = np.array(
            [max(k * min(t, flow) for k, t in enumerate(kind.table, 1)) for kind in self.kinds]
        )
        noise = np.random.default_rng(seed).uniform(0.6, 1.6, (8, len(worth)))
        noise[0] = 1.0
        prices: Floats = worth / flow * noise + 1e-3
        self.pools = {cap: Pool(self.kinds, flow, cap, prices[:1]) for cap in caps if cap < 1.0}
        self.pools[1.0] = self._any = Pool(self.kinds, flow, 1.0, prices)
        self._most, self._last = self._cover()

    def _cover(self) -> tuple[Shorts, Shorts]:
        """D(n) for all n, and a stage it is reached by; -1: none."""
        shape = tuple(int(n) + 1 for n in self.counts)
        most, last = np.zeros((2, math.prod(shape)), dtype=np.int32)
        nodes = np.ascontiguousarray(self._any.nodes)
        _native.cover_lattice(self._any.layers, nodes, self.counts, most, last)
        return most.reshape(shape), last.reshape(shape)

    def best(self, into: float | None, out: float | None) -> tuple[int, Stage | None, Stage | None]:
        """Most layers with a first stage whose lanes take in at most ``into`` each and a last one
        whose lanes give out at most ``out``, and those two. -1: none. Where one stage is both, it
        is all there is, and given as the first alone. Two are chosen among the best ones alone."""
        if into is None and out is None:
            return int(self._most[tuple(self.counts)]), None, None
        if into is None or out is None:
            pool = self.pools[into or out or 1.0]
            if not pool.stages:
                return -1, None, None
            gains = self._with(pool)
            one = pool.stages[p := int(gains.argmax())]
            return int(gains[p]), one if out is None else None, one if into is None else None
        found: tuple[int, Stage | None, Stage | None] = (-1, None, None)
        both = self.pools[min(into, out)]
        if both.stages:
            one = both.stages[p := int(both.layers.argmax())]
            found = int(both.layers[p]), one, None
        first, last = self.pools[into], self.pools[out]
        if first.stages and last.stages:
            begins, ends = self._best_of(first), self._best_of(last)
            rest = self.counts - first.nodes[begins, None, :] - last.nodes[None, ends, :]
            gains = np.where(
                (rest >= 0).all(axis=2),
                first.layers[begins, None]
                + last.layers[None, ends]
                + self._most[tuple(np.moveaxis(np.maximum(rest, 0), 2, 0))],
                -1,
            )
            p, q = divmod(int(gains.argmax()), len(ends))
            if gains[p, q] > found[0]:
                found = int(gains[p, q]), first.stages[begins[p]], last.stages[ends[q]]
        return found

    def _with(self, pool: Pool) -> Ints:
        """The most layers with each stage of a pool."""
        gains: Ints = pool.layers + self._most[tuple((self.counts - pool.nodes).T)]
        return gains

    def _best_of(self, pool: Pool) -> Ints:
        """Stages of a pool with which most layers are covered."""
        order: Ints = np.argsort(-self._with(pool), kind="stable")[:_MOST_ENDS]
        return order

    def between(self, ends: Sequence[Stage]) -> list[Stage]:
        """Stages that cover most layers on the nodes that ``ends`` leave."""
        free = self.counts.copy()
        for stage in ends:
            for kind, number in stage.nodes().items():
                free[kind] -= number
        row = list[Stage]()
        while (p := int(self._last[tuple(free)])) >= 0:
            row.append(self._any.stages[p])
            free -= self._any.nodes[p]
        return row


def joined(kinds: Sequence[Kind], most_states: int) -> tuple[Kind, ...]:
    """Kinds, of which neighbours are joined (at the lesser table) until numbers of free nodes are
    few enough to list them all."""
    kept = sorted(kinds, key=lambda kind: (len(kind.table), kind.table))
    while len(kept) > 1 and math.prod(len(kind.nodes) + 1 for kind in kept) > most_states:
        losses = [
            sum(abs(a - b) for a, b in zip(one.table, two.table, strict=False))
            + sum(one.table[len(two.table) :])
            + sum(two.table[len(one.table) :])
            for one, two in itertools.pairwise(kept)
        ]
        place = losses.index(min(losses))
        one, two = kept[place : place + 2]
        table = tuple(min(pair) for pair in zip(one.table, two.table, strict=False))
        kept[place : place + 2] = [Kind(table=table, nodes=one.nodes + two.nodes)]
    return tuple(kept)
