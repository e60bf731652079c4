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
        room = _room(problem, set(witness.region), giver) / flow
        gives = _Side(lose[giver], numbers[giver], room[1], total)
        takes = _Side(lose[1 - giver], numbers[1 - giver], room[:, 1], total)
        enough = room[1:, 1:].copy()
        enough[-1] = enough[:, -1] = np.inf
        for x in range(count):
            y = np.arange(x) if giver == 0 else np.arange(x + 1, count)
            # the most parts of the region and of all others, before the change and after
            region = (np.full(len(y), (x + 1) * parts), (y + 1) * parts)
            others = (np.full(len(y), (count - x) * parts), (count - y) * parts)
            ends, begins = (region, others) if giver == 0 else (others, region)
            ended = gives.least(ends[1], ends[0])[:, 1:, 1:]  # [y, count, links]
            if problem.partial_inference:  # nodes may take in flow in the middle of their ranges
                found[:, :, x, y] = ended[:, :, -1].min(axis=1)
                continue
            begun = takes.least(begins[0], begins[1])[:, 1:, 1:].transpose(0, 2, 1)
            lacks = enough[None] < ((np.abs(x - y) - 1) / count - 1e-9)[:, None, None]
            for f, g in itertools.product((0, 1), repeat=2):
                cost = (0.5 + 0.5 * f) * ended + (0.5 + 0.5 * g) * begun
                found[f, g, x, y] = np.where(lacks, np.inf, cost).min(axis=(1, 2))
    return found


class _Side:
    """What nodes on one side of a crossing lose at least."""

    def __init__(
        self, losses: list[tuple[int, float]], number: int, caps: Floats, total: int
    ) -> None:
        self.total = total
        self.caps = np.minimum(1.0, caps) * total
        self.cost: Floats = np.full((_WIDE + 1, _WIDE + 1, total + 1), np.inf)  # [links, count]
        for b in range(_WIDE):
            self.cost[b, 0] = 0.0
            for a in range(1, min(_WIDE, number) + 1):
                for share, lost in losses:
                    used = max(0, math.floor(share - self.caps[b] + 1e-9))
                    here = self.cost[b, a, used:]
                    np.minimum(here, self.cost[b, a - 1, : total + 1 - used] + lost, out=here)

    def least(self, own: Ints, together: Ints) -> Floats:
        """[case, count, links]: ``own`` parts may stay in the group, all pass ``together``."""
        own, together = np.minimum(own, self.total), np.minimum(together, self.total)
        passed = own[:, None, None] + np.arange(_WIDE + 1)[:, None] * self.caps
        binds = passed < together[:, None, None]
        binds[:, :, _WIDE] = False
        found: Floats = np.where(
            binds,
            self.cost[:, :, own].transpose(2, 1, 0),
            self.cost[0][:, together].T[:, :, None],
        )
        return found


def _room(problem: FlowProblem, region: set[int], giver: int) -> Floats:
    """The most tokens/s from so many nodes of one side to so many of the other, [from, to]."""
    capacity: dict[tuple[int, int], float] = {}
    for link in problem.links:
        if link.begin is None or link.end is None:
            continue
        if (link.begin in region, link.end in region) == (giver == 0, giver == 1):
            pair = (link.begin, link.end)
            more = link.bandwidth_bytes_per_s / problem.activation_bytes
            capacity[pair] = capacity.get(pair, 0.0) + more
    found: Floats = np.zeros((_WIDE + 1, _WIDE + 1))
    for few, many in itertools.product(range(1, _WIDE + 1), repeat=2):
        bounds = []
        for end, (own, other) in enumerate(((few, many), (many, few))):
            best: dict[int, list[float]] = {}
            for pair, value in capacity.items():
                best.setdefault(pair[end], []).append(value)
            sums = sorted(
                (sum(sorted(v, reverse=True)[:other]) for v in best.values()), reverse=True
            )
            bounds.append(sum(sums[:own]))
        found[few, many] = min(bounds)
    return found


def _shortest(change: Floats, excess: Floats, goals: list[NDArray[np.bool_]]) -> float:
    """The cheapest sequence of cells that meets both goals somewhere."""
    count = len(excess)
    code = goals[0].astype(np.int64) + 2 * goals[1]
    # reach[p, q, mask, x]: p, q: 0 while no node of the region, or outside, has begun at a
    # crossing; then 1 as long as one will end at one, else 2
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
                for then, left in itertools.product({max(1, takes), 2}, {gives, 2 * gives}):
                    cost = change[int(gives == 0), int(then == 2)]
                    through = np.where(moves, here[:, None] + cost, np.inf).min(axis=0) + excess
                    after = (left, then) if fall else (then, left)
                    for bits in range(4):
                        mine = code == bits
                        into = reach[after[0], after[1], mask | bits]
                        into[mine] = np.minimum(into[mine], through[mine])
        if np.array_equal(before, reach):
            return float(reach[::2, ::2, 3].min())
