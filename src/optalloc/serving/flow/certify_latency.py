"""Check claims about latency again: routes, least latencies and bounds within a limit.

Shares no code with the solvers: seconds are taken from the problem anew, shortest paths run
backwards from the last layer, and what a placement passes within a limit is bounded by prices that
every listed route has to pay.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from optalloc.errors import CertificateError
from optalloc.serving.flow.certify_boxes import boxes_fill
from optalloc.serving.flow.linear import GrowingLP
from optalloc.serving.flow.problem import FlowProblem
from optalloc.serving.flow.result import Route
from optalloc.serving.flow.witness import Begins, Counted, Fastest, LatencyTokens, Witness

_CLOSE = 1e-9
TOLERANCE = 1e-6

Floats = NDArray[np.float64]
Ends = tuple[int | None, int | None]
Placement = Mapping[int, tuple[int, int]]


def certify_latency(
    problem: FlowProblem,
    placement: Placement,
    routes: Sequence[Route],
    *,
    latency_s: float,
    bound: float | None = None,
    witness: Witness | None = None,
) -> None:
    """Check that routes of a placement take ``latency_s`` and that none takes less than a bound.

    Raises
    ------
    CertificateError
        If a route is not one of the placement, takes another time, or the witness proves less.
    """
    if not routes:
        raise CertificateError("no route is named")
    flow_of_routes(problem, placement, routes, latency_s * (1.0 + TOLERANCE))
    if max(route.latency_s for route in routes) < latency_s * (1.0 - TOLERANCE):
        raise CertificateError(f"the routes are faster than {latency_s:.9g} s")
    if bound is None:
        return
    if bound > latency_s * (1.0 + TOLERANCE):
        raise CertificateError(f"the bound {bound:.9g} s is above the latency {latency_s:.9g} s")
    if not isinstance(witness, Fastest | Counted):
        raise CertificateError("a bound is claimed without anything that proves it")
    if witness.latency_s < bound * (1.0 - TOLERANCE):
        raise CertificateError("the witness speaks of less time than the bound")
    if isinstance(witness, Counted):
        if _least_of_classes(problem, witness) < witness.latency_s * (1.0 - _CLOSE):
            raise CertificateError(f"counts do not forbid less than {witness.latency_s:.9g} s")
        return
    boxes = [{(node, 0): (low, high) for node, low, high in part.windows} for part in witness.parts]
    names = {name for box in boxes for name in box}
    if not boxes_fill(dict.fromkeys(names, (0, problem.num_layers)), boxes):
        raise CertificateError("the parts of the proof leave some routes out")
    seconds = _Seconds(problem)
    for part in witness.parts:
        if seconds.least(part) < witness.latency_s * (1.0 - _CLOSE):
            raise CertificateError(f"prices do not forbid less than {witness.latency_s:.9g} s")


def flow_of_routes(
    problem: FlowProblem, placement: Placement, routes: Sequence[Route], limit_s: float
) -> float:
    """Tokens/s of the routes, each of which must be open, as fast as told and within the limit."""
    room: dict[Ends, float] = {}
    wait: dict[Ends, float] = {}
    for link in problem.links:
        ends = (link.begin, link.end)
        inner = None not in ends
        size = problem.activation_bytes if inner else problem.token_bytes
        if link.bandwidth_bytes_per_s > 0.0:
            room[ends] = room.get(ends, 0.0) + link.bandwidth_bytes_per_s / size
            seconds = link.latency_s + size / link.bandwidth_bytes_per_s
            wait[ends] = min(wait.get(ends, math.inf), seconds)
    load: dict[int | Ends, float] = {}
    for route in routes:
        at, seconds, before = 0, 0.0, None
        for node in route.nodes:
            if node not in placement or (before, node) not in room:
                raise CertificateError(f"a route meets node {node}, which it cannot reach")
            first, end = placement[node]
            if not (first == at or (problem.partial_inference and first < at < end)):
                raise CertificateError(f"a route reaches node {node} at layer {at}")
            if not 0 <= first < end <= problem.num_layers:
                raise CertificateError(f"node {node} cannot hold layers {first} to {end}")
            seconds += wait[before, node] + problem.step_s(node, end - first) * (end - at) / (
                end - first
            )
            load[node] = load.get(node, 0.0) + route.tokens_per_s
            load[before, node] = load.get((before, node), 0.0) + route.tokens_per_s
            at, before = end, node
        if at != problem.num_layers or (before, None) not in room:
            raise CertificateError("a route does not reach the sink")
        load[before, None] = load.get((before, None), 0.0) + route.tokens_per_s
        seconds += wait[before, None]
        if abs(seconds - route.latency_s) > TOLERANCE * seconds:
            raise CertificateError(f"a route takes {seconds:.9g} s, not {route.latency_s:.9g} s")
        if seconds > limit_s * (1.0 + TOLERANCE):
            raise CertificateError(f"a route takes {seconds:.9g} s, more than {limit_s:.9g} s")
    for what, amount in load.items():
        if isinstance(what, tuple):
            most = room[what]
        else:
            first, end = placement[what]
            most = problem.nodes[what].throughput_tokens_per_s[end - first - 1]
        if amount > most * (1.0 + TOLERANCE):
            raise CertificateError(f"routes put {amount:.9g} tokens/s on {what}, of {most:.9g}")
    return math.fsum(route.tokens_per_s for route in routes)


class _Seconds:
    """Least seconds from each node's begin to the sink, from the last layer backwards."""

    def __init__(self, problem: FlowProblem) -> None:
        self.problem = problem
        count = len(problem.nodes)
        self.enter: Floats = np.full(count, np.inf)
        self.leave: Floats = np.full(count, np.inf)
        self.between: Floats = np.full((count, count), np.inf)
        for link in problem.links:
            a, b, seconds = link.begin, link.end, problem.link_s(link)
            if a is None and b is not None:
                self.enter[b] = min(self.enter[b], seconds)
            elif b is None and a is not None:
                self.leave[a] = min(self.leave[a], seconds)
            elif a is not None and b is not None and a != b:
                self.between[a, b] = min(self.between[a, b], seconds)

    def run(self, node: int, begin: int, end: int) -> float:
        """Least seconds of the layers ``begin .. end - 1`` on a node that may hold more before."""
        most = len(self.problem.nodes[node].throughput_tokens_per_s)
        layers = end - begin
        if layers > most:
            return math.inf
        firsts = (
            range(max(0, end - most), begin + 1) if self.problem.partial_inference else (begin,)
        )
        if begin == 0:
            firsts = range(1)
        return (
            min(self.problem.step_s(node, end - first) / (end - first) for first in firsts) * layers
        )

    def least(self, part: Begins) -> float:
        """The shortest path at the part's prices less the prices: no route takes less."""
        num_layers, prices = self.problem.num_layers, np.array(part.prices)
        if len(prices) != len(self.enter) or (prices < 0.0).any():
            raise CertificateError("a price is negative or missing")
        windows = {node: (low, high) for node, low, high in part.windows}
        after: Floats = np.full((num_layers + 1, len(prices)), np.inf)
        after[num_layers] = self.leave  # seconds after a step that ends here
        begun: Floats = np.full(len(prices), np.inf)
        for begin in reversed(range(num_layers)):
            begun = np.full(len(prices), np.inf)
            for node, node_s in enumerate(self.problem.nodes):
                low, high = windows.get(node, (0, num_layers))
                if low <= begin <= high:
                    ends = range(begin + 1, min(num_layers, begin + node_s.max_layers) + 1)
                    begun[node] = prices[node] + min(
                        (self.run(node, begin, end) + after[end, node] for end in ends),
                        default=math.inf,
                    )
            after[begin] = (self.between + begun[None, :]).min(axis=1)
        return float((self.enter + begun).min()) - float(prices.sum())


def _least_of_classes(problem: FlowProblem, witness: Counted) -> float:
    """Labels from the last layer backwards: seconds to the sink by nodes of each class still free.

    A class holds nodes of one table, and its links count by the least there are.
    """
    seconds, classes = _Seconds(problem), witness.classes
    listed = [node for group in classes for node in group]
    able = {
        i for i, n in enumerate(problem.nodes) if any(t > 0.0 for t in n.throughput_tokens_per_s)
    }
    if len(set(listed)) != len(listed) or not able <= set(listed):
        raise CertificateError("the classes of the proof are not the nodes of the instance")
    for group in classes:
        if (
            len(
                {(problem.nodes[i].throughput_tokens_per_s, problem.nodes[i].step_s) for i in group}
            )
            != 1
        ):
            raise CertificateError("a class of the proof holds unequal nodes")
    enter = [min(float(seconds.enter[i]) for i in group) for group in classes]
    leave = [min(float(seconds.leave[i]) for i in group) for group in classes]
    between = np.array(
        [[float(seconds.between[np.ix_(a, b)].min()) for b in classes] for a in classes]
    )
    shape = tuple(len(group) + 1 for group in classes)
    num_layers, count = problem.num_layers, len(classes)
    # begun[x][c]: seconds from the begin of a step of class c at layer x, by how many are free then
    begun: list[list[Floats]] = [[] for _ in range(num_layers)]
    after: list[list[Floats]] = [[] for _ in range(num_layers)]
    for x in reversed(range(num_layers)):
        for c in range(count):
            best: Floats = np.full(shape, np.inf)
            taken = [slice(None)] * count
            taken[c] = slice(1, None)
            left = list(taken)
            left[c] = slice(0, -1)
            most = problem.nodes[classes[c][0]].max_layers
            for end in range(x + 1, min(num_layers, x + most) + 1):
                run = seconds.run(classes[c][0], x, end)
                rest = np.full(shape, leave[c]) if end == num_layers else after[end][c]
                best[tuple(taken)] = np.minimum(best[tuple(taken)], run + rest[tuple(left)])
            begun[x].append(best)
        for c in range(count):
            ways = [begun[x][d] + between[c, d] for d in range(count)]
            after[x].append(np.minimum.reduce(ways))
    whole = tuple(len(group) for group in classes)
    return min(float(begun[0][c][whole]) + enter[c] for c in range(count))


def check_latency_tokens(problem: FlowProblem, witness: LatencyTokens, limit_s: float) -> None:
    """Layers within the limit, at a price of a second: supply never grows with the flow."""
    seconds, price, flow = _Seconds(problem), witness.price, witness.flow_tokens_per_s
    if price < 0.0:
        raise CertificateError("a price is negative")
    supply = 0.0
    for i, node in enumerate(problem.nodes):
        enter = min(float(seconds.enter[i]), float(seconds.between[:, i].min()))
        best = 0.0
        for k, rate in enumerate(node.throughput_tokens_per_s[: problem.num_layers], 1):
            wait = (problem.step_s(i, k) + enter) / k
            if wait < math.inf:
                best = max(best, (1.0 - price * wait) * k * min(rate, flow) / flow)
        supply += best
    need = problem.num_layers - price * (limit_s - float(seconds.leave.min()))
    if supply > need + _CLOSE * problem.num_layers:
        raise CertificateError(f"the limit on latency does not forbid {flow:.9g} tokens/s")


def passes_within(problem: FlowProblem, placement: Placement, limit_s: float, flow: float) -> bool:
    """Whether no prices show that the placement's routes within the limit pass at most ``flow``.

    Lists all routes, so only for a few nodes.
    """
    routes = list(_routes(problem, placement, limit_s))
    room: dict[object, float] = {}
    for link in problem.links:
        inner = link.begin is not None and link.end is not None
        size = problem.activation_bytes if inner else problem.token_bytes
        ends = (link.begin, link.end)
        room[ends] = room.get(ends, 0.0) + link.bandwidth_bytes_per_s / size
    for node, (first, end) in placement.items():
        room[node] = problem.nodes[node].throughput_tokens_per_s[end - first - 1]
    used = sorted({name for route in routes for name in _met(route)}, key=repr)
    rows = {name: row for row, name in enumerate(used)}
    lp = GrowingLP([room[name] for name in used])
    for route in routes:
        lp.add(1.0, [rows[name] for name in _met(route)], [1.0] * (2 * len(route) + 1))
    if not routes:
        return False
    lp.solve()
    prices = np.maximum(0.0, lp.duals)
    least = min(sum(float(prices[rows[name]]) for name in _met(route)) for route in routes)
    if least <= 0.0:
        return True
    return sum(room[name] * float(prices[rows[name]]) for name in used) / least > flow


def _met(route: tuple[int, ...]) -> list[object]:
    ends = [None, *route, None]
    return [*route, *itertools.pairwise(ends)]


def _routes(problem: FlowProblem, placement: Placement, limit_s: float) -> list[tuple[int, ...]]:
    """All routes within the limit."""
    wait: dict[Ends, float] = {}
    for link in problem.links:
        ends = (link.begin, link.end)
        wait[ends] = min(wait.get(ends, math.inf), problem.link_s(link))
    found = []
    waiting: list[tuple[tuple[int, ...], int, float]] = [((), 0, 0.0)]
    while waiting:
        route, at, seconds = waiting.pop()
        before = route[-1] if route else None
        if at == problem.num_layers:
            if seconds + wait.get((before, None), math.inf) <= limit_s * (1.0 + _CLOSE):
                found.append(route)
            continue
        for node, (first, end) in placement.items():
            joined = first == at or (problem.partial_inference and first < at < end)
            if joined and (before, node) in wait:
                step = problem.step_s(node, end - first) * (end - at) / (end - first)
                total = seconds + wait[before, node] + step
                if total < math.inf:
                    waiting.append(((*route, node), end, total))
    return found
