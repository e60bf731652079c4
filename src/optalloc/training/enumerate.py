"""Brute force: every cut and every recomputation of a mesh, and every mesh of a small space.

Nothing is pruned but what does not fit in memory, so the value is the optimum by definition. It is
the oracle of the search, far too slow to replace it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cost.meshes import Meshes, MeshTables
from optalloc.cost.model import CostModel
from optalloc.training.ledger import Ledger, Run
from optalloc.training.strategy import Recompute
from optalloc.training.waves import stage_ends

Array = NDArray[np.float64]

#: All interleaved cuts are in the space where there are at most this many.
ALL_INTERLEAVED_CUTS = 1000
_BATCH = 20_000


class Optimum(msgspec.Struct, frozen=True, kw_only=True):
    """The best configuration of one mesh.

    ``step_s`` is the step time without the fixed part, seconds. ``candidates`` counts the
    configurations whose pipeline was evaluated.
    """

    step_s: float
    layers_per_chunk: tuple[int, ...]
    recompute: tuple[Recompute, ...]
    candidates: int = 0


def cuts(ledger: Ledger) -> Iterator[tuple[int, ...]]:
    """Layers of each chunk, for every cut in the space.

    Chunks but the first and the last hold a layer. With several chunks a stage and more than 1,000
    such cuts, the first holds x <= q layers, the last y <= q and every other one q.
    """
    layers, count = ledger.num_layers, ledger.num_chunks
    if count == 1:
        yield (layers,)
        return
    middle, free = count - 2, layers - (count - 2)
    if free < 0:
        return
    if ledger.v > 1 and math.comb(free + count - 1, count - 1) > ALL_INTERLEAVED_CUTS:
        for q in range(1, layers // middle + 1):
            ends = layers - q * middle
            for x in range(ends + 1):
                if x <= q and ends - x <= q:
                    yield (x, *[q] * middle, ends - x)
        return
    # Each way to put `free` layers into `count` boxes; a bar stands between two boxes.
    for bars in itertools.combinations(range(free + count - 1), count - 1):
        edges = (-1, *bars, free + count - 1)
        more = [b - a - 1 for a, b in itertools.pairwise(edges)]
        yield (more[0], *(1 + k for k in more[1:-1]), more[-1])


def choices(rule: int, largest: int) -> list[Recompute]:
    """The recomputations that a rule leaves to a stage whose largest chunk has so many layers."""
    if rule == 0:
        return [
            Recompute(full, selective)
            for full in range(largest + 1)
            for selective in range(largest - full + 1)
        ]
    if rule <= 3:
        return [[Recompute(), Recompute(0, largest), Recompute(largest, 0)][rule - 1]]
    return [Recompute(min(largest, rule - 4), 0)]


class _Stage(msgspec.Struct, frozen=True):
    """The recomputations of one stage that fit, times of its chunks and its tail, seconds.

    ``backward_s`` has shape (choices, v).
    """

    rules: list[Recompute]
    forward_s: Array
    backward_s: Array
    weight_s: Array
    tail_s: float


def _stage(ledger: Ledger, stage: int, runs: Sequence[Run]) -> _Stage:
    pairs = list(zip(ledger.stage_chunks(stage), runs, strict=True))
    rules = [
        rule
        for rule in choices(ledger.rule, max(size for _, size in runs))
        if ledger.stage_bytes(stage, runs, rule) <= ledger.real["capacity_bytes"]
    ]
    return _Stage(
        rules,
        np.array([ledger.total("forward_s", c, run) for c, run in pairs]),
        np.array([[ledger.backward_s(c, run, rule) for c, run in pairs] for rule in rules]),
        np.array([ledger.total("weight_s", c, run) for c, run in pairs]),
        ledger.tail_s(stage, runs),
    )


class _Block(msgspec.Struct, frozen=True):
    """One cut with every combination of its stages' recomputations; times have a column each."""

    sizes: tuple[int, ...]
    stages: list[_Stage]
    picks: NDArray[np.int64]
    times: tuple[Array, Array, Array, Array]

    def recompute(self, column: int) -> tuple[Recompute, ...]:
        return tuple(s.rules[k] for s, k in zip(self.stages, self.picks[:, column], strict=True))


def _block(ledger: Ledger, sizes: tuple[int, ...], stages: list[_Stage], links: Array) -> _Block:
    picks = np.indices([len(s.rules) for s in stages]).reshape(ledger.pp, -1)
    count = picks.shape[1]
    # (pp, v, combinations) -> chunks in model order
    backward = np.stack([s.backward_s[k].T for s, k in zip(stages, picks, strict=True)], axis=1)
    wide = [
        np.repeat(np.stack([getattr(s, name) for s in stages], axis=1).reshape(-1, 1), count, 1)
        for name in ("forward_s", "weight_s")
    ]
    return _Block(
        sizes,
        stages,
        picks,
        (
            wide[0],
            backward.reshape(ledger.num_chunks, count),
            wide[1],
            np.repeat(links.reshape(-1, 1), count, 1),
        ),
    )


def best_of_mesh(ledger: Ledger) -> Optimum | None:
    """The best cut and recomputation of one mesh, or None where none fits.

    Complexity: exponential; layers up to about 8.
    """
    known: dict[tuple[int, tuple[Run, ...]], _Stage] = {}
    best: Optimum | None = None
    candidates = waiting = 0
    blocks: list[_Block] = []
    for sizes in cuts(ledger):
        runs = ledger.runs(sizes)
        stages = []
        for i in range(ledger.pp):
            mine = tuple(runs[i :: ledger.pp])
            if (i, mine) not in known:
                known[i, mine] = _stage(ledger, i, mine)
            stages.append(known[i, mine])
        if not all(s.rules for s in stages):
            continue
        blocks.append(_block(ledger, sizes, stages, np.array(ledger.links_s(runs))))
        waiting += blocks[-1].picks.shape[1]
        if waiting >= _BATCH:
            candidates, waiting = candidates + waiting, 0
            best = _better(ledger, blocks, best)
            blocks = []
    candidates += waiting
    if blocks:
        best = _better(ledger, blocks, best)
    return None if best is None else msgspec.structs.replace(best, candidates=candidates)


def _better(ledger: Ledger, blocks: list[_Block], best: Optimum | None) -> Optimum | None:
    """The best configuration of some blocks, if it is better than ``best``."""
    times = [np.concatenate([b.times[k] for b in blocks], axis=1) for k in range(4)]
    ends = stage_ends(ledger.schedule, ledger.pp, ledger.m, *times)
    tails = [np.tile([[s.tail_s] for s in b.stages], (1, b.picks.shape[1])) for b in blocks]
    values = (ends + np.concatenate(tails, axis=1)).max(axis=0)
    column = int(values.argmin())
    if best is not None and values[column] >= best.step_s:
        return best
    value = float(values[column])
    for block in blocks:
        if column < block.picks.shape[1]:
            return Optimum(
                step_s=value, layers_per_chunk=block.sizes, recompute=block.recompute(column)
            )
        column -= block.picks.shape[1]
    raise AssertionError("a column of no block")


def best_of_tables(
    tables: MeshTables, cost: CostModel, meshes: Meshes
) -> list[tuple[int, Optimum]]:
    """The optimum of every mesh that has one, with its index; for small spaces."""
    found = []
    for k in range(len(meshes)):
        one = best_of_mesh(Ledger(tables, k, cost.sequence, cost.boundary))
        if one is not None:
            found.append((k, one))
    return found
