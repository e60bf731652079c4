"""Regions: nodes that reach each other by links that never bind."""

from __future__ import annotations

import msgspec
import numpy as np

from optalloc.serving.flow.arrays import FlowArrays
from optalloc.serving.flow.kinds import Kind, kinds_of


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
