"""serving/flow/covers.py and its kernel: the cheapest covers, and bounds made of them."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.serving.tiny import best_flow, tiny_problem

from optalloc import _native
from optalloc.serving.flow.branch import refute_by_branching
from optalloc.serving.flow.covers import layer_token_bound
from optalloc.serving.flow.kinds import kinds_of


@pytest.mark.parametrize("seed", range(40))
def test_cover_bound_is_never_below_the_optimum(seed: int) -> None:
    """Branching on the counts refutes no flow that some placement passes."""
    problem = tiny_problem(seed, linked=False)
    best = best_flow(problem)
    kinds = kinds_of(problem)
    if best > 0.0:
        assert layer_token_bound(kinds, problem.num_layers) >= best * (1.0 - 1e-12)
        found = refute_by_branching(
            kinds, problem.num_layers, best, most_parts=100, expired=lambda: False
        )
        assert found is None


@pytest.mark.parametrize("seed", range(60))
def test_native_cover_is_the_cheapest(seed: int) -> None:
    """The kernel equals every combination of items within their limits."""
    draw = np.random.default_rng(seed)
    count = int(draw.integers(1, 5))
    weights = draw.choice([0.15, 0.25, 0.4, 0.5, 0.7, 1.0], count)
    costs = draw.choice([0.0, 0.5, 1.0, 1.5, 2.0, 3.1], count)
    limits = draw.integers(0, 4, count).astype(np.int32)
    grid = np.stack(np.meshgrid(*[np.arange(n + 1) for n in limits]), -1).reshape(-1, count)
    covers = grid[grid @ weights >= 1.0 - 1e-12]
    best = (covers @ costs).min() if len(covers) else np.inf
    taken = np.zeros(count, dtype=np.int32)
    bound, cost = _native.cheapest_cover(weights, costs, limits, taken, 1000)
    assert bound == cost == pytest.approx(best)
    if np.isfinite(best):
        assert taken @ weights >= 1.0 - 1e-12
        assert taken @ costs == pytest.approx(best)
        assert (taken <= limits).all()


def test_native_cover_cut_short_still_bounds() -> None:
    """With room for one state the bound is below the optimum, the cover above it."""
    draw = np.random.default_rng(5)
    weights, costs = draw.uniform(0.05, 0.3, 12), draw.uniform(0.5, 1.5, 12)
    limits, taken = np.full(12, 3, dtype=np.int32), np.zeros(12, dtype=np.int32)
    exact, _ = _native.cheapest_cover(weights, costs, limits, taken, 10**6)
    bound, cost = _native.cheapest_cover(weights, costs, limits, taken, 1)
    assert bound <= exact <= cost + 1e-12
    assert taken @ weights >= 1.0 - 1e-12
