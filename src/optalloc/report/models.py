"""Models as tables: the bundled ones, and one model by layer type."""

from __future__ import annotations

from typing import Any

import msgspec

from optalloc.model.facts import LayerFacts, ModelFacts, facts
from optalloc.model.load import bundled_models, load_model
from optalloc.model.lower import lower
from optalloc.model.parameters import active_parameters, total_parameters
from optalloc.model.spec import ModelSpec
from optalloc.report.table import Cell, Table
from optalloc.units import format_bytes, format_count


def models_table() -> Table:
    """The bundled models, one row a model."""
    return Table(
        title="Models",
        columns=("name", "family", "parameters", "active", "layers", "bf16"),
        rows=tuple(_model_row(load_model(name)) for name in bundled_models()),
        notes=(
            "active: parameters one text token uses, embeddings included; no vision tower.",
            "optalloc inspect NAME shows one model; a config.json or its folder works too.",
        ),
    )


def model_table(model: ModelSpec) -> Table:
    """One model: a row for the embedding, each layer type and the head, then the sum."""
    known = facts(model)
    rows: list[tuple[Cell, ...]] = [_layer_row(row) for row in known.layer_types]
    tower = known.vision_parameters - sum(
        row.count * row.parameters for row in known.layer_types if row.name.startswith("vision")
    )
    if tower:
        rows.append(("vision, rest", 1, tower, None, None, None, *_sizes(tower)))
    rows.append(
        (
            "all",
            known.num_layers,
            known.total_parameters,
            round(known.forward_flops_per_token / 1e6),
            known.kv_cache_bytes_per_token,
            None,
            *_sizes(known.total_parameters),
        )
    )
    return Table(
        title=f"{known.name} ({known.family})",
        columns=("layer type", "count", "parameters", "MFLOP", "KV B", "kept B", "bf16", "fp8"),
        rows=tuple(rows),
        notes=tuple(_notes(known)),
    )


def model_facts(model: ModelSpec) -> dict[str, Any]:
    """The facts of a model as plain values, for JSON."""
    plain = msgspec.to_builtins(facts(model))
    assert isinstance(plain, dict)
    return plain


def _notes(known: ModelFacts) -> list[str]:
    weights = ", ".join(f"{t} {format_bytes(size)}" for t, size in known.weight_bytes.items())
    notes = [
        f"{format_count(known.total_parameters)} parameters, "
        f"{format_count(known.active_parameters)} active for a text token. Weights: {weights}.",
        "parameters, MFLOP, KV B and kept B are of one layer; bf16 and fp8 of all of the row.",
        "MFLOP: 10^6 FLOP of a token's forward pass, attention averaged over a sequence of "
        f"{known.sequence_length:,} tokens.",
        "KV B: cache bytes a token; kept B: bytes a token keeps for backward (16 bits a value; "
        "logits apart).",
    ]
    if known.tied_embeddings:
        notes.append("The head's matrix is the embedding's and counted there.")
    if known.cross_kv_cache_bytes_per_source_token:
        size = known.cross_kv_cache_bytes_per_source_token
        notes.append(f"Cross-attention caches {size:,} bytes more for each encoder token.")
    if known.vision_parameters:
        notes.append("The vision tower counts parameters alone: a batch is text here.")
    if known.source:
        notes.append(f"Source: {known.source} ({known.date}).")
    return notes


def _model_row(model: ModelSpec) -> tuple[Cell, ...]:
    total = total_parameters(model)
    return (
        model.name,
        model.family,
        total,
        active_parameters(model),
        lower(model).num_layers,
        _sizes(total)[0],
    )


def _layer_row(row: LayerFacts) -> tuple[Cell, ...]:
    flops = row.forward_flops_per_token
    return (
        row.name,
        row.count,
        row.parameters,
        None if flops is None else round(flops / 1e6),
        row.kv_cache_bytes_per_token,
        row.activation_bytes_per_token,
        *_sizes(row.count * row.parameters),
    )


def _sizes(parameters: int) -> tuple[str, str]:
    """Bytes in bf16 and in fp8, for people."""
    return format_bytes(2 * parameters), format_bytes(parameters)
