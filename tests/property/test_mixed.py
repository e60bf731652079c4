"""Mixed clusters: the search equals brute force, the bound never lies above, costs behave."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from tests.property.mixed_problems import instance

from optalloc.stop import NodeLimit
from optalloc.training.mixed.enumerate import best_by_enumeration
from optalloc.training.mixed.parts import Part, work_bound
from optalloc.training.mixed.problem import Wire
from optalloc.training.mixed.search import Search


# In 30520 the passes of the embedding hide more than its own exchange.
@pytest.mark.parametrize("seed", [*range(35), 30520])
def test_the_search_equals_brute_force(seed: int) -> None:
    """The value is the least over every shape, cut, recomputation, set of replicas and share."""
    problem = instance(seed)
    value, _ = best_by_enumeration(problem)
    outcome = Search([problem]).run()
    assert not outcome.stopped
    if value == float("inf"):
        assert outcome.value is None
        return
    assert outcome.value == pytest.approx(value, rel=1e-9)
    assert outcome.bound == outcome.value
    assert problem.evaluate(outcome.replicas) == pytest.approx(value, rel=1e-9)
    assert work_bound(problem, range(len(problem.available))) <= value * (1 + 1e-12)


@pytest.mark.parametrize(("seed", "groups", "blocks"), [*((s, 3, 2) for s in range(5)), (1, 5, 4)])
def test_a_cluster_may_have_more_groups_than_a_replica_uses(
    seed: int, groups: int, blocks: int
) -> None:
    """No pipeline is on more groups than blocks, a plan may be on all of them; the value is that of
    brute force."""
    problem = instance(seed, groups=groups, most_devices=groups + 1, most_layers=3)
    problem = msgspec.structs.replace(problem, most_blocks=blocks)
    value, _ = best_by_enumeration(problem, 2)
    outcome = Search([problem], most_replicas=2).run()
    assert (outcome.value or float("inf")) == pytest.approx(value, rel=1e-9)
    for replica in outcome.replicas:
        assert len(problem.groups_of([replica])) <= blocks


@pytest.mark.parametrize("seed", range(48, 58))
def test_more_of_anything_never_hurts(seed: int) -> None:
    """More memory, faster links and one more device of a group leave the best step as long or
    shorten it."""
    problem = instance(seed, most_devices=7, most_layers=6)
    value = Search([problem]).run().value or float("inf")
    roomier = msgspec.structs.replace(problem, capacity_bytes=problem.capacity_bytes * 1.3)
    first, *rest = problem.available
    larger = msgspec.structs.replace(problem, available=(first + 1, *rest))
    faster = {
        name: tuple(
            Wire(w.latency_s, 2.0 * w.bandwidth_bytes_per_s) for w in getattr(problem, name)
        )
        for name in ("near", "far", "network")
    }
    for changed in (roomier, larger, msgspec.structs.replace(problem, **faster)):
        assert (Search([changed]).run().value or float("inf")) <= value * (1 + 1e-9)


def test_a_stopped_search_keeps_a_bound_below_the_optimum() -> None:
    """Whatever is stopped early says nothing that is not true."""
    problem = instance(3, most_devices=7, most_layers=6)
    best = Search([problem]).run().value
    assert best is not None
    outcome = Search([problem], stop=NodeLimit(0)).run()
    assert outcome.stopped
    assert outcome.bound is not None
    assert outcome.bound <= best * (1 + 1e-12)
    assert outcome.value is None or outcome.value >= best * (1 - 1e-12)


def test_a_plan_comes_before_any_proof() -> None:
    """Stopped at its first plan, a search still gives that, and a bound below the optimum."""
    for seed in range(5):
        problem = instance(seed, most_devices=7, most_layers=6)
        best = Search([problem]).run().value
        first = Search([problem], stop=lambda progress: progress.incumbent is not None).run()
        assert first.pruned == {}
        assert (first.value is None) == (best is None)
        if best is not None and first.value is not None and first.bound is not None:
            assert first.bound <= best * (1 + 1e-12) <= first.value * (1 + 1e-9)
            assert problem.evaluate(first.replicas) == pytest.approx(first.value, rel=1e-9)


def test_a_cancelled_native_search_refutes_nothing() -> None:
    """Shapes may be missing when the flag is set: that no plan was seen is no proof."""
    part = Part(instance(3, most_devices=7, most_layers=6), (0, 1), 2, 2, 0.0)
    cancelled = np.ones(1, np.int32)
    limit = 2  # of the statuses of the native search
    for answer in (
        part.native().refute(1e3, 100, cancelled),
        part.native().improve(1e3, 1e-9, cancelled),
        part.native().look(1e3, cancelled),
    ):
        assert answer[0] == limit
