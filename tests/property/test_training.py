"""The training kernel equals brute force over cuts and recomputations on small random meshes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from optalloc import _native
from optalloc.cost.meshes import INT_FIELDS, LAYER_FIELDS, REAL_FIELDS, SCHEDULES, MeshTables
from optalloc.training.enumerate import best_of_mesh
from optalloc.training.ledger import Ledger

Array = NDArray[np.float64]
INTERLEAVED = SCHEDULES.index("interleaved")
ALL_OF_IT = 10**12


class Case:
    """One mesh with its chain; bytes are whole numbers, so that no rounding decides what fits."""

    def __init__(self, random: np.random.Generator, schedule: int) -> None:
        several = schedule == INTERLEAVED
        self.v = int(random.integers(2, 4)) if several else 1
        self.pp = int(random.integers(2, 5)) if several else int(random.integers(1, 5))
        if self.pp * self.v - 2 > 8:
            self.v = 2
        least = max(1, self.pp * self.v - 2)
        layers, types = int(random.integers(least, 9)), int(random.integers(1, 4))
        self.m = int(random.integers(1, 4)) * self.pp if several else int(random.integers(1, 9))
        kinds = random.integers(1, types + 1, layers)
        self.sequence = (kinds if random.random() < 0.3 else np.sort(kinds)).astype(np.int32)
        self.boundary = np.ones(layers + 1)
        if random.random() < 0.3:
            self.boundary[int(random.integers(0, layers + 1)) :] = 2.0
        fields = _fields(random, types + 2)
        sizes = (fields["state_bytes"] + fields["held_bytes"])[self.sequence].sum() / self.pp
        share = random.choice([0.5, 1.0, 1.5, 2.5, 100.0]) * random.uniform(0.6, 1.6)
        work_s = sum(
            fields[name][self.sequence].sum() for name in ("forward_s", "backward_s", "weight_s")
        )
        fixed_s = float(random.random())
        real = {
            "capacity_bytes": float(np.floor(sizes * share * (1 + 0.2 * min(self.m, self.pp)))),
            "logits_bytes": float(random.integers(0, 20)),
            "overlap": float(random.choice([0.0, 0.5, 0.8, 1.0])),
            "latency_near_s": float(random.choice([0.0, 0.1])),
            "latency_far_s": float(random.choice([0.0, 0.2])),
            "transfer_near_s": float(random.choice([0.0, 0.3]) * random.random()),
            "transfer_far_s": float(random.choice([0.0, 1.0, 10.0]) * random.random()),
            "tied_s": float(random.choice([0.0, 1.0]) * random.random()),
            "bound": fixed_s + float(self.m * work_s / self.pp * random.choice([0.3, 0.999])),
            "weight": 1.0,
            "fixed_s": fixed_s,
        }
        whole = {
            "schedule": schedule,
            "pp": self.pp,
            "virtual_stages": self.v,
            "num_microbatches": self.m,
            "stage_devices": int(random.integers(1, 4)),
            "domain_devices": int(random.choice([1, 2, 3, 4, 8, 64])),
            "recompute_rule": int(random.choice([0, 0, 0, 0, 0, 1, 2, 3, 4, 5])),
        }
        self.fixed_s = fixed_s
        self.tables = MeshTables(
            ints=np.array([[whole[name] for name in INT_FIELDS]], np.int32),
            reals=np.array([[real[name] for name in REAL_FIELDS]]),
            layers=np.stack([fields[name] for name in LAYER_FIELDS], axis=1)[None],
        )

    def solve(self, below: float | None = None) -> float | None:
        """What the kernel finds, seconds without the fixed part; with a rival, only if better."""
        rival = [] if below is None else [below + self.fixed_s]
        _, value, _, _, layers, _, _ = _native.solve_meshes(
            self.tables.ints,
            self.tables.reals,
            self.tables.layers,
            np.zeros(1, np.int64),
            self.sequence,
            self.boundary,
            _native.ShapeCache(),
            [1] * len(rival),
            rival,
            1,
            np.inf,
            0.0,
            ALL_OF_IT,
            np.zeros(1, np.int32),
        )[0]
        return float(value) - self.fixed_s if layers else None


def _fields(random: np.random.Generator, types: int) -> dict[str, Array]:
    """Costs by layer type: of any size, or small whole numbers with many ties."""

    def whole(low: int, high: int) -> Array:
        return random.integers(low, high, types).astype(np.float64)

    ties = random.random() < 0.4

    def times() -> Array:
        return whole(1, 4) if ties else 10.0 ** random.uniform(-1, 1, types)

    forward, held = times(), whole(4, 40)
    core_bytes = np.floor(0.7 * held * random.random(types))
    core_s = (0.5 * whole(0, 2) if ties else random.random(types)) * forward
    fields = {
        "forward_s": forward,
        "backward_s": times(),
        "weight_s": times(),
        "extra_selective_s": core_s,
        "extra_full_s": forward.copy(),
        "held_bytes": held,
        "held_selective_bytes": held - core_bytes,
        "held_full_bytes": np.maximum(1.0, np.floor(0.3 * held * random.random(types))),
        "scratch_selective_bytes": core_bytes,
        "scratch_full_bytes": held.copy(),
        "state_bytes": whole(0, 30),
        "reduce_s": times() * random.choice([0.0, 0.3, 3.0]),
        "gather_s": times() * random.choice([0.0, 0.3, 3.0]),
        "update_s": times() * random.choice([0.0, 0.3, 3.0]),
    }
    for name in ("extra_selective_s", "extra_full_s", "scratch_full_bytes"):
        fields[name][[0, -1]] = 0.0  # embedding and head are not recomputed
    return fields


def _compare(schedule: int, count: int, seed: int) -> None:
    random = np.random.default_rng([seed, schedule])
    solved = 0
    for number in range(count):
        case = Case(random, schedule)
        best = best_of_mesh(Ledger(case.tables, 0, case.sequence, case.boundary))
        found = case.solve()
        name = f"instance {number} of seed {seed}, {SCHEDULES[schedule]}"
        assert (found is None) == (best is None), name
        if best is not None:
            solved += 1
            assert found == pytest.approx(best.step_s, rel=1e-8), name
            near = case.solve(below=best.step_s * (1.0 + 1e-6))
            assert near == pytest.approx(best.step_s, rel=1e-8), name
            assert case.solve(below=best.step_s * (1.0 - 1e-6)) is None, name
    assert 0.3 * count < solved < 0.95 * count


@pytest.mark.parametrize("schedule", range(len(SCHEDULES)), ids=SCHEDULES)
def test_kernel_equals_brute_force(schedule: int) -> None:
    """1,000 meshes a schedule of up to 8 layers and 4 stages (with several chunks a stage 2 or 3)
    and memory from too little to plenty: the same time, or nothing fits.
    """
    _compare(schedule, 1000, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", range(len(SCHEDULES)), ids=SCHEDULES)
def test_kernel_equals_brute_force_on_many(schedule: int) -> None:
    """2,000 meshes a schedule."""
    _compare(schedule, 2_000, seed=2)
