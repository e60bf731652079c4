"""No bound exceeds the time of any configuration, and memory excludes none that fits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.property.training_problems import every_mesh, random_cluster, random_model

from optalloc import _native
from optalloc.cost.meshes import SCHEDULES
from optalloc.cost.model import CostModel
from optalloc.training.bounds import (
    MeshFacts,
    ShapeFacts,
    StemFacts,
    memory_excludes,
    path_bounds,
    states_exclude,
)
from optalloc.training.enumerate import best_of_tables
from optalloc.training.space import Space
from optalloc.workload import Training

_ABOVE = 1.0 + 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_bounds_of_stems_shapes_and_meshes_hold(seed: int, tmp_path: Path) -> None:
    """Eight random problems each, every mesh of two ZeRO stages, against its best configuration."""
    assert sum(_compare(np.random.default_rng([seed, k]), tmp_path) for k in range(8)) > 200


def _compare(random: np.random.Generator, folder: Path) -> int:
    model = random_model(random, folder)
    length = int(random.choice([256, 1024]))
    workload = Training(global_batch=int(random.choice([2, 4, 6])), sequence_length=length)
    cluster = random_cluster(random, 16.0 * 1e9)
    cost = CostModel(model, cluster, workload)
    meshes = every_mesh(cost, [0, 3], ["gpipe", "1f1b", "interleaved", "zb-h1"])
    tables = cost.tables(meshes)
    best = best_of_tables(tables, cost, meshes)
    fixed = tables.real("fixed_s")
    choices = sorted(
        set(zip(meshes.schedule.tolist(), meshes.virtual_stages.tolist(), strict=True))
    )
    by_mesh = MeshFacts(cost, meshes, tables).bounds(choices)
    by_shape = ShapeFacts(cost, meshes).bounds(choices)
    excluded = memory_excludes(cost, meshes, tables)
    assert not np.any(states_exclude(cost, meshes) & ~excluded)
    stems = StemFacts(cost, Space(cost.graph, cluster, workload), np.ones(cluster.num_devices + 1))
    shapes, bounds, *_ = stems.promising(np.inf, np.inf)
    names = ("tp", "sequence", "cp", "pp", "dp", "ep", "micro_batch")
    rows = zip(*(getattr(shapes, name).tolist() for name in names), strict=True)
    of_shape = dict(zip(rows, bounds.tolist(), strict=True))
    for k, optimum in best:
        time_s = optimum.step_s + fixed[k]
        row = choices.index((int(meshes.schedule[k]), int(meshes.virtual_stages[k])))
        shape = tuple(int(getattr(meshes, name)[k]) for name in names)
        assert not excluded[k]
        assert by_mesh[row, k] <= time_s * _ABOVE
        assert by_shape[row, k] <= time_s * _ABOVE
        assert of_shape[shape] <= time_s * _ABOVE  # there at all: its states fit
        assert stems.floor <= time_s * _ABOVE
    return len(best)


@pytest.mark.parametrize("schedule", range(len(SCHEDULES)), ids=SCHEDULES)
def test_path_bounds_hold_for_any_split(schedule: int) -> None:
    """2,000 pipelines of layers of two kinds, cut anywhere, against their event time."""
    random = np.random.default_rng(schedule)
    for _ in range(2000):
        pp = int(random.integers(2 if SCHEDULES[schedule] == "interleaved" else 1, 6))
        v = int(random.integers(2, 4)) if SCHEDULES[schedule] == "interleaved" else 1
        m = int(random.integers(1, 4)) * pp if v > 1 else int(random.integers(1, 12))
        most = 18 if v > 1 else pp + 9  # of so few layers every interleaved cut is in the space
        layers = int(random.integers(max(1, pp * v - 2), most + 1))
        kinds = random.random((2, 3)) * 10.0 ** random.uniform(-1, 1, (2, 3))
        ends = random.random((2, 3)) * 10.0 ** random.uniform(-1, 1, (2, 3))
        of_layer = kinds[random.integers(0, 2, layers)]
        cuts = _cuts(random, layers, pp * v)
        times = np.add.reduceat(
            np.concatenate([of_layer, np.zeros((1, 3))]), np.minimum(cuts[:-1], layers)
        )
        times[np.diff(cuts) == 0] = 0.0
        times[0] += ends[0]
        times[-1] += ends[1]
        link_s = float(random.choice([0.0, 0.3]))
        stage_ends, _ = _native.run_schedule(
            schedule,
            pp,
            v,
            m,
            np.ascontiguousarray(times[:, 0]),
            np.ascontiguousarray(times[:, 1]),
            np.ascontiguousarray(times[:, 2]),
            np.full(pp * v - 1, link_s),
        )
        present = np.unique(of_layer, axis=0)
        work = np.array(
            [[*(of_layer.sum(axis=0) + ends.sum(axis=0)), *present.min(axis=0), link_s]]
        )
        one = (np.array([pp]), np.array([m]))
        bound = path_bounds(work, [(schedule, v)], *one, layers)[0, 0]
        assert bound <= max(stage_ends) * _ABOVE


def _cuts(random: np.random.Generator, layers: int, chunks: int) -> NDArray[np.int64]:
    """Edges of the chunks: every one but the first and the last holds a layer."""
    if chunks == 1:
        return np.array([0, layers])
    free = layers - (chunks - 2)
    more = np.bincount(random.integers(0, chunks, free), minlength=chunks)
    more[1:-1] += 1
    return np.concatenate([[0], np.cumsum(more)])
