"""Rows of stages of which every region carries a part, about the same in all of them.

Where regions hold many nodes, none needs to pass the whole flow: each carries a share ``g_r`` of it
through all layers, in lanes of its own, and only what the shares of two stages differ by changes
over between regions. A stage of ``l`` layers takes lanes of every region,

    sum_r w_r >= F,    |w_r / F - c_r| <= d      with w_r the rates of the lanes in region r,

where ``c_r`` is the part of all layer-tokens at F that the region can pass, and ``d`` how wide the
band is: the wider, the better stages fit, and the more has to change over. The cheapest stage at
prices of nodes is a knapsack of lanes in every region, then of regions, rates rounded down to 1/600
of the flow. Stages chosen by :class:`~optalloc.serving.flow.stages.StageProgramme` are put in an
order in which shares change little from one to the next.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from optalloc import _native
from optalloc.serving.flow.kinds import Kind
from optalloc.serving.flow.regions import Region
from optalloc.serving.flow.stages import Lanes, Stage, StageProgramme, lay

_PARTS = 600
_NODES, _VARIETY = 50, 30
_LITTLE = 0.05

Floats = NDArray[np.float64]


class SharedStages:
    """Cheapest stages of every length at one flow, within a band of shares.

    Kinds are counted through all regions in their order.
    """

    def __init__(self, regions: Sequence[Region], band: float, flow: float, longest: int) -> None:
        self.flow, self.longest = flow, longest
        self._first = np.cumsum([0] + [len(region.kinds) for region in regions])
        self._lanes = [Lanes(region.kinds, flow, longest) for region in regions]
        tokens = np.array([_layer_tokens(region.kinds, flow) for region in regions])
        centre = tokens / max(float(tokens.sum()), 1e-300) * _PARTS
        self._low = np.maximum(0, np.floor(centre - band * _PARTS)).astype(np.int32)
        self._high = np.minimum(_PARTS, np.ceil(centre + band * _PARTS)).astype(np.int32)
        cells = [np.floor(lanes.rates / flow * _PARTS + 1e-9) for lanes in self._lanes]
        self._cells = np.concatenate(cells).astype(np.int32)
        self._region = np.repeat(np.arange(len(cells)), [len(c) for c in cells]).astype(np.int32)
        self._row = np.concatenate([np.arange(len(c)) for c in cells])
        self._kept = np.flatnonzero(self._cells > 0)

    def cheapest(self, prices: Floats) -> list[tuple[Stage, float]]:
        """For every length the cheapest stage, with its price."""
        tables = [
            lanes.costs(prices[first:end])
            for lanes, first, end in zip(
                self._lanes, self._first[:-1], self._first[1:], strict=True
            )
        ]
        cost = np.ascontiguousarray(np.concatenate([c for c, _ in tables])[self._kept])
        counts = np.zeros((cost.shape[1], len(cost)), dtype=np.int32)
        region = self._region[self._kept]
        totals = _native.cheapest_shares(
            cost, self._cells[self._kept], region, self._low, self._high, _PARTS, counts
        )
        found = []
        for length in range(1, self.longest + 1):
            if not math.isfinite(totals[length]):
                continue
            lanes = []
            for place in np.flatnonzero(counts[length]).tolist():
                r = int(region[place])
                first, row = int(self._first[r]), int(self._row[self._kept[place]])
                own = self._lanes[r].lane(row, length, tables[r][1])
                lane = tuple((first + kind, layers) for kind, layers in own)
                lanes += [lane] * int(counts[length, place])
            found.append((Stage(length, tuple(lanes), self.flow), totals[length]))
        return found


def _layer_tokens(kinds: Sequence[Kind], flow: float) -> float:
    return math.fsum(
        len(kind.nodes) * max(k * min(rate, flow) for k, rate in enumerate(kind.table, 1))
        for kind in kinds
    )


def row_of_shares(
    regions: Sequence[Region],
    num_layers: int,
    flow: float,
    band: float,
    link: float,
    expired: Callable[[], bool],
) -> dict[int, tuple[int, int]] | None:
    """A placement of stages within a band of shares at ``flow`` tokens/s, None if none was found.

    ``link`` is what two nodes of different regions typically pass, tokens/s.
    """
    kinds = [kind for region in regions for kind in region.kinds]

    def lanes(flow: float, longest: int) -> SharedStages:
        return SharedStages(regions, band, flow, longest)

    programme = StageProgramme(kinds, num_layers, lanes)
    row = programme.reach(flow, most_nodes=_NODES, variety=_VARIETY, expired=expired)
    if row is None:
        return None
    row.sort(key=lambda stage: -stage.layers)
    while sum(stage.layers for stage in row[:-1]) >= num_layers:
        row.pop()
    region_of = [r for r, region in enumerate(regions) for _ in region.kinds]
    order = _shortest_way(_changes(row, kinds, region_of, link))
    return lay([(kinds, row[place]) for place in order], num_layers)


def _changes(
    row: Sequence[Stage], kinds: Sequence[Kind], region_of: Sequence[int], link: float
) -> Floats:
    """For each two stages in turn the share that links lack, and a little of what changes over."""
    rates: Floats = np.zeros((len(row), max(region_of) + 1))
    lanes: Floats = np.zeros(rates.shape)
    for place, stage in enumerate(row):
        for lane in stage.lanes:
            r = region_of[lane[0][0]]
            rates[place, r] += min(kinds[kind].table[layers - 1] for kind, layers in lane)
            lanes[place, r] += 1.0
    shares = rates / rates.sum(axis=1, keepdims=True)
    over = shares[:, None, :] - shares[None, :, :]
    pairs = lanes[:, None, :, None] * lanes[None, :, None, :]  # [p, q, from, to]
    pairs *= (over > 0.0)[..., :, None] & (over < 0.0)[..., None, :]
    room = link / row[0].rate * pairs
    lacks = np.maximum(0.0, over - room.sum(axis=3)) + np.maximum(0.0, -over - room.sum(axis=2))
    found: Floats = lacks.sum(axis=2) + _LITTLE * np.abs(over).sum(axis=2)
    return found


def _shortest_way(costs: Floats) -> list[int]:
    """An order of all places: the cheapest that goes to the nearest left each time, improved by
    turning stretches around and moving single places while that helps."""

    def length(order: list[int]) -> float:
        return float(costs[order[:-1], order[1:]].sum())

    best = min((_to_the_nearest(costs, start) for start in range(len(costs))), key=length)
    total, found = length(best), True
    while found:
        found = False
        for first, end in itertools.combinations(range(len(best) + 1), 2):
            stretch, rest = best[first:end], best[:first] + best[end:]
            turned = best[:first] + stretch[::-1] + best[end:]
            moved = [rest[:at] + stretch + rest[at:] for at in range(len(best))]
            for other in [turned, *(moved if end == first + 1 else ())]:
                if (now := length(other)) < total - 1e-12:
                    best, total, found = other, now, True
                    break
    return best


def _to_the_nearest(costs: Floats, start: int) -> list[int]:
    order, waiting = [start], [place for place in range(len(costs)) if place != start]
    while waiting:
        order.append(waiting.pop(int(costs[order[-1], waiting].argmin())))
    return order
