"""Many rows of few setups: step models whose device time comes of the native kernel.

A row names its setup by number. The times are those of :class:`StepModel` but for rounding.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from optalloc import _native
from optalloc.cost.engine.constants import EngineConstants, Errors, Value
from optalloc.cost.engine.step import StepModel
from optalloc.cost.engine.work import Work

Columns = TypeVar("Columns", Work, EngineConstants)
_UNKNOWN = Errors(rows=0, ttft=1.0, tpot=0.5, throughput=0.5)


class Rows(StepModel, frozen=True, kw_only=True):
    """Step models, an entry of each array each, of setups that have these ``coefficients``."""

    number: NDArray[np.int64]
    coefficients: NDArray[np.float64]

    def device_s(self, prompt_tokens: Value, sequences: Value) -> Value:
        """As of :class:`StepModel`, without drafted tokens."""
        columns = np.broadcast_arrays(self.number, prompt_tokens, sequences)
        number, prompt, decoding = (np.ravel(column) for column in columns)
        found = np.empty(number.shape)
        _native.device_seconds(
            self.coefficients,
            np.ascontiguousarray(number, np.int64),
            np.ascontiguousarray(prompt, np.float64),
            np.ascontiguousarray(decoding, np.float64),
            found,
        )
        return found.reshape(columns[0].shape)


class Setups:
    """Setups as columns of work and constants, one entry each."""

    def __init__(self, work: Work, constants: EngineConstants) -> None:
        self._work, self._constants = work, constants
        self._coefficients = StepModel(
            work=work,
            constants=constants,
            chunk_tokens=0.0,
            max_batch=0.0,
            tokens_per_step=1.0,
            drafted=0.0,
            errors=_UNKNOWN,
        ).kernel_columns()

    def take(self, number: NDArray[np.int64]) -> Setups:
        """Some of the setups, by number."""
        return Setups(_taken(self._work, number), _taken(self._constants, number))

    def rows(self, number: NDArray[np.int64], chunk_tokens: Value, max_batch: Value) -> Rows:
        """The step model of many rows: a setup by number, with its chunk and batch."""
        return Rows(
            work=_taken(self._work, number),
            constants=_taken(self._constants, number),
            chunk_tokens=chunk_tokens,
            max_batch=max_batch,
            tokens_per_step=1.0,
            drafted=0.0,
            errors=_UNKNOWN,
            number=number,
            coefficients=self._coefficients,
        )


def _taken(columns: Columns, number: NDArray[np.int64]) -> Columns:
    return type(columns)(**{n: getattr(columns, n)[number] for n in columns.__struct_fields__})
