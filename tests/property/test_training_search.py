"""The whole search equals brute force over every strategy that the rules allow."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from tests.property.training_problems import every_mesh, random_cluster, random_model

from optalloc.cluster.load import load_cluster
from optalloc.cost.meshes import SCHEDULES, Meshes
from optalloc.cost.model import CostModel
from optalloc.result import Termination
from optalloc.training.enumerate import best_of_tables
from optalloc.training.estimate import meshes_of
from optalloc.training.found import group_of
from optalloc.training.solve import TrainingResult, plan_training
from optalloc.training.strategy import Schedule, Strategy
from optalloc.workload import Training


def _compare(seed: int, count: int, folder: Path) -> None:
    random = np.random.default_rng(seed)
    solved = 0
    for number in range(count):
        model = random_model(random, folder)
        workload = Training(
            global_batch=int(random.choice([1, 2, 4, 6])),
            sequence_length=int(random.choice([256, 1024])),
            framework=str(random.choice(["megatron", "megatron-deepspeed", "fsdp2"])),
            attention_kernel="fused" if random.random() < 0.5 else "unfused",
            lora_rank=int(random.choice([0, 0, 8])),
        )
        whole = CostModel(model, load_cluster("1xa100-sxm-80g"), workload)
        one = Meshes(**{name: np.ones(1, np.int64) for name in Meshes.__struct_fields__})
        states = sum(float(v[0] @ whole.type_counts) for v in whole.state_bytes(one).values())
        cluster = random_cluster(random, states)
        names = set(random.choice(SCHEDULES, random.integers(2, 4), replace=False).tolist())
        schedules: list[Schedule] = [s for s in get_args(Schedule) if s in names]
        zeros = sorted(random.choice(4, 2, replace=False).tolist())
        cost = CostModel(model, cluster, workload)
        meshes = every_mesh(cost, zeros, schedules)
        tables = cost.tables(meshes)
        fixed = tables.real("fixed_s")
        goal = str(random.choice(["step_time", "energy", "price"]))
        rate = {
            "step_time": 1.0 / meshes.num_devices,
            "energy": np.full(len(meshes), cost.watts_per_device),
            "price": np.full(len(meshes), cost.usd_per_device_s),
        }[goal] * meshes.num_devices
        values = {
            k: rate[k] * (one.step_s + fixed[k]) for k, one in best_of_tables(tables, cost, meshes)
        }
        best = min(values.values(), default=None)
        words = ["schedule=" + ",".join(schedules), "zero_stage=" + ",".join(map(str, zeros))]
        result = plan_training(model, cluster, workload, objective=goal, pin=words)
        name = f"instance {number} of seed {seed}"
        assert result.termination in (Termination.OPTIMAL, Termination.INFEASIBLE), name
        assert (result.bounds.primal is None) == (best is None), name
        if best is not None:
            solved += 1
            assert result.bounds.primal == pytest.approx(best, rel=1e-8), name
            margin = float(random.choice([0.01, 0.1, 0.5]))
            result = plan_training(
                model, cluster, workload, objective=goal, pin=words, margin=margin
            )
            _same_ties(result, meshes, values, best * (1.0 + margin), name)
    assert 0.3 * count < solved < count


def _same_ties(
    result: TrainingResult, meshes: Meshes, values: dict[int, float], most: float, name: str
) -> None:
    """The answer lists each combination of degrees that reaches ``most``, with its best value."""
    groups = group_of(meshes).tolist()
    expected: dict[int, float] = {}
    for k, value in values.items():
        expected[groups[k]] = min(value, expected.get(groups[k], value))
    assert result.complete, name
    listed = {_group(rival.plan.strategy): rival.value for rival in result.alternatives}
    listed[_group(result.plan.strategy)] = result.bounds.primal or 0.0
    assert all(g in listed for g, value in expected.items() if value < most * (1.0 - 1e-9)), name
    for group, value in listed.items():
        if value <= most:
            assert value == pytest.approx(expected[group], rel=1e-8), name


def _group(strategy: Strategy) -> int:
    return int(group_of(meshes_of(strategy))[0])


@pytest.mark.slow
def test_search_equals_brute_force(tmp_path: Path) -> None:
    """The same least time, energy or price of a step, or no plan, and the same ties: 60 problems
    of up to 4 layers and 4 devices, three layouts of states, all weights or adapters alone trained.
    """
    _compare(1, 60, tmp_path)
