"""What a token waits on links and nodes, as arrays; and the latency of one route."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from optalloc.serving.flow.problem import FlowProblem, Ranges

Floats = NDArray[np.float64]


class Times:
    """Seconds of a problem; what does not exist takes forever.

    ``step[i, k - 1]`` is the step of node ``i`` that holds ``k`` layers; ``links`` lead from row to
    column; ``source`` and ``sink`` are those of each node.
    """

    def __init__(self, problem: FlowProblem) -> None:
        self.problem = problem
        count = len(problem.nodes)
        most = max((node.max_layers for node in problem.nodes), default=1)
        width = max(1, min(problem.num_layers, most))
        self.step: Floats = np.full((count, width), np.inf)
        for i, node in enumerate(problem.nodes):
            for k in range(1, min(width, node.max_layers) + 1):
                self.step[i, k - 1] = problem.step_s(i, k)
        self.links: Floats = np.full((count, count), np.inf)
        self.source: Floats = np.full(count, np.inf)
        self.sink: Floats = np.full(count, np.inf)
        for link in problem.links:
            a, b, seconds = link.begin, link.end, problem.link_s(link)
            if a is None and b is not None:
                self.source[b] = min(self.source[b], seconds)
            elif b is None and a is not None:
                self.sink[a] = min(self.sink[a], seconds)
            elif a is not None and b is not None and a != b:
                self.links[a, b] = min(self.links[a, b], seconds)
        self._runs = self._tabulated()

    def passing(self, throughput: Floats, capacity: Floats, flow: float) -> Times:
        """The times of what passes ``flow`` tokens/s on its own: all else takes forever.

        ``capacity`` holds links, source and sink as :meth:`delays` does.
        """
        other = copy.copy(self)
        count, width = self.step.shape
        delays = np.where(capacity >= flow, self.delays(), np.inf)
        other.step = np.where(throughput[:, :width] >= flow, self.step, np.inf)
        other.links, other.source, other.sink = delays[:count], delays[count], delays[count + 1]
        other._runs = other._tabulated()
        return other

    def _tabulated(self) -> list[Floats]:
        """Entry ``x``: seconds of layers that begin at ``x`` (the last entry: or later), held alone
        or, with partial inference, after others."""
        width = self.step.shape[1]
        each = self.step / np.arange(1, width + 1)
        runs: list[Floats] = []
        for x in range(width if self.problem.partial_inference else 1):
            run: Floats = np.array(self.step.T)
            if self.problem.partial_inference and x > 0:
                for u in range(1, width + 1):
                    run[u - 1] = u * each[:, u - 1 : min(width, x + u)].min(axis=1)
            runs.append(run)
        return runs

    def run(self, begin: int) -> Floats:
        """Seconds of the layers from ``begin`` on: entry ``[u - 1, i]`` for ``u`` on node ``i``."""
        return self._runs[min(begin, len(self._runs) - 1)]

    def held(self, node: int, begin: int, layers: int) -> int:
        """How many layers the node holds to run these fastest."""
        most = min(self.step.shape[1], begin + layers) if self.problem.partial_inference else layers
        if begin == 0:
            most = layers
        each = [self.step[node, k - 1] / k for k in range(layers, most + 1)]
        return layers + int(np.argmin(each))

    def delays(self) -> Floats:
        """Links, then source, then sink, a row each, for the kernel."""
        return np.vstack([self.links, self.source, self.sink])


def route_latency_s(problem: FlowProblem, placement: Ranges, route: Sequence[int]) -> float:
    """Seconds of one token from the source over the nodes of a route to the sink."""
    ways = {(link.begin, link.end): problem.link_s(link) for link in reversed(problem.links)}
    total = sum(ways[pair] for pair in itertools.pairwise((None, *route, None)))
    at = 0
    for node in route:
        first, end = placement[node]
        total += problem.step_s(node, end - first) * (end - at) / (end - first)
        at = end
    return total
