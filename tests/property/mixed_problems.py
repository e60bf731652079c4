"""Random problems of mixed clusters, small enough for brute force."""

from __future__ import annotations

import numpy as np

from optalloc.training.mixed.problem import MixedProblem, Wire


def instance(
    seed: int, *, most_devices: int = 5, most_layers: int = 4, groups: int | None = None
) -> MixedProblem:
    """A random problem with random costs of every layer type and kind, of two or three groups if
    not of so many."""
    rng = np.random.default_rng(seed)
    groups = groups or int(rng.integers(2, 4))
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
