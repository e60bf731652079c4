"""What every exporter reads from a plan: chunks in model order, layer types, the rank order."""

from __future__ import annotations

import msgspec

from optalloc.errors import ExportError, InputError
from optalloc.model.lower import lower
from optalloc.model.spec import Layer
from optalloc.training.plan import Chunk, TrainingPlan


class PlacedChunk(msgspec.Struct, frozen=True, kw_only=True):
    """One chunk in model order, with its stage and the type name of each of its layers."""

    number: int
    stage: int
    layers: tuple[str, ...]
    embedding: bool
    head: bool
    full: int
    selective: int


def placed_chunks(plan: TrainingPlan) -> tuple[PlacedChunk, ...]:
    """The ``pp * virtual_stages`` chunks in model order; chunk c is on stage ``c % pp``.

    A vision tower rides with the embedding and is in no chunk's layers.

    Raises
    ------
    InputError
        If the chunks do not cover the model's layers once and in order, embedding first, head last.
    """
    names = [run.layer for run in lower(plan.model).sequence for _ in range(run.count)]
    pp, rounds = plan.degrees.pp, plan.degrees.virtual_stages
    if len(plan.stages) != pp or any(len(s.chunks) != rounds for s in plan.stages):
        raise _wrong(f"the plan has not {pp} stages of {rounds} chunks", "$.stages")
    placed: list[PlacedChunk] = []
    begin = 0
    for number in range(pp * rounds):
        stage = plan.stages[number % pp]
        chunk: Chunk = stage.chunks[number // pp]
        end = begin + chunk.num_layers
        pointer = f"$.stages[{number % pp}].chunks[{number // pp}]"
        if (chunk.num_layers and chunk.first_layer != begin) or end > len(names):
            raise _wrong(f"chunk {number} does not continue at layer {begin}", pointer)
        ends = (number == 0, number == pp * rounds - 1)
        if (chunk.embedding, chunk.head) != ends:
            raise _wrong("the embedding is not in the first or the head not in the last", pointer)
        full = min(stage.recompute.full, chunk.num_layers)
        placed.append(
            PlacedChunk(
                number=number,
                stage=number % pp,
                layers=tuple(names[begin:end]),
                embedding=chunk.embedding,
                head=chunk.head,
                full=full,
                selective=min(stage.recompute.selective, chunk.num_layers - full),
            )
        )
        begin = end
    if begin != len(names):
        raise _wrong(f"the chunks hold {begin} of {len(names)} layers", "$.stages")
    return tuple(placed)


def _wrong(what: str, pointer: str) -> InputError:
    return InputError(what, path="plan", pointer=pointer, fix="make the plan again")


def layer_types(plan: TrainingPlan) -> dict[str, Layer]:
    """The model's layer types by name."""
    return {layer.name: layer for layer in plan.model.layer_types}


def require_decoder_only(plan: TrainingPlan, target: str) -> None:
    """Refuse models that are no chain of decoder layers; names the stage of the first offender."""
    fix = "set the tool up by hand from the saved plan, as no target takes such a model"
    types = layer_types(plan)
    for layer in types.values():
        if layer.stack == "vision":
            raise ExportError(target, f"a vision tower ({layer.name})", stage=0, fix=fix)
    for chunk in placed_chunks(plan):
        for name in chunk.layers:
            layer = types[name]
            if layer.stack != "decoder":
                what = f"{layer.stack} layers ({name})"
                raise ExportError(target, what, stage=chunk.stage, fix=fix)
            if layer.cross_attention is not None:
                what = f"cross-attention ({name})"
                raise ExportError(target, what, stage=chunk.stage, fix=fix)


def stage_of(plan: TrainingPlan, layer: str) -> int:
    """The stage of the first layer of a type."""
    return next((c.stage for c in placed_chunks(plan) if layer in c.layers), 0)


def require_rank_order(plan: TrainingPlan, target: str) -> None:
    """Refuse plans whose stages are not consecutive blocks of devices.

    Launchers number ranks in the order of the hosts, pipeline stages slowest, so stage i
    must hold the i-th block of ``tp * cp * dp`` devices.
    """
    size = plan.degrees.tp * plan.degrees.cp * plan.degrees.dp
    for stage in plan.stages:
        indices = [d for first, end in stage.devices for d in range(first, end)]
        if indices != list(range(stage.index * size, (stage.index + 1) * size)):
            raise ExportError(target, "a stage on devices out of rank order", stage=stage.index)
