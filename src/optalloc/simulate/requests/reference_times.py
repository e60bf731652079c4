"""Times of iterations in the plain simulation, from tables and by straight lines between."""

from __future__ import annotations

import math

from optalloc.simulate.requests.kernel import KindTicks, TableTicks


def ticks(
    kind: KindTicks, prompt: int, prompts: int, sequences: int, context: int, pairs: int
) -> int:
    """Ticks of one iteration of a rank."""
    base = _base(kind.times, prompt, sequences)
    return base + kind.kv * context + kind.pair * pairs + kind.each_prompt * prompts


def together(kind: KindTicks, prompt: int, sequences: int) -> int:
    """Ticks of what the tokens of all ranks take together."""
    return 0 if kind.shared is None else _base(kind.shared, prompt, sequences)


def _base(table: TableTicks, prompt: int, sequences: int) -> int:
    if prompt == 0:
        return int(table.decode[sequences])
    p, x = _between(table.prompt_tokens.tolist(), prompt)
    s, y = _between(table.sequences.tolist(), sequences)
    (a, b), (c, d) = table.mixed[p : p + 2, s : s + 2].tolist()
    below, above = a + (c - a) * x, b + (d - b) * x
    found: float = below + (above - below) * y
    return math.floor(found + 0.5)


def _between(nodes: list[int], x: int) -> tuple[int, float]:
    low = max(k for k, node in enumerate(nodes[:-1]) if node <= x or k == 0)
    return low, (x - nodes[low]) / (nodes[low + 1] - nodes[low])
