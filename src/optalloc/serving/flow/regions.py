"""Regions: nodes that reach each other by links that never bind; and stages laid through them.

Between regions a link carries little, about ``c`` tokens/s. Where the model crosses from one region
to another, every lane that ends there has a link to every lane that begins. If the ones give out at
most a share ``x`` of the flow F each, and the others take in at most a share ``y``, F passes once
``x y F <= c`` (each lane spreads over the others in proportion): so both sides need more, and
slower, lanes. Chosen are a path through regions, the shares of its crossings and the stages inside:

    max layers   s.t.  stages use at most the nodes of each kind in each region         (_stages)
                       a region's stages count only if the path visits it, once         (_path)
                       a crossing (x, y) takes one last stage with lanes capped at x F and one
                       first stage with lanes capped at y F                             (_crossings)

The plan is then laid out and scored with every link as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from optalloc.serving.flow.arrays import FlowArrays
from optalloc.serving.flow.kinds import Kind, kinds_of
from optalloc.serving.flow.linear import INFINITY, Entries, NamedProgramme
from optalloc.serving.flow.stages import Lanes, Stage, lay

_PARTS = (1.0, 2.0, 3.0, 4.0, 6.0)  # of the flow, among the lanes of a crossing
_LONGEST = 24


class Region(msgspec.Struct, frozen=True, kw_only=True):
    """Nodes joined by links that do not bind at the flow in question."""

    nodes: tuple[int, ...]
    kinds: tuple[Kind, ...]


def regions_of(arrays: FlowArrays, flow: float) -> tuple[Region, ...]:
    """Groups of nodes connected by links (both ways) that never bind at ``flow`` tokens/s."""
    most = np.minimum(flow, arrays.throughput.max(axis=1))
    enough = np.minimum(most[:, None], most[None, :]) * (1.0 - 1e-9)
    fast = (arrays.links >= enough) & (enough <= arrays.links.T)
    waiting = {node for node, rate in enumerate(most.tolist()) if rate > 0.0}
    found = []
    while waiting:
        front = [min(waiting)]
        members = set(front)
        while front:
            node = front.pop()
            near = {j for j in waiting - members if fast[node, j]}
            members |= near
            front += sorted(near)
        waiting -= members
        nodes = tuple(sorted(members))
        found.append(Region(nodes=nodes, kinds=kinds_of(arrays.problem, nodes)))
    return tuple(found)


class RegionProgramme:
    """Stages along a path of regions at one flow.

    ``quantile`` says how good a link between two regions is taken to be: nodes on a crossing are
    few and can be chosen among the well connected.
    """

    def __init__(
        self, arrays: FlowArrays, regions: Sequence[Region], flow: float, quantile: float
    ) -> None:
        self._regions, self._flow = regions, flow
        self._num_layers = arrays.problem.num_layers
        pairs = [(r, q) for r in range(len(regions)) for q in range(len(regions)) if r != q]
        self._links = {}
        for r, q in pairs:
            block = arrays.links[np.ix_(regions[r].nodes, regions[q].nodes)]
            if (typical := float(np.quantile(block, quantile))) > 0.0:
                self._links[r, q] = typical
        self._starts = [arrays.source[list(region.nodes)].max() > 0.0 for region in regions]
        self._ends = [arrays.sink[list(region.nodes)].max() > 0.0 for region in regions]
        self._random = np.random.default_rng(0)
        self._programme = NamedProgramme()

    def reach(self, *, most_nodes: int, variety: int) -> dict[int, tuple[int, int]] | None:
        """A placement whose stages cover all layers at the flow, or None where none was found."""
        self._programme = NamedProgramme()
        self._path()
        caps = self._crossings()
        for r in range(len(self._regions)):
            self._stages(r, sorted(caps[r]), variety)
        amounts = self._programme.solve_whole(most_nodes, enough=float(self._num_layers))
        return None if amounts is None else self._laid(amounts)

    def _path(self) -> None:
        """One begin; in every region arrivals equal departures, at most one; stages if visited."""
        add, many = self._programme, float(len(self._regions))
        add.row("begin", 1.0, 1.0)
        for r in range(len(self._regions)):
            add.row(("balance", r), 0.0, 0.0)
            add.row(("visit", r), -INFINITY, 1.0)
            add.row(("open", r), -INFINITY, 0.0)
        for r, q in self._links:
            add.row(("order", r, q), -INFINITY, many - 1.0)  # position r + 1 <= position q
        for r in range(len(self._regions)):
            arrives: Entries = {
                ("balance", r): 1.0,
                ("visit", r): 1.0,
                ("open", r): -2.0 * self._num_layers,
            }
            if self._starts[r]:
                add.column(("begin", r), 0.0, 1.0, {**arrives, "begin": 1.0})
            if self._ends[r]:
                add.column(("end", r), 0.0, 1.0, {("balance", r): -1.0})
            place: Entries = {
                ("order", a, b): 1.0 if a == r else -1.0 for a, b in self._links if r in (a, b)
            }
            add.column(("place", r), 0.0, many - 1.0, place)

    def _crossings(self) -> list[set[float]]:
        """Crossings of every pair of shares; returns the shares that lanes are capped to."""
        add, many = self._programme, float(len(self._regions))
        caps: list[set[float]] = [{1.0} for _ in self._regions]
        for (r, q), c in self._links.items():
            for out, into in _shares(c / self._flow):
                caps[r].add(out)
                caps[q].add(into)
                add.row(("last", r, out), 0.0, 0.0)
                add.row(("first", q, into), 0.0, 0.0)
                use: Entries = {
                    ("balance", r): -1.0,
                    ("balance", q): 1.0,
                    ("visit", q): 1.0,
                    ("open", q): -2.0 * self._num_layers,
                    ("last", r, out): -1.0,
                    ("first", q, into): -1.0,
                    ("order", r, q): many,
                }
                add.column(("cross", r, q), 0.0, 1.0, use)
        return caps

    def _stages(self, r: int, caps: Sequence[float], variety: int) -> None:
        """Stages of a region, cheap at the prices of its nodes and near them."""
        add, region = self._programme, self._regions[r]
        counts = [len(kind.nodes) for kind in region.kinds]
        for t, count in enumerate(counts):
            add.row(("nodes", r, t), -INFINITY, float(count))
        worth = [
            max(k * min(rate, self._flow) for k, rate in enumerate(kind.table, 1)) / self._flow
            for kind in region.kinds
        ]
        longest = min(self._num_layers, _LONGEST)
        for cap in caps:
            lanes = Lanes(region.kinds, self._flow, longest, cap)
            known = set()
            for turn in range(variety + 1):
                noise = (
                    self._random.uniform(0.6, 1.6, len(counts)) if turn else np.ones(len(counts))
                )
                for stage, _ in lanes.cheapest(np.array(worth) * noise + 1e-3):
                    nodes = stage.nodes()
                    key = (stage.layers, *sorted(nodes.items()))
                    if key in known or any(n > counts[t] for t, n in nodes.items()):
                        continue
                    known.add(key)
                    gain = float(stage.layers)
                    use: Entries = {("nodes", r, t): float(n) for t, n in nodes.items()}
                    use["open", r] = gain
                    if cap == 1.0:
                        add.column(("stage", r, stage), gain, INFINITY, use)
                    for role in ("first", "last"):
                        if add.has_row((role, r, cap)):
                            add.column((role, r, stage), gain, 1.0, {**use, (role, r, cap): 1.0})

    def _laid(self, amounts: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Ranges of the chosen stages along the path; stages that are not needed are left out."""
        meanings = self._programme.meanings
        chosen = [(what, n) for what, n in zip(meanings, amounts, strict=True) if n]
        after = {what[1]: what[2] for what, _ in chosen if what[0] == "cross"}
        path = [next(what[1] for what, _ in chosen if what[0] == "begin")]
        while path[-1] in after:
            path.append(after[path[-1]])
        row: list[tuple[int, Stage, bool]] = []
        for r in path:
            for role in ("first", "stage", "last"):
                for what, n in chosen:
                    if what[:2] == (role, r):
                        row += [(r, what[2], role == "stage")] * n  # type: ignore[list-item]
        spare = sum(stage.layers for _, stage, _ in row) - self._num_layers
        left_out = set()
        for place in sorted(range(len(row)), key=lambda i: row[i][1].layers):
            if row[place][2] and row[place][1].layers <= spare:
                spare -= row[place][1].layers
                left_out.add(place)
        kept = [entry for place, entry in enumerate(row) if place not in left_out]
        return lay([(self._regions[r].kinds, stage) for r, stage, _ in kept], self._num_layers)


def _shares(link: float) -> list[tuple[float, float]]:
    """Largest shares of the flow a lane gives out and takes in, with product ``link`` (or 1)."""
    found = set()
    for parts in _PARTS:
        one, other = 1.0 / parts, min(1.0, link * parts)
        if one >= link * (1.0 - 1e-9):
            found |= {(round(one, 9), round(other, 9)), (round(other, 9), round(one, 9))}
    return sorted(found)
