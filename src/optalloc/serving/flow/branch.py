"""Branch and price: forbid a flow by branching on how many nodes of a kind hold how many layers.

The cover programme lets half a node hold 2 layers and half of it 3. Where that alone lets it reach
the flow, some ``m_tk`` is split into ``<= floor`` and ``>= ceil``, and each part is refuted by
prices of its own. The flow is impossible once every part is; the parts and their prices are the
witness. Where whole counts still allow it the flow stays open: how the ranges line up, links and
partial inference are not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from optalloc.serving.flow.covers import CoverProgramme, all_items
from optalloc.serving.flow.kinds import Kind
from optalloc.serving.flow.witness import Covers, Item, Prices

_WHOLE = 1e-6


def refute_by_branching(
    kinds: Sequence[Kind],
    num_layers: int,
    flow: float,
    *,
    most_parts: int,
    expired: Callable[[], bool],
) -> Covers | None:
    """Parts and prices that prove ``flow`` (tokens/s) impossible; None where it stays open."""
    pool: list[dict[tuple[int, int], int]] = []
    parts: list[Prices] = []
    waiting = [all_items(kinds, flow)]
    looked = 0
    while waiting:
        items = waiting.pop()
        looked += 1
        if looked > most_parts or expired():
            return None
        programme = CoverProgramme(kinds, num_layers, flow, items)
        found = programme.refute(pool, expired)
        if found is not None:
            parts.append(found)
            continue
        split = _most_fractional(programme.counts) if programme.finished else None
        if split is None:
            return None
        amount = float(programme.counts[split])
        item = items[split]
        for low, high in (
            (item.low, math.floor(amount)),
            (math.floor(amount) + 1, item.high),
        ):
            narrowed = Item(item.kind, item.layers, low, high)
            waiting.append((*items[:split], narrowed, *items[split + 1 :]))
    groups = tuple(kind.nodes for kind in kinds)
    return Covers(flow_tokens_per_s=flow, groups=groups, parts=tuple(parts))


def _most_fractional(counts: np.ndarray) -> int | None:
    away = np.abs(counts - np.rint(counts))
    place = int(away.argmax())
    return place if away[place] > _WHOLE else None
