"""An upper bound that sees narrow links: the way through the layers between two groups of nodes.

Take any placement of flow F. Let ``g(l)`` be the share of it that one group carries at layer ``l``,
the other ``1 - g(l)``. A group that cannot pass ``d F`` through all layers alone (a bound of
:mod:`optalloc.serving.flow.covers`) has a share of at most ``d`` at some layer. So ``g`` *walks*:
it is that low at some layer, and that high at another. Where it changes by ``D`` from one layer to
the next, ``D F`` crosses from ``a`` nodes that end to ``b`` that begin, with ``c_ab`` the most that
links let pass from any ``a`` to any ``b``:

    c_ab >= D F;  each of the a passes at most c_1b beyond what stays in its group, and all of them
    together at most the share of their group; likewise the b, with c_a1

So many nodes side by side pass little each, over all layers they hold. Formulation: prices ``p_tk``
of a layer on a node of kind ``t`` that holds ``k``, ``q_rj`` of a layer on a node of group ``r``
that passes at most the share ``s_j`` (of some sizes ``s``), and ``u_t`` of a node,

    u_t >= k p_tk,    u_t >= k q_rj  where T_t(k) > s_j F

A node at a crossing that passes a share in ``(s_j-1, s_j]``, less than it could, pays ``k q_rj``
for its layers and ``u_t - k q_rj`` for the crossing: a half where it ends and a half where it
begins; all of it where it ends, as long as no node of its group has begun at a crossing; all of it
where it begins, once none of its group will end at one. All other nodes pay ``k p_tk``. With ``c0``
the cheapest cover of a layer at the prices ``p`` and ``q``, and ``E`` the least that a walk costs
beyond ``c0`` a layer,

    sum_t N_t u_t < L c0 + E      proves F impossible.

Shares are told apart by cells and weights rounded up to parts of a cell, which only admits more
walks. With partial inference a node may receive in the middle of its range: then only ends pay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc import _native
from optalloc.serving.flow.arrays import FlowArrays
from optalloc.serving.flow.covers import (
    MOST_STATES,
    ROUND,
    CoverProgramme,
    all_items,
    bound_by_covers,
    layer_token_bound,
)
from optalloc.serving.flow.kinds import Kind, kinds_of
from optalloc.serving.flow.linear import INFINITY, GrowingLP
from optalloc.serving.flow.witness import Alone, Covers, Crossings, LayerTokens, Prices

CELLS, PARTS = 72, 4
_WIDE = 14  # nodes told apart on one side of a crossing
_GROWTH = 1.12  # from one size to the next
_ROUNDS = 150
_NEW = 0.3  # of the prices of the last programme; the rest from the best so far
_NEAR = 0.97
_UNKNOWN, _CLOSE = 10.0, 1e-4

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]


class Border(msgspec.Struct, frozen=True, kw_only=True):
    """A group of nodes and the others, the kinds of both, and what each passes alone.

    ``room[0, a - 1, b - 1]``: the most tokens/s from ``a`` nodes of the group to ``b`` others, and
    ``room[1, a - 1, b - 1]`` from ``a`` others to ``b`` of the group.
    """

    group: tuple[int, ...]
    kinds: tuple[tuple[Kind, ...], tuple[Kind, ...]]
    room: Floats
    alone: tuple[Alone, Alone]


def border_of(arrays: FlowArrays, group: Sequence[int], expired: Callable[[], bool]) -> Border:
    """The border between a group of nodes and all others."""
    inside = sorted(group)
    rest = sorted(set(range(len(arrays.problem.nodes))) - set(group))
    return Border(
        group=tuple(inside),
        kinds=(kinds_of(arrays.problem, inside), kinds_of(arrays.problem, rest)),
        room=np.stack(
            [_room(arrays.links[np.ix_(a, b)]) for a, b in ((inside, rest), (rest, inside))]
        ),
        alone=(_alone(arrays, inside, expired), _alone(arrays, rest, expired)),
    )


def _room(links: Floats) -> Floats:
    """The most that 1, 2, .. nodes (rows) pass to 1, 2, .. (columns), whichever they are."""

    def by_rows(block: Floats) -> Floats:
        padded = np.pad(block, [(0, max(0, _WIDE - n)) for n in block.shape])
        each = np.cumsum(-np.sort(-padded, axis=1), axis=1)[:, :_WIDE]
        found: Floats = np.cumsum(-np.sort(-each, axis=0), axis=0)[:_WIDE]
        return found

    return np.minimum(by_rows(links), by_rows(links.T).T)


def sizes_of(parts: int) -> list[int]:
    """Sizes of the share a node passes, in parts of the flow: each a little more than the last."""
    found, size = list[int](), 4.0
    while size < 0.8 * parts:
        found.append(round(size))
        size = max(size + 2.0, size * _GROWTH)
    return found


class SplitProgramme:
    """Prices that refute one flow by covers and a walk between two groups together."""

    def __init__(self, problem_layers: int, partial: bool, border: Border, flow: float) -> None:
        self.num_layers, self.flow, self.border = problem_layers, flow, border
        self.begins_pay = not partial
        self.kinds = [*border.kinds[0], *border.kinds[1]]
        self.items = all_items(self.kinds, flow)
        self.covers = CoverProgramme(self.kinds, problem_layers, flow, self.items)
        self.weights, self.lengths = self.covers.weights, self.covers.lengths
        self.kind_of = np.array([item.kind for item in self.items])
        self.counts: Floats = np.array([float(len(kind.nodes)) for kind in self.kinds])
        self.group: Ints = (self.kind_of >= len(border.kinds[0])).astype(np.int32)
        parts = CELLS * PARTS
        self.sizes: Ints = np.array(sizes_of(parts), dtype=np.int32)
        both = np.concatenate([self.sizes, self.sizes])
        self.wares: Floats = np.concatenate([self.weights, both / parts])
        self.limits: Ints = np.concatenate([self.covers.limits, -(-parts // both)]).astype(np.int32)
        # held[t, j]: the most layers on a node of kind t that could pass more than a size
        self.held: Floats = np.zeros((len(self.kinds), 2 * len(self.sizes)))
        for i, item in enumerate(self.items):
            able = self.sizes < self.weights[i] * parts - 1e-9
            mine = self._of_group(int(self.group[i]), self.held[item.kind])
            mine[able] = np.maximum(mine[able], item.layers)
        low, high = (one.flow_tokens_per_s / flow for one in border.alone)
        self.low = min(CELLS - 1, math.floor(low * CELLS + 1e-9))
        self.high = max(0, math.ceil((1.0 - high) * CELLS - 1e-9) - 1)

    def _of_group(self, group: int, values: Floats) -> Floats:
        return values[group * len(self.sizes) : (group + 1) * len(self.sizes)]

    def _simple_covers(self) -> list[dict[int, float]]:
        """Covers of one ware, and of one filled up by the least size that is enough."""
        found, first = list[dict[int, float]](), len(self.items)
        for ware, share in enumerate(self.wares.tolist()):
            enough = math.ceil(1.0 / share - 1e-9)
            found.append({ware: float(enough)})
            for some in sorted({1, enough - 1} - {0}) if enough > 1 else ():
                left = (1.0 - some * share) * CELLS * PARTS
                place = int(np.searchsorted(self.sizes, left - 1e-9))
                if place < len(self.sizes):
                    for size in (first + place, first + place + len(self.sizes)):
                        found.append({ware: float(some), size: float(size == ware) * some + 1.0})
        return found

    def whole(self, prices: Floats) -> Floats:
        """The least price of a node of each kind at prices of layers on items and sizes."""
        width = len(self.items)
        found: Floats = (self.held * prices[width:]).max(axis=1)
        np.maximum.at(found, self.kind_of, self.lengths * prices[:width])
        return found

    def with_sizes(self, prices: Floats) -> Floats:
        """Prices of items, and of sizes the most that raises no node's."""
        whole: Floats = np.zeros(len(self.kinds))
        np.maximum.at(whole, self.kind_of, self.lengths * prices)
        ratio = np.where(self.held > 0.0, whole[:, None] / np.maximum(self.held, 1.0), np.inf)
        least = np.minimum(ratio.min(axis=0), 2.0 * prices.max())
        return np.concatenate([prices, least])

    def refute(self, expired: Callable[[], bool]) -> Floats | None:
        """Prices of items and sizes that prove the flow impossible, or None."""
        width, kinds = len(self.wares), len(self.counts)
        sides = [0.0] * width + self.counts.tolist() + [1.0]
        lp = GrowingLP(sides, [-INFINITY] * (width + kinds) + [1.0])
        lp.add(-_UNKNOWN * self.num_layers, [width + kinds], [1.0])  # until a walk is known
        for row, item in enumerate(self.items):
            lp.add(0.0, [row, width + item.kind], [-float(item.layers), 1.0])
        for t, j in np.argwhere(self.held > 0.0).tolist():
            lp.add(0.0, [len(self.items) + j, width + t], [-self.held[t, j], 1.0])
        for simple in self._simple_covers():
            lp.add(1.0, list(simple), list(simple.values()))
        waiting = [self.wares, *self._of_covers(lp, expired)]
        centre: Floats = self.wares
        best = math.inf
        taken = np.zeros(width, dtype=np.int32)
        for _ in range(_ROUNDS):
            mixed: Floats = _NEW * np.maximum(lp.duals[:width], 0.0) + (1.0 - _NEW) * centre
            prices = waiting.pop(0) if waiting else mixed
            whole = self.whole(prices)
            cover, _ = _native.cheapest_cover(self.wares, prices, self.limits, taken, MOST_STATES)
            excess, layers, used, nodes = self._cheapest(prices, whole, cover)
            income, owed = float(whole @ self.counts), self.num_layers * cover + excess
            if income < owed * (1.0 - ROUND):
                return prices
            if income / owed < best:
                centre, best = prices / cover, income / owed
            held = np.flatnonzero(taken)
            lp.add(1.0, held.astype(np.int32), taken[held].astype(np.float64))
            entries = np.concatenate([used, nodes, [1.0]])
            filled = np.flatnonzero(np.abs(entries) > 1e-12)
            lp.add(layers, filled.astype(np.int32), entries[filled])
            if expired():
                return None
            if not waiting and lp.solve() >= self.num_layers * (1.0 - ROUND):
                return None
        return None

    def _of_covers(self, lp: GrowingLP, expired: Callable[[], bool]) -> list[Floats]:
        """Add covers that forbid most without links; prices near theirs, and halfway to linear."""
        width = len(self.items)
        prices: Floats = self.weights
        centre, best = prices, math.inf
        for _ in range(_ROUNDS):
            cover, taken = self.covers.cheapest(prices)
            if cover > 0.0 and (ratio := self.covers.income(prices) / cover) < best:
                centre, best = prices / cover, ratio
            rows = np.flatnonzero(taken)
            lp.add(1.0, rows.astype(np.int32), taken[rows].astype(np.float64))
            most = lp.solve() + _UNKNOWN * self.num_layers
            if best - most <= _CLOSE * best or expired():
                break
            prices = _NEW * np.maximum(lp.duals[:width], 0.0) + (1.0 - _NEW) * centre
        return [self.with_sizes(0.5 * (centre + self.weights)), self.with_sizes(centre)]

    def _cheapest(
        self, prices: Floats, whole: Floats, cover: float
    ) -> tuple[float, float, Floats, Floats]:
        """The least excess of a walk; its layers, the wares it uses, and nodes of each kind."""
        width = len(self.items)
        inside, outside = (sum(len(kind.nodes) for kind in kinds) for kinds in self.border.kinds)
        excess, layers, used, nodes, sizes = _native.cheapest_split(
            self.group,
            self.weights,
            self.lengths,
            prices[:width],
            whole[self.kind_of],
            self.sizes,
            prices[width:],
            CELLS,
            PARTS,
            inside,
            outside,
            self.border.room / self.flow,
            self.low,
            self.high,
            cover,
            self.begins_pay,
        )
        by_kind: Floats = np.zeros(len(self.counts))
        np.add.at(by_kind, self.kind_of, np.array(nodes))
        return excess, layers, np.array(used + sizes), by_kind

    def witness(self, prices: Floats) -> Crossings:
        """What the certifier checks."""
        width, count = len(self.items), len(self.sizes)
        sizes = prices[width:].tolist()
        return Crossings(
            flow_tokens_per_s=self.flow,
            region=self.border.group,
            groups=tuple(kind.nodes for kind in self.kinds),
            alone=self.border.alone,
            cells=CELLS,
            parts=PARTS,
            prices=Prices(items=self.items, prices=tuple(prices[:width].tolist())),
            sizes=tuple(self.sizes.tolist()),
            size_prices=(tuple(sizes[:count]), tuple(sizes[count:])),
        )


def bound_by_crossings(
    arrays: FlowArrays,
    groups: Sequence[Sequence[int]],
    reached: float,
    ceiling: float,
    *,
    tolerance: float,
    expired: Callable[[], bool],
) -> tuple[float, Crossings | None]:
    """The least flow found that walks forbid, tokens/s, with its witness; None: the ceiling stays.

    ``groups`` are regions, each taken against all others; ``reached`` is a flow some placement
    passes. Tried are a little more than that, then a little less than the ceiling; between them
    only if the latter is forbidden.
    """
    borders = [border_of(arrays, group, expired) for group in groups]
    low, high = reached, ceiling
    witness: Crossings | None = None
    flow = reached * (1.0 + tolerance)
    while high - low > tolerance * high * 0.999 and not expired():
        found = _refute(arrays, borders, flow, expired)
        if found is not None:
            high, witness = flow, found
        else:
            low = flow
            if witness is None and flow >= _NEAR * high:
                break
        flow = (low + high) / 2.0 if witness is not None else _NEAR * high
    return high, witness


def _refute(
    arrays: FlowArrays, borders: list[Border], flow: float, expired: Callable[[], bool]
) -> Crossings | None:
    """A witness that forbids the flow; the border it is from is the only one from then on."""
    problem = arrays.problem
    for border in borders:
        if sum(one.flow_tokens_per_s < flow for one in border.alone) < 2:
            continue  # no need to cross
        programme = SplitProgramme(problem.num_layers, problem.partial_inference, border, flow)
        if (prices := programme.refute(expired)) is not None:
            borders[:] = [border]
            return programme.witness(prices)
        if expired():
            break
    return None


def _alone(arrays: FlowArrays, nodes: Sequence[int], expired: Callable[[], bool]) -> Alone:
    """What some nodes pass at most without the others."""
    kinds = kinds_of(arrays.problem, nodes)
    num_layers = arrays.problem.num_layers
    tokens = layer_token_bound(kinds, num_layers) if kinds else 0.0
    if tokens <= 0.0:
        return Alone(flow_tokens_per_s=0.0, witness=LayerTokens(flow_tokens_per_s=0.0))
    flow, prices = bound_by_covers(
        kinds, num_layers, 1e-3 * tokens, tokens, tolerance=1e-3, expired=expired
    )
    if prices is None:
        return Alone(flow_tokens_per_s=tokens, witness=LayerTokens(flow_tokens_per_s=tokens))
    groups = tuple(kind.nodes for kind in kinds)
    covers = Covers(flow_tokens_per_s=flow, groups=groups, parts=(prices,))
    return Alone(flow_tokens_per_s=flow, witness=covers)
