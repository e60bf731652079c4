"""The native event clock equals the event simulation in Python, which shares no code with it."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from optalloc import _native
from optalloc.cost.meshes import SCHEDULES
from optalloc.training.schedule import run_pipeline
from optalloc.training.strategy import Schedule

Array = NDArray[np.float64]
PASSES = ("forward", "backward", "weight")


def _native_run(
    schedule: Schedule, p: int, v: int, m: int, times: list[Array]
) -> tuple[list[float], list[list[tuple[str, int, int, float]]]]:
    """Ends of stages, and (pass, chunk in model order, micro-batch, start) of operations."""
    ends, stages = _native.run_schedule(SCHEDULES.index(schedule), p, v, m, *times)
    named = [
        [(PASSES[kind], chunk * p + i, micro, start) for kind, chunk, micro, start in stage]
        for i, stage in enumerate(stages)
    ]
    return list(ends), named


@pytest.mark.parametrize("schedule", get_args(Schedule))
def test_native_clock_equals_the_simulation(schedule: Schedule) -> None:
    """400 random instances a schedule: orders, all starts and all ends are equal to the last bit.

    Up to 6 stages, 3 chunks and 24 micro-batches; stage times that differ up to a hundredfold, a
    fifth of them zero; links from none to longer than an operation.
    """
    random = np.random.default_rng(SCHEDULES.index(schedule))
    for _ in range(400):
        p = int(random.integers(1, 7))
        v = int(random.integers(1, 4)) if schedule == "interleaved" else 1
        m = (
            int(random.integers(1, 5)) * p
            if schedule == "interleaved"
            else int(random.integers(1, 25))
        )
        times = [10.0 ** random.uniform(-1, 1, p * v) for _ in PASSES]
        times = [np.where(random.random(p * v) < 0.2, 0.0, column) for column in times]
        link = random.choice([0.0, 0.1, 10.0]) * random.random(p * v - 1)
        ends, native = _native_run(schedule, p, v, m, [*times, link])
        run = run_pipeline(schedule, p, v, m, *(column.tolist() for column in (*times, link)))
        assert list(run.stage_end_s) == ends
        for operations, expected in zip(run.operations, native, strict=True):
            ours = [(o.kind, o.chunk, o.micro_batch, o.start_s) for o in operations]
            assert ours == expected


@pytest.mark.parametrize("schedule", get_args(Schedule))
def test_held_vectors_cover_the_orders(schedule: Schedule) -> None:
    """What the native kernel says a stage holds is the set of undominated moments of the simulated
    order.
    """
    for p, m in [(1, 3), (2, 2), (3, 6), (4, 16), (6, 12), (5, 5)]:
        v = 2 if schedule == "interleaved" else 1
        one = [1.0] * (p * v)
        run = run_pipeline(schedule, p, v, m, one, one, one, [0.0] * (p * v - 1))
        for stage, operations in enumerate(run.operations):
            moments = set()
            held = [0] * (2 * v)
            for op in operations:
                turn = op.chunk // p
                if op.kind == "forward":
                    held[turn] += 1
                elif op.kind == "backward":
                    held[turn] -= 1
                    held[v + turn] += schedule == "zb-h1"
                else:
                    held[v + turn] -= 1
                moments.add(tuple(held))
            top = {
                a
                for a in moments
                if not any(
                    a != b and all(x <= y for x, y in zip(a, b, strict=True)) for b in moments
                )
            }
            flat = _native.held_vectors(SCHEDULES.index(schedule), p, v, m, stage)
            assert {tuple(flat[k : k + 2 * v]) for k in range(0, len(flat), 2 * v)} == top
