"""Twins: which units the proof checker takes for identical, and what they hold together at most."""

from __future__ import annotations

from itertools import combinations

import msgspec
import numpy as np

from optalloc.assignment.check_facts import Facts, FaultError, Longs

Parts = tuple[tuple[int, ...], ...]


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


def pooled(facts: Facts, groups: Parts, apart: Parts) -> Facts:
    """The problem where each group of identical units is one unit of their summed capacity.

    Every assignment is one of these at the same cost, so that what is refused here is refused.
    Tasks that stay apart may meet on a pool; of those of a group in ``apart`` as many as the pool
    has units: a further resource, of which each unit holds 1.

    Raises
    ------
    FaultError
        If the groups do not hold each unit once, a group is not of identical units, or one in
        ``apart`` is of tasks that need not stay apart.
    """
    units = facts.num_units
    if sorted(unit for group in groups for unit in group) != list(range(units)):
        raise FaultError("the pools do not hold each unit once")
    names = alike(facts, facts.costs)
    if not all(group and (names[list(group)] == names[group[0]]).all() for group in groups):
        raise FaultError("a pool is of units that differ")
    check_apart(facts, apart)
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
    takes = np.zeros((len(apart), *allowed.shape), dtype=np.int64)
    for number, members in enumerate(apart):
        takes[number, list(members), : len(groups)] = allowed[list(members), : len(groups)]
    holds = np.minimum(np.where(np.arange(len(first)) < len(groups), sizes, 0), takes.sum(axis=1))
    return msgspec.structs.replace(
        facts,
        costs=facts.costs[:, first],
        loads=np.concatenate([loads, takes]),
        capacities=np.concatenate([capacities, holds]),
        rooms=(),
        allowed=allowed,
        foes=np.zeros_like(facts.foes),
        num_units=len(groups),
    )


def check_apart(facts: Facts, groups: Parts) -> None:
    """Raise FaultError where a group is not of tasks that stay apart."""
    tasks = len(facts.foes)
    for group in groups:
        if not all(0 <= j < tasks for j in group) or not all(
            facts.foes[pair] for pair in combinations(group, 2)
        ):
            raise FaultError("a group is of tasks that need not stay apart")
