"""Tiny placement problems and their optimum by trying everything, with a flow of its own."""

from __future__ import annotations

import itertools
import random

import highspy
import msgspec

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
    return _drawn(draw, types, links, count, num_layers=num_layers, partial=partial)


def _drawn(
    draw: random.Random,
    types: list[tuple[float, ...]],
    links: list[FlowLink],
    count: int,
    *,
    num_layers: int,
    partial: bool,
) -> FlowProblem:
    """The problem of ``count`` nodes, each of a type drawn."""
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


def walled_problem(seed: int) -> tuple[FlowProblem, list[tuple[int, ...]]]:
    """4 or 5 nodes in 2 or 3 regions, wide links inside and narrow ones between; the regions."""
    draw = random.Random(seed)
    count, parts, num_layers = draw.randint(4, 5), draw.choice([2, 3]), draw.randint(2, 5)
    narrow = draw.choice([0.3, 0.6, 1.0, 1.5, 2.5])
    types = []
    for _ in range(draw.randint(1, 2)):
        speed, most = draw.choice([4.0, 6.0, 9.0, 14.0]), draw.randint(1, 3)
        types.append(tuple(round(speed / k**1.2, 2) for k in range(1, most + 1)))
    links = []
    for a in (None, *range(count)):
        for b in (*range(count), None):
            if a != b and (a is not None or b is not None):
                far = a is not None and b is not None and a % parts != b % parts
                capacity = narrow * draw.uniform(0.7, 1.4) if far else 1000.0
                links.append(FlowLink(begin=a, end=b, bandwidth_bytes_per_s=capacity))
    partial = seed % 4 == 3
    problem = _drawn(draw, types, links, count, num_layers=num_layers, partial=partial)
    return problem, [tuple(range(r, count, parts)) for r in range(parts)]


def timed_problem(seed: int, *, partial: bool = False) -> FlowProblem:
    """A tiny problem whose links have latencies and half of whose nodes have steps of their own."""
    problem = tiny_problem(seed, linked=seed % 3 > 0, partial=partial)
    draw = random.Random(-seed)
    return msgspec.structs.replace(
        problem,
        batch_tokens=draw.choice([1.0, 2.5]),
        nodes=tuple(
            msgspec.structs.replace(
                node,
                step_s=tuple(draw.choice([0.1, 0.3, 0.8]) * (k + 1) for k in range(node.max_layers))
                if draw.random() < 0.5
                else (),
            )
            for node in problem.nodes
        ),
        links=tuple(
            msgspec.structs.replace(link, latency_s=draw.choice([0.0, 0.05, 0.2, 0.6]))
            for link in problem.links
        ),
    )


def timed_routes(
    problem: FlowProblem, held: dict[int, list[tuple[int, int]]]
) -> list[tuple[float, tuple[int, ...]]]:
    """Seconds and nodes of every route, each node on any one of the ranges listed for it."""
    size = {True: problem.activation_bytes, False: problem.token_bytes}
    ways = {
        (k.begin, k.end): k.latency_s
        + size[k.begin is not None and k.end is not None] / k.bandwidth_bytes_per_s
        for k in problem.links
    }
    found = []

    def go(at: int, seconds: float, route: tuple[int, ...]) -> None:
        before = route[-1] if route else None
        if at == problem.num_layers and (before, None) in ways:
            found.append((seconds + ways[before, None], route))
        for node, ranges in held.items():
            if node in route or (before, node) not in ways:
                continue
            for first, end in ranges:
                if first == at or (problem.partial_inference and first < at < end):
                    rate = problem.nodes[node].throughput_tokens_per_s[end - first - 1]
                    own = problem.nodes[node].step_s
                    step = own[end - first - 1] if own else problem.batch_tokens / rate
                    share = (end - at) / (end - first)
                    go(end, seconds + ways[before, node] + step * share, (*route, node))

    go(0, 0.0, ())
    return found


def least_latency(problem: FlowProblem) -> float:
    """The optimum: every route over every range; infinite if there is none."""
    ranges = {i: [r for r in found if r] for i, found in enumerate(_ranges(problem))}
    return min((seconds for seconds, _ in timed_routes(problem, ranges)), default=float("inf"))


def best_within(problem: FlowProblem, limit_s: float) -> float:
    """The most flow on routes within a limit: every placement, each by a programme over routes."""
    best = 0.0
    for chosen in itertools.product(*_ranges(problem)):
        held = {i: [r] for i, r in enumerate(chosen) if r}
        routes = [r for s, r in timed_routes(problem, held) if s <= limit_s * (1.0 + 1e-12)]
        if not routes or score(problem, chosen) <= best:
            continue
        solver = highspy.Highs()
        solver.setOptionValue("output_flag", False)
        solver.setOptionValue("threads", 1)
        flows = [solver.addVariable(obj=1.0) for _ in routes]
        for node, ((first, end),) in held.items():
            over = [f for f, r in zip(flows, routes, strict=True) if node in r]
            if over:
                rate = problem.nodes[node].throughput_tokens_per_s[end - first - 1]
                solver.addConstr(sum(over) <= rate)
        for link in problem.links:
            pair = (link.begin, link.end)
            over = [
                f
                for f, r in zip(flows, routes, strict=True)
                if pair in zip((None, *r), (*r, None), strict=True)
            ]
            if over:
                solver.addConstr(sum(over) <= link.bandwidth_bytes_per_s)
        solver.changeObjectiveSense(highspy.ObjSense.kMaximize)
        solver.run()
        best = max(best, float(solver.getInfo().objective_function_value))
    return best


def best_flow(problem: FlowProblem) -> float:
    """The optimum: every range of every node, each scored."""
    return max(score(problem, chosen) for chosen in itertools.product(*_ranges(problem)))


def _ranges(problem: FlowProblem) -> list[list[tuple[int, int] | None]]:
    """For each node none, and every range it can hold."""
    choices: list[list[tuple[int, int] | None]] = []
    for node in problem.nodes:
        ranges: list[tuple[int, int] | None] = [None]
        for first in range(problem.num_layers):
            for end in range(first + 1, min(problem.num_layers, first + node.max_layers) + 1):
                ranges.append((first, end))
        choices.append(ranges)
    return choices


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
