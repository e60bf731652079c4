"""The value of a placement: the largest flow from source to sink, by blocking flows (Dinic)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from optalloc.serving.flow.problem import FlowProblem, Ranges, check_ranges

#: Room below this many tokens/s is rounding.
_NOTHING = 1e-9


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """What stops a placement from passing more: every route crosses one of these, all full.

    ``nodes`` are the nodes whose throughput binds, ``links`` the links; their capacities add up to
    the flow.
    """

    nodes: tuple[int, ...]
    links: tuple[tuple[int | None, int | None], ...]


class Routes(msgspec.Struct, frozen=True, kw_only=True):
    """A largest flow of a placement.

    ``flow_tokens_per_s`` is its value; ``links`` holds the tokens/s of every used link, keyed
    ``(begin, end)`` with None for source and sink; ``cut`` binds it. ``latency_s`` is that of one
    token on the slowest route that carries tokens, ``link_latency_s`` the largest sum of link
    latencies on one; neither transfers nor what nodes take are in the latter.
    """

    flow_tokens_per_s: float
    links: dict[tuple[int | None, int | None], float]
    cut: Cut
    link_latency_s: float
    latency_s: float


def open_links(
    problem: FlowProblem, placement: Ranges
) -> list[tuple[int | None, int | None, float, float]]:
    """Links that carry tokens under a placement: ``(begin, end, tokens/s, latency_s)``."""
    found = []
    for link in problem.links:
        a, b = link.begin, link.end
        if (a is not None and a not in placement) or (b is not None and b not in placement):
            continue
        if a is None:
            joined = b is not None and placement[b][0] == 0
        elif b is None:
            joined = placement[a][1] == problem.num_layers
        else:
            end, (first, other_end) = placement[a][1], placement[b]
            joined = end == first or (problem.partial_inference and first <= end < other_end)
        if joined:
            found.append((a, b, problem.capacity_tokens_per_s(link), link.latency_s))
    return found


def routes(problem: FlowProblem, placement: Ranges) -> Routes:
    """Route as many tokens as the placement allows.

    Raises
    ------
    InputError
        If a node cannot hold its range.
    """
    check_ranges(problem, placement)
    joined = open_links(problem, placement)
    used = sorted(placement)
    inner = {node: 2 + 2 * place for place, node in enumerate(used)}
    network = _Network(2 + 2 * len(used))
    for node in used:
        first, end = placement[node]
        table = problem.nodes[node].throughput_tokens_per_s
        network.add(inner[node], inner[node] + 1, table[end - first - 1])
    arcs = []
    for a, b, capacity, _ in joined:
        tail = 0 if a is None else inner[a] + 1
        head = 1 if b is None else inner[b]
        arcs.append((a, b, network.add(tail, head, capacity)))
    value = network.largest(0, 1)
    carried = {(a, b): network.flow[arc] for a, b, arc in arcs if network.flow[arc] > 0.0}
    near = network.reached(0)
    cut = Cut(
        nodes=tuple(n for n in used if near[inner[n]] and not near[inner[n] + 1]),
        links=tuple(
            (a, b)
            for a, b, arc in arcs
            if near[0 if a is None else inner[a] + 1] and not near[1 if b is None else inner[b]]
        ),
    )
    on_links = {(a, b): delay for a, b, _, delay in joined}
    transfer = {(a, b): 1.0 / capacity for a, b, capacity, _ in joined if capacity > 0.0}

    def wait(a: int | None, b: int | None) -> float:
        """Seconds from the end of a node's step to that of the next."""
        seconds = on_links[a, b] + transfer[a, b]
        if b is not None:
            (first, end), at = placement[b], 0 if a is None else placement[a][1]
            seconds += problem.step_s(b, end - first) * ((end - at) / (end - first))
        return seconds

    return Routes(
        flow_tokens_per_s=value,
        links=carried,
        cut=cut,
        link_latency_s=_slowest(used, placement, carried, lambda a, b: on_links[a, b]),
        latency_s=_slowest(used, placement, carried, wait),
    )


def _slowest(
    used: Iterable[int],
    placement: Ranges,
    carried: Iterable[tuple[int | None, int | None]],
    wait: Callable[[int | None, int | None], float],
) -> float:
    """The largest sum of waits from source to sink; ends grow along every route."""
    reached: dict[int | None, float] = {None: 0.0}
    into: dict[int | None, list[int | None]] = {}
    for a, b in carried:
        into.setdefault(b, []).append(a)
    ends: list[int | None] = [*sorted(used, key=lambda node: placement[node][1]), None]
    slowest = 0.0
    for node in ends:
        ways = [reached[a] + wait(a, node) for a in into.get(node, ()) if a in reached]
        if ways and node is not None:
            reached[node] = max(ways)
        elif ways:
            slowest = max(ways)
    return slowest


def flow_tokens_per_s(problem: FlowProblem, placement: Ranges) -> float:
    """Value of a placement, tokens/s."""
    return routes(problem, placement).flow_tokens_per_s


class _Network:
    """Arcs in pairs: arc ``a`` and its reverse ``a ^ 1``."""

    def __init__(self, vertices: int) -> None:
        self.out: list[list[int]] = [[] for _ in range(vertices)]
        self.head: list[int] = []
        self.rest: list[float] = []
        self.flow: list[float] = []

    def add(self, tail: int, head: int, capacity: float) -> int:
        arc = len(self.head)
        self.out[tail].append(arc)
        self.out[head].append(arc + 1)
        self.head += [head, tail]
        self.rest += [capacity, 0.0]
        self.flow += [0.0, 0.0]
        return arc

    def largest(self, source: int, sink: int) -> float:
        total = 0.0
        while (level := self._levels(source))[sink] >= 0:
            place = [0] * len(self.out)
            while (pushed := self._push(source, sink, level, place)) > 0.0:
                total += pushed
        return total

    def reached(self, source: int) -> list[bool]:
        """Vertices that more flow could still reach, but for a rounding error."""
        return [level >= 0 for level in self._levels(source)]

    def _levels(self, source: int) -> list[int]:
        level = [-1] * len(self.out)
        level[source] = 0
        queue = deque([source])
        while queue:
            vertex = queue.popleft()
            for arc in self.out[vertex]:
                if self.rest[arc] > _NOTHING and level[self.head[arc]] < 0:
                    level[self.head[arc]] = level[vertex] + 1
                    queue.append(self.head[arc])
        return level

    def _push(self, source: int, sink: int, level: list[int], place: list[int]) -> float:
        path: list[int] = []
        vertex = source
        while vertex != sink:
            arcs = self.out[vertex]
            while place[vertex] < len(arcs):
                arc = arcs[place[vertex]]
                if self.rest[arc] > _NOTHING and level[self.head[arc]] == level[vertex] + 1:
                    break
                place[vertex] += 1
            else:
                if not path:
                    return 0.0
                vertex = self.head[path.pop() ^ 1]
                place[vertex] += 1
                continue
            path.append(arc)
            vertex = self.head[arc]
        amount = min(self.rest[arc] for arc in path)
        for arc in path:
            self.rest[arc] -= amount
            self.rest[arc ^ 1] += amount
            self.flow[arc] += amount
            self.flow[arc ^ 1] -= amount
        return amount
