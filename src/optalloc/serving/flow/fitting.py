"""Stages of one to three nodes that fit closely, where nearly every node has a table of its own.

At flow F a node is worth ``e_i = max_k k min(T_i(k), F) / F`` layers. A stage of ``k`` layers on
nodes ``S`` with ``sum T_i(k) >= F`` loses ``sum e_i - k``. Of stages of one node, of two or three
side by side, and of one beside two that follow each other (``k = a + b``), each time with the next
partner that is just enough, those that lose least are kept, and as many layers as possible are
covered with every node in one stage:

    max sum_s k_s x_s   s.t.  sum over stages with node i of x_s <= 1,   x whole;    F if >= L

With many different tables some sums come close to F, so little is lost.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from optalloc.serving.flow.arrays import Doubles
from optalloc.serving.flow.linear import GrowingLP

_KEPT = 40  # stages of least loss at every node
_PARTNERS = 3

Ints = NDArray[np.int64]
#: Layers, and the nodes with the part of these layers each holds: (node, begin, end).
Fit = tuple[int, tuple[tuple[int, int, int], ...]]


def fitting_stages(throughput: Doubles, flow: float) -> list[Fit]:
    """Stages that lose little, the best first; ``throughput`` is ``[node, k - 1]``, tokens/s."""
    count, width = throughput.shape
    share = np.minimum(np.maximum(throughput, 0.0), flow) / flow
    worth = (share * np.arange(1, width + 1)).max(axis=1)
    ranks = [_Ranked(share[:, k]) for k in range(width)]
    found: list[tuple[float, Fit]] = []

    def keep(k: int, parts: tuple[tuple[int, int], ...], *nodes: Ints) -> None:
        """The stages that lose least, of rows of nodes that hold these parts."""
        rows = np.stack(nodes, axis=1)
        loss = (worth[rows].sum(axis=1) - k) / k
        few = min(len(loss), _KEPT * count // 2)
        best = np.argpartition(loss, few - 1)[:few] if few else np.zeros(0, dtype=np.int64)
        for row in best.tolist():
            held = zip(rows[row].tolist(), parts, strict=True)
            found.append((float(loss[row]), (k, tuple((n, a, b) for n, (a, b) in held))))

    for k in range(1, width + 1):
        rank, whole = ranks[k - 1], (0, k)
        keep(k, (whole,), np.flatnonzero(share[:, k - 1] >= 1.0))
        nodes = rank.order
        for step in range(_PARTNERS):
            fits, partner = rank.partner(1.0 - rank.rates, step)
            fits &= share[nodes, k - 1] <= share[partner, k - 1]
            fits &= nodes != partner
            keep(k, (whole, whole), nodes[fits], partner[fits])
        if not len(nodes):
            continue
        one, two = np.triu_indices(len(nodes), 1)
        lacks = 1.0 - rank.rates[one] - rank.rates[two]
        fits, partner = rank.partner(lacks, 0)
        fits &= (lacks > 0.0) & (share[partner, k - 1] > rank.rates[two])
        keep(k, (whole, whole, whole), nodes[one[fits]], nodes[two[fits]], partner[fits])
        for a in range(1, k):
            first, second = ranks[a - 1], ranks[k - a - 1]
            lane = np.minimum(first.rates[:, None], second.rates[None, :])
            before, after = np.nonzero(
                (lane < 1.0) & (first.order[:, None] != second.order[None, :])
            )
            fits, partner = rank.partner(1.0 - lane[before, after], 0)
            before, after = first.order[before], second.order[after]
            fits &= (partner != before) & (partner != after)
            keep(k, (whole, (0, a), (a, k)), partner[fits], before[fits], after[fits])
    found.sort()
    met = np.zeros(count, dtype=np.int64)
    kept, known = list[Fit](), set[tuple[int, tuple[int, ...]]]()
    for _, (k, held) in found:
        members = sorted(node for node, _, _ in held)
        key = (k, tuple(members))
        if key not in known and met[members].min() < _KEPT:
            known.add(key)
            met[members] += 1
            kept.append((k, held))
    return kept


class _Ranked:
    """Nodes that pass less than all of the flow, by what they pass."""

    def __init__(self, rates: Doubles) -> None:
        able = np.flatnonzero((rates > 0.0) & (rates < 1.0))
        self.order: Ints = able[np.argsort(rates[able], kind="stable")]
        self.rates = rates[self.order]

    def partner(self, lacks: Doubles, step: int) -> tuple[NDArray[np.bool_], Ints]:
        """Whether a node is enough for each lack, and the one that just is, ``step`` places on."""
        place = np.searchsorted(self.rates, lacks, side="left") + step
        fits = place < len(self.order)
        if not len(self.order):
            return fits, np.zeros(len(place), dtype=np.int64)
        return fits, self.order[np.minimum(place, len(self.order) - 1)]


def cover_by_fitting(
    throughput: Doubles, num_layers: int, flow: float, most_nodes: int
) -> dict[int, tuple[int, int]] | None:
    """Stages in a row that cover all layers at ``flow`` tokens/s, or None where none were found."""
    stages = fitting_stages(throughput, flow)
    lp = GrowingLP([1.0] * len(throughput))
    for k, held in stages:
        lp.add(float(k), [node for node, _, _ in held], [1.0] * len(held), upper=1.0)
    if not stages or lp.solve() < num_layers * (1.0 - 1e-9):
        return None
    values = lp.solve_whole(most_nodes, enough=float(num_layers))
    if values is None:
        return None
    chosen = [stages[s] for s in np.flatnonzero(values > 0.5)]
    if sum(k for k, _ in chosen) < num_layers:
        return None
    placement: dict[int, tuple[int, int]] = {}
    first = 0
    for k, held in sorted(chosen, reverse=True):
        for node, begin, end in held:
            if first + begin < num_layers:
                placement[node] = (first + begin, min(num_layers, first + end))
        first += k
    return placement
