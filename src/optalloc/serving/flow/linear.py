"""Linear programmes for the searches: one that grows by columns, and rows by name (HiGHS)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import highspy
import numpy as np
from numpy.typing import NDArray

from optalloc.assignment.milp import QuietHighs

INFINITY: float = highspy.kHighsInf

#: Entries of a column by the names of their rows.
Entries = dict[Hashable, float]


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


class NamedProgramme:
    """Rows by any name and columns by what they mean: for programmes that are built in parts."""

    def __init__(self) -> None:
        self._rows: dict[Hashable, tuple[int, float, float]] = {}
        self._columns: list[tuple[float, Entries, float]] = []
        self.meanings: list[tuple[object, ...]] = []

    def row(self, name: Hashable, low: float, high: float) -> None:
        """A row with its sides; a name that is known keeps its first sides."""
        self._rows.setdefault(name, (len(self._rows), low, high))

    def has_row(self, name: Hashable) -> bool:
        """Whether there is a row of this name."""
        return name in self._rows

    def column(self, meaning: tuple[object, ...], gain: float, upper: float, use: Entries) -> None:
        """A column and its entries by row name."""
        self.meanings.append(meaning)
        self._columns.append((gain, use, upper))

    def solve_whole(self, most_nodes: int, *, enough: float) -> list[int] | None:
        """Whole column values that gain at least ``enough``, or None where none were found."""
        sides = list(self._rows.values())
        lp = GrowingLP([high for _, _, high in sides], [low for _, low, _ in sides])
        for gain, use, upper in self._columns:
            rows = [self._rows[name][0] for name in use]
            lp.add(gain, rows, list(use.values()), upper=upper)
        if lp.solve() < enough * (1.0 - 1e-9):
            return None
        values = lp.solve_whole(most_nodes, enough=enough)
        if values is None:
            return None
        whole: list[int] = np.rint(values).astype(int).tolist()
        gains = sum(column[0] * n for column, n in zip(self._columns, whole, strict=True))
        return whole if gains >= enough - 1e-6 else None
