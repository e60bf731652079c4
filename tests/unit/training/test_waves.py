"""waves.py: the ends by waves are those of the event simulation and of the native clock."""

from __future__ import annotations

import time
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from optalloc import _native
from optalloc.cost.meshes import SCHEDULES
from optalloc.training.schedule import run_pipeline
from optalloc.training.strategy import Schedule
from optalloc.training.waves import stage_ends

Array = NDArray[np.float64]


def _instance(schedule: Schedule, random: np.random.Generator) -> tuple[int, int, int, list[Array]]:
    """Stages, chunks a stage, micro-batches, and times with many zeros and links of any size."""
    p = int(random.integers(1, 8))
    v = int(random.integers(1, 5)) if schedule == "interleaved" else 1
    m = int(random.integers(1, 5)) * p if schedule == "interleaved" else int(random.integers(1, 25))
    times = [10.0 ** random.uniform(-1, 1, p * v) for _ in range(3)]
    times = [np.where(random.random(p * v) < 0.2, 0.0, column) for column in times]
    return p, v, m, [*times, random.choice([0.0, 0.1, 10.0]) * random.random(p * v - 1)]


@pytest.mark.parametrize("schedule", get_args(Schedule))
def test_waves_equal_simulation_and_native_clock(schedule: Schedule) -> None:
    """600 random instances a schedule with up to 7 stages, 4 chunks and 28 micro-batches: all ends
    of all stages are equal to the last bit.
    """
    random = np.random.default_rng(100 + SCHEDULES.index(schedule))
    for _ in range(600):
        p, v, m, times = _instance(schedule, random)
        ends = stage_ends(schedule, p, m, *times).tolist()
        run = run_pipeline(schedule, p, v, m, *(column.tolist() for column in times))
        assert ends == list(run.stage_end_s)
        assert ends == _native.run_schedule(SCHEDULES.index(schedule), p, v, m, *times)[0]


@pytest.mark.parametrize("schedule", get_args(Schedule))
def test_many_pipelines_at_once_equal_each_alone(schedule: Schedule) -> None:
    """A trailing axis of 7 pipelines."""
    random = np.random.default_rng(SCHEDULES.index(schedule))
    p, v, m = 4, 2 if schedule == "interleaved" else 1, 8
    times = [random.random((n, 7)) for n in (p * v, p * v, p * v, p * v - 1)]
    together = stage_ends(schedule, p, m, *times)
    for k in range(7):
        alone = stage_ends(schedule, p, m, *(column[:, k] for column in times))
        assert together[:, k].tolist() == alone.tolist()


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "zb-h1"])
def test_long_pipelines_equal_the_native_clock(schedule: Schedule) -> None:
    """64 stages and 500 micro-batches, fewer and more of them than stages."""
    random = np.random.default_rng(5)
    times = [random.random(n) for n in (64, 64, 64, 63)]
    for m in (10, 63, 64, 65, 500):
        ends = _native.run_schedule(SCHEDULES.index(schedule), 64, 1, m, *times)[0]
        assert stage_ends(schedule, 64, m, *times).tolist() == ends


def test_the_largest_plans_take_a_fraction_of_a_second() -> None:
    """128 stages and 2,048 micro-batches: 0.15 s were wanted; four times that fails here, so that a
    busy machine does not.
    """
    one = np.ones(128)
    begin = time.process_time()
    ends = stage_ends("1f1b", 128, 2048, one, one, one, one[1:] * 0.0)
    assert time.process_time() - begin < 0.6
    assert ends[0] == (2048 + 127) * 3.0
