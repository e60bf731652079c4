"""Check a layer placement and its bound again, with code that no solver shares.

The flow is routed here by shortest augmenting paths over whole numbers of tokens (scaled), so a
claim of more than the ranges and links allow is found out. A bound is checked from its witness
alone: see :mod:`optalloc.serving.flow.covers` for what prices prove.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from optalloc.errors import CertificateError
from optalloc.serving.flow.certify_boxes import boxes_fill
from optalloc.serving.flow.certify_crossings import least_excess, sides_of, wares_of
from optalloc.serving.flow.certify_latency import (
    check_latency_tokens,
    flow_of_routes,
    passes_within,
)
from optalloc.serving.flow.problem import FlowProblem
from optalloc.serving.flow.result import Route
from optalloc.serving.flow.witness import (
    Counted,
    Covers,
    Crossings,
    Ends,
    Everything,
    Fastest,
    LatencyTokens,
    LayerTokens,
    Prices,
    Witness,
)

_SCALE = 2**20
_CLOSE = 1e-9
#: Relative: value and bound this close are one, and so are a bound and its witness.
TOLERANCE = 1e-6


def certify_flow(
    problem: FlowProblem,
    placement: Mapping[int, tuple[int, int]],
    *,
    value: float,
    bound: float | None = None,
    witness: Witness | None = None,
    latency_limit_s: float | None = None,
    routes: Sequence[Route] = (),
) -> None:
    """Check that a placement passes ``value`` and that no placement passes more than ``bound``.

    Parameters
    ----------
    placement : mapping of node index to (first layer, end layer)
    value, bound : float
        Claimed flow and upper bound, tokens/s.
    witness : Witness, optional
        What proves the bound; needed if a bound is claimed.
    latency_limit_s : float, optional
        Limit on the latency of every route: then ``routes`` are what passes ``value``.

    Raises
    ------
    CertificateError
        If a range does not fit its node, the flow is not what is claimed, or the witness does not
        prove the bound.
    """
    if latency_limit_s is None:
        found = _largest_flow(problem, placement)
    else:
        found = flow_of_routes(problem, placement, routes, latency_limit_s)
    if abs(found - value) > TOLERANCE * max(1.0, abs(value)):
        raise CertificateError(f"the placement passes {found:.9g} tokens/s, not {value:.9g}")
    if bound is None:
        return
    if bound < value * (1.0 - TOLERANCE):
        raise CertificateError(f"the bound {bound:.9g} is below the flow {value:.9g}")
    if witness is None:
        raise CertificateError("a bound is claimed without anything that proves it")
    if isinstance(witness, Fastest | Counted):
        raise CertificateError("the witness is of another objective")
    if witness.flow_tokens_per_s > bound * (1.0 + TOLERANCE):
        raise CertificateError("the witness speaks of more flow than the bound")
    if isinstance(witness, LayerTokens):
        _check_layer_tokens(problem, witness)
    elif isinstance(witness, Ends):
        _check_ends(problem, witness)
    elif isinstance(witness, Covers):
        _check_covers(problem, witness)
    elif isinstance(witness, Crossings):
        _check_crossings(problem, witness)
    elif isinstance(witness, LatencyTokens) and latency_limit_s is not None:
        check_latency_tokens(problem, witness, latency_limit_s)
    elif isinstance(witness, Everything):
        _check_everything(problem, witness, latency_limit_s)
    else:
        raise CertificateError("the witness is of another objective")


# --- the flow of a placement


def _largest_flow(problem: FlowProblem, placement: Mapping[int, tuple[int, int]]) -> float:
    arcs: dict[tuple[str, int], dict[tuple[str, int], int]] = {}

    def arc(tail: tuple[str, int], head: tuple[str, int], capacity: float) -> None:
        arcs.setdefault(tail, {}).setdefault(head, 0)
        arcs.setdefault(head, {}).setdefault(tail, 0)
        arcs[tail][head] += math.floor(capacity * _SCALE)

    begin, finish = ("begin", 0), ("finish", 0)
    arcs[begin], arcs[finish] = {}, {}
    for index, (first, end) in placement.items():
        if not 0 <= index < len(problem.nodes):
            raise CertificateError(f"there is no node {index}")
        table = problem.nodes[index].throughput_tokens_per_s
        if not (0 <= first < end <= problem.num_layers and end - first <= len(table)):
            raise CertificateError(f"node {index} cannot hold layers {first} to {end}")
        arc(("in", index), ("out", index), table[end - first - 1])
    for link in problem.links:
        a, b = link.begin, link.end
        outer = link.bandwidth_bytes_per_s / problem.token_bytes
        if a is None and b is not None:
            if b in placement and placement[b][0] == 0:
                arc(begin, ("in", b), outer)
        elif a is not None and b is None:
            if a in placement and placement[a][1] == problem.num_layers:
                arc(("out", a), finish, outer)
        elif a is not None and b is not None and a in placement and b in placement:
            left, (first, end) = placement[a][1], placement[b]
            inside = problem.partial_inference and first < left < end
            if left == first or inside:
                capacity = link.bandwidth_bytes_per_s / problem.activation_bytes
                arc(("out", a), ("in", b), capacity)
    total = 0
    while True:
        before: dict[tuple[str, int], tuple[str, int]] = {begin: begin}
        queue = deque([begin])
        while queue and finish not in before:
            vertex = queue.popleft()
            for head, room in arcs[vertex].items():
                if room > 0 and head not in before:
                    before[head] = vertex
                    queue.append(head)
        if finish not in before:
            return total / _SCALE
        path = [finish]
        while path[-1] != begin:
            path.append(before[path[-1]])
        steps = [(path[i + 1], path[i]) for i in range(len(path) - 1)]
        amount = min(arcs[tail][head] for tail, head in steps)
        for tail, head in steps:
            arcs[tail][head] -= amount
            arcs[head][tail] += amount
        total += amount


# --- bounds


def _check_ends(problem: FlowProblem, witness: Ends) -> None:
    """Every token enters over a link of the source into a node, and leaves alike."""
    through = [0.0] * len(problem.nodes)
    for link in problem.links:
        outer, node = link.begin, link.end
        if witness.side == "sink":
            outer, node = link.end, link.begin
        if outer is None and node is not None:
            through[node] += link.bandwidth_bytes_per_s / problem.token_bytes
    most = math.fsum(
        min(capacity, max(node.throughput_tokens_per_s, default=0.0))
        for capacity, node in zip(through, problem.nodes, strict=True)
    )
    if most > witness.flow_tokens_per_s * (1.0 + _CLOSE):
        raise CertificateError(f"{most:.9g} tokens/s fit through the links of the {witness.side}")


def _check_layer_tokens(problem: FlowProblem, witness: LayerTokens) -> None:
    """A flow F needs ``L F`` layer-tokens/s; at the claimed one supply ends.

    Supply over F never grows with F, so checking at the claimed flow is enough.
    """
    flow = witness.flow_tokens_per_s
    supply = math.fsum(
        max((k * min(rate, flow) for k, rate in enumerate(n.throughput_tokens_per_s, 1)), default=0)
        for n in problem.nodes
    )
    if supply > problem.num_layers * flow * (1.0 + _CLOSE):
        raise CertificateError(f"the nodes supply more layer-tokens than {flow:.9g} tokens/s need")


def _check_everything(problem: FlowProblem, witness: Everything, limit_s: float | None) -> None:
    """Build all sets of ranges layer by layer, and route those whose layers all pass enough.

    Nodes come in the order of the problem and layers are filled from the first: a set is dropped as
    soon as its first layer that lacks something cannot be helped by the nodes that follow.
    """
    flow = witness.flow_tokens_per_s * (1.0 + TOLERANCE)
    nodes = [node.throughput_tokens_per_s for node in problem.nodes]
    layers = range(problem.num_layers)
    later = [0.0] * (len(nodes) + 1)
    for i in reversed(range(len(nodes))):
        later[i] = later[i + 1] + max(nodes[i], default=0.0)
    waiting: list[tuple[int, dict[int, tuple[int, int]], tuple[float, ...]]] = [
        (0, {}, (0.0,) * problem.num_layers)
    ]
    seen = 0
    while waiting:
        i, placement, held = waiting.pop()
        seen += 1
        if seen > 200 * max(1, witness.branches):
            raise CertificateError("trying everything again takes far more than was claimed")
        if min(held) + later[i] <= flow:
            continue
        if i == len(nodes):
            if _largest_flow(problem, placement) > flow and (
                limit_s is None or passes_within(problem, placement, limit_s, flow)
            ):
                raise CertificateError(f"a placement passes more than {flow:.9g} tokens/s")
            continue
        waiting.append((i + 1, placement, held))
        for k, rate in enumerate(nodes[i], 1):
            for first in range(problem.num_layers - k + 1):
                more = tuple(held[x] + (rate if first <= x < first + k else 0.0) for x in layers)
                waiting.append((i + 1, {**placement, i: (first, first + k)}, more))


def _check_covers(problem: FlowProblem, witness: Covers) -> None:
    flow = witness.flow_tokens_per_s
    tables = _tables(problem, witness.groups)
    counts = [len(group) for group in witness.groups]
    for part in witness.parts:
        _check_lengths(tables, part, flow)
        if not _forbids(tables, counts, problem.num_layers, part, flow):
            raise CertificateError(f"prices do not forbid {flow:.9g} tokens/s")
    boxes = [
        {(i.kind, i.layers): (i.low, i.high) for i in part.items if (i.low, i.high) is not None}
        for part in witness.parts
    ]
    names = {name for box in boxes for name in box}
    if not boxes_fill({name: (0, counts[name[0]]) for name in names}, boxes):
        raise CertificateError("the parts of the proof leave some counts out")


def _check_crossings(problem: FlowProblem, witness: Crossings) -> None:
    """All nodes cannot pay for the layers and for the way between two groups."""
    flow = witness.flow_tokens_per_s
    tables = _tables(problem, witness.groups)
    _check_lengths(tables, witness.prices, flow)
    prices = (*witness.prices.prices, *witness.size_prices[0], *witness.size_prices[1])
    if any(price < 0.0 for price in prices) or len(witness.prices.prices) != len(
        witness.prices.items
    ):
        raise CertificateError("a price is negative or missing")
    sides_of(problem, witness)
    inside = set(witness.region)
    for gone, alone in zip(
        (set(range(len(problem.nodes))) - inside, inside), witness.alone, strict=True
    ):
        nodes = tuple(
            msgspec.structs.replace(node, throughput_tokens_per_s=()) if i in gone else node
            for i, node in enumerate(problem.nodes)
        )
        others = msgspec.structs.replace(problem, nodes=nodes)
        if alone.witness.flow_tokens_per_s > alone.flow_tokens_per_s * (1.0 + _CLOSE):
            raise CertificateError("what a group passes alone is proven for more")
        if isinstance(alone.witness, LayerTokens):
            _check_layer_tokens(others, alone.witness)
        else:
            _check_covers(others, alone.witness)
    weights, limits = wares_of(witness, tables)
    low, high = 0.0, sum(price * n for price, n in zip(prices, limits, strict=True))
    for _ in range(48):
        middle = (low + high) / 2.0
        if _affordable(weights, prices, limits, middle):
            high = middle
        else:
            low = middle
    earned, excess = least_excess(problem, witness, tables, low)
    if earned >= (problem.num_layers * low + excess) * (1.0 - _CLOSE / 10.0):
        raise CertificateError(f"prices do not forbid {flow:.9g} tokens/s across regions")


def _tables(problem: FlowProblem, groups: Sequence[Sequence[int]]) -> list[tuple[float, ...]]:
    """The table of each group of equal nodes; every node that passes anything must be in one."""
    grouped = [node for group in groups for node in group]
    able = {i for i, n in enumerate(problem.nodes) if any(n.throughput_tokens_per_s)}
    if len(set(grouped)) != len(grouped) or not able <= set(grouped):
        raise CertificateError("the groups of the proof are not the nodes of the instance")
    tables = []
    for group in groups:
        found = {problem.nodes[node].throughput_tokens_per_s for node in group}
        if len(found) != 1:
            raise CertificateError("a group of the proof holds unequal nodes")
        tables.append(found.pop())
    return tables


def _check_lengths(tables: Sequence[tuple[float, ...]], part: Prices, flow: float) -> None:
    """Every number of layers is among the items, or outdone by a longer one that is."""
    for kind, table in enumerate(tables):
        kept = [i.layers for i in part.items if i.kind == kind]
        for k, rate in enumerate(table, 1):
            passes = min(rate, flow)
            if passes > 0.0 and not any(
                longer >= k and min(table[longer - 1], flow) >= passes for longer in kept
            ):
                raise CertificateError("the prices leave out some number of layers")


def _forbids(
    tables: Sequence[tuple[float, ...]],
    counts: Sequence[int],
    num_layers: int,
    part: Prices,
    flow: float,
) -> bool:
    """Whether all nodes together cannot pay for a cover of every layer at these prices."""
    if any(price < 0.0 for price in part.prices) or len(part.prices) != len(part.items):
        return False
    earned = 0.0
    for kind, count in enumerate(counts):
        mine = [(i, p) for i, p in zip(part.items, part.prices, strict=True) if i.kind == kind]
        free = count - sum(i.low for i, _ in mine)
        if free < 0:
            return True  # no counts at all are in this part
        earned += sum(i.low * i.layers * p for i, p in mine)
        for worth, room in sorted(((i.layers * p, i.high - i.low) for i, p in mine), reverse=True):
            used = min(room, free)
            earned += used * worth
            free -= used
    budget = earned * (1.0 + _CLOSE / 10.0) / num_layers
    weights = [min(1.0, tables[i.kind][i.layers - 1] / flow) for i in part.items]
    limits = [i.high for i in part.items]
    return not _affordable(weights, part.prices, limits, budget)


def _affordable(
    weights: Sequence[float], prices: Sequence[float], limits: Sequence[int], budget: float
) -> bool:
    """Whether items of total weight 1 can be had for the budget: best weight for each price."""
    free = sum(w * n for w, p, n in zip(weights, prices, limits, strict=True) if p <= 0.0)
    items = sorted(
        ((w / p, w, p, n) for w, p, n in zip(weights, prices, limits, strict=True) if p > 0.0),
        reverse=True,
    )
    full = 1.0 - 1e-12
    if free >= full:
        return True
    cost, weight = np.zeros(1), np.full(1, free)
    for value, w, p, n in items:
        for _ in range(n):
            hopeful = weight + (budget - cost) * value >= full - 1e-12
            cost, weight = cost[hopeful], weight[hopeful]
            more_cost, more_weight = cost + p, weight + w
            fits = more_cost <= budget
            if not fits.any():
                break
            if (more_weight[fits] >= full).any():
                return True
            size = len(cost)
            cost = np.concatenate([cost, more_cost[fits]])
            weight = np.concatenate([weight, more_weight[fits]])
            order = np.lexsort((-weight, cost))
            cost, weight = cost[order], weight[order]
            best = np.maximum.accumulate(weight)
            kept = np.ones(len(weight), dtype=bool)
            kept[1:] = weight[1:] > best[:-1]
            cost, weight = cost[kept], weight[kept]
            if len(cost) == size and not (order[kept] >= size).any():
                break
    return False
