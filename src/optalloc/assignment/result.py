"""AssignmentResult: what a method of this family answers."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from optalloc.assignment.integers import Arithmetic
from optalloc.errors import NoPlan
from optalloc.result import Result


class Witness(msgspec.Struct, frozen=True, kw_only=True):
    """Multipliers that prove a bound to anybody who can solve one knapsack a unit.

    The multiplier of task j is ``multipliers[j] / scale`` in the unit of
    ``problem.integer_form().costs``. For every choice of them

        sum_j lambda_j - sum_i max { sum_j (lambda_j - c_ij) y_j : sum_j w_ij y_j <= L_i, y binary }

    is a lower bound of the integer form's minimum. ``bound`` is its ceiling, an integer.
    """

    multipliers: tuple[int, ...]
    scale: int
    bound: int


class AssignmentResult(Result, frozen=True, kw_only=True):
    """A :class:`Result` with the unit of each task.

    Attributes
    ----------
    method : str
        The method that found the answer.
    arithmetic : {"exact", "scaled", "float"}
        How faithfully the numbers were computed with, see :class:`IntegerForm`.
    num_units : int
        M, the number of units.
    placed : tuple of int or None
        The unit of each task; None without a plan. Ask :attr:`assignment` where a plan is expected.
    witness : Witness or None
        A proof of ``bounds.dual`` where one pass of knapsacks proves it.
    message : str
        One sentence for people: how the claim is backed, or why there is none.
    """

    method: str
    arithmetic: Arithmetic
    num_units: int
    placed: tuple[int, ...] | None = None
    witness: Witness | None = None
    message: str = ""

    @property
    def assignment(self) -> tuple[int, ...]:
        """The unit of each task, counted from 0; raises :class:`NoPlan` when there is none."""
        if self.placed is None:
            why = "; ".join(self.conflict) or self.message or self.termination.value
            raise NoPlan(f"there is no assignment: {why}", self)
        return self.placed

    @property
    def matrix(self) -> npt.NDArray[np.int64]:
        """0/1 matrix of shape (num_tasks, num_units), int64; raises :class:`NoPlan`."""
        units = self.assignment
        matrix = np.zeros((len(units), self.num_units), dtype=np.int64)
        matrix[np.arange(len(units)), list(units)] = 1
        return matrix
