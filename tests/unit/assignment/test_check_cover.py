"""The checker's search for one set of tasks a unit."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from optalloc.assignment.check_cover import Sack, TooManyError, has_cover


def drawn(rng: np.random.Generator) -> tuple[list[Sack], int]:
    """A few units, each with some of the tasks, some of no profit."""
    tasks, units = int(rng.integers(1, 7)), int(rng.integers(1, 4))
    sacks = []
    for _ in range(units):
        mine = np.nonzero(rng.random(tasks) < 0.8)[0]
        loads = rng.integers(0, 9, len(mine))
        sacks.append(Sack(mine, rng.integers(-9, 20, len(mine)), loads, int(rng.integers(0, 20))))
    return sacks, tasks


def best_cover(sacks: list[Sack], tasks: int) -> int | None:
    """By trying every unit of every task."""
    best: int | None = None
    for choice in product(range(len(sacks)), repeat=tasks):
        total = 0
        for unit, sack in enumerate(sacks):
            mine = [task for task in range(tasks) if choice[task] == unit]
            places = np.nonzero(np.isin(sack.tasks, mine))[0]
            if len(places) != len(mine) or int(sack.loads[places].sum()) > sack.room:
                break
            total += int(sack.values[places].sum())
        else:
            best = total if best is None else max(best, total)
    return best


def test_a_cover_is_found_exactly_up_to_the_best_value() -> None:
    """Against trying every choice; where there is none, no need is low enough."""
    rng = np.random.default_rng(5)
    some = 0
    for _ in range(100):
        sacks, tasks = drawn(rng)
        best = best_cover(sacks, tasks)
        if best is None:
            assert not has_cover(sacks, tasks, -1000)
            continue
        some += 1
        assert has_cover(sacks, tasks, best)
        assert not has_cover(sacks, tasks, best + 1)
    assert some > 25


def test_too_many_sets_are_no_answer() -> None:
    """2**20 sets of no load are not listed."""
    free = np.zeros(20, dtype=np.int64)
    sack = Sack(np.arange(20), free, free, 5)
    with pytest.raises(TooManyError, match="too many patterns"):
        has_cover([sack, sack], 20, 0)
