"""Check a bound that sees narrow links, from its prices alone; shares no code with the solvers.

What the prices prove is said in :mod:`optalloc.serving.flow.crossings`. Here the cheapest covers of
every region are tabulated again, every change of shares is priced, and the cheapest way that visits
the regions is found by labels that are never opened twice.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from optalloc.errors import CertificateError
from optalloc.serving.flow.problem import FlowProblem
from optalloc.serving.flow.witness import Crossings

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_WIDE = 8  # nodes told apart at a crossing


def least_excess(
    problem: FlowProblem, witness: Crossings, tables: list[tuple[float, ...]], cover: float
) -> tuple[float, float]:
    """What nodes earn at most, and the least a walk costs beyond ``cover`` a layer.

    Raises
    ------
    CertificateError
        If regions, groups and prices do not fit together.
    """
    regions = [set(region) for region in witness.regions]
    count, levels, parts = len(regions), witness.levels, witness.parts
    if not 2 <= count <= 3 or sum(map(len, regions)) != len(set().union(*regions)):
        raise CertificateError("the regions of the proof overlap, or are not two or three")
    if not 1 <= levels <= 64 or not 1 <= parts <= 64 or len(witness.alone) != count:
        raise CertificateError("the proof is on a grid that makes no sense")
    home = []
    for group in witness.groups:
        inside = [r for r, region in enumerate(regions) if set(group) <= region]
        if len(inside) != 1:
            raise CertificateError("a group of the proof is in no region")
        home.append(inside[0])
    items, flow = witness.prices.items, witness.flow_tokens_per_s
    price = np.array(witness.prices.prices)
    layers = np.array([item.layers for item in items])
    kind = np.array([item.kind for item in items])
    weight = np.array([min(1.0, tables[i.kind][i.layers - 1] / flow) for i in items])
    whole = np.array([(layers * price)[kind == t].max(initial=0.0) for t in range(len(tables))])
    rest = 0.5 * (whole[kind] - layers * price)
    leaving, entering = price + rest, price if problem.partial_inference else price + rest
    where = np.array(home)[kind]
    size = levels * parts
    states = np.array(
        [
            x
            for x in itertools.product(range(levels + 1), repeat=count)
            if levels - count + 1 <= sum(x) <= levels
        ]
    )
    plain = np.stack(
        [
            _tables(weight[where == r], price[where == r], price[where == r], size)[0]
            for r in range(count)
        ]
    )
    paid = np.stack([plain[r][states[:, r] * parts] for r in range(count)], axis=1)
    total = paid.sum(axis=1)
    change = np.zeros((len(states), len(states)))
    for r in range(count):
        out_link, in_link = _links(problem, regions, r)
        mine, others = where == r, where != r
        for leaves in (True, False):
            giver, taker = (mine, others) if leaves else (others, mine)
            link = (out_link if leaves else in_link) / flow
            level = states[:, r] if leaves else states.sum(axis=1) - states[:, r]
            other_level = states.sum(axis=1) - states[:, r] if leaves else states[:, r]
            base = paid[:, r] if leaves else total - paid[:, r]
            other_base = total - paid[:, r] if leaves else paid[:, r]
            step = states[:, r][:, None] - states[:, r][None, :]
            step = (step if leaves else -step) - 1
            gives = _tables(weight[giver], price[giver], leaving[giver], size)
            takes = _tables(weight[taker], price[taker], entering[taker], size)
            gives_capped = _capped(weight[giver], leaving[giver], size, link)
            takes_capped = _capped(weight[taker], entering[taker], size, link)
            amount = np.clip(step, 0, None) * parts
            one = np.full(step.shape, np.inf)
            two = np.full(step.shape, np.inf)
            for a in range(1, _WIDE + 1):
                ends = gives[a][np.minimum(size, level * parts)] - base
                begins = takes_capped[a][np.minimum(size, amount)] - other_base[None, :]
                one = np.minimum(
                    one, _more(total, ends, cover)[:, None] + _more(total[None, :], begins, cover)
                )
                begins = takes[a][np.minimum(size, other_level * parts)] - other_base
                ends = gives_capped[a][np.minimum(size, amount)] - base[:, None]
                two = np.minimum(
                    two, _more(total[:, None], ends, cover) + _more(total, begins, cover)[None, :]
                )
            change = np.where(step >= 1, np.maximum(change, np.maximum(one, two)), change)
    earned = sum(len(group) * float(w) for group, w in zip(witness.groups, whole, strict=True))
    excess = np.maximum(0.0, total - cover)
    goals = []
    for r in range(count):
        share = 1.0 - witness.alone[r].flow_tokens_per_s / flow
        if share > 0.0:
            goals.append(states[:, r] >= int(np.floor(share * levels + 1e-9)))
    return earned, _shortest(0.5 * change, excess, goals)


def _more(total: Floats, more: Floats, cover: float) -> Floats:
    """What a layer costs more, given that none costs less than ``cover``."""
    found: Floats = np.maximum(cover, total + np.maximum(0.0, more)) - np.maximum(cover, total)
    return found


def _links(problem: FlowProblem, regions: list[set[int]], r: int) -> tuple[float, float]:
    """The best link out of a region and into it, tokens/s."""
    room: dict[tuple[int, int], float] = {}
    for link in problem.links:
        if link.begin is not None and link.end is not None:
            ends = (link.begin, link.end)
            capacity = link.bandwidth_bytes_per_s / problem.activation_bytes
            room[ends] = room.get(ends, 0.0) + capacity
    out = [value for (a, b), value in room.items() if a in regions[r] and b not in regions[r]]
    into = [value for (a, b), value in room.items() if a not in regions[r] and b in regions[r]]
    return max(out, default=0.0), max(into, default=0.0)


def _tables(weight: Floats, price: Floats, marked: Floats, size: int) -> Floats:
    """Cheapest sets of weight h / size with at least a marked ones: shape (wide + 1, size + 1)."""
    width = np.maximum(1, np.ceil(np.minimum(1.0, weight) * size - 1e-9)).astype(np.int64)
    cost: Floats = np.full((_WIDE + 1, size + 1), np.inf)
    cost[:, 0] = np.arange(_WIDE + 1) * marked.min(initial=np.inf) if len(weight) else np.inf
    cost[0, 0] = 0.0
    for h in range(1, size + 1) if len(weight) else ():
        before = cost[:, np.maximum(0, h - width)]
        cost[:, h] = (before + price).min(axis=1)
        cost[1:, h] = np.minimum(cost[1:, h], (before[:-1] + marked).min(axis=1))
    return cost


def _capped(weight: Floats, marked: Floats, size: int, link: float) -> Floats:
    """Cheapest sets of marked nodes that each pass at most b links: shape (wide + 1, size + 1)."""
    cost: Floats = np.full((_WIDE + 1, size + 1), np.inf)
    for b in range(1, _WIDE + 1):
        cap = 1.0 if b == _WIDE else min(1.0, b * link)
        width = np.maximum(1, np.ceil(np.minimum(cap, weight) * size - 1e-9)).astype(np.int64)
        cost[b, 0] = 0.0
        for h in range(1, size + 1) if len(weight) else ():
            cost[b, h] = (cost[b, np.maximum(0, h - width)] + marked).min()
    return cost


def _shortest(step: Floats, layer: Floats, goals: list[NDArray[np.bool_]]) -> float:
    """The cheapest sequence of states that meets every goal somewhere."""
    code: Ints = np.zeros(len(layer), dtype=np.int64)
    for bit, goal in enumerate(goals):
        code |= np.where(goal, 1 << bit, 0)
    full = (1 << len(goals)) - 1
    reach: Floats = np.full((full + 1, len(layer)), np.inf)
    reach[code, np.arange(len(layer))] = layer
    is_open = np.ones(reach.shape, dtype=bool)
    while True:
        flat = int(np.where(is_open, reach, np.inf).argmin())
        mask, state = divmod(flat, len(layer))
        best = reach[mask, state]
        if not np.isfinite(best) or mask == full:
            return float(best)
        is_open[mask, state] = False
        through = best + step[state] + layer
        into = mask | code
        targets = np.arange(len(layer))
        reach[into, targets] = np.minimum(reach[into, targets], through)
