"""Paths of stages through regions that are joined by narrow links.

Between regions a link carries little, about ``c`` tokens/s. Where the model crosses from one region
to another, every lane that ends there has a link to every lane that begins. If the ones give out at
most a share ``x`` of the flow F each, and the others take in at most a share ``y``, F passes once
``x y F <= c`` (each lane spreads over the others in proportion): so both sides need more, and
slower, lanes. With ``h_r(y, x)`` the most layers of region ``r`` between two such crossings
(:mod:`optalloc.serving.flow.pools`) the path and its shares are

    max  h_r1(none, x_1) + h_r2(y_1, x_2) + ... + h_rm(y_m-1, none)

over all orders of regions, each visited at most once, by dynamic programming over (visited regions,
last region, share that came in). The plan is then laid out and scored with every link as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from optalloc.serving.flow.arrays import FlowArrays
from optalloc.serving.flow.pools import Layers
from optalloc.serving.flow.regions import Region
from optalloc.serving.flow.stages import Stage, lay

_PARTS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 11.0)  # of the flow, among the lanes of a crossing
_GRID = 1.03

#: A region, and the share that lanes take in at its begin and give out at its end; None: any.
_Visit = tuple[int, float | None, float | None]


def path_of_stages(
    arrays: FlowArrays, regions: Sequence[Region], flow: float, quantile: float, seed: int
) -> dict[int, tuple[int, int]] | None:
    """A placement whose stages cover all layers at ``flow`` tokens/s, None where none was found.

    ``quantile`` says how good a link between two regions is taken to be: nodes on a crossing are
    few and can be chosen among the well connected.
    """
    crossings = {}
    for r in range(len(regions)):
        for q in range(len(regions)):
            block = arrays.links[np.ix_(regions[r].nodes, regions[q].nodes)]
            if r != q and (typical := float(np.quantile(block, quantile))) > 0.0:
                crossings[r, q] = [
                    (x, y)
                    for x, y in _shares(min(1.0, typical / flow))
                    if min(x * block.shape[0], y * block.shape[1]) >= 1.0 - 1e-9  # enough nodes
                ]
    layers = [
        Layers(
            region.kinds,
            flow,
            sorted(
                {x for (a, _), shares in crossings.items() if a == r for x, _ in shares}
                | {y for (_, b), shares in crossings.items() if b == r for _, y in shares}
            ),
            seed,
        )
        for r, region in enumerate(regions)
    ]
    starts = [arrays.source[list(region.nodes)].max() > 0.0 for region in regions]
    ends = [arrays.sink[list(region.nodes)].max() > 0.0 for region in regions]
    covered, path = _longest(layers, crossings, starts, ends)
    if covered < arrays.problem.num_layers:
        return None
    row: list[tuple[int, Stage, bool]] = []
    for r, into, out in path:
        _, first, last = layers[r].best(into, out)
        if first is not None:
            row.append((r, first, False))
        if out is None or last is not None:
            both = [stage for stage in (first, last) if stage is not None]
            row += [(r, stage, True) for stage in layers[r].between(both)]
        if last is not None:
            row.append((r, last, False))
    spare = covered - arrays.problem.num_layers
    for entry in sorted(row, key=lambda entry: entry[1].layers):
        if entry[2] and entry[1].layers <= spare:
            spare -= entry[1].layers
            row.remove(entry)
    return lay([(layers[r].kinds, stage) for r, stage, _ in row], arrays.problem.num_layers)


def _longest(
    layers: Sequence[Layers],
    crossings: dict[tuple[int, int], list[tuple[float, float]]],
    starts: Sequence[bool],
    ends: Sequence[bool],
) -> tuple[int, tuple[_Visit, ...]]:
    """The path that covers most layers."""
    known: dict[_Visit, int] = {}

    def held(visit: _Visit) -> int:
        if visit not in known:
            r, into, out = visit  # a region can be passed either way
            known[visit] = known[r, out, into] = layers[r].best(into, out)[0]
        return known[visit]

    best: tuple[int, tuple[_Visit, ...]] = (-1, ())
    here: dict[tuple[int, int, float | None], tuple[int, tuple[_Visit, ...]]] = {
        (1 << r, r, None): (0, ()) for r in range(len(layers)) if starts[r]
    }
    while here:
        further: dict[tuple[int, int, float | None], tuple[int, tuple[_Visit, ...]]] = {}
        for (met, r, into), (covered, path) in here.items():
            if ends[r] and (last := held((r, into, None))) >= 0 and covered + last > best[0]:
                best = (covered + last, (*path, (r, into, None)))
            for (a, q), shares in crossings.items():
                if a != r or met >> q & 1:
                    continue
                for out, then in shares:
                    gain = held((r, into, out))
                    key = (met | 1 << q, q, then)
                    if gain >= 0 and covered + gain > further.get(key, (-1, ()))[0]:
                        further[key] = (covered + gain, (*path, (r, into, out)))
        here = further
    return best


def _shares(link: float) -> list[tuple[float, float]]:
    """Largest shares of the flow a lane gives out and takes in, with product ``link`` (or 1).

    Those that follow from the link are rounded down to a grid, so that regions have few of them.
    """
    found = set()
    for parts in _PARTS:
        one = 1.0 / parts
        if one >= link * (1.0 - 1e-9):
            other = min(1.0, _GRID ** math.floor(math.log(link * parts, _GRID) + 1e-9))
            found |= {(one, other), (other, one)}
    return sorted(found)
