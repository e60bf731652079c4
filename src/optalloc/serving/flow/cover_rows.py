"""Placements from covers of single layers, chosen in whole numbers and put in an order.

A stage of lanes begins and ends as a whole. Where nodes of one kind should run on beside others
that change, as three layers on one node beside two on a second and one on two slower ones, covers
say more: ``z_v`` layers covered by ``v`` and ``m_tk`` nodes of kind ``t`` that hold ``k`` layers,

    max sum_v z_v   s.t.  sum_v z_v v_tk <= k m_tk,   sum_k m_tk <= N_t,   z, m whole,

over the covers that the bound met (:mod:`optalloc.serving.flow.covers`). Layers of one cover lie in
a row, and the rows in an order in which nodes that run for ``k`` layers each, begun where they are
first needed, are no more than there are. Links are ignored.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from optalloc.serving.flow.covers import CoverProgramme, all_items
from optalloc.serving.flow.kinds import Kind

_MOST_ORDERS = 5  # covers of which all orders are tried
_MOST_NODES = 200  # of the programme in whole numbers

#: Nodes by kind and layers held.
_Cover = dict[tuple[int, int], int]
#: First layer of every node by kind and layers held.
_Runs = dict[tuple[int, int], list[int]]


def row_of_covers(
    kinds: Sequence[Kind], num_layers: int, flow: float, expired: Callable[[], bool]
) -> dict[int, tuple[int, int]] | None:
    """A placement in which every layer is covered at ``flow`` tokens/s, None if none was found."""
    covers = list[_Cover]()
    programme = CoverProgramme(kinds, num_layers, flow, all_items(kinds, flow))
    if programme.refute(covers, expired) is not None or not programme.finished:
        return None
    chosen = _in_whole_numbers(programme, covers)
    if chosen is None:
        return None
    runs = min(
        (_runs(order, num_layers) for order in _orders(chosen)),
        key=lambda runs: _lacks(runs, kinds),
    )
    return None if _lacks(runs, kinds) else _laid(runs, kinds, num_layers)


def _in_whole_numbers(
    programme: CoverProgramme, covers: Sequence[_Cover]
) -> list[tuple[_Cover, int]] | None:
    """Covers and how many layers each, in all at least those of the model."""
    row = {(item.kind, item.layers): place for place, item in enumerate(programme.items)}
    lp, num_layers = programme.of_counts(), programme.num_layers
    for cover in covers:
        lp.add(1.0, [row[item] for item in cover], [float(n) for n in cover.values()])
    values = lp.solve_whole(_MOST_NODES, enough=float(num_layers))
    if values is None:
        return None
    times = [round(value) for value in values[len(row) :].tolist()]
    if sum(times) < num_layers:
        return None
    return [(cover, n) for cover, n in zip(covers, times, strict=True) if n > 0]


def _orders(chosen: list[tuple[_Cover, int]]) -> list[tuple[tuple[_Cover, int], ...]]:
    """All orders of few covers; of many, those that go on with most of the same nodes."""
    if len(chosen) <= _MOST_ORDERS:
        return list(itertools.permutations(chosen))
    found = []
    for start in range(len(chosen)):
        order, waiting = [chosen[start]], chosen[:start] + chosen[start + 1 :]
        while waiting:
            last = order[-1][0]
            gains = [sum(min(n, last.get(i, 0)) for i, n in cover.items()) for cover, _ in waiting]
            order.append(waiting.pop(gains.index(max(gains))))
        found.append(tuple(order))
    return found


def _runs(order: Sequence[tuple[_Cover, int]], num_layers: int) -> _Runs:
    """Where nodes begin, if each holds all its layers and none begins before it is needed."""
    layers = [cover for cover, times in order for _ in range(times)][:num_layers]
    runs: _Runs = {item: [] for cover, _ in order for item in cover}
    for (kind, held), begins in runs.items():
        for layer, cover in enumerate(layers):
            running = sum(begin + held > layer for begin in begins)
            begins += [layer] * max(0, cover.get((kind, held), 0) - running)
    return runs


def _lacks(runs: _Runs, kinds: Sequence[Kind]) -> int:
    """Nodes beyond those that there are."""
    used = [0] * len(kinds)
    for (kind, _), begins in runs.items():
        used[kind] += len(begins)
    return sum(max(0, n - len(kind.nodes)) for n, kind in zip(used, kinds, strict=True))


def _laid(runs: _Runs, kinds: Sequence[Kind], num_layers: int) -> dict[int, tuple[int, int]]:
    free = [list(kind.nodes) for kind in kinds]
    return {
        free[kind].pop(0): (begin, min(num_layers, begin + held))
        for (kind, held), begins in runs.items()
        for begin in begins
    }
