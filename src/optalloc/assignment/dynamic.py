"""Dynamic programming over vectors of residual capacities: exact for few, small units.

Formulation
-----------
    V(N, r) = 0,    V(j, r) = min { c_ij + V(j+1, r - w_ij e_i) : i in A_j, w_ij <= r_i }

The answer is V(0, L). r = (r_0 .. r_{M-1}) is what each unit has left (:func:`_children`), e_i the
i-th unit vector. Only vectors reached from L are kept (:func:`_cheapest`), layer by layer.

Why it is exact: two partial assignments of the same first tasks with equal residual vectors have
the same completions, so only the cheaper one is needed. Remembering the *sum* of the residual
capacities instead would mix states with different completions and may overload a unit.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from optalloc.assignment.integers import IntegerForm
from optalloc.assignment.journal import Journal
from optalloc.assignment.problem import AssignmentProblem
from optalloc.assignment.result import AssignmentResult
from optalloc.errors import InputError
from optalloc.result import Termination
from optalloc.stop import OnProgress, StopRule

IntArray = npt.NDArray[np.int64]

#: Refuse instances whose layers may hold more states than this together (about 20 bytes each).
MOST_STATES = 20_000_000


def num_states(problem: AssignmentProblem) -> int:
    """At most so many states: sum over layers of min(residual vectors, partial assignments)."""
    form = problem.integer_form()
    vectors = math.prod(capacity + 1 for capacity in form.capacities.tolist())
    total, reached = 1, 1
    for count in form.allowed.sum(axis=1).tolist():
        reached = min(reached * int(count), vectors)
        total += reached
    return total


def solve_dynamic(
    problem: AssignmentProblem,
    stop: StopRule | None = None,
    on_progress: OnProgress | None = None,
) -> AssignmentResult:
    """Solve by dynamic programming over residual capacities.

    Raises
    ------
    InputError
        If there may be more than :data:`MOST_STATES` states; says how many.

    Complexity
    ----------
    O(S M log S) time and O(S) memory for S states, S <= (N + 1) prod_i (L_i + 1).
    """
    form = problem.integer_form()
    states = num_states(problem)
    vectors = math.prod(capacity + 1 for capacity in form.capacities.tolist())
    if states > MOST_STATES or vectors >= 2**62:
        raise InputError(
            f"the dynamic program may need {states:.3g} states over {vectors:.3g} residual vectors"
            if vectors < 10**300
            else f"the dynamic program may need {states:.3g} states",
            path="method",
            fix=f"use the method 'exact'; the limits are {MOST_STATES:,} states and 4.6e18 vectors",
        )
    journal = Journal(problem, "dynamic", stop, on_progress)
    strides = np.ones(problem.num_units, dtype=np.int64)
    for unit in range(1, problem.num_units):
        strides[unit] = strides[unit - 1] * (int(form.capacities[unit - 1]) + 1)
    codes = np.array([int((strides * form.capacities).sum())], dtype=np.int64)
    values = np.zeros(1, dtype=np.int64)
    trail: list[tuple[IntArray, npt.NDArray[np.int32]]] = []
    stopped = False
    try:
        for task in range(problem.num_tasks):
            codes, values, parents, units = _cheapest(
                *_children(form, task, strides, codes, values)
            )
            trail.append((parents, units))
            journal.nodes += len(codes)
            journal.report()
            if len(codes) == 0:
                break
            if task + 1 < problem.num_tasks and journal.should_stop():
                stopped = True
                break
    except KeyboardInterrupt:
        stopped = True
    if stopped:
        return journal.finish(Termination.LIMIT, message="stopped before the last task")
    if len(codes) == 0:
        return journal.finish(
            Termination.INFEASIBLE,
            message=f"no residual vector is left after task {len(trail) - 1}",
            configurations=journal.nodes,
        )
    state = int(values.argmin())
    value = int(values[state])
    placed: list[int] = []
    for parents, units in reversed(trail):
        placed.append(int(units[state]))
        state = int(parents[state])
    journal.offer(placed[::-1], value)
    return journal.finish(
        Termination.OPTIMAL,
        message=f"dynamic programming over {journal.nodes} states",
        configurations=journal.nodes,
    )


def _children(
    form: IntegerForm, task: int, strides: IntArray, codes: IntArray, values: IntArray
) -> tuple[IntArray, IntArray, IntArray, npt.NDArray[np.int32]]:
    """Every state after ``task``: codes, values, parent states and units, with repetitions."""
    parts: list[tuple[IntArray, IntArray, IntArray, npt.NDArray[np.int32]]] = []
    for unit in np.nonzero(form.allowed[task])[0].tolist():
        load = int(form.loads[task, unit])
        left = codes // strides[unit] % (int(form.capacities[unit]) + 1)
        parents = np.nonzero(left >= load)[0]
        parts.append(
            (
                codes[parents] - load * strides[unit],
                values[parents] + form.costs[task, unit],
                parents,
                np.full(len(parents), unit, dtype=np.int32),
            )
        )
    empty = np.zeros(0, dtype=np.int64)
    if not parts:
        return empty, empty, empty, np.zeros(0, dtype=np.int32)
    return (
        np.concatenate([part[0] for part in parts]),
        np.concatenate([part[1] for part in parts]),
        np.concatenate([part[2] for part in parts]),
        np.concatenate([part[3] for part in parts]),
    )


def _cheapest(
    codes: IntArray, values: IntArray, parents: IntArray, units: npt.NDArray[np.int32]
) -> tuple[IntArray, IntArray, IntArray, npt.NDArray[np.int32]]:
    """One state for each code: the cheapest."""
    order = np.lexsort((values, codes))
    codes = codes[order]
    first = np.ones(len(codes), dtype=np.bool_)
    first[1:] = codes[1:] != codes[:-1]
    keep = order[first]
    return codes[first], values[keep], parents[keep], units[keep]
