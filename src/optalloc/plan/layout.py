"""Which bytes of the training state lie on which device, and what a change of layout has to move.

The state of a layer is its weights and its optimizer state. A device holds an interval of each, as
fractions of the layer: tp cuts the weights, and what shares the optimizer cuts its part of it
again. Intervals make every change of degrees comparable: what a device must receive is what it
will hold less what it holds.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from optalloc.cost.constants import read_constants, values
from optalloc.cost.memory import StateBytes, element_bytes
from optalloc.model.graph import Graph
from optalloc.model.lower import lower
from optalloc.model.spec import ModelSpec
from optalloc.training.mixed.plan import MixedPlan
from optalloc.training.mixed.problem import shards
from optalloc.training.plan import TrainingPlan
from optalloc.workload import Training

AnyPlan = TrainingPlan | MixedPlan
Interval = tuple[float, float]
Piece = tuple[int, str]
"""Number of the layer (-1 the embedding, L the head) and "weights" or "optimizer"."""
Holdings = dict[int, dict[Piece, Interval]]
"""For every device what it holds."""


class Shard(msgspec.Struct, frozen=True):
    """One device of a stage: its place in the tensor split and among those that share the state."""

    device: int
    first_layer: int
    last_layer: int
    tp: int
    tp_rank: int
    owners: int
    owner: int
    weights_sharded: bool


def piece_bytes(model: ModelSpec, workload: Training, name: str) -> dict[Piece, float]:
    """Bytes of every piece of the model: weights, and optimizer with its master copy."""
    graph: Graph = lower(model)
    states = StateBytes.of(workload, values(read_constants(name)))
    counts = {layer.name: layer.parameters for layer in graph.types}
    names = [run.layer for run in graph.sequence for _ in range(run.count)]
    order = {-1: graph.types[0].name, len(names): graph.types[-1].name} | dict(enumerate(names))
    sizes: dict[Piece, float] = {}
    for number, layer in order.items():
        sizes[number, "weights"] = counts[layer] * element_bytes(workload)
        sizes[number, "optimizer"] = counts[layer] * states.optimizer
    return sizes


def holdings(plan: AnyPlan) -> Holdings:
    """What every device of a plan holds.

    Complexity: O(devices * layers of a stage).
    """
    held: Holdings = {}
    for shard in _shards(plan):
        pieces = held.setdefault(shard.device, {})
        width = 1.0 / shard.tp
        begin = shard.tp_rank * width
        low = begin + width * shard.owner / shard.owners
        own = (low, low + width / shard.owners)
        whole = own if shard.weights_sharded else (begin, begin + width)
        for layer in range(shard.first_layer, shard.last_layer):
            pieces[layer, "weights"] = whole
            pieces[layer, "optimizer"] = own
    return held


def _shards(plan: AnyPlan) -> Iterator[Shard]:
    if isinstance(plan, MixedPlan):
        yield from _mixed_shards(plan)
        return
    d = plan.degrees
    group = plan.shard_group or d.dp * d.cp
    for stage in plan.stages:
        devices = [k for first, end in stage.devices for k in range(first, end)]
        for chunk in stage.chunks:
            first = -1 if chunk.embedding else chunk.first_layer
            last = chunk.first_layer + chunk.num_layers + chunk.head
            for place, device in enumerate(devices):
                outer, rank = divmod(place, d.tp)
                yield Shard(
                    device=device,
                    first_layer=first,
                    last_layer=last,
                    tp=d.tp,
                    tp_rank=rank,
                    owners=group if plan.zero_stage else 1,
                    owner=outer % group if plan.zero_stage else 0,
                    weights_sharded=plan.zero_stage == 3,
                )


def _mixed_shards(plan: MixedPlan) -> Iterator[Shard]:
    z = shards(len(plan.replicas))
    for replica in plan.replicas:
        for stage in replica.stages:
            devices = [k for first, end in stage.devices for k in range(first, end)]
            inside = stage.cp * stage.dp
            first = -1 if stage.embedding else stage.first_layer
            last = stage.first_layer + stage.num_layers + stage.head
            for place, device in enumerate(devices):
                outer, rank = divmod(place, stage.tp)
                yield Shard(
                    device=device,
                    first_layer=first,
                    last_layer=last,
                    tp=stage.tp,
                    tp_rank=rank,
                    owners=inside * z,
                    owner=outer * z + replica.index % z,
                    weights_sharded=False,
                )


def missing(needs: dict[Piece, Interval], has: dict[Piece, Interval]) -> dict[Piece, float]:
    """Fractions of each piece that a device needs and does not have."""
    lacks: dict[Piece, float] = {}
    for piece, (begin, end) in needs.items():
        size = end - begin
        if piece in has:
            low, high = has[piece]
            size -= max(0.0, min(end, high) - max(begin, low))
        if size > 1e-12:
            lacks[piece] = size
    return lacks
