"""The robust plan equals brute force over every configuration and every corner of the box."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.property.training_problems import every_mesh, random_cluster, random_model

from optalloc.cost.meshes import Meshes
from optalloc.cost.model import CostModel
from optalloc.cost.uncertainty import Uncertainty, scaled
from optalloc.model.lower import lower
from optalloc.result import Termination
from optalloc.training.enumerate import choices, cuts
from optalloc.training.ledger import Ledger
from optalloc.training.robust import plan_robust
from optalloc.workload import Training


def _worst_of_all(cost: CostModel, meshes: Meshes, box: Uncertainty) -> float | None:
    """The least over all configurations of the largest step time over the corners, seconds."""
    costs = [
        CostModel(cost.model, scaled(cost.cluster, corner), cost.workload)
        for corner in box.corners()
    ]
    tables = [c.tables(meshes) for c in costs]
    best: float | None = None
    for k in range(len(meshes)):
        ledgers = [
            Ledger(table, k, c.sequence, c.boundary) for table, c in zip(tables, costs, strict=True)
        ]
        own, fixed = ledgers[0], ledgers[0].real["fixed_s"]
        for sizes in cuts(own):
            runs = own.runs(sizes)
            rules = [
                [
                    rule
                    for rule in choices(0, max(size for _, size in runs[i :: own.pp]))
                    if own.stage_bytes(i, runs[i :: own.pp], rule) <= own.real["capacity_bytes"]
                ]
                for i in range(own.pp)
            ]
            for picks in np.ndindex(*(len(some) for some in rules)):
                chosen = [some[j] for some, j in zip(rules, picks, strict=True)]
                worst = max(ledger.step_s(sizes, chosen) for ledger in ledgers) + fixed
                best = worst if best is None else min(best, worst)
    return best


def test_robust_plan_equals_brute_force(tmp_path: Path) -> None:
    """Eight models of up to 3 layers on up to 4 devices, with boxes of any sides."""
    assert sum(_compare(seed, tmp_path) for seed in range(8)) >= 5


@pytest.mark.slow
def test_robust_plan_equals_brute_force_on_many(tmp_path: Path) -> None:
    """Thirty more."""
    assert sum(_compare(seed, tmp_path) for seed in range(100, 130)) >= 17


def _compare(seed: int, folder: Path) -> bool:
    random = np.random.default_rng(seed)
    while lower(model := random_model(random, folder)).num_layers > 3:
        pass
    workload = Training(global_batch=int(random.choice([2, 4])), sequence_length=256)
    cluster = random_cluster(random, 16.0 * 2e9)
    sides = random.choice([0.0, 0.2, 1.0, 5.0], 3)
    box = Uncertainty(
        step_time=0.1,
        compute=float(sides[0]),
        node_link=float(sides[1]),
        network=float(sides[2]),
        source="test",
        date="2026-11-27",
    )
    cost = CostModel(model, cluster, workload)
    expected = _worst_of_all(cost, every_mesh(cost, [1], ["1f1b"]), box)
    words = ["schedule=1f1b", "zero_stage=1"]
    result = plan_robust(model, cluster, workload, box=box, pin=words)
    if expected is None:
        assert result.termination is Termination.INFEASIBLE
        return False
    assert result.termination is Termination.OPTIMAL
    assert result.bounds.primal == pytest.approx(expected, rel=1e-8)
    robust = result.robustness
    assert robust is not None
    assert robust.price >= -1e-9
    assert robust.nominal_worst >= robust.worst * (1.0 - 1e-9)
    return True
