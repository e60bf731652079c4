"""Pools: identical units as one unit of their summed capacity, which bounds what they can hold.

Formulation
-----------
Units i of one pool P have the same costs, loads and pairs. With y_Pj = sum_{i in P} x_ij,

    minimise sum_Pj c_Pj y_Pj, y binary
    sum_P y_Pj = 1 for each task j
    sum_j w_Pj y_Pj <= sum_{i in P} L_i for each pool P        :func:`pooled`

Every assignment x gives such a y of the same cost, so that the optimum over pools, a problem of a
few units, is a lower bound; and a search tree that refuses every cost up to z over pools refuses it
over units. Where a pool holds many tasks the bound often is the optimum: of all the plans of that
cost over pools some can be split among the units, :func:`split`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from optalloc import _native
from optalloc.assignment.integers import IntArray, IntegerForm

Watch = Callable[[int, int | None, list[int] | None, int], bool]
Groups = tuple[tuple[int, ...], ...]


def find_pools(form: IntegerForm) -> Groups | None:
    """The units in groups of identical ones, each in one; None where no two are identical.

    Complexity: O(num_tasks * num_units).
    """
    groups: dict[object, list[int]] = {}
    loads, costs = np.where(form.allowed, form.loads, 0), np.where(form.allowed, form.costs, 0)
    for unit, room in enumerate(form.capacities.tolist()):
        tables = (form.allowed[:, unit], costs[:, unit], loads[:, unit])
        name = (room, *(column.tobytes() for column in tables))
        groups.setdefault(name, []).append(unit)
    if len(groups) == len(form.capacities):
        return None
    return tuple(map(tuple, groups.values()))


def pooled(form: IntegerForm, groups: Groups) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Costs, loads, capacities and allowed pairs (0 or 1) of the problem over pools.

    A capacity counts up to the last multiple of the common divisor of its loads, and no further
    than all loads together.
    """
    first = [group[0] for group in groups]
    allowed = form.allowed[:, first]
    loads = np.where(allowed, form.loads[:, first], 0)
    rooms = []
    for pool, group in enumerate(groups):
        divisor = max(int(np.gcd.reduce(loads[:, pool])), 1)
        room = int(form.capacities[group[0]]) // divisor * divisor
        rooms.append(min(len(group) * room, int(loads[:, pool].sum())))
    return form.costs[:, first], loads, np.array(rooms, dtype=np.int64), allowed.astype(np.uint8)


def split(
    form: IntegerForm, groups: Groups, placed: Sequence[int], watch: Watch, seed: int
) -> list[int] | None:
    """The unit of each task of a plan over pools, split among their units; None where that fails.

    ``watch`` ends the search of one pool, as it ends that of the kernel.
    """
    units = [0] * len(placed)
    for pool, group in enumerate(groups):
        tasks = [task for task, chosen in enumerate(placed) if chosen == pool]
        if not tasks:
            continue
        loads = form.loads[np.ix_(tasks, group)]
        within = np.ones(loads.shape, dtype=np.uint8)
        _, _, found, *_ = _native.solve_assignment(
            np.zeros_like(loads), loads, form.capacities[list(group)], within, watch, seed
        )
        if found is None:
            return None
        for task, place in zip(tasks, found, strict=True):
            units[task] = group[place]
    return units
