"""The rows of a table of measurements and their notes."""

from __future__ import annotations

import os
import re

from optalloc.cost.measured.cells import Row, whole
from optalloc.cost.setting import UNPADDED
from optalloc.errors import InputError
from optalloc.records import read_records

COLUMNS = ("layers", "hidden", "gpu", "n_gpus", "seq_len")
"""The columns without which a table holds no training measurements."""


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a table of measurements, each with the model that ran (:func:`reconciled`).

    Raises
    ------
    InputError
        If the file cannot be read or has none of the columns of such a table.
    """
    names, records = read_records(path)
    have = [name.strip().lower() for name in names]
    rows = [{name.strip().lower(): text.strip() for name, text in r.items()} for r in records]
    for number, row in enumerate(rows):
        row["group"] = row.get("group", "") or f"row {number}"
    missing = [name for name in COLUMNS if name not in have]
    if missing:
        raise InputError(
            f"the file has no column {', '.join(missing)}",
            path=str(path),
            fix="name the columns in the first line as docs/reference/training-rows.md does",
        )
    return reconciled(rows)


def reconciled(rows: list[Row]) -> list[Row]:
    """The rows, with what ran where the notes of a row or its source contradict its cells.

    A row whose notes deal out another number of layers than its model has (with or without
    embedding and head) takes the dimensions of the model of its source that has as many.
    """
    models: dict[tuple[str, int], Row] = {}
    for row in rows:
        models.setdefault((row.get("source", ""), whole(row, "layers")), row)
    result = []
    for row in rows:
        row = row | _STATED.get(row.get("source", ""), {})
        count, sizes = whole(row, "layers"), noted_layers(row)
        other = models.get((row.get("source", ""), sum(sizes) - 2))
        every = len(sizes) == max(1, whole(row, "pp", 1))
        if every and other is not None and sum(sizes) not in (count, count + 2):
            row = row | {name: other.get(name, "") for name in _DIMENSIONS}
        result.append(row)
    return result


# What ran in a source, whatever its tables say. bigscience: memory falls with dp in every one of
# its runs, as ZeRO stage 1 makes it. vtrain_single: recomputation is stated for the simulator of
# its authors; with a fourth pass the products of a wide layer would run above the device's peak.
_STATED = {
    "bigscience": {"zero_stage": "1"},
    "vtrain_single": {"recompute": "none", "release": UNPADDED},
}

_DIMENSIONS = [
    "arch",
    "n_params_b",
    "layers",
    "hidden",
    "ffn",
    "heads",
    "kv_heads",
    "head_dim",
    "vocab",
    "gated_mlp",
    "n_experts",
    "topk",
    "moe_ffn",
    "n_shared_experts",
    "n_dense_layers",
]


def noted_layers(row: Row) -> list[int]:
    return [int(word) for word in re.findall(r"\d+", noted(row, "layers/stage"))]


def noted(row: Row, name: str) -> str:
    """The bracketed list behind a name in the notes."""
    found = re.search(re.escape(name) + r"\s*\[([^\]]*)\]", row.get("notes", ""))
    return found.group(1) if found else ""
