"""global_optimal_allocation: the reference article's signature with the capacities as stated.

The article's dynamic program remembers one number, what is left of all units together, and so
answers a relaxed problem: its plan may overload a unit. Two tasks of load 2 and two units of
capacity 2, both cheaper on unit 0, come out together on unit 0. Here every unit keeps its own
capacity.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from optalloc.assignment.problem import AssignmentProblem
from optalloc.assignment.solve import solve_assignment


def global_optimal_allocation(
    costs: npt.ArrayLike, workloads: npt.ArrayLike, capacities: npt.ArrayLike
) -> npt.NDArray[np.int64]:
    """The cheapest assignment of N tasks to M units, proven.

    Parameters
    ----------
    costs : array_like, shape (N, M)
        Cost of each task on each unit.
    workloads : array_like, shape (N,) or (N, M)
        Load of each task (on each unit).
    capacities : array_like, shape (M,)
        Capacity of each unit, in the unit of the workloads.

    Returns
    -------
    ndarray of int64, shape (N, M)
        1 where the task runs on the unit, else 0; each row sums to 1.

    Raises
    ------
    NoPlan
        If no assignment respects the capacities; names the tasks and units that conflict.
    InputError
        If the arrays are no instance.

    Examples
    --------
    >>> global_optimal_allocation([[1, 5], [1, 5]], [2, 2], [2, 2])
    array([[1, 0],
           [0, 1]])
    """
    return solve_assignment(AssignmentProblem(costs, workloads, capacities)).matrix
