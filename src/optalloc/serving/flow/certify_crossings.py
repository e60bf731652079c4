"""Check a bound that sees narrow links, from its prices alone; shares no code with the solvers.

What the prices prove is said in :mod:`optalloc.serving.flow.crossings`. Here the cheapest ways to
carry a share of the flow in either group are tabulated again, every change of shares is priced, and
the cheapest way through the layers is found by relaxing all changes at once until none gets
cheaper.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from optalloc.errors import CertificateError
from optalloc.serving.flow.problem import FlowProblem
from optalloc.serving.flow.witness import Crossings

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_WIDE = 14  # nodes told apart on one side of a crossing; the last stands for any more


def wares_of(
    witness: Crossings, tables: Sequence[tuple[float, ...]]
) -> tuple[list[float], list[int]]:
    """Shares of the flow that items pass, then sizes in and outside the region; most of each."""
    flow, parts = witness.flow_tokens_per_s, witness.cells * witness.parts
    if not 2 <= witness.cells <= 200 or not 1 <= witness.parts <= 50:
        raise CertificateError("the proof is on a grid that makes no sense")
    sizes = list(witness.sizes)
    if sizes != sorted(set(sizes)) or (sizes and sizes[0] < 1):
        raise CertificateError("the sizes of the proof do not grow")
    if any(len(prices) != len(sizes) for prices in witness.size_prices):
        raise CertificateError("a price of a size is missing")
    weights = [min(1.0, tables[i.kind][i.layers - 1] / flow) for i in witness.prices.items]
    limits = [len(witness.groups[i.kind]) for i in witness.prices.items]
    return (
        weights + [size / parts for size in sizes] * 2,
        limits + [math.ceil(parts / size) for size in sizes] * 2,
    )


def sides_of(problem: FlowProblem, witness: Crossings) -> list[int]:
    """0 for each group of nodes in the region, 1 for each outside.

    Raises
    ------
    CertificateError
        If a group is neither, or the region names what is not there.
    """
    region = set(witness.region)
    if not region <= set(range(len(problem.nodes))):
        raise CertificateError("the region of the proof names a node that is not there")
    sides = [0 if set(group) <= region else 1 for group in witness.groups]
    if any(side and set(group) & region for side, group in zip(sides, witness.groups, strict=True)):
        raise CertificateError("a group of the proof is on both sides of the border")
    return sides


def least_excess(
    problem: FlowProblem, witness: Crossings, tables: list[tuple[float, ...]], cover: float
) -> tuple[float, float]:
    """What nodes earn at most, and the least a walk costs beyond ``cover`` a layer."""
    home = sides_of(problem, witness)
    items, count, flow = witness.prices.items, witness.cells, witness.flow_tokens_per_s
    total = count * witness.parts
    kind = np.array([item.kind for item in items])
    layers = np.array([float(item.layers) for item in items])
    price = np.array(witness.prices.prices)
    weight = np.array(wares_of(witness, tables)[0][: len(items)]) * total
    side = np.array(home)[kind]
    sizes = np.array(witness.sizes, dtype=np.int64)
    node = np.zeros(len(tables))
    np.maximum.at(node, kind, layers * price)
    for i in range(len(items)):
        for size, paid in zip(sizes.tolist(), witness.size_prices[side[i]], strict=True):
            if size < weight[i] - 1e-9:
                node[kind[i]] = max(node[kind[i]], layers[i] * paid)
    carry, lose = [], []
    for r in (0, 1):
        mine = side == r
        by_size = np.array(witness.size_prices[r])
        width = np.concatenate([np.ceil(weight[mine] - 1e-9).astype(np.int64), sizes])
        carry.append(_carried(np.maximum(1, width), np.concatenate([price[mine], by_size]), total))
        lose.append(
            _losses(weight[mine], layers[mine], price[mine], node[kind[mine]], sizes, by_size)
        )
    spans = [
        min(
            carry[0][h] + carry[1][max(0, total - h - 1)]
            for h in range(x * witness.parts, (x + 1) * witness.parts + 1)
        )
        for x in range(count)
    ]
    excess = np.maximum(0.0, np.array(spans) - cover)
    numbers = [
        sum(len(group) for group, r in zip(witness.groups, home, strict=True) if r == s)
        for s in (0, 1)
    ]
    change = _changes(problem, witness, lose, numbers)
    low, high = (one.flow_tokens_per_s / flow for one in witness.alone)
    places = np.arange(count)
    goals = [
        places <= np.floor(low * count + 1e-9),
        places >= np.ceil((1.0 - high) * count - 1e-9) - 1,
    ]
    earned = sum(len(g) * float(u) for g, u in zip(witness.groups, node, strict=True))
    return earned, _shortest(change, excess, goals)


def _carried(width: Ints, price: Floats, total: int) -> Floats:
    """The cheapest wares that carry at least h parts of the flow, for all h."""
    cost: Floats = np.zeros(total + 1)
    for h in range(1, total + 1):
        cost[h] = (cost[np.maximum(0, h - width)] + price).min(initial=np.inf)
    return cost


def _losses(
    weight: Floats, layers: Floats, price: Floats, node: Floats, sizes: Ints, paid: Floats
) -> list[tuple[int, float]]:
    """(parts that are passed at least, what the node that loses least does not earn), all sizes."""
    found = []
    above = [0, *sizes.tolist()]
    for j, least in enumerate(above):
        able = weight > least + 1e-9 if j else np.ones(len(weight), dtype=bool)
        full = weight[able] <= above[j + 1] + 1e-9 if j < len(sizes) else True
        each = np.where(full, price[able], paid[j] if j < len(sizes) else 0.0)
        lost = float((node[able] - layers[able] * each).min(initial=np.inf))
        if lost < np.inf:
            found.append((least, lost))
    return found


def _changes(
    problem: FlowProblem,
    witness: Crossings,
    lose: list[list[tuple[int, float]]],
    numbers: list[int],
) -> Floats:
    """Cost of a change of cells: [a whole at ends][a whole at begins][from][to]."""
    count, parts, flow = witness.cells, witness.parts, witness.flow_tokens_per_s
    total = count * parts
    found: Floats = np.full((2, 2, count, count), np.inf)
    for giver in (0, 1):
        link = _best_link(problem, set(witness.region), giver) / flow
        gives = _Side(lose[giver], numbers[giver], link, total)
        takes = _Side(lose[1 - giver], numbers[1 - giver], link, total)
        for x, y in itertools.product(range(count), repeat=2):
            if (y < x) != (giver == 0) or x == y:
                continue
            ends = [(x + 1) * parts, (y + 1) * parts]  # most of the region, before and after
            begins = [(count - x) * parts, (count - y) * parts]  # and outside
            if giver == 1:
                ends, begins = begins, ends
            passes = (abs(x - y) - 1) / count
            wide = np.arange(1, _WIDE + 1)
            enough = (
                (wide[:, None] * wide[None, :] * link >= passes - 1e-9)
                | (wide[:, None] == _WIDE)
                | (wide[None, :] == _WIDE)
            )
            ended = gives.least(ends[1], ends[0])[1:, 1:]  # [count, links]
            begun = takes.least(begins[0], begins[1])[1:, 1:].T
            if problem.partial_inference:  # nodes may take in flow in the middle of their ranges
                found[:, :, x, y] = ended[:, -1].min()
                continue
            for f, g in itertools.product((0, 1), repeat=2):
                cost = (0.5 + 0.5 * f) * ended + (0.5 + 0.5 * g) * begun
                found[f, g, x, y] = np.where(enough, cost, np.inf).min()
    return found


class _Side:
    """What nodes on one side of a crossing lose at least."""

    def __init__(
        self, losses: list[tuple[int, float]], number: int, link: float, total: int
    ) -> None:
        self.total = total
        self.caps = np.minimum(1.0, np.arange(_WIDE + 1) * link) * total
        self.cost: Floats = np.full((_WIDE + 1, _WIDE + 1, total + 1), np.inf)  # [links, count]
        for b in range(_WIDE):
            self.cost[b, 0] = 0.0
            for a in range(1, min(_WIDE, number) + 1):
                for share, lost in losses:
                    used = max(0, math.floor(share - self.caps[b] + 1e-9))
                    here = self.cost[b, a, used:]
                    np.minimum(here, self.cost[b, a - 1, : total + 1 - used] + lost, out=here)

    def least(self, own: int, together: int) -> Floats:
        """By count and links; ``own`` parts may stay in the group, all pass ``together``."""
        own, together = min(own, self.total), min(together, self.total)
        binds = own + np.arange(_WIDE + 1)[:, None] * self.caps[None, :] < together
        binds[:, _WIDE] = False
        found: Floats = np.where(binds, self.cost[:, :, own].T, self.cost[0, :, together][:, None])
        return found


def _best_link(problem: FlowProblem, region: set[int], giver: int) -> float:
    """The best link out of the region (giver 0) or into it, tokens/s."""
    room: dict[tuple[int, int], float] = {}
    for link in problem.links:
        if link.begin is not None and link.end is not None:
            ends = (link.begin, link.end)
            capacity = link.bandwidth_bytes_per_s / problem.activation_bytes
            room[ends] = room.get(ends, 0.0) + capacity
    wanted = (giver == 0, giver == 1)
    return max(
        (value for (a, b), value in room.items() if (a in region, b in region) == wanted),
        default=0.0,
    )


def _shortest(change: Floats, excess: Floats, goals: list[NDArray[np.bool_]]) -> float:
    """The cheapest sequence of cells that meets both goals somewhere."""
    count = len(excess)
    code = goals[0].astype(np.int64) + 2 * goals[1]
    # reach[p, q, mask, x]: p, q: 0 while no node of the region, or outside, has begun at a
    # crossing; 2 once none will end at one
    reach: Floats = np.full((3, 3, 4, count), np.inf)
    reach[0, 0, code, np.arange(count)] = excess
    falls = np.tri(count, k=-1, dtype=bool)  # [x, y]: y is below x
    while True:
        before = reach.copy()
        for p, q, mask in itertools.product(range(3), range(3), range(4)):
            here = reach[p, q, mask]
            if not np.isfinite(here).any():
                continue
            for fall in (True, False):
                gives, takes = (p, q) if fall else (q, p)
                if gives == 2:
                    continue
                moves = falls if fall else falls.T
                for then in {max(1, takes), 2}:
                    cost = change[int(gives == 0), int(then == 2)]
                    through = np.where(moves, here[:, None] + cost, np.inf).min(axis=0) + excess
                    after = (p, then) if fall else (then, q)
                    for bits in range(4):
                        mine = code == bits
                        into = reach[after[0], after[1], mask | bits]
                        into[mine] = np.minimum(into[mine], through[mine])
        if np.array_equal(before, reach):
            return float(reach[:, :, 3].min())
