"""Many meshes at once, and the tables of their costs that the search works on."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

SCHEDULES = ("gpipe", "1f1b", "interleaved", "zb-h1")

# Fields of one layer type in MeshTables.layers, in this order.
LAYER_FIELDS = (
    "forward_s",
    "backward_s",
    "weight_s",
    "extra_selective_s",
    "extra_full_s",
    "held_bytes",
    "held_selective_bytes",
    "held_full_bytes",
    "scratch_selective_bytes",
    "scratch_full_bytes",
    "state_bytes",
    "reduce_s",
    "gather_s",
    "update_s",
)
# Columns of MeshTables.reals, in this order.
REAL_FIELDS = (
    "capacity_bytes",
    "logits_bytes",
    "overlap",
    "latency_near_s",
    "latency_far_s",
    "transfer_near_s",
    "transfer_far_s",
    "tied_s",
    "bound",
    "weight",
    "fixed_s",
)
INT_FIELDS = (
    "schedule",
    "pp",
    "virtual_stages",
    "num_microbatches",
    "stage_devices",
    "domain_devices",
    "recompute_rule",
)


class Meshes(msgspec.Struct, frozen=True, kw_only=True):
    """Many meshes as integer arrays of equal length; ``schedule`` indexes :data:`SCHEDULES`."""

    tp: Ints
    sequence: Ints
    cp: Ints
    pp: Ints
    dp: Ints
    ep: Ints
    micro_batch: Ints
    zero_stage: Ints
    shard_group: Ints
    virtual_stages: Ints
    schedule: Ints
    recompute_rule: Ints

    def __len__(self) -> int:
        return len(self.tp)

    def take(self, index: Ints | NDArray[np.bool_] | slice) -> Meshes:
        """The meshes at these positions."""
        return Meshes(**{name: getattr(self, name)[index] for name in self.__struct_fields__})

    @property
    def num_devices(self) -> Ints:
        return self.tp * self.cp * self.pp * self.dp


class MeshTables(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the exact inner problem needs: one row a mesh.

    ``ints`` (n, 7) and ``reals`` (n, 11) have the columns of INT_FIELDS and REAL_FIELDS; ``layers``
    (n, types, 14) has LAYER_FIELDS for the embedding, each layer type, and the head.
    """

    ints: NDArray[np.int32]
    reals: Array
    layers: Array

    def take(self, index: Ints) -> MeshTables:
        """The rows at these positions, copied."""
        return MeshTables(ints=self.ints[index], reals=self.reals[index], layers=self.layers[index])

    def scheduled(self, meshes: Meshes) -> MeshTables:
        """These rows for meshes that differ from theirs in schedule, chunks and recomputation."""
        ints = self.ints.copy()
        for name in ("schedule", "virtual_stages", "recompute_rule"):
            ints[:, INT_FIELDS.index(name)] = getattr(meshes, name)
        return MeshTables(ints=ints, reals=self.reals, layers=self.layers)

    def field(self, name: str) -> Array:
        """One field of all layer types, shape (n, types)."""
        column: Array = self.layers[:, :, LAYER_FIELDS.index(name)]
        return column

    def real(self, name: str) -> Array:
        """One column of ``reals``."""
        column: Array = self.reals[:, REAL_FIELDS.index(name)]
        return column


def distinct(*columns: Ints) -> tuple[Ints, Ints]:
    """Where each distinct row first occurs, in the order of the rows, and the number of each row.

    Columns hold integers of at least 0, mostly few different ones: then O(n + largest value).
    """
    code, size = np.zeros(len(columns[0]), np.int64), 1
    for column in columns:
        present = np.zeros(int(column.max(initial=0)) + 1, bool)
        present[column] = True
        rank = np.cumsum(present) - 1
        size *= int(rank[-1]) + 1
        code *= rank[-1] + 1
        code += rank[column]
    if size > 4 * len(code) + 1_000_000:
        _, first, number = np.unique(code, return_index=True, return_inverse=True)
        return first, number
    first = np.full(size, -1)
    first[code[::-1]] = np.arange(len(code))[::-1]
    used = first >= 0
    return first[used], (np.cumsum(used) - 1)[code]
