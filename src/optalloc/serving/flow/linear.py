"""A linear programme that grows by columns (HiGHS)."""

from __future__ import annotations

from collections.abc import Sequence

import highspy
import numpy as np
from numpy.typing import NDArray

from optalloc.assignment.milp import QuietHighs

INFINITY: float = highspy.kHighsInf


class GrowingLP:
    """``max c x`` subject to ``lower <= A x <= upper``, ``x >= 0``, solved from where it stood.

    ``duals`` are the row prices of the last solve; ``solved`` says whether there was one.
    """

    def __init__(
        self,
        upper: Sequence[float] | NDArray[np.float64],
        lower: Sequence[float] | None = None,
    ) -> None:
        self._highs = QuietHighs()
        self._highs.setOptionValue("presolve", "off")
        none, empty = np.array([], dtype=np.int32), np.array([])
        for row, high in enumerate(upper):
            low = -INFINITY if lower is None else float(lower[row])
            self._highs.addRow(low, float(high), 0, none, empty)
        self._highs.changeObjectiveSense(highspy.ObjSense.kMaximize)
        self.duals: NDArray[np.float64] = np.zeros(len(upper))
        self.solved = False
        self.num_columns = 0

    def add(
        self,
        gain: float,
        rows: Sequence[int] | NDArray[np.int32],
        amounts: Sequence[float] | NDArray[np.float64],
        *,
        lower: float = 0.0,
        upper: float = INFINITY,
    ) -> int:
        """A new column; returns its index."""
        index = np.asarray(rows, dtype=np.int32)
        value = np.asarray(amounts, dtype=np.float64)
        self._highs.addCol(float(gain), lower, upper, len(index), index, value)
        self.num_columns += 1
        return self.num_columns - 1

    def solve(self) -> float:
        """The value of the best solution, minus infinity if there is none."""
        self._highs.run()
        status = self._highs.getModelStatus()
        if status == highspy.HighsModelStatus.kInfeasible:
            return -INFINITY
        if status != highspy.HighsModelStatus.kOptimal:
            raise RuntimeError(f"the linear programme ended {status}")
        self.duals = np.asarray(self._highs.getSolution().row_dual, dtype=np.float64)
        self.solved = True
        return float(self._highs.getInfo().objective_function_value)

    @property
    def values(self) -> NDArray[np.float64]:
        """Column values of the last solve."""
        return np.asarray(self._highs.getSolution().col_value, dtype=np.float64)

    def solve_whole(self, most_nodes: int, *, enough: float) -> NDArray[np.float64] | None:
        """Best found values with all columns integral, or None; the columns stay integral.

        A solution of value ``enough`` ends the search, and so do ``most_nodes`` nodes: a clock
        would give other answers on a busy machine.
        """
        self._highs.setOptionValue("objective_target", enough - 1e-6)
        for column in range(self.num_columns):
            self._highs.changeColIntegrality(column, highspy.HighsVarType.kInteger)
        self._highs.setOptionValue("presolve", "choose")
        self._highs.setOptionValue("mip_max_nodes", most_nodes)
        self._highs.run()
        values = self.values
        return values if len(values) == self.num_columns and values.any() else None
