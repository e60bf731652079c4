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
they are. A value is called optimal once every cost below it has been refused. Twins, units that
nothing tells apart, are refused together, as in :mod:`optalloc.assignment.exact`: tasks that stay
apart do so on every unit, and so still do with two units swapped. A search that its first nodes do
not end also takes the bound of :mod:`optalloc.assignment.pools`.
"""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Sequence

import msgspec
import numpy as np

from optalloc import _native
from optalloc.assignment.cores import Answer, Watch, checked
from optalloc.assignment.pools import (
    FIRST_NODES,
    POOL_NODES,
    SPLIT_NODES,
    Groups,
    find_pools,
    merge,
    pooled,
    split,
)
from optalloc.assignment.proof import Grown, Tree, one_leaf
from optalloc.assignment.rows import Rows

_CELLS = 2048
"""Of a unit's knapsack table, which counts larger capacities in so many cells."""
_MOST_CELLS = 2**22
"""Of a table's rows together."""
_MOST_GROUPS = 32
"""That stay apart and are resources of pools."""


class _Status(enum.IntEnum):
    """Answers of the kernel, in its order."""

    OPTIMAL = 0
    INFEASIBLE = 1
    STOPPED = 2
    ENOUGH = 3


def solve_rows(
    rows: Rows,
    watch: Watch,
    enough: int | None = None,
    start: tuple[int, ...] | None = None,
    *,
    seed: int = 0,
    threads: int = 1,
    prove: bool = False,
) -> Answer:
    """Minimise the costs; see :mod:`optalloc.assignment.cores`.

    Parameters
    ----------
    rows : Rows
    watch : callable
        Asked about once a node.
    enough : int, optional
        A cost to stop at, or a bound above it.
    start : tuple of int, optional
        A placement that keeps the rows: only cheaper ones are looked for.
    seed : int
        Of the groups of units that are drawn; equal seeds give equal answers unless a clock stops
        them.
    threads : int
        How many search at once, in rounds: see :func:`optalloc.assignment.exact.solve_exact`.
    prove : bool
        Whether the answer holds the search tree of its bound.
    """
    if not rows.allowed.any(axis=1).all():
        return Answer(is_complete=True, grown=one_leaf(is_infeasible=True))
    if len(rows.members) == 0:
        grown = one_leaf(is_infeasible=False)
        return Answer(placed=(), value=0, bound=0, is_complete=True, grown=grown)
    counted = _Counted(watch)
    kernel = functools.partial(_search, seed=seed, threads=threads, prove=prove, enough=enough)
    pools = find_pools(rows)
    own = kernel(rows, counted.limited(None if pools is None else FIRST_NODES), start=start)
    counted.add(own)
    if pools is None or counted.is_over or _ends(own, enough):
        return own
    whole, groups = _over(rows, pools)
    few = counted.limited(POOL_NODES, keeps_plans=False)
    known = None if own.placed is None else merge(_every(rows, pools), own.placed)
    merged = kernel(whole, few, start=known, pools=pools, groups=groups)
    counted.add(merged)
    if merged.is_infeasible:
        return msgspec.structs.replace(merged, nodes=counted.nodes)
    found = None
    is_new = merged.value is not None and (own.value is None or merged.value < own.value)
    if merged.placed is not None and is_new and not counted.is_over:
        found = _split(rows, pools, merged.placed, counted, seed)
    best = _best(rows, [own, merged], [own.placed, found], counted.nodes)
    if counted.is_over or _ends(best, enough):
        return best
    last = kernel(rows, counted.limited(None), start=best.placed, floor=best.bound)
    counted.add(last)
    if last.is_infeasible:
        return msgspec.structs.replace(last, nodes=counted.nodes)
    return _best(rows, [best, last], [best.placed, last.placed], counted.nodes)


def _ends(answer: Answer, enough: int | None) -> bool:
    """Whether nothing is left to ask."""
    if answer.is_complete or enough is None:
        return answer.is_complete
    is_enough = answer.value is not None and answer.value <= enough
    return is_enough or (answer.bound is not None and answer.bound > enough)


def _best(
    rows: Rows, answers: list[Answer], placements: list[tuple[int, ...] | None], nodes: int
) -> Answer:
    """The cheapest placement with the highest bound; of equal ones the first.

    A later search takes the bound of an earlier one for granted, and has no tree of it.
    """
    placed = min(filter(None, placements), key=rows.value, default=None)
    value = None if placed is None else rows.value(placed)
    highest = max(answers, key=lambda answer: -math.inf if answer.bound is None else answer.bound)
    bound = highest.bound
    return Answer(
        placed=placed,
        value=value,
        bound=bound,
        is_complete=value is not None and bound is not None and bound >= value,
        nodes=nodes,
        grown=highest.grown,
    )


class _Counted:
    """The caller's watch over several searches: their nodes together, and whether it said stop."""

    def __init__(self, watch: Watch) -> None:
        self._watch, self.nodes, self.is_over = watch, 0, False

    def add(self, answer: Answer) -> None:
        """A search is over."""
        self.nodes += answer.nodes

    def limited(self, most_nodes: int | None, *, keeps_plans: bool = True) -> Watch:
        """The watch of one search; placements over pools are none."""

        def call(nodes: int, value: int | None, bound: int | None) -> bool:
            shown = value if keeps_plans else None
            self.is_over = self.is_over or self._watch(self.nodes + nodes, shown, bound)
            return self.is_over or (most_nodes is not None and nodes >= most_nodes)

        return call


def _every(rows: Rows, pools: Groups) -> Groups:
    """The pools, and the unit of what is left out as one of its own."""
    return pools + tuple((unit,) for unit in range(rows.num_units, rows.costs.shape[1]))


def _over(rows: Rows, pools: Groups) -> tuple[Rows, Groups]:
    """The rows over pools, and the unit of what is left out; and the groups that pools keep.

    A group that stays apart is a resource of which a pool holds as many as it has units, and each
    member takes 1: the largest groups, where that can bind.
    """
    every = _every(rows, pools)
    costs, loads, capacities, allowed = pooled(rows, every)
    binding = [group for group in rows.apart if len(group) > min(map(len, pools))]
    groups = tuple(sorted(binding, key=len, reverse=True)[:_MOST_GROUPS])
    takes = np.zeros((len(groups), *costs.shape), dtype=np.int64)
    for number, group in enumerate(groups):
        takes[number, list(group)] = allowed[list(group)]
    takes[:, :, len(pools) :] = 0
    holds = np.minimum([*map(len, pools), *(0 for _ in every[len(pools) :])], takes.sum(axis=1))
    whole = msgspec.structs.replace(
        rows,
        costs=costs,
        loads=np.concatenate([loads, takes]),
        capacities=np.concatenate([capacities, holds]),
        allowed=allowed,
        apart=(),
        rooms=(),
        num_units=len(pools),
    )
    return whole, groups


def _split(
    rows: Rows, pools: Groups, placed: tuple[int, ...], counted: _Counted, seed: int
) -> tuple[int, ...] | None:
    """A placement that splits one over pools among their units; None where none was found."""

    def watch(nodes: int, value: int | None, bound: int | None) -> bool:  # noqa: ARG001
        return counted.limited(SPLIT_NODES, keeps_plans=False)(nodes, None, None)

    def fill(tasks: list[int], group: tuple[int, ...]) -> tuple[int, ...] | None:
        if len(group) == 1:
            return (0,) * len(tasks)
        place = {task: number for number, task in enumerate(tasks)}
        apart = (tuple(place[task] for task in mine if task in place) for mine in rows.apart)
        some = msgspec.structs.replace(
            rows,
            members=tuple(rows.members[task] for task in tasks),
            costs=np.zeros((len(tasks), len(group)), dtype=np.int64),
            loads=rows.loads[np.ix_(range(len(rows.loads)), tasks, group)],
            capacities=rows.capacities[:, list(group)],
            allowed=rows.allowed[np.ix_(tasks, group)],
            apart=tuple(mine for mine in apart if len(mine) > 1),
            num_units=len(group),
        )
        return _search(some, watch, seed=seed, enough=0).placed

    return checked(rows, split(_every(rows, pools), placed, fill))


def _search(
    rows: Rows,
    watch: Watch,
    *,
    seed: int,
    threads: int = 1,
    enough: int | None = None,
    prove: bool = False,
    start: Sequence[int] | None = None,
    floor: int | None = None,
    pools: Groups = (),
    groups: Groups = (),
) -> Answer:
    """One call of the kernel, on rows over ``pools`` that keep ``groups`` where some are given."""
    width = rows.capacities.shape[1]
    # The table of a pool has the cells of its units' tables together, as far as memory allows.
    cells = max(
        _CELLS, min(_CELLS * max(map(len, pools), default=1), _MOST_CELLS // rows.costs.shape[0])
    )
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
        start,
        floor,
        cells,
        threads,
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
        grown=None if proof is None else _grown(rows.apart or groups, pools, cells, *proof),
    )


def _grown(
    groups: Groups,
    pools: Groups,
    cells: int,
    events: bytes,
    scale: int,
    shift: int,
    target: int,
    without_costs: bool,
    kept: list[int],
    classes: list[list[int]],
) -> Grown:
    tree = Tree(
        target=target,
        scale=scale,
        shift=shift,
        without_costs=without_costs,
        kept=tuple(kept),
        classes=tuple(map(tuple, classes)),
        groups=groups,
        pools=pools,
        cells=cells,
    )
    return Grown(tree, np.frombuffer(events, dtype=np.int64))
