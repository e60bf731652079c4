"""Columns: tables held as arrays of equal length, one a field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def undominated(slow: Floats, rate: Floats) -> Ints:
    """The points that no other beats in both, by the first; of equal ones the first alone."""
    order = np.lexsort((-rate, slow))
    best = np.maximum.accumulate(np.concatenate([[-1.0], rate[order]]))[:-1]
    return order[rate[order] > best]


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """Every field is an array of one entry a row."""

    def __len__(self) -> int:
        return len(getattr(self, self.__struct_fields__[0]))

    def take(self, index: Ints | Flags) -> Self:
        """Some of the rows, by number or by flag."""
        return type(self)(**{name: getattr(self, name)[index] for name in self.__struct_fields__})

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """All rows of at least one table, one after another."""
        names = cls.__struct_fields__
        return cls(**{n: np.concatenate([getattr(part, n) for part in parts]) for n in names})
