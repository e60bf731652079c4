"""What the cost of a layer depends on: the key of a mesh."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cost.meshes import Meshes, distinct

Ints = NDArray[np.int64]

# The fields of a key, and a number above all values of each: 63 bits.
_FIELDS = {"tp": 1 << 12, "sequence": 2, "cp": 1 << 17, "ep": 1 << 12, "micro_batch": 1 << 21}


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """Mesh keys: integer arrays of shape (num_keys,)."""

    tp: Ints
    sequence: Ints
    cp: Ints
    ep: Ints
    micro_batch: Ints

    @classmethod
    def of(cls, meshes: Meshes) -> Keys:
        """The key of each mesh."""
        return cls(**{name: getattr(meshes, name) for name in _FIELDS})


def codes_of(meshes: Meshes) -> Ints:
    """One number for the key of each mesh, in the order of the keys."""
    code = np.zeros(len(meshes), np.int64)
    for name, limit in _FIELDS.items():
        code = code * limit + np.minimum(getattr(meshes, name), limit - 1)
    return code


def distinct_keys(meshes: Meshes, *, but: str = "") -> tuple[Meshes, Ints]:
    """A mesh of each distinct key, in the order of the keys, and the number of each mesh's key.

    ``but`` names a field that is not looked at.
    """
    first, row = distinct(*(getattr(meshes, name) for name in _FIELDS if name != but))
    return meshes.take(first), row
