"""Upper bounds on the flow that hold for every placement: layer-tokens, and covers of one layer.

Every token crosses every layer once, on a node that holds it. So at flow F the nodes that hold a
layer have ``sum min(T, F) >= F``: they *cover* it. With ``N_t`` nodes of kind ``t``, ``m_tk`` of
them holding ``k`` layers:

    layer-tokens   L F <= sum_t N_t max_k k min(T_t(k), F)

    covers         LP(F) = max sum_v z_v   over covers v = (v_tk): sum_tk v_tk min(T_t(k), F) >= F
                   s.t.  sum_v z_v v_tk <= k m_tk,   sum_k m_tk <= N_t
                   F is impossible if LP(F) < L

and for any prices ``p_tk >= 0`` with ``c`` the cheapest cover, ``LP(F) <= sum_t N_t max_k k p_tk
/ c``: the prices alone are the witness. Weights are rounded up, which only admits more covers.
Links and partial inference are ignored: both bounds hold with and without them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from optalloc import _native
from optalloc.serving.flow_kinds import Kind, useful_lengths
from optalloc.serving.linear import GrowingLP

#: Cover weights are whole numbers of this many parts of the flow.
PARTS = 2000
_ROUND = 1e-9


class CoverWitness(msgspec.Struct, frozen=True, kw_only=True):
    """Why no placement passes ``flow_tokens_per_s``: prices of one layer on one node.

    ``prices[t][k - 1]`` is the price of a layer on a node of kind ``t`` that holds ``k``; a kind is
    given by its table.
    """

    flow_tokens_per_s: float
    tables: tuple[tuple[float, ...], ...]
    counts: tuple[int, ...]
    prices: tuple[tuple[float, ...], ...]


def layer_token_bound(kinds: Sequence[Kind], num_layers: int) -> float:
    """The largest F with ``L F <= sum_t N_t max_k k min(T_t(k), F)``, tokens/s."""
    flow = math.inf
    while True:
        supply = sum(
            len(kind.nodes) * max(k * min(rate, flow) for k, rate in enumerate(kind.table, 1))
            for kind in kinds
        )
        tighter = supply / num_layers
        if tighter >= flow * (1.0 - 1e-12):
            return min(flow, tighter) * (1.0 + 1e-12) if math.isfinite(flow) else tighter
        flow = tighter


def refute_by_covers(
    kinds: Sequence[Kind],
    num_layers: int,
    flow: float,
    expired: Callable[[], bool] = lambda: False,
) -> CoverWitness | None:
    """Prices that prove ``flow`` (tokens/s) impossible; None where covers do not forbid it."""
    items = [
        (t, k) for t, kind in enumerate(kinds) for k in useful_lengths(kind.table, flow) if k > 0
    ]
    if not items:
        return CoverWitness(flow_tokens_per_s=flow, tables=(), counts=(), prices=())
    weights = np.array([part_weight(kinds[t].table[k - 1], flow) for t, k in items], dtype=np.int32)
    lengths = np.array([k for _, k in items], dtype=np.float64)
    kind_of = np.array([t for t, _ in items])
    counts = np.array([len(kind.nodes) for kind in kinds], dtype=np.float64)
    starts = np.searchsorted(kind_of, np.arange(len(kinds)))
    lp = GrowingLP(
        row_upper=np.concatenate([np.zeros(len(items)), counts]),
    )
    for row, (t, k) in enumerate(items):
        lp.add(0.0, [row, len(items) + t], [-float(k), 1.0])
    cost = np.empty(PARTS + 1)
    choice = np.empty(PARTS + 1, dtype=np.int32)
    prices = 1.0 / np.maximum(lengths, 1.0) / max(1.0, counts.sum())  # a start; any prices do
    centre, best_bound = prices, math.inf
    for _ in range(20_000):
        _native.cheapest_covers(weights, prices, cost, choice)
        cheapest = float(cost[PARTS])
        if not math.isfinite(cheapest):
            return _witness(flow, kinds, items, prices * 0.0)
        income = float((counts * np.maximum.reduceat(lengths * prices, starts)).sum())
        bound = income / cheapest if cheapest > 0.0 else math.inf
        if bound < num_layers * (1.0 - _ROUND):
            return _witness(flow, kinds, items, prices)
        if bound < best_bound:
            centre, best_bound = prices, bound
        rows, amounts = _cover(choice, weights)
        duals_at_cover = lp.duals[rows] @ amounts if lp.solved else 0.0
        improves = not lp.solved or duals_at_cover < 1.0 - 1e-9
        if improves:
            lp.add(1.0, rows, amounts)
        value = lp.solve()
        if value >= num_layers * (1.0 - _ROUND) or expired():
            return None
        duals = np.maximum(lp.duals[: len(items)], 0.0)
        if improves:
            scale = float(centre @ lengths) / max(float(duals @ lengths), 1e-300)
            prices = 0.7 * duals + 0.3 * centre / max(scale, 1e-300)
        elif np.array_equal(prices, duals):
            return None  # no cover is missing and the bound still allows the flow
        else:
            prices = duals
    return None


def part_weight(rate: float, flow: float) -> int:
    """``PARTS * min(rate, flow) / flow`` rounded up, with a guard against rounding noise."""
    if rate >= flow:
        return PARTS
    return min(PARTS, math.ceil(PARTS * rate / flow * (1.0 + 1e-12)))


def _cover(choice: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and amounts of the cheapest cover."""
    taken: dict[int, float] = {}
    rest = PARTS
    while rest > 0:
        item = int(choice[rest])
        taken[item] = taken.get(item, 0.0) + 1.0
        rest = max(0, rest - int(weights[item]))
    rows = np.array(sorted(taken), dtype=np.int32)
    return rows, np.array([taken[int(row)] for row in rows])


def _witness(
    flow: float,
    kinds: Sequence[Kind],
    items: list[tuple[int, int]],
    prices: np.ndarray,
) -> CoverWitness:
    table = [[0.0] * len(kind.table) for kind in kinds]
    for (t, k), price in zip(items, prices.tolist(), strict=True):
        table[t][k - 1] = price
    # A length that a longer one outdoes is priced as the longer one: it never earns more.
    for t, kind in enumerate(kinds):
        useful = {k for kind_index, k in items if kind_index == t}
        for k in range(1, len(kind.table) + 1):
            if k not in useful:
                better = [
                    q
                    for q in useful
                    if q > k and min(kind.table[q - 1], flow) >= min(kind.table[k - 1], flow)
                ]
                table[t][k - 1] = table[t][min(better) - 1] if better else 0.0
    return CoverWitness(
        flow_tokens_per_s=flow,
        tables=tuple(kind.table for kind in kinds),
        counts=tuple(len(kind.nodes) for kind in kinds),
        prices=tuple(tuple(row) for row in table),
    )
