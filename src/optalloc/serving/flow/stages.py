"""Placements in rows of stages, each stage a bundle of lanes.

A *lane* of rate ``f`` over ``l`` layers is a chain of nodes, each holding at most the ``k`` layers
at which it still passes ``f``; a *stage* is lanes side by side over the same layers, of rates that
add up to at least F. Stages in a row that cover all layers pass F wherever links do not bind:

    max sum_p l_p x_p   s.t.  sum_p n_tp x_p <= N_t,   x_p whole;      F is reached if it is >= L

with ``n_tp`` nodes of kind ``t`` in stage ``p``. The programme over all stages is solved by columns
(a lane is a shortest path over layers, the cheapest lanes of one length are a cover) and then in
whole numbers over the stages found. One lane of one node a stage is the plain chain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc import _native
from optalloc.serving.flow.kinds import Kind
from optalloc.serving.flow.linear import GrowingLP

_MOST_STATES = 5_000
_LONGEST = (
    24  # layers of a stage of several lanes: enough for lanes of unequal nodes to end together
)
_ROUNDS = 60

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Stage(msgspec.Struct, frozen=True):
    """Lanes side by side over ``layers`` layers; a lane lists ``(kind, layers)`` from its begin."""

    layers: int
    lanes: tuple[tuple[tuple[int, int], ...], ...]
    rate: float

    def nodes(self) -> dict[int, int]:
        """Nodes of each kind."""
        found: dict[int, int] = {}
        for lane in self.lanes:
            for kind, _ in lane:
                found[kind] = found.get(kind, 0) + 1
        return found


def best_chain(kinds: Sequence[Kind], num_layers: int) -> tuple[float, list[Stage]]:
    """The largest flow (tokens/s) of one node a layer, and its stages; 0.0 where none exists."""
    candidates = sorted({rate for kind in kinds for rate in kind.table if rate > 0.0})
    low, high = 0, len(candidates)  # candidates below low reach
    while low < high:
        middle = (low + high) // 2
        flow = candidates[middle]
        if sum(_held(kind, flow) * len(kind.nodes) for kind in kinds) >= num_layers:
            low = middle + 1
        else:
            high = middle
    if low == 0:
        return 0.0, []
    flow = candidates[low - 1]
    row: list[Stage] = []
    for t, kind in enumerate(kinds):
        if held := _held(kind, flow):
            row += [Stage(held, (((t, held),),), flow)] * len(kind.nodes)
    return flow, row


def _held(kind: Kind, flow: float) -> int:
    return max((k for k, rate in enumerate(kind.table, 1) if rate >= flow), default=0)


class StageSource(Protocol):
    """Where a programme gets its stages from."""

    def cheapest(self, prices: Floats) -> list[tuple[Stage, float]]:
        """For every length the cheapest stage met at prices of a node of each kind."""


class StageProgramme:
    """The programme over stages; stages found for one flow serve every smaller one.

    ``lanes`` makes the source of stages for a flow and a greatest length; without it, any lanes.
    """

    def __init__(
        self,
        kinds: Sequence[Kind],
        num_layers: int,
        lanes: Callable[[float, int], StageSource] | None = None,
    ) -> None:
        self.kinds, self.num_layers = kinds, num_layers
        self._lanes = partial(Lanes, kinds) if lanes is None else lanes
        self._random = np.random.default_rng(0)
        self._counts = [len(kind.nodes) for kind in kinds]
        self._pool: dict[tuple[int, tuple[tuple[tuple[int, int], ...], ...]], Stage] = {}

    def reach(
        self, flow: float, *, most_nodes: int, variety: int = 0, expired: Callable[[], bool]
    ) -> list[Stage] | None:
        """Stages in a row that cover all layers at ``flow``, or None where none were found."""
        lp = GrowingLP([float(count) for count in self._counts])
        here: list[Stage] = []
        known: set[tuple[int, tuple[tuple[int, int], ...]]] = set()

        def offer(stage: Stage) -> bool:
            nodes = stage.nodes()
            key = (stage.layers, tuple(sorted(nodes.items())))
            if key in known or any(n > self._counts[t] for t, n in nodes.items()):
                return False
            known.add(key)
            here.append(stage)
            self._pool[stage.layers, stage.lanes] = stage
            lp.add(float(stage.layers), list(nodes), [float(n) for n in nodes.values()])
            return True

        for stage in list(self._pool.values()):
            if stage.rate >= flow * (1.0 - 1e-12):
                offer(stage)
        lanes = self._lanes(flow, min(self.num_layers, self._longest()))
        prices = np.array([1.0 / max(1, count) for count in self._counts])
        value = 0.0
        for _ in range(_ROUNDS):
            if here:
                value = lp.solve()
                prices = np.maximum(lp.duals, 0.0)
            grown = False
            for stage, cost in lanes.cheapest(prices + 1e-9):
                if cost < stage.layers * (1.0 - 1e-9) or not lp.solved:
                    grown = offer(stage) or grown
            if not grown or expired():
                break
        if not here or value < self.num_layers * (1.0 - 1e-9):
            return None
        for _ in range(variety):
            noise = self._random.uniform(0.6, 1.6, len(prices))
            for stage, _ in lanes.cheapest((prices + 1e-3) * noise):
                offer(stage)
        values = lp.solve_whole(most_nodes, enough=float(self.num_layers))
        if values is None:
            return None
        row: list[Stage] = []
        for stage, amount in zip(here, np.rint(values).astype(int).tolist(), strict=True):
            row += [stage] * amount
        return row if sum(stage.layers for stage in row) >= self.num_layers else None

    def placed(self, row: Sequence[Stage]) -> dict[int, tuple[int, int]]:
        """Ranges for stages of this programme one after another."""
        return in_a_row(self.kinds, self.num_layers, row)

    def _longest(self) -> int:
        return max(_LONGEST, max((len(kind.table) for kind in self.kinds), default=1))


class Lanes:
    """Cheapest stages of every length at one flow."""

    def __init__(self, kinds: Sequence[Kind], flow: float, longest: int, most: float = 1.0) -> None:
        self.flow, self.longest = flow, longest
        self.most = most
        top = most * flow
        rates = {min(rate, top) for kind in kinds for rate in kind.table if rate > 0.0}
        self.rates = np.array(sorted(rates))
        self.held: Ints = np.array(
            [[_held(kind, rate) for kind in kinds] for rate in self.rates], dtype=np.int64
        ).reshape(len(self.rates), len(kinds))
        self.limits = np.array(
            [math.ceil(flow / min(rate, top) * (1.0 - 1e-12)) for rate in self.rates],
            dtype=np.int32,
        )

    def cheapest(self, prices: Floats) -> list[tuple[Stage, float]]:
        """For every length the cheapest stage met, with its price."""
        cost, last = self.costs(prices)
        weights = np.minimum(self.rates / self.flow, self.most)
        found = []
        for length in range(1, self.longest + 1):
            usable = np.flatnonzero(np.isfinite(cost[:, length]))
            if not len(usable):
                continue
            taken = np.zeros(len(usable), dtype=np.int32)
            _, total = _native.cheapest_cover(
                np.ascontiguousarray(weights[usable]),
                np.ascontiguousarray(cost[usable, length]),
                np.ascontiguousarray(self.limits[usable]),
                taken,
                _MOST_STATES,
            )
            if math.isfinite(total):
                lanes = tuple(
                    self.lane(int(usable[place]), length, last)
                    for place in np.flatnonzero(taken)
                    for _ in range(int(taken[place]))
                )
                rate = float(self.rates[usable] @ taken)
                found.append((Stage(length, lanes, max(rate, self.flow)), total))
        return found

    def costs(self, prices: Floats) -> tuple[Floats, Ints]:
        """The cheapest lane of every rate (rows) and length, and the kind of its last node."""
        cost: Floats = np.full((len(self.rates), self.longest + 1), np.inf)
        last: Ints = np.zeros((len(self.rates), self.longest + 1), dtype=np.int64)
        cost[:, 0] = 0.0
        rows = np.arange(len(self.rates))
        for length in range(1, self.longest + 1):
            before = np.maximum(0, length - self.held)
            through = np.where(self.held > 0, cost[rows[:, None], before] + prices, np.inf)
            last[:, length] = through.argmin(axis=1)
            cost[:, length] = through[rows, last[:, length]]
        return cost, last

    def lane(self, row: int, length: int, last: Ints) -> tuple[tuple[int, int], ...]:
        """The nodes of a lane of a rate and length, from what :meth:`costs` returned."""
        nodes = []
        while length > 0:
            kind = int(last[row, length])
            layers = min(length, int(self.held[row, kind]))
            nodes.append((kind, layers))
            length -= layers
        return tuple(nodes)


def in_a_row(
    kinds: Sequence[Kind], num_layers: int, stages: Sequence[Stage]
) -> dict[int, tuple[int, int]]:
    """Ranges of nodes for stages one after another; what lies past the last layer is cut off.

    Stages that are not needed are left out, the shortest first.
    """
    kept = sorted(stages, key=lambda stage: -stage.layers)
    while kept and sum(stage.layers for stage in kept[:-1]) >= num_layers:
        kept.pop()
    return lay([(kinds, stage) for stage in kept], num_layers)


def lay(row: Sequence[tuple[Sequence[Kind], Stage]], num_layers: int) -> dict[int, tuple[int, int]]:
    """Ranges for stages in this order, each on nodes of its own kinds."""
    free: dict[tuple[int, ...], list[int]] = {}
    placement: dict[int, tuple[int, int]] = {}
    first = 0
    for kinds, stage in row:
        for lane in stage.lanes:
            at = first
            for kind, layers in lane:
                if at < num_layers:
                    nodes = kinds[kind].nodes
                    node = free.setdefault(nodes, list(nodes)).pop(0)
                    placement[node] = (at, min(num_layers, at + layers))
                at += layers
        first += stage.layers
    return placement
