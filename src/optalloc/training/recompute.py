"""The recomputation that software would be told to do: the least, equal on all stages, that fits.

A plan chooses recomputation stage by stage. People who write a configuration take one rule for all:
nothing, the selective kind, then one more whole layer of each chunk at a time. Estimates of
configurations that leave it open follow them.
"""

from __future__ import annotations

from optalloc import _native
from optalloc.cost.model import CostModel
from optalloc.cost.predict import recomputations
from optalloc.training.estimate import complete, meshes_of
from optalloc.training.strategy import Recompute, Strategy


def least_recompute(cost: CostModel, strategy: Strategy) -> tuple[Recompute, ...]:
    """The first rule that leaves every stage within its memory, margin included; else everything.

    Complexity: O(layers of the largest chunk) evaluations of the written configuration.
    """
    strategy = complete(strategy, cost.num_layers)
    tables = cost.tables(meshes_of(strategy))
    capacity = float(tables.real("capacity_bytes")[0])
    rule = Recompute()
    for full, selective in recomputations("", max(strategy.layers_per_chunk)):
        rule = Recompute(full=full, selective=selective)
        _, used, _ = _native.evaluate_mesh(
            tables.ints,
            tables.reals,
            tables.layers,
            cost.sequence,
            cost.boundary,
            list(strategy.layers_per_chunk),
            [full] * strategy.pp,
            [selective] * strategy.pp,
        )
        if max(used) <= capacity:
            break
    return (rule,) * strategy.pp
