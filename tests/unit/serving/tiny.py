"""Tiny placement problems and their optimum by trying everything, with a flow of its own."""

from __future__ import annotations

import itertools
import random

from optalloc.serving.flow.problem import FlowLink, FlowNode, FlowProblem

Ends = tuple[int | None, int | None]


def tiny_problem(seed: int, *, linked: bool, partial: bool = False) -> FlowProblem:
    """2 to 4 nodes of 1 to 3 types and 1 to 4 layers; links bind often if ``linked``."""
    draw = random.Random(seed)
    count, num_layers = draw.randint(2, 4), draw.randint(1, 4)
    types = []
    for _ in range(draw.randint(1, 3)):
        speed, most = draw.choice([3.0, 5.0, 8.0, 12.0]), draw.randint(1, 3)
        types.append(
            tuple(round(speed / k * draw.uniform(0.6, 1.2), 2) for k in range(1, most + 1))
        )
    links = []
    for a in (None, *range(count)):
        for b in (*range(count), None):
            if a != b and (a is not None or b is not None):
                wide = not linked or draw.random() < 0.4
                if linked and draw.random() < 0.15:
                    continue
                capacity = 1000.0 if wide else draw.choice([0.5, 1.0, 2.0, 3.0])
                links.append(FlowLink(begin=a, end=b, bandwidth_bytes_per_s=capacity))
    return FlowProblem(
        num_layers=num_layers,
        token_bytes=1,
        activation_bytes=1,
        nodes=tuple(
            FlowNode(type="", throughput_tokens_per_s=draw.choice(types)) for _ in range(count)
        ),
        links=tuple(links),
        partial_inference=partial,
    )


def best_flow(problem: FlowProblem) -> float:
    """The optimum: every range of every node, each scored."""
    choices: list[list[tuple[int, int] | None]] = []
    for node in problem.nodes:
        ranges: list[tuple[int, int] | None] = [None]
        for first in range(problem.num_layers):
            for end in range(first + 1, min(problem.num_layers, first + node.max_layers) + 1):
                ranges.append((first, end))
        choices.append(ranges)
    return max(score(problem, chosen) for chosen in itertools.product(*choices))


def score(problem: FlowProblem, ranges: tuple[tuple[int, int] | None, ...]) -> float:
    """Maximum flow by depth-first augmenting paths on a matrix; node i is 2i and 2i + 1."""
    count = len(ranges)
    source, sink = 2 * count, 2 * count + 1
    room = [[0.0] * (sink + 1) for _ in range(sink + 1)]
    for i, held in enumerate(ranges):
        if held is not None:
            table = problem.nodes[i].throughput_tokens_per_s
            room[2 * i][2 * i + 1] = table[held[1] - held[0] - 1]
    for link in problem.links:
        left = None if link.begin is None else ranges[link.begin]
        right = None if link.end is None else ranges[link.end]
        if link.begin is None:
            joined, tail = right is not None and right[0] == 0, source
        else:
            tail = 2 * link.begin + 1
            joined = left is not None and (
                left[1] == problem.num_layers
                if link.end is None
                else right is not None
                and (
                    right[0] == left[1]
                    or (problem.partial_inference and right[0] <= left[1] < right[1])
                )
            )
        if joined:
            room[tail][sink if link.end is None else 2 * link.end] += link.bandwidth_bytes_per_s
    total = 0.0
    while True:
        pushed = _push(room, source, sink, float("inf"), set())
        if pushed <= 1e-12:
            return total
        total += pushed


def _push(room: list[list[float]], at: int, sink: int, amount: float, seen: set[int]) -> float:
    if at == sink:
        return amount
    seen.add(at)
    for head, free in enumerate(room[at]):
        if free > 1e-12 and head not in seen:
            pushed = _push(room, head, sink, min(amount, free), seen)
            if pushed > 0.0:
                room[at][head] -= pushed
                room[head][at] += pushed
                return pushed
    return 0.0
