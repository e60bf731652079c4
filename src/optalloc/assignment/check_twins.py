"""Twins: which units the proof checker takes for identical, and what they hold together at most."""

from __future__ import annotations

import msgspec
import numpy as np

from optalloc.assignment.check_facts import Facts, FaultError, Longs


def alike(facts: Facts, costs: Longs) -> Longs:
    """A number of each unit, equal for units of the same costs, pairs, loads and capacities.

    Loads count in their common divisor, and capacities no further than all loads together.
    """
    names: dict[object, int] = {}
    numbers = []
    for unit in range(facts.allowed.shape[1]):
        rows = facts.allowed[:, unit]
        paid = costs[rows, unit]
        name: list[object] = [unit < facts.num_units, rows.tobytes(), paid.tobytes()]
        for resource in range(len(facts.loads)):
            loads = facts.loads[resource, rows, unit]
            loads, room = by_divisor(loads, int(facts.capacities[resource, unit]))
            name += [loads.tobytes(), min(room, int(loads.sum()))]
        numbers.append(names.setdefault(tuple(name), unit))
    return np.array(numbers)


def by_divisor(loads: Longs, room: int) -> tuple[Longs, int]:
    """The same knapsack in units of the common divisor of its loads."""
    divisor = max(int(np.gcd.reduce(loads)), 1) if len(loads) else 1
    return loads // divisor, room // divisor


def pooled(facts: Facts, groups: tuple[tuple[int, ...], ...]) -> Facts:
    """The problem where each group of identical units is one unit of their summed capacity.

    Every assignment is one of these at the same cost, so that what is refused here is refused.
    Tasks that stay apart may meet on a pool.

    Raises
    ------
    FaultError
        If the groups do not hold each unit once, or a group is not of identical units.
    """
    units = facts.num_units
    if sorted(unit for group in groups for unit in group) != list(range(units)):
        raise FaultError("the pools do not hold each unit once")
    names = alike(facts, facts.costs)
    if not all(group and (names[list(group)] == names[group[0]]).all() for group in groups):
        raise FaultError("a pool is of units that differ")
    first = [group[0] for group in groups] + list(range(units, facts.allowed.shape[1]))
    sizes = [len(group) for group in groups] + [1] * (len(first) - len(groups))
    allowed = facts.allowed[:, first]
    loads = facts.loads[:, :, first] * allowed
    capacities = facts.capacities[:, first]
    for resource in range(len(loads)):
        for pool, size in enumerate(sizes):
            mine, room = by_divisor(loads[resource, :, pool], int(capacities[resource, pool]))
            loads[resource, :, pool] = mine
            capacities[resource, pool] = min(size * room, int(mine.sum()))
    return msgspec.structs.replace(
        facts,
        costs=facts.costs[:, first],
        loads=loads,
        capacities=capacities,
        rooms=(),
        allowed=allowed,
        foes=np.zeros_like(facts.foes),
        num_units=len(groups),
    )
