"""The most tokens a placement passes over routes that are all within a latency: columns are routes.

    max sum_r f_r   s.t.  routes over a node pass at most T_i,  over a link at most its capacity

over the routes ``r`` of latency at most D, each found when its prices pay for it: partial routes in
the order of ends (they grow along every route), kept while no other at the same node is both faster
and dearer. Exact for a placement; a route of the answer lists its nodes and its tokens/s.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

from optalloc.serving.flow.linear import GrowingLP
from optalloc.serving.flow.network import open_links
from optalloc.serving.flow.problem import FlowProblem, Ranges
from optalloc.serving.flow.result import Route

_ROUNDS = 500
_NOTHING = 1e-9

Ends = tuple[int | None, int | None]
#: Latency so far, prices so far, nodes.
_Partial = tuple[float, float, tuple[int, ...]]


def routes_within(problem: FlowProblem, placement: Ranges, limit_s: float) -> tuple[Route, ...]:
    """Routes of at most ``limit_s`` seconds that together pass most tokens/s.

    Complexity: the partial routes kept grow with the different latencies at a node; one linear
    programme a round.
    """
    network = _Network(problem, placement, limit_s)
    rows: dict[object, int] = {}
    upper: list[float] = []
    for node in network.order:
        rows[node] = len(upper)
        upper.append(network.rate[node])
    for ends, capacity in network.room.items():
        if any(end is not None and capacity < network.rate[end] for end in ends):
            rows[ends] = len(upper)
            upper.append(capacity)
    lp = GrowingLP(upper)
    found: list[tuple[float, tuple[int, ...]]] = []
    prices: dict[object, float] = {}
    for _ in range(_ROUNDS):
        latency_s, price, nodes = network.cheapest(prices)
        if not nodes or price > 1.0 - _NOTHING or (latency_s, nodes) in found:
            break
        found.append((latency_s, nodes))
        links = [pair for pair in itertools.pairwise((None, *nodes, None)) if pair in rows]
        used = [rows[name] for name in (*nodes, *links)]
        lp.add(1.0, used, [1.0] * len(used))
        lp.solve()
        prices = {name: max(0.0, float(lp.duals[row])) for name, row in rows.items()}
    if not found:
        return ()
    return tuple(
        Route(nodes=nodes, tokens_per_s=float(rate), latency_s=latency_s)
        for (latency_s, nodes), rate in zip(found, lp.values, strict=True)
        if rate > _NOTHING
    )


class _Network:
    """Open links of a placement that some route within the limit can use, as lists."""

    def __init__(self, problem: FlowProblem, placement: Ranges, limit_s: float) -> None:
        self.problem, self.placement, self.limit_s = problem, placement, limit_s
        self.order = sorted(placement, key=lambda node: (placement[node][1], node))
        self.rate: dict[int, float] = {}
        self.step: dict[int, float] = {}
        for node, (first, end) in placement.items():
            self.rate[node] = problem.nodes[node].throughput_tokens_per_s[end - first - 1]
            self.step[node] = problem.step_s(node, end - first)
        self.room: dict[Ends, float] = {}
        self.seconds: dict[Ends, float] = {}
        for a, b, capacity, latency_s in open_links(problem, placement):
            if capacity <= 0.0:
                continue
            seconds = latency_s + 1.0 / capacity
            self.room[a, b] = self.room.get((a, b), 0.0) + capacity
            self.seconds[a, b] = min(seconds, self.seconds.get((a, b), math.inf))
        self.out: dict[int | None, list[int | None]] = {}
        for a, b in self.room:
            self.out.setdefault(a, []).append(b)
        self.rest: dict[int | None, float] = {None: 0.0}  # least seconds after a node's step
        for node in reversed(self.order):
            self.rest[node] = min(
                (
                    self.seconds[node, b]
                    + (0.0 if b is None else self.run(b, placement[node][1]) + self.rest[b])
                    for b in self.out.get(node, ())
                ),
                default=math.inf,
            )

    def run(self, node: int, begin: int) -> float:
        """Seconds of a step that runs the layers from ``begin``."""
        first, end = self.placement[node]
        return self.step[node] * ((end - begin) / (end - first))

    def cheapest(self, prices: Mapping[object, float]) -> _Partial:
        """The route of least price within the limit; one without nodes if there is none."""
        kept: dict[int, list[_Partial]] = {node: [] for node in self.order}
        best: _Partial = (math.inf, math.inf, ())
        limit_s = self.limit_s * (1.0 + 1e-12)

        def spread(node: int | None, here: _Partial, at: int) -> None:
            nonlocal best
            for b in self.out.get(node, ()):
                seconds = here[0] + self.seconds[node, b]
                price = here[1] + prices.get((node, b), 0.0)
                if b is None:
                    if seconds <= limit_s and price < best[1]:
                        best = (seconds, price, here[2])
                    continue
                seconds += self.run(b, at)
                price += prices.get(b, 0.0)
                if seconds + self.rest[b] <= limit_s and price < min(1.0, best[1]):
                    kept[b].append((seconds, price, (*here[2], b)))

        spread(None, (0.0, 0.0, ()), 0)
        for node in self.order:
            least = math.inf
            for partial in sorted(kept[node]):
                if partial[1] < least:
                    least = partial[1]
                    spread(node, partial, self.placement[node][1])
        return best
