"""Upper bounds on the flow that hold for every placement: layer-tokens, and covers of one layer.

Every token crosses every layer once, on a node that holds it. So at flow F the nodes that hold a
layer have ``sum min(T, F) >= F``: they *cover* it. With ``N_t`` nodes of kind ``t``, ``m_tk`` of
them holding ``k`` layers:

    layer-tokens   L F <= sum_t N_t max_k k min(T_t(k), F)                     (layer_token_bound)

    covers         LP(F) = max sum_v z_v   over covers v = (v_tk): sum_tk v_tk min(T_t(k), F) >= F
                   s.t.  sum_v z_v v_tk <= k m_tk,   sum_k m_tk <= N_t,   low_tk <= m_tk <= high_tk
                   F is impossible if LP(F) < L                                (CoverProgramme)

For any prices ``p_tk >= 0`` with ``c`` the cheapest cover, ``LP(F) <= income(p) / c`` where
``income`` is the most that nodes can earn, ``max sum_tk k p_tk m_tk`` over the ``m`` allowed: the
prices alone are the witness (Farley). Whole ``m_tk`` are reached by branching on them
(:mod:`optalloc.serving.flow.branch`). Links and partial inference are ignored: the bound holds with
and without them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from optalloc import _native
from optalloc.serving.flow.kinds import Kind, useful_lengths
from optalloc.serving.flow.linear import GrowingLP
from optalloc.serving.flow.witness import Item, Prices

#: Relative safety of every comparison that proves something.
ROUND = 1e-9
#: Undominated partial covers kept before the search for the cheapest cover settles for a bound.
MOST_STATES = 20_000
_ROUNDS = 2_000

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]


def layer_token_bound(kinds: Sequence[Kind], num_layers: int) -> float:
    """The largest F with ``L F <= sum_t N_t max_k k min(T_t(k), F)``, tokens/s."""
    flow = math.inf
    while True:
        supply = math.fsum(
            len(kind.nodes) * max(k * min(rate, flow) for k, rate in enumerate(kind.table, 1))
            for kind in kinds
        )
        tighter = supply / num_layers
        if tighter >= flow * (1.0 - 1e-13):
            return flow if math.isfinite(flow) else tighter
        flow = tighter


def all_items(kinds: Sequence[Kind], flow: float) -> tuple[Item, ...]:
    """Every useful number of layers of every kind at ``flow`` tokens/s, with all nodes free."""
    return tuple(
        Item(t, k, 0, len(kind.nodes))
        for t, kind in enumerate(kinds)
        for k in useful_lengths(kind.table, flow)
    )


class CoverProgramme:
    """LP(F) for one flow and one box of counts, solved by columns.

    After :meth:`refute` returned None, ``counts`` holds the ``m`` of the last solution and
    ``finished`` whether no column was missing.
    """

    def __init__(
        self, kinds: Sequence[Kind], num_layers: int, flow: float, items: tuple[Item, ...]
    ) -> None:
        self.kinds, self.num_layers, self.flow, self.items = kinds, num_layers, flow, items
        self.weights: Floats = np.array(
            [min(1.0, kinds[i.kind].table[i.layers - 1] / flow) for i in items], dtype=np.float64
        )
        self.limits: Ints = np.array([i.high for i in items], dtype=np.int32)
        self.lengths: Floats = np.array([float(i.layers) for i in items])
        self.counts: Floats = np.zeros(len(items))
        self.finished = False
        self._nodes = [len(kind.nodes) for kind in kinds]
        self._kind_of = np.array([item.kind for item in items], dtype=np.int64)
        self._free = all(i.low == 0 and i.high == self._nodes[i.kind] for i in items)

    def cheapest(self, prices: Floats) -> tuple[float, Ints]:
        """A bound on the price of every cover, and a cover."""
        taken: Ints = np.zeros(len(self.items), dtype=np.int32)
        bound, _ = _native.cheapest_cover(self.weights, prices, self.limits, taken, MOST_STATES)
        return bound, taken

    def income(self, prices: Floats) -> float:
        """The most that nodes can earn at these prices; minus infinity for an empty box."""
        if self._free:
            best_of: Floats = np.zeros(len(self._nodes))
            np.maximum.at(best_of, self._kind_of, self.lengths * prices)
            return float(best_of @ self._nodes)
        free = list(self._nodes)
        total = 0.0
        for item, price in zip(self.items, prices.tolist(), strict=True):
            total += item.low * item.layers * price
            free[item.kind] -= item.low
        if min(free, default=0) < 0:
            return -math.inf
        best = sorted(
            ((i.layers * p, i) for i, p in zip(self.items, prices.tolist(), strict=True)),
            key=lambda pair: -pair[0],
        )
        for earned, item in best:
            used = min(free[item.kind], item.high - item.low)
            free[item.kind] -= used
            total += used * earned
        return total

    def refutes(self, prices: Floats) -> bool:
        """Whether these prices prove the flow impossible."""
        bound, _ = self.cheapest(prices)
        return self._proves(self.income(prices), bound)

    def _proves(self, income: float, cheapest: float) -> bool:
        if income == -math.inf or cheapest == math.inf:
            return True
        return income < self.num_layers * cheapest * (1.0 - ROUND)

    def refute(
        self, pool: list[dict[tuple[int, int], int]], expired: Callable[[], bool]
    ) -> Prices | None:
        """Prices that prove the flow impossible, or None where covers do not forbid it.

        ``pool`` holds covers met before (by kind and layers); new ones are added to it.
        """
        lp = self.of_counts()
        index = {(item.kind, item.layers): row for row, item in enumerate(self.items)}
        for cover in pool:
            if all(key in index for key in cover):
                held = [index[key] for key in cover]
                amounts = np.array([float(number) for number in cover.values()])
                if (
                    self.weights[held] @ amounts >= 1.0 - 1e-12
                    and (amounts <= self.limits[held]).all()
                ):
                    lp.add(1.0, held, amounts)
        prices: Floats = 1.0 / np.maximum(self.lengths, 1.0)
        if lp.num_columns > len(self.items):
            if self._enough(lp):
                return None
            prices = np.maximum(lp.duals[: len(self.items)], 0.0)
        centre, best = prices, math.inf
        for _ in range(_ROUNDS):
            cheapest, taken = self.cheapest(prices)
            income = self.income(prices)
            if self._proves(income, cheapest):
                return Prices(items=self.items, prices=tuple(prices.tolist()))
            ratio = income / cheapest if cheapest > 0.0 else math.inf
            if ratio < best:
                centre, best = prices, ratio
            rows = np.flatnonzero(taken).astype(np.int32)
            missing = not lp.solved or lp.duals[rows] @ taken[rows] < 1.0 - ROUND
            if missing:
                lp.add(1.0, rows, taken[rows].astype(np.float64))
                pool.append(
                    {(self.items[r].kind, self.items[r].layers): int(taken[r]) for r in rows}
                )
                if self._enough(lp):
                    return None
            if expired():
                return None
            duals = np.maximum(lp.duals[: len(self.items)], 0.0)
            if missing:
                scale = float(centre @ self.lengths) / max(float(duals @ self.lengths), 1e-300)
                prices = 0.7 * duals + 0.3 * centre / max(scale, 1e-300)
            elif np.array_equal(prices, duals):
                self.finished = True
                return None
            else:
                prices = duals
        return None

    def _enough(self, lp: GrowingLP) -> bool:
        """Solve again; whether all layers are covered."""
        value = lp.solve()
        self.counts = lp.values[: len(self.items)]
        if value >= self.num_layers * (1.0 - ROUND):
            self.finished = True
            return True
        return False

    def of_counts(self) -> GrowingLP:
        """The programme without covers: a row for each item, a column for each ``m_tk``."""
        width = len(self.items)
        lp = GrowingLP([0.0] * width + [float(n) for n in self._nodes])
        for row, item in enumerate(self.items):
            lp.add(
                0.0,
                [row, width + item.kind],
                [-float(item.layers), 1.0],
                lower=float(item.low),
                upper=float(item.high),
            )
        return lp


def bound_by_covers(
    kinds: Sequence[Kind],
    num_layers: int,
    reached: float,
    ceiling: float,
    *,
    tolerance: float,
    expired: Callable[[], bool],
) -> tuple[float, Prices | None]:
    """The least flow found that covers forbid, tokens/s, with its prices; None: the ceiling stays.

    ``reached`` is a flow some placement passes. Bisection stops within ``tolerance`` (relative) of
    the true threshold, or of ``reached``.
    """
    low, high = reached, ceiling
    witness: Prices | None = None
    pool: list[dict[tuple[int, int], int]] = []
    flow = reached * (1.0 + tolerance) if reached > 0.0 else ceiling / 2.0
    while high - low > tolerance * high * 0.999 and not expired():
        programme = CoverProgramme(kinds, num_layers, flow, all_items(kinds, flow))
        found = programme.refute(pool, expired)
        if found is not None:
            high, witness = flow, found
        elif expired():
            break
        else:
            low = flow
        flow = (low + high) / 2.0
    return high, witness
