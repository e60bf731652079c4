"""A flow problem as arrays for the kernels, and the annealed search over them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from optalloc import _native
from optalloc.serving.flow.latency.routes import routes_within
from optalloc.serving.flow.latency.times import Times
from optalloc.serving.flow.problem import FlowProblem, Ranges

Doubles = NDArray[np.float64]
Moves = Literal["any", "swaps", "row"]
_MOVES: tuple[Moves, ...] = ("any", "swaps", "row")
_NONE = np.zeros(1, dtype=np.int32)


class FlowArrays:
    """Tables and capacities (tokens/s) of a problem; links that are absent have capacity 0.

    With a limit on the latency of routes (seconds), flows are those of routes within it.
    """

    def __init__(self, problem: FlowProblem, limit_s: float = math.inf) -> None:
        self.problem, self.limit_s = problem, limit_s
        count = len(problem.nodes)
        width = max(1, max((node.max_layers for node in problem.nodes), default=1))
        self.throughput: Doubles = np.full((count, width), -1.0)
        for index, node in enumerate(problem.nodes):
            self.throughput[index, : node.max_layers] = node.throughput_tokens_per_s
        self.links: Doubles = np.zeros((count, count))
        self.source: Doubles = np.zeros(count)
        self.sink: Doubles = np.zeros(count)
        for link in problem.links:
            capacity = problem.capacity_tokens_per_s(link)
            if link.begin is None and link.end is not None:
                self.source[link.end] += capacity
            elif link.end is None and link.begin is not None:
                self.sink[link.begin] += capacity
            elif link.begin is not None and link.end is not None:
                self.links[link.begin, link.end] += capacity
        self._step, self._delay = np.zeros((0, 0)), np.zeros((0, 0))
        if limit_s < math.inf:
            times = Times(problem)
            self._step = np.full((count, width), np.inf)
            self._step[:, : times.step.shape[1]] = times.step
            self._delay = times.delays()

    def typical_link(self, groups: Sequence[Sequence[int]]) -> float:
        """Median of the links between nodes of different groups, tokens/s; 0.0: no two groups."""
        group: NDArray[np.int64] = np.full(len(self.source), -1, dtype=np.int64)
        for index, nodes in enumerate(groups):
            group[list(nodes)] = index
        between = (group[:, None] != group) & (group[:, None] >= 0) & (group >= 0)
        return float(np.median(self.links[between])) if between.any() else 0.0

    def value(self, placement: Ranges) -> float:
        """Flow of a placement, tokens/s."""
        if self.limit_s < math.inf:
            return sum(
                route.tokens_per_s for route in routes_within(self.problem, placement, self.limit_s)
            )
        return self.improve(placement, target=1.0, steps=0, seed=0)[1]

    def improve(
        self,
        placement: Ranges,
        *,
        target: float,
        steps: int,
        seed: int,
        seconds: float = 0.0,
        hot: float = 0.5,
        cold: float = 0.01,
        moves: Moves = "any",
    ) -> tuple[dict[int, tuple[int, int]], float]:
        """Anneal from a placement towards ``target`` tokens/s.

        ``hot`` and ``cold`` are the temperatures at begin and end, in layers not covered; ``moves``
        change any range, only exchange nodes of equal tables, or keep every node in a stage of a
        row ("row": a start that is none becomes one);
        ``seconds`` (0: none) is a wall-clock limit. Returns the best placement met and its flow.
        """
        ranges = np.zeros((len(self.source), 2), dtype=np.int32)
        for node, (first, end) in placement.items():
            ranges[node] = (first, end)
        flow, _ = _native.improve_placement(
            self.throughput,
            self.links,
            self.source,
            self.sink,
            self.problem.num_layers,
            self.problem.partial_inference,
            ranges,
            seed,
            steps,
            target,
            hot,
            cold,
            seconds,
            _MOVES.index(moves),
            self.limit_s,
            self._step,
            self._delay,
            _NONE,
        )
        found = {
            node: (first, end) for node, (first, end) in enumerate(ranges.tolist()) if first < end
        }
        return found, float(flow)
