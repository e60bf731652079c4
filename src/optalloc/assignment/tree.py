"""Rows by Lagrangian branch and bound: several resources a unit, and groups that stay apart.

Formulation
-----------
    minimise sum_bu c_bu x_bu, x binary
    sum_u x_bu = 1 for each block b                  priced by lambda_b
    sum_b w_rbu x_bu <= L_ru, r the tightest of u    kept: one knapsack a unit
    sum_b w_rbu x_bu <= L_ru, other resources r      priced by v_ru >= 0
    sum_{b in G} x_bu <= 1, G chosen disjoint        kept: the knapsack takes one of a class at most
    sum_{b in G} x_bu <= 1, other groups G           priced by s_Gu >= 0

The native kernel (native/assignment/rows*.cpp) climbs the dual by subgradients, fixes pairs by the
price of forcing each in or out (knapsack tables from both ends), dives, re-solves groups of units,
and asks "is there a placement of cost at most z?" at rising z by depth-first search.

Why it is exact: multipliers are integers, costs are rounded down to the multipliers' scale and
loads to the cells of a table, so every bound holds exactly whatever the multipliers are; the two
children of a node partition its placements; a pair is removed and a node closed only where the
bound exceeds z; a search cut short closes nothing; and a placement is checked with the loads as
they are. A value is called optimal once every cost below it has been refused.
"""

from __future__ import annotations

import enum

import numpy as np

from optalloc import _native
from optalloc.assignment.cores import Answer, Watch, checked
from optalloc.assignment.proof import Grown, Tree, one_leaf
from optalloc.assignment.rows import Rows


class _Status(enum.IntEnum):
    """Answers of the kernel, in its order."""

    OPTIMAL = 0
    INFEASIBLE = 1
    STOPPED = 2
    ENOUGH = 3


def solve_rows(
    rows: Rows, watch: Watch, enough: int | None = None, *, seed: int = 0, prove: bool = False
) -> Answer:
    """Minimise the costs; see :mod:`optalloc.assignment.cores`.

    Parameters
    ----------
    rows : Rows
    watch : callable
        Asked about once a node.
    enough : int, optional
        A cost to stop at, or a bound above it.
    seed : int
        Of the groups of units that are drawn; equal seeds give equal answers unless a clock stops
        them.
    prove : bool
        Whether the answer holds the search tree of its bound.
    """
    if not rows.allowed.any(axis=1).all():
        return Answer(is_complete=True, grown=one_leaf(is_infeasible=True))
    if len(rows.members) == 0:
        grown = one_leaf(is_infeasible=False)
        return Answer(placed=(), value=0, bound=0, is_complete=True, grown=grown)
    width = rows.capacities.shape[1]
    status, value, units, bound, nodes, proof = _native.solve_rows(
        np.ascontiguousarray(rows.costs.T),
        np.ascontiguousarray(rows.loads.transpose(0, 2, 1)),
        np.ascontiguousarray(rows.capacities),
        np.ascontiguousarray(rows.allowed.T.astype(np.uint8)),
        [list(group) for group in rows.apart],
        rows.num_units if width > rows.num_units else -1,
        enough,
        watch,
        seed,
        prove,
    )
    placed = checked(rows, units)
    assert units is None or (placed is not None and rows.value(placed) == value)
    complete = status in (_Status.OPTIMAL, _Status.INFEASIBLE)
    return Answer(
        placed=placed,
        value=value,
        bound=bound if status != _Status.INFEASIBLE else None,
        is_complete=complete,
        nodes=nodes,
        grown=None if proof is None else _grown(rows, *proof),
    )


def _grown(
    rows: Rows,
    events: bytes,
    scale: int,
    shift: int,
    target: int,
    without_costs: bool,
    kept: list[int],
    classes: list[list[int]],
    cells: int,
) -> Grown:
    tree = Tree(
        target=target,
        scale=scale,
        shift=shift,
        without_costs=without_costs,
        kept=tuple(kept),
        classes=tuple(map(tuple, classes)),
        groups=rows.apart,
        cells=cells,
    )
    return Grown(tree, np.frombuffer(events, dtype=np.int64))
