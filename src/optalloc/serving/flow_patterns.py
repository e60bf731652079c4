"""Placements in rows of stages: chains of single nodes, and stages that several nodes share.

A *stage* holds ``k`` layers on ``n_t`` nodes of each kind with ``sum_t n_t T_t(k) >= F``. Stages in
a row that cover all layers pass F wherever links do not bind:

    max sum_p k_p x_p   s.t.  sum_p n_tp x_p <= N_t,   x_p whole;   F is reached if it is >= L

The programme over all stages is solved by columns (the cheapest stage of each length is a knapsack)
and then in whole numbers over the stages found. A chain is the case of one node a stage: for each F
every node holds the most layers it can.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from optalloc import _native
from optalloc.serving.flow_bounds import PARTS
from optalloc.serving.flow_kinds import Kind
from optalloc.serving.linear import GrowingLP

#: A stage: layers held, and how many nodes of each kind (by its index) hold them.
Stage = tuple[int, dict[int, int]]


def best_chain(kinds: Sequence[Kind], num_layers: int) -> tuple[float, list[Stage]]:
    """The largest flow (tokens/s) of one node a layer, and its stages; 0.0 where none exists."""
    candidates = sorted({rate for kind in kinds for rate in kind.table if rate > 0.0})
    low, high = 0, len(candidates)  # candidates below low reach
    while low < high:
        middle = (low + high) // 2
        if _chain_layers(kinds, candidates[middle]) >= num_layers:
            low = middle + 1
        else:
            high = middle
    if low == 0:
        return 0.0, []
    flow = candidates[low - 1]
    row: list[Stage] = []
    for t, kind in enumerate(kinds):
        if held := _held(kind, flow):
            row += [(held, {t: 1})] * len(kind.nodes)
    return flow, row


def _held(kind: Kind, flow: float) -> int:
    return max((k for k, rate in enumerate(kind.table, 1) if rate >= flow), default=0)


def _chain_layers(kinds: Sequence[Kind], flow: float) -> int:
    return sum(_held(kind, flow) * len(kind.nodes) for kind in kinds)


def stages_reaching(
    kinds: Sequence[Kind],
    num_layers: int,
    flow: float,
    *,
    seconds: float,
    expired: Callable[[], bool] = lambda: False,
) -> list[Stage] | None:
    """Stages in a row that cover all layers at ``flow`` tokens/s, or None where none were found."""
    longest = max((len(kind.table) for kind in kinds), default=0)
    counts = [len(kind.nodes) for kind in kinds]
    lp = GrowingLP(row_upper=[float(count) for count in counts])
    found: list[Stage] = []
    seen: set[tuple[int, tuple[tuple[int, int], ...]]] = set()

    def offer(stage: Stage) -> bool:
        key = (stage[0], tuple(sorted(stage[1].items())))
        if key in seen or any(number > counts[t] for t, number in stage[1].items()):
            return False
        seen.add(key)
        found.append(stage)
        lp.add(float(stage[0]), list(stage[1]), [float(n) for n in stage[1].values()])
        return True

    for t, kind in enumerate(kinds):
        for k, rate in enumerate(kind.table, 1):
            if rate > 0.0:
                offer((k, {t: math.ceil(flow / rate * (1.0 - 1e-12))}))
    if not found:
        return None
    for _ in range(60):
        value = lp.solve()
        prices = np.maximum(lp.duals, 0.0)
        grown = False
        for k in range(1, longest + 1):
            stage, cost = _cheapest_stage(kinds, k, flow, prices)
            if stage is not None and cost < k * (1.0 - 1e-9):
                grown = offer(stage) or grown
        if not grown or expired():
            break
    if value < num_layers * (1.0 - 1e-9):
        return None
    values = lp.solve_whole(range(len(found)), seconds, enough=float(num_layers))
    if values is None:
        return None
    row: list[Stage] = []
    for stage, amount in zip(found, np.rint(values).astype(int).tolist(), strict=True):
        row += [stage] * amount
    return row if sum(k for k, _ in row) >= num_layers else None


def _cheapest_stage(
    kinds: Sequence[Kind], k: int, flow: float, prices: np.ndarray
) -> tuple[Stage | None, float]:
    fitting = [t for t, kind in enumerate(kinds) if len(kind.table) >= k and kind.table[k - 1] > 0]
    if not fitting:
        return None, math.inf
    weights = np.array(
        [min(PARTS, math.floor(PARTS * kinds[t].table[k - 1] / flow + 1e-9)) for t in fitting],
        dtype=np.int32,
    )
    costs = np.ascontiguousarray(prices[fitting] + 1e-9)
    cost = np.empty(PARTS + 1)
    choice = np.empty(PARTS + 1, dtype=np.int32)
    _native.cheapest_covers(weights, costs, cost, choice)
    if not math.isfinite(cost[PARTS]):
        return None, math.inf
    taken: dict[int, int] = {}
    rest = PARTS
    while rest > 0:
        item = int(choice[rest])
        taken[fitting[item]] = taken.get(fitting[item], 0) + 1
        rest -= int(weights[item])
    if sum(n * kinds[t].table[k - 1] for t, n in taken.items()) < flow * (1.0 - 1e-12):
        return None, math.inf  # rounding to parts made up the last of it
    return (k, taken), float(cost[PARTS])


def in_a_row(
    kinds: Sequence[Kind], num_layers: int, stages: Sequence[Stage]
) -> dict[int, tuple[int, int]]:
    """Ranges of nodes for stages one after another, the last ones shortened to end at the head.

    Stages that are not needed are left out, the shortest first.
    """
    kept = sorted(stages, key=lambda stage: -stage[0])
    while kept and sum(k for k, _ in kept[:-1]) >= num_layers:
        kept.pop()
    spare = sum(k for k, _ in kept) - num_layers
    free = [list(kind.nodes) for kind in kinds]
    placement: dict[int, tuple[int, int]] = {}
    first = 0
    for place, (k, members) in enumerate(kept):
        length = k
        if spare > 0:  # a shorter range must not pass less: T need not fall with k
            for shorter in range(max(1, k - spare), k):
                if all(kinds[t].table[shorter - 1] >= kinds[t].table[k - 1] for t in members):
                    length = shorter
                    break
            spare -= k - length
        end = min(num_layers, first + length)
        for t, number in members.items():
            for _ in range(number):
                placement[free[t].pop(0)] = (first, end)
        first = end
        if first >= num_layers and place + 1 < len(kept):
            break
    return placement
