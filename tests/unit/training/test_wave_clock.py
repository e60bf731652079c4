"""The native wave clock, which skips what repeats, equals a simulation of every operation."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from optalloc import _native
from optalloc.cost.meshes import SCHEDULES
from optalloc.training.schedule import stage_order
from optalloc.training.strategy import Schedule
from optalloc.training.waves import stage_ends

Array = NDArray[np.float64]


def _times(random: np.random.Generator, chunks: int, alike: float) -> list[Array]:
    """Forward, backward, weight and link; a share ``alike`` of the chunks, and all links, equal."""
    kind = random.choice(3)
    times = [10.0 ** random.uniform(-1, 1, chunks) for _ in range(3)]
    if kind == 0:  # whole numbers: many paths of one length
        times = [np.ceil(2.0 * column) for column in times]
    same = random.random(chunks) < alike
    times = [np.where(same, random.uniform(0.5, 2.0), column) for column in times]
    times = [np.where(random.random(chunks) < 0.05, 0.0, column) for column in times]
    link = random.choice([0.0, 0.05, 0.5, 10.0]) * random.random(chunks - 1)
    return [*times, np.full_like(link, link.mean()) if chunks > 1 and kind < 2 else link]


@pytest.mark.parametrize("schedule", get_args(Schedule))
def test_ends_are_those_of_every_operation(schedule: Schedule) -> None:
    """150 pipelines a schedule of up to 12 stages, 5 chunks and 300 micro-batches, alike or not."""
    number = SCHEDULES.index(schedule)
    random = np.random.default_rng(40 + number)
    for _ in range(150):
        p = int(random.integers(1, 13))
        v = int(random.integers(2, 6)) if schedule == "interleaved" else 1
        m = int(random.integers(1, 26)) * p if v > 1 else int(random.choice([5, 20, 300]))
        times = _times(random, p * v, random.choice([0.0, 0.5, 0.9, 1.0]))
        forward, backward, weight, link = times
        ends = _native.stage_ends(number, p, v, m, forward, backward, weight, link, p, 0.0)
        assert ends == pytest.approx(stage_ends(schedule, p, m, *times).tolist(), rel=1e-11)


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "zb-h1"])
def test_first_stages_alone_turn_round_behind_the_last_of_them(schedule: Schedule) -> None:
    """100 prefixes a schedule: a backward of the last stage waits for its forward and the turn."""
    number = SCHEDULES.index(schedule)
    random = np.random.default_rng(60 + number)
    for _ in range(100):
        p = int(random.integers(2, 9))
        stages = int(random.integers(1, p))
        m = int(random.choice([3, 8, 60]))
        times = _times(random, p, random.choice([0.0, 0.9]))
        turn = float(random.choice([0.0, 1.0, 30.0]) * random.random())
        forward, backward, weight, link = some = [column[:stages] for column in times]
        ends = _native.stage_ends(number, p, 1, m, forward, backward, weight, link, stages, turn)
        expected = _operations(schedule, p, m, some, stages, turn)
        assert ends == pytest.approx(expected, rel=1e-11)


def _operations(
    schedule: Schedule, p: int, m: int, times: list[Array], stages: int, turn: float
) -> list[float]:
    """Operation by operation, each stage as far as it can until all have ended."""
    forward, backward, weight, link = times
    split = schedule == "zb-h1"
    orders = [list(stage_order(schedule, p, 1, m, i)) for i in range(stages)]
    ended: dict[tuple[str, int, int], float] = {}
    free = [0.0] * stages
    while any(orders):
        for i, order in enumerate(orders):
            while order:
                kind, _, micro = order[0]
                if kind == "forward":
                    needs = [(("forward", i - 1, micro), link[i - 1])] if i else []
                    length = forward[i]
                elif kind == "backward":
                    needs = [(("forward", i, micro), turn if i + 1 == stages else 0.0)]
                    if i + 1 < stages:
                        needs.append((("backward", i + 1, micro), link[i]))
                    length = backward[i] + (0.0 if split else weight[i])
                else:
                    needs, length = [], weight[i]
                if any(name not in ended for name, _ in needs):
                    break
                free[i] = max([free[i], *(ended[name] + late for name, late in needs)]) + length
                ended[kind, i, micro] = free[i]
                order.pop(0)
    return free
