"""Mixed clusters: the search equals brute force, the bound never lies above, costs behave."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from optalloc.stop import NodeLimit
from optalloc.training.mixed.enumerate import best_by_enumeration
from optalloc.training.mixed.parts import work_bound
from optalloc.training.mixed.problem import MixedProblem, Wire
from optalloc.training.mixed.search import Search


def instance(seed: int, *, most_devices: int = 5, most_layers: int = 4) -> MixedProblem:
    """A random problem of two or three groups with random costs of every layer type and kind."""
    rng = np.random.default_rng(seed)
    groups = int(rng.integers(2, 4))
    total = int(rng.integers(groups, most_devices + 1))
    cuts = sorted(rng.choice(np.arange(1, total), groups - 1, replace=False).tolist())
    available = np.diff([0, *cuts, total]).tolist()
    layers, types = int(rng.integers(3, most_layers + 1)), int(rng.integers(3, 5))
    group, devices = [], []
    for g in range(groups):
        for size in (1, 2) if rng.random() < 0.7 else (1,):
            if size <= available[g]:
                group.append(g)
                devices.append(size)
    kinds, speed = len(group), rng.uniform(0.5, 3.0, groups)
    cost = np.zeros((kinds, types + 1, 14))
    for k in range(kinds):
        rate = speed[group[k]] * devices[k] ** rng.uniform(0.6, 1.0)
        base, held = rng.uniform(0.3, 2.0, types + 1), rng.uniform(0.2, 2.0, types + 1) / devices[k]
        cost[k, :, 0] = base / rate
        cost[k, :, 1] = base * rng.uniform(1.5, 2.5) / rate
        cost[k, :, 3] = 0.3 * base / rate * rng.random()
        cost[k, :, 4] = base / rate
        cost[k, :, 5] = held
        for column, low, high in ((6, 0.5, 1.0), (7, 0.05, 0.6), (8, 0.0, 0.3), (9, 0.0, 1.0)):
            cost[k, :, column] = held * rng.uniform(low, high, types + 1)
        cost[k, :, 10] = rng.uniform(0.3, 1.5, types + 1) / devices[k]
        cost[k, :, 11:14] = rng.uniform(0.0, 1.0, (types + 1, 3))
        cost[k, [0, types - 1], 3:5] = 0.0
        cost[k, [0, types - 1], 9] = 0.0
        cost[k, types] = cost[k, types - 1]
        cost[k, types, 10] *= 0.7

    def wires() -> tuple[Wire, ...]:
        return tuple(
            Wire(float(rng.uniform(0.0, 0.1)), float(rng.uniform(1.0, 20.0))) for _ in range(groups)
        )

    return MixedProblem(
        available=tuple(available),
        domain=tuple(rng.integers(1, 5, groups).tolist()),
        group=np.array(group, np.int32),
        devices=np.array(devices, np.int32),
        layers=cost,
        optimizer_bytes=rng.uniform(0.3, 2.0, (kinds, types + 1)),
        gradient_bytes=rng.uniform(0.0, 3.0, (kinds, types + 1)),
        weight_bytes=rng.uniform(0.0, 3.0, (kinds, types + 1)),
        capacity_bytes=rng.uniform(4.0, 25.0, kinds),
        logits_bytes=rng.uniform(0.0, 1.0, kinds),
        sent_bytes=rng.uniform(0.0, 3.0, kinds),
        tied_bytes=rng.uniform(0.0, 1.0, kinds) * (rng.random() < 0.5),
        near=wires(),
        far=wires(),
        network=wires(),
        zone=tuple(rng.integers(0, 2, groups).tolist()),
        zone_wire=wires()[0],
        sequence=rng.integers(1, types - 1, layers).astype(np.int32),
        boundary=rng.uniform(0.5, 1.5, layers + 1) if rng.random() < 0.3 else np.ones(layers + 1),
        overlap=float(rng.uniform(0.0, 1.0)),
        fixed_s=tuple(rng.uniform(0.0, 0.3, groups).tolist()),
        num_microbatches=int(rng.integers(1, 9)),
        micro_batch=1,
    )


@pytest.mark.parametrize("seed", range(48))
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


@pytest.mark.parametrize("seed", range(48, 60))
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
