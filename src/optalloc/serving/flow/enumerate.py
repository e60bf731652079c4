"""Try every placement of a small problem, links and partial inference included.

Nodes are given their ranges one after another, the strongest first. A branch is left when the nodes
that are still free cannot cover what its layers lack at the flow to beat:

    each layer    sum of min(T, F) of the nodes that hold it + most that free nodes pass >= F
    all layers    sum of what layers lack <= sum over free nodes of max_k k min(T(k), F)

What remains is scored by its flow. Exact; exponential in the nodes, hence the limit on branches.
"""

from __future__ import annotations

from optalloc.serving.flow.journal import TOLERANCE, Journal

Held = tuple[int, int] | None


def enumerate_placements(journal: Journal, most_branches: int) -> bool:
    """Offer whatever beats the best; True if all was seen, so that nothing beats it any more."""
    problem = journal.arrays.problem
    num_layers = problem.num_layers
    order = sorted(
        range(len(problem.nodes)),
        key=lambda i: (
            -max(
                (k * t for k, t in enumerate(problem.nodes[i].throughput_tokens_per_s, 1)),
                default=0.0,
            )
        ),
    )
    tables = [problem.nodes[i].throughput_tokens_per_s for i in order]
    left = most_branches

    def visit(depth: int, chosen: list[Held], covered: list[float]) -> bool:
        nonlocal left
        left -= 1
        if left < 0:
            return False
        flow = journal.value * (1.0 + TOLERANCE) if journal.value > 0.0 else 1e-300
        if depth == len(order):
            ranges = {order[i]: held for i, held in enumerate(chosen) if held is not None}
            journal.offer(ranges)
            return True
        free = tables[depth:]
        most = sum(max((min(t, flow) for t in table), default=0.0) for table in free)
        supply = sum(
            max((k * min(t, flow) for k, t in enumerate(table, 1)), default=0.0) for table in free
        )
        lacking = [max(0.0, flow - min(flow, have)) for have in covered]
        if max(lacking) > most * (1.0 + 1e-12) or sum(lacking) > supply * (1.0 + 1e-12):
            return True
        table = tables[depth]
        for first in range(num_layers):
            for end in range(min(num_layers, first + len(table)), first, -1):
                rate = table[end - first - 1]
                if rate > 0.0:
                    more = [
                        have + rate if first <= layer < end else have
                        for layer, have in enumerate(covered)
                    ]
                    if not visit(depth + 1, [*chosen, (first, end)], more):
                        return False
        return visit(depth + 1, [*chosen, None], covered)

    return visit(0, [], [0.0] * num_layers)
