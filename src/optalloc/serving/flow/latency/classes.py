"""The fastest route over classes of like nodes: how many of each class were met, not which.

*Formulation.* Nodes of one class have one table and one row of steps, and their links differ
little. With ``t(x, c, n)`` the least seconds to have run the layers before ``x``, last on class
``c``, having met ``n = (n_1, n_2, ..)`` nodes of the classes, and links at the least between two
classes,

    t(x + u, d, n + e_d) = min over c of  t(x, c, n) + link(c, d) + run_d(x, u),   n_d < N_d

and the least ``t(L, c, n) + sink(c)`` bounds every route from below: nodes met are told apart by
their number in a class alone, which no route has more of.

*Why it is exact.* Where links within and between classes are equal it is the latency of a route;
classes of one node each are all subsets of nodes. Elsewhere the route laid on real nodes tells how
far it is off.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from optalloc.serving.flow.latency.times import Floats, Times

#: Links of nodes of one class differ by at most this factor; the first that is small enough.
_FACTORS = (1.0 + 1e-9, 1.05, 1.3, 2.0, 5.0, np.inf)
_MOST_STATES = 8_000_000  # layers x classes x counts
_MOST_WORK = 400_000_000

#: Run on some class: (class, first layer, layers).
Run = tuple[int, int, int]
Ints = NDArray[np.int64]


def classes_of(times: Times) -> tuple[tuple[int, ...], ...]:
    """Classes of like nodes, as fine as a table over their counts allows; none if none does."""
    for factor in _FACTORS:
        classes = _grouped(times, factor)
        counts = np.prod([len(group) + 1.0 for group in classes])
        states = (times.problem.num_layers + 1.0) * len(classes) * counts
        if states <= _MOST_STATES and states * times.step.shape[1] <= _MOST_WORK:
            return classes
    return ()


def _grouped(times: Times, factor: float) -> tuple[tuple[int, ...], ...]:
    able = np.isfinite(times.step).any(axis=1)
    groups: list[list[int]] = []
    for node in np.flatnonzero(able).tolist():
        for group in groups:
            if np.array_equal(times.step[node], times.step[group[0]]) and (
                factor == np.inf or _alike(times, node, group, factor)
            ):
                group.append(node)
                break
        else:
            groups.append([node])
    return tuple(map(tuple, groups))


def _alike(times: Times, node: int, group: Sequence[int], factor: float) -> bool:
    """Whether a node's links are like those of a group's first, and those inside the group too."""
    first = group[0]
    rest = np.ones(len(times.source), dtype=bool)
    rest[[node, first]] = False
    inner = [times.links[a, b] for a in (*group, node) for b in (*group, node) if a != b]
    pairs = [
        (times.links[node][rest], times.links[first][rest]),
        (times.links[:, node][rest], times.links[:, first][rest]),
        (times.source[node], times.source[first]),
        (times.sink[node], times.sink[first]),
        (max(inner), min(inner)),
    ]
    return all(
        bool((np.asarray(a) <= factor * np.asarray(b)).all())
        and bool((np.asarray(b) <= factor * np.asarray(a)).all())
        for a, b in pairs
    )


def fastest_over_classes(
    times: Times, classes: Sequence[Sequence[int]]
) -> tuple[float, tuple[Run, ...]]:
    """A bound on the latency of every route, seconds, and the runs it is reached by.

    Complexity: O(L C (C + K) prod (N_c + 1)) for C classes of N_c nodes.
    """
    num_layers, count = times.problem.num_layers, len(classes)
    links = np.array([[_least(times.links, a, b) for b in classes] for a in classes])
    source = np.array([times.source[list(group)].min() for group in classes])
    sink = np.array([times.sink[list(group)].min() for group in classes])
    first = [group[0] for group in classes]
    strides = np.cumprod([1, *(len(group) + 1 for group in classes)])
    numbers = np.arange(strides[-1])
    free = [
        numbers[(numbers // strides[c]) % (len(group) + 1) < len(group)]
        for c, group in enumerate(classes)
    ]
    done: Floats = np.full((num_layers + 1, count, int(strides[-1])), np.inf)
    for x in range(num_layers):
        run = times.run(x)[: num_layers - x]
        for c in range(count):
            if x == 0:
                arrive: Floats = np.full(len(numbers), np.inf)
                arrive[0] = source[c]
            else:
                arrive = (done[x] + links[:, c, None]).min(axis=0)
            now, then = arrive[free[c]], free[c] + int(strides[c])
            if not np.isfinite(now).any():
                continue
            for u in range(1, len(run) + 1):
                if (seconds := float(run[u - 1, first[c]])) < np.inf:
                    reach = done[x + u, c]
                    reach[then] = np.minimum(reach[then], now + seconds)
    ends = done[num_layers] + sink[:, None]
    c, state = (int(v) for v in np.unravel_index(int(ends.argmin()), ends.shape))
    best = float(ends[c, state])
    if best == np.inf:
        return best, ()
    end, runs = num_layers, list[Run]()
    while True:
        state -= int(strides[c])
        ways = []
        for u in range(1, min(end, times.step.shape[1]) + 1):
            x = end - u
            before = (
                done[x, :, state] + links[:, c]
                if x > 0
                else np.where(state == 0, source[c], np.inf)
            )
            ways.append(float(np.min(before)) + float(times.run(x)[u - 1, first[c]]))
        layers = 1 + int(np.argmin(ways))
        end -= layers
        runs.append((c, end, layers))
        if end == 0:
            return best, tuple(reversed(runs))
        c = int((done[end, :, state] + links[:, c]).argmin())


def _least(links: Floats, a: Sequence[int], b: Sequence[int]) -> float:
    """The least link between different nodes of two classes."""
    return float(links[np.ix_(list(a), list(b))].min())


def laid_on_nodes(
    times: Times, classes: Sequence[Sequence[int]], runs: Sequence[Run]
) -> tuple[tuple[int, int, int], ...]:
    """Runs on nodes of their classes: each partial route remembers the nodes it met."""
    reached: dict[int, tuple[float, tuple[int, ...]]] = {}
    for place, (c, _, _) in enumerate(runs):
        found: dict[int, tuple[float, tuple[int, ...]]] = {}
        for node in classes[c]:
            ways = (
                [(float(times.source[node]), (node,))]
                if place == 0
                else [
                    (seconds + float(times.links[nodes[-1], node]), (*nodes, node))
                    for seconds, nodes in reached.values()
                    if node not in nodes
                ]
            )
            if ways:
                found[node] = min(ways)
        reached = found
    if not reached:
        return ()
    nodes = list(min((s + float(times.sink[n[-1]]), n) for s, n in reached.values())[1])
    _exchange(times, classes, runs, nodes)
    return tuple((node, x, u) for node, (_, x, u) in zip(nodes, runs, strict=True))


def _exchange(
    times: Times, classes: Sequence[Sequence[int]], runs: Sequence[Run], nodes: list[int]
) -> None:
    """Exchange nodes of one class, met or not, while that makes the links faster."""

    def total() -> float:
        inner = sum(float(times.links[a, b]) for a, b in itertools.pairwise(nodes))
        return float(times.source[nodes[0]]) + inner + float(times.sink[nodes[-1]])

    best, improved = total(), True
    while improved:
        improved = False
        for place, (c, _, _) in enumerate(runs):
            for node in classes[c]:
                old = nodes[place]
                if node == old:
                    continue
                other = nodes.index(node) if node in nodes else None
                nodes[place] = node
                if other is not None:
                    nodes[other] = old
                if (now := total()) < best * (1.0 - 1e-12):
                    best, improved = now, True
                else:
                    nodes[place] = old
                    if other is not None:
                        nodes[other] = node
