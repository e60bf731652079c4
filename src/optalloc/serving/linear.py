"""A linear programme that grows by columns, solved again from where it stood (HiGHS)."""

from __future__ import annotations

from collections.abc import Sequence

import highspy
import numpy as np
from numpy.typing import NDArray

from optalloc.assignment.milp import QuietHighs


class GrowingLP:
    """``max c x`` subject to ``A x <= b`` (or ``= b`` for rows named equal), ``x >= 0``.

    ``duals`` are the row prices of the last solve, at least 0 for rows that are not equalities;
    ``solved`` says whether there was one.
    """

    def __init__(
        self,
        row_upper: Sequence[float] | NDArray[np.float64],
        equal: Sequence[int] = (),
    ) -> None:
        self._highs = QuietHighs()
        for option, value in (("threads", 1), ("presolve", "off")):
            self._highs.setOptionValue(option, value)
        fixed = set(equal)
        empty_index, empty_value = np.array([], dtype=np.int32), np.array([])
        for row, upper in enumerate(row_upper):
            lower = float(upper) if row in fixed else -highspy.kHighsInf
            self._highs.addRow(lower, float(upper), 0, empty_index, empty_value)
        self._highs.changeObjectiveSense(highspy.ObjSense.kMaximize)
        self.duals: NDArray[np.float64] = np.zeros(len(row_upper))
        self.solved = False
        self.num_columns = 0

    def add(
        self,
        gain: float,
        rows: Sequence[int] | NDArray[np.int32],
        amounts: Sequence[float] | NDArray[np.float64],
        *,
        upper: float = highspy.kHighsInf,
    ) -> int:
        """A new column; returns its index."""
        index = np.asarray(rows, dtype=np.int32)
        value = np.asarray(amounts, dtype=np.float64)
        self._highs.addCol(float(gain), 0.0, upper, len(index), index, value)
        self.num_columns += 1
        return self.num_columns - 1

    def solve(self) -> float:
        """The value of the best solution; raises RuntimeError where HiGHS has none."""
        self._highs.run()
        if self._highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            raise RuntimeError(f"the linear programme ended {self._highs.getModelStatus()}")
        self.duals = np.asarray(self._highs.getSolution().row_dual, dtype=np.float64)
        self.solved = True
        return float(self._highs.getInfo().objective_function_value)

    @property
    def values(self) -> NDArray[np.float64]:
        """Column values of the last solve."""
        return np.asarray(self._highs.getSolution().col_value, dtype=np.float64)

    def solve_whole(
        self, columns: Sequence[int], seconds: float, *, enough: float = highspy.kHighsInf
    ) -> NDArray[np.float64] | None:
        """Best found values with ``columns`` integral, or None; the columns stay integral.

        A solution of value ``enough`` ends the search.
        """
        if np.isfinite(enough):
            self._highs.setOptionValue("objective_target", enough - 1e-6)
        for column in columns:
            self._highs.changeColIntegrality(column, highspy.HighsVarType.kInteger)
        self._highs.setOptionValue("time_limit", self._highs.getRunTime() + max(0.05, seconds))
        self._highs.run()
        values = self.values
        return values if len(values) == self.num_columns and values.any() else None
