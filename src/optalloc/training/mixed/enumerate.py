"""Brute force over the mixed problem: every plan of the space, for small instances.

The oracle of the search, and without a line in common with it: it tries every shape, every cut,
every recomputation, every set of replicas and every share of micro-batches by the definition in
:mod:`optalloc.training.mixed.problem`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from optalloc.training.mixed.problem import (
    MixedProblem,
    Replica,
    Stage,
    StageCost,
    Wire,
)
from optalloc.training.strategy import Recompute

Usage = tuple[int, ...]
Pipeline = tuple[Stage, ...]
Line = tuple[float, float, Pipeline]
"""S + theta, beta, and the pipeline that has them."""


def best_by_enumeration(
    problem: MixedProblem, most_replicas: int | None = None
) -> tuple[float, tuple[Replica, ...]]:
    """The least J over all plans and one that has it; infinite where nothing fits."""
    found = bests_by_enumeration(problem, most_replicas).values()
    return min(found, key=lambda one: one[0], default=(float("inf"), ()))


def bests_by_enumeration(
    problem: MixedProblem, most_replicas: int | None = None
) -> dict[tuple[Usage, int], tuple[float, tuple[Replica, ...]]]:
    """For all groups that a plan may use, and every number of replicas, the least J and its plan.

    Complexity: exponential in groups, layers and devices.
    """
    best: dict[tuple[Usage, int], tuple[float, tuple[Replica, ...]]] = {}
    groups = range(len(problem.available))
    most = min(problem.num_microbatches, sum(problem.available), most_replicas or 1 << 30)
    for size in range(1, len(problem.available) + 1):
        for used in itertools.combinations(groups, size):
            exchange = problem.exchange_link(used)
            fixed = max(problem.fixed_s[g] for g in used)
            shapes = list(_shapes(problem, used))
            for count in range(1, most + 1):
                lines = _lines(problem, shapes, count, exchange)
                found = _choose(problem, lines, used, count)
                if found is not None:
                    best[used, count] = (found[0] + fixed, found[1])
    return best


def _shapes(problem: MixedProblem, used: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """The kinds of all stages, for pipelines of blocks on some of the groups."""
    kinds = range(problem.num_kinds)
    for size in range(1, min(len(used), problem.most_blocks) + 1):
        for order in itertools.permutations(used, size):
            choices = [[k for k in kinds if problem.group[k] == g] for g in order]
            for chosen in itertools.product(*choices):
                most = [
                    problem.available[g] // int(problem.devices[k])
                    for g, k in zip(order, chosen, strict=True)
                ]
                for counts in itertools.product(*(range(1, m + 1) for m in most)):
                    if sum(counts) <= min(problem.most_stages, problem.num_layers + 2):
                        yield tuple(
                            k for k, c in zip(chosen, counts, strict=True) for _ in range(c)
                        )


def _cuts(layers: int, stages: int) -> Iterator[tuple[int, ...]]:
    if stages == 1:
        yield (layers,)
        return
    for sizes in itertools.product(range(layers + 1), repeat=stages - 1):
        last = layers - sum(sizes)
        if last >= 0 and all(sizes[1:]):
            yield (*sizes, last)


def _lines(
    problem: MixedProblem, shapes: list[tuple[int, ...]], count: int, exchange: Wire
) -> dict[Usage, list[Line]]:
    """For every use of devices all pipelines that fit, as lines over their micro-batches."""
    lines: dict[Usage, list[Line]] = {}
    known: dict[tuple[int, ...], tuple[StageCost, Stage] | None] = {}
    for kinds in shapes:
        usage = tuple(
            sum(int(problem.devices[k]) for k in kinds if problem.group[k] == g)
            for g in range(len(problem.available))
        )
        own = lines.setdefault(usage, [])
        for sizes in _cuts(problem.num_layers, len(kinds)):
            plain = tuple(Stage(k, n) for k, n in zip(kinds, sizes, strict=True))
            chosen = []
            for i, stage in enumerate(plain):
                begin = sum(sizes[:i])
                key = (stage.kind, i == 0, len(kinds) - i, begin, stage.num_layers)
                if key not in known:
                    known[key] = _fastest(problem, plain, i, count, exchange)
                choice = known[key]
                if choice is None:
                    break
                chosen.append(choice)
            if len(chosen) < len(plain):
                continue
            ends = itertools.accumulate(sizes[:-1])
            links = [problem.link_s(plain, i, end) for i, end in enumerate(ends)]
            first = sum(c.tau_s for c, _ in chosen) + 2.0 * sum(links)
            first += max(c.tail_s for c, _ in chosen)
            own.append((first, max(c.tau_s for c, _ in chosen), tuple(s for _, s in chosen)))
    return lines


def _fastest(
    problem: MixedProblem, stages: Pipeline, i: int, count: int, exchange: Wire
) -> tuple[StageCost, Stage] | None:
    """The stage with the recomputation that fits and takes least; None where none fits."""
    stage, best = stages[i], None
    for full in range(stage.num_layers + 1):
        for core in range(stage.num_layers - full + 1):
            one = Stage(stage.kind, stage.num_layers, Recompute(full, core))
            cost = problem.stage((*stages[:i], one, *stages[i + 1 :]), i, count, exchange)
            if cost.fits and (best is None or cost.tau_s < best[0].tau_s):
                best = (cost, one)
    return best


def _choose(
    problem: MixedProblem, lines: dict[Usage, list[Line]], used: Sequence[int], count: int
) -> tuple[float, tuple[Replica, ...]] | None:
    """The best set of exactly ``count`` replicas that uses all of ``used``."""
    total = problem.num_microbatches
    table: dict[Usage, list[tuple[float, Pipeline] | None]] = {}
    for usage, own in lines.items():
        if own:
            table[usage] = [
                min(((a + (m - 1) * b, p) for a, b, p in own), key=lambda e: e[0])
                for m in range(1, total + 1)
            ]
    order = sorted(table)
    best: tuple[float, tuple[Replica, ...]] | None = None

    def extend(start: int, left: Usage, micro: int, worst: float, chosen: list[Replica]) -> None:
        nonlocal best
        if best is not None and worst >= best[0]:
            return
        missing = count - len(chosen)
        if missing == 0:
            if micro == 0 and set(problem.groups_of(chosen)) == set(used):
                best = (worst, tuple(chosen))
            return
        for index in range(start, len(order)):
            usage = order[index]
            if any(u > r for u, r in zip(usage, left, strict=True)):
                continue
            rest = tuple(r - u for u, r in zip(usage, left, strict=True))
            for m in range(1, micro - missing + 2):
                if missing == 1 and m != micro:
                    continue
                entry = table[usage][m - 1]
                assert entry is not None
                value, pipeline = entry
                extend(index, rest, micro - m, max(worst, value), [*chosen, Replica(m, pipeline)])

    extend(0, problem.available, total, 0.0, [])
    return best
