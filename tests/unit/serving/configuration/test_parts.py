"""serving/configuration/parts.py: the best split of requests over groups."""

from __future__ import annotations

import numpy as np
import pytest

from optalloc.serving.configuration.columns import Floats
from optalloc.serving.configuration.parts import Goal, joined


def _costs(r: np.random.Generator, goal: Goal, number: int) -> Floats:
    """Random costs of 0 to number - 1 requests: steps, a curve that flattens, ties, gaps."""
    q = np.arange(number, dtype=np.float64)
    cost: Floats = [
        r.random(number),
        r.integers(0, 4, number).astype(np.float64),
        -q / (1.0 + r.random() * q),
        np.ceil(q / r.integers(1, 50)),
    ][int(r.integers(4))]
    cost[r.random(number) < r.choice([0.0, 0.1, 0.9])] = np.inf
    cost[0] = goal.nothing
    return cost


@pytest.mark.parametrize("goal", [Goal(objective="throughput"), Goal(objective="latency")])
def test_shares_are_joined_as_trying_every_split_does(goal: Goal) -> None:
    """The least of every total, and of equal ones the first with fewest of the first share."""
    r = np.random.default_rng(0)
    for _ in range(40):
        one, other = (_costs(r, goal, number) for number in [int(r.integers(1, 300))] * 2)
        cost, taken = joined(goal, one, other)
        for total in range(len(one)):
            tried = goal.join(one[: total + 1], other[total::-1])
            assert cost[total] == tried.min()
            if np.isfinite(cost[total]):
                assert taken[total] == tried.argmin()
        last, where = joined(goal, one, other, last=True)
        assert (last[-1], where[-1]) == (cost[-1], taken[-1])
