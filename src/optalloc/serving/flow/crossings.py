"""An upper bound that sees narrow links: the way through the layers from region to region.

Take any placement of flow F, in which region ``r`` carries the share ``g_r(l)`` of it at layer
``l``. If the other regions alone cannot pass ``d_r F`` through all layers (a bound of
:mod:`optalloc.serving.flow.covers`), some layer has ``g_r >= 1 - d_r``. So the shares *walk*: from
a layer where one region carries that much to one where the next does. At prices ``p_tk``, and
``u_t >= max_k k p_tk`` for a whole node:

    a layer with shares g pays at least  sum_r C_r(g_r),  C_r the cheapest set of r that passes g_r
    where the share of r falls or grows by D between layers, D F crosses its border on links of at
    most c: from a nodes that end there to b nodes that begin there, each passing at most b c or a c

A node ends once and begins once, so of what it does not earn, ``u - k p``, half can be asked for at
its end and half at its begin: crossing nodes pay ``p + (u - k p) / 2`` a layer. A layer may be the
end of one crossing and the begin of another on the same nodes, so each is asked for half of what it
adds. With ``c0`` the cheapest cover and ``E`` the least excess of a walk over ``c0`` a layer,

    sum_t N_t u_t < L c0 + E      proves F impossible.

Shares are rounded down to levels and weights up to parts, which only admits more walks. With
partial inference a node may receive in the middle of its range: then only ends pay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc import _native
from optalloc.serving.flow.arrays import FlowArrays
from optalloc.serving.flow.covers import ROUND, bound_by_covers, layer_token_bound
from optalloc.serving.flow.kinds import Kind, kinds_of, useful_lengths
from optalloc.serving.flow.linear import INFINITY, GrowingLP
from optalloc.serving.flow.witness import Alone, Covers, Crossings, Item, LayerTokens, Prices

#: By number of regions.
LEVELS = {2: 40, 3: 20}
PARTS = {2: 8, 3: 12}
_MOST_STATES = 20_000
_ROUNDS = 150
_NEAR = 0.97

Floats = NDArray[np.float64]


class Border(msgspec.Struct, frozen=True, kw_only=True):
    """Groups of nodes, the kinds in each, and the best link out of and into each, tokens/s."""

    groups: tuple[tuple[int, ...], ...]
    kinds: tuple[tuple[Kind, ...], ...]
    leaves: tuple[float, ...]
    enters: tuple[float, ...]


def border_of(arrays: FlowArrays, groups: Sequence[Sequence[int]]) -> Border:
    """The border of two or three groups; the smallest are joined where there are more."""
    kept = [list(group) for group in groups]
    while len(kept) > 3:
        kept.sort(key=len)
        kept[:2] = [kept[0] + kept[1]]
    leaves, enters = [], []
    everyone = {node for group in kept for node in group}
    for group in kept:
        rest = sorted(everyone - set(group))
        leaves.append(float(arrays.links[np.ix_(group, rest)].max()))
        enters.append(float(arrays.links[np.ix_(rest, group)].max()))
    return Border(
        groups=tuple(tuple(group) for group in kept),
        kinds=tuple(kinds_of(arrays.problem, group) for group in kept),
        leaves=tuple(leaves),
        enters=tuple(enters),
    )


class WalkProgramme:
    """Prices that refute one flow by covers and a walk together."""

    def __init__(self, arrays: FlowArrays, border: Border, flow: float, alone: Sequence[float]):
        problem = arrays.problem
        self.num_layers, self.flow, self.border = problem.num_layers, flow, border
        self.kinds = [(r, kind) for r, kinds in enumerate(border.kinds) for kind in kinds]
        self.items = [
            (t, k)
            for t, (_, kind) in enumerate(self.kinds)
            for k in useful_lengths(kind.table, flow)
        ]
        self.weights: Floats = np.array(
            [min(1.0, self.kinds[t][1].table[k - 1] / flow) for t, k in self.items]
        )
        self.lengths: Floats = np.array([float(k) for _, k in self.items])
        self.kind_of = np.array([t for t, _ in self.items])
        self.counts = np.array([float(len(kind.nodes)) for _, kind in self.kinds])
        self.limits = self.counts[self.kind_of].astype(np.int32)
        self.region = np.array([self.kinds[t][0] for t, _ in self.items], dtype=np.int32)
        self.levels = LEVELS[len(border.groups)]
        self.parts = PARTS[len(border.groups)]
        self.visit = np.array(
            [level_of(1.0 - share / flow, self.levels) for share in alone], dtype=np.int32
        )
        self.begins_pay = not problem.partial_inference

    def price_walk(self, prices: Floats, cover: float) -> tuple[float, Floats, Floats, float]:
        """The least excess, and what that walk uses: plain, marked at half; and its layers."""
        whole: Floats = np.zeros(len(self.counts))
        np.maximum.at(whole, self.kind_of, self.lengths * prices)
        left = 0.5 * (whole[self.kind_of] - self.lengths * prices)
        found = _native.cheapest_walk(
            self.region,
            self.weights,
            prices,
            prices + left,
            prices + left if self.begins_pay else prices,
            self.levels,
            self.parts,
            np.minimum(1.0, np.array(self.border.leaves) / self.flow),
            np.minimum(1.0, np.array(self.border.enters) / self.flow),
            self.visit,
            cover,
        )
        excess, layers, plain, out, begin = found
        marked = np.array(out) + (np.array(begin) if self.begins_pay else 0.0)
        used = np.array(plain) + np.array(out) + np.array(begin)
        return excess, used, marked, layers

    def refute(self, expired: Callable[[], bool]) -> Prices | None:
        """Prices that prove the flow impossible, or None."""
        width, kinds = len(self.items), len(self.counts)
        sides = [0.0] * width + self.counts.tolist() + [1.0]
        lp = GrowingLP(sides, [-INFINITY] * (width + kinds) + [1.0])
        lp.add(-10.0 * self.num_layers, [width + kinds], [1.0])  # until a walk is known
        for row, (t, k) in enumerate(self.items):
            lp.add(0.0, [row, width + t], [-float(k), 1.0])
        prices: Floats = 1.0 / self.lengths
        centre, best = prices, np.inf
        taken = np.zeros(width, dtype=np.int32)
        for _ in range(_ROUNDS):
            cover, _ = _native.cheapest_cover(
                self.weights, prices, self.limits, taken, _MOST_STATES
            )
            if not np.isfinite(cover):
                return self._prices(prices * 0.0)
            excess, used, marked, layers = self.price_walk(prices, cover)
            whole: Floats = np.zeros(kinds)
            np.maximum.at(whole, self.kind_of, self.lengths * prices)
            income = float(self.counts @ whole)
            owed = self.num_layers * cover + excess
            if income < owed * (1.0 - ROUND):
                return self._prices(prices)
            if income / owed < best:
                centre, best = prices, income / owed
            rows = np.flatnonzero(taken)
            lp.add(1.0, rows.astype(np.int32), taken[rows].astype(np.float64))
            if np.isfinite(excess):
                use = used - 0.5 * self.lengths * marked
                by_kind: Floats = np.zeros(kinds)
                np.add.at(by_kind, self.kind_of, 0.5 * marked)
                entries = np.concatenate([use, by_kind, [1.0]])
                filled = np.flatnonzero(np.abs(entries) > 1e-12)
                lp.add(float(layers), filled.astype(np.int32), entries[filled])
            value = lp.solve()
            if value >= self.num_layers * (1.0 - ROUND) or expired():
                return None
            duals = np.maximum(lp.duals[:width], 0.0)
            scale = float(centre @ self.lengths) / max(float(duals @ self.lengths), 1e-300)
            smooth = 0.6 * duals + 0.4 * centre / max(scale, 1e-300)
            prices = duals if np.allclose(prices, smooth, rtol=1e-9, atol=0.0) else smooth
        return None

    def _prices(self, prices: Floats) -> Prices:
        items = tuple(Item(t, k, 0, int(self.counts[t])) for t, k in self.items)
        return Prices(items=items, prices=tuple(prices.tolist()))


def level_of(share: float, levels: int) -> int:
    """The level a share of at least this much is rounded down to; above all levels for none."""
    return int(np.floor(share * levels + 1e-9)) if share > 0.0 else levels + 1


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

    ``groups`` are the regions; ``reached`` is a flow some placement passes. Tried are a little more
    than that, then a little less than the ceiling; between them only if the latter is forbidden.
    """
    border = border_of(arrays, groups)
    alone = [_alone(arrays, border, r, expired) for r in range(len(border.groups))]
    low, high = reached, ceiling
    witness: Crossings | None = None
    flow = reached * (1.0 + tolerance)
    while high - low > tolerance * high * 0.999 and not expired():
        shares = [one.flow_tokens_per_s for one in alone]
        if sum(share < flow for share in shares) < 2:
            low = flow
        else:
            found = WalkProgramme(arrays, border, flow, shares).refute(expired)
            if found is None:
                low = flow
                if witness is None and flow < _NEAR * high:
                    flow = _NEAR * high
                    continue
                if witness is None:
                    break
            else:
                high = flow
                witness = Crossings(
                    flow_tokens_per_s=flow,
                    regions=border.groups,
                    groups=tuple(k.nodes for kinds in border.kinds for k in kinds),
                    alone=tuple(alone),
                    levels=LEVELS[len(border.groups)],
                    parts=PARTS[len(border.groups)],
                    prices=found,
                )
        flow = (low + high) / 2.0
    return high, witness


def _alone(arrays: FlowArrays, border: Border, r: int, expired: Callable[[], bool]) -> Alone:
    """What the other regions pass without region ``r``."""
    rest = [node for q, group in enumerate(border.groups) if q != r for node in group]
    kinds = kinds_of(arrays.problem, sorted(rest))
    num_layers = arrays.problem.num_layers
    if not kinds:
        return Alone(flow_tokens_per_s=0.0, witness=None)
    tokens = layer_token_bound(kinds, num_layers)
    flow, prices = bound_by_covers(
        kinds, num_layers, 1e-3 * tokens, tokens, tolerance=1e-3, expired=expired
    )
    if prices is None:
        return Alone(flow_tokens_per_s=tokens, witness=LayerTokens(flow_tokens_per_s=tokens))
    groups = tuple(kind.nodes for kind in kinds)
    covers = Covers(flow_tokens_per_s=flow, groups=groups, parts=(prices,))
    return Alone(flow_tokens_per_s=flow, witness=covers)
