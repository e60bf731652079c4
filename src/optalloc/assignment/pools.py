"""Pools: identical units as one unit of their summed capacity, which bounds what they can hold.

Formulation
-----------
Units i of one pool P have the same costs, loads and pairs. With y_Pj = sum_{i in P} x_ij,

    minimise sum_Pj c_Pj y_Pj, y binary
    sum_P y_Pj = 1 for each task j
    sum_j w_rPj y_Pj <= sum_{i in P} L_ri for each resource r of each pool P        :func:`pooled`

Every assignment x gives such a y of the same cost, so that the optimum over pools, a problem of a
few units, is a lower bound; and a search tree that refuses every cost up to z over pools refuses it
over units. Of tasks that stay apart a pool may take as many as it has units: a resource of which
each unit holds 1. Where a pool holds many tasks the bound often
is the optimum: of all the plans of that cost over pools some can be split among the units,
:func:`split`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from optalloc.assignment.arrays import BoolArray
from optalloc.assignment.integers import IntArray, IntegerForm
from optalloc.assignment.rows import Rows

Groups = tuple[tuple[int, ...], ...]

FIRST_NODES = 200
"""Of a search of the units, before the bound over pools is asked for."""
POOL_NODES = 5_000
SPLIT_NODES = 1_000
"""Of each pool."""


class Pooled(NamedTuple):
    """Tables of the problem over pools, shaped as those it was made from."""

    costs: IntArray
    loads: IntArray
    capacities: IntArray
    allowed: BoolArray


def find_pools(form: IntegerForm | Rows) -> Groups | None:
    """The units in groups of identical ones, each in one; None where no two are identical.

    The unit of :class:`Rows` that takes what is left out is in no group.

    Complexity: O(num_tasks * num_units * num_resources).
    """
    groups: dict[object, list[int]] = {}
    loads, costs = np.where(form.allowed, form.loads, 0), np.where(form.allowed, form.costs, 0)
    count = form.num_units if isinstance(form, Rows) else form.costs.shape[1]
    for unit in range(count):
        tables = (form.allowed[:, unit], costs[:, unit], loads[..., unit])
        name = tuple(table.tobytes() for table in (*tables, form.capacities[..., unit]))
        groups.setdefault(name, []).append(unit)
    if len(groups) == count:
        return None
    return tuple(map(tuple, groups.values()))


def pooled(form: IntegerForm | Rows, groups: Groups) -> Pooled:
    """The problem over pools.

    A capacity counts up to the last multiple of the common divisor of its loads, and no further
    than all loads together.
    """
    first = [group[0] for group in groups]
    sizes = np.array([len(group) for group in groups], dtype=np.int64)
    allowed = form.allowed[:, first]
    loads = np.where(allowed, form.loads[..., first], 0)
    divisors = np.maximum(np.gcd.reduce(loads, axis=-2), 1)
    rooms = form.capacities[..., first] // divisors * divisors
    most = loads.sum(axis=-2)
    sums = np.where(rooms > most // sizes, most, rooms * sizes)
    return Pooled(form.costs[:, first], loads, sums, allowed)


def merge(groups: Groups, placed: Sequence[int]) -> list[int]:
    """The pool of each task of a plan over units, a plan over pools of the same cost."""
    pool_of = {unit: pool for pool, group in enumerate(groups) for unit in group}
    return [pool_of[unit] for unit in placed]


def split(
    groups: Groups,
    placed: Sequence[int],
    fill: Callable[[list[int], tuple[int, ...]], Sequence[int] | None],
) -> list[int] | None:
    """The unit of each task of a plan over pools, split among their units; None where that fails.

    ``fill(tasks, group)`` places tasks on units of a group: the place of each in the group, or
    None.
    """
    units = [0] * len(placed)
    for pool, group in enumerate(groups):
        tasks = [task for task, chosen in enumerate(placed) if chosen == pool]
        if not tasks:
            continue
        found = fill(tasks, group)
        if found is None:
            return None
        for task, place in zip(tasks, found, strict=True):
            units[task] = group[place]
    return units
