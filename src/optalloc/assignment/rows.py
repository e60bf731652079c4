"""Rows: any assignment problem as integers, with what reduces exactly already reduced.

    minimise    sum_bu c_bu x_bu                  x_bu = 1: block b is on unit u
    subject to  sum_u x_bu = 1                    each block b is placed once
                sum_b w_rbu x_bu <= L_ru          each resource r of each unit u
                sum_{b in G} x_bu <= 1            each group G that stays apart, each real unit u

Three forms reduce without loss. Tasks that stay together become one *block*: their costs and loads
add, and it may use the units that all of them may. Tasks that may be left out get one more unit,
the last, which costs what leaving them out costs, takes no load and keeps nobody apart. Fixed and
forbidden pairs are pairs that are not allowed. With one resource and no group that stays apart the
rows are a plain problem (:meth:`Rows.as_plain`).

The largest relative load of a placement is at most T exactly if every unit carries at most
floor(T * capacity): :meth:`Rows.within`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from optalloc.assignment.arrays import BoolArray, Groups
from optalloc.assignment.integers import Arithmetic, IntArray, IntegerForm, integer_form

if TYPE_CHECKING:
    from optalloc.assignment.problem import AssignmentProblem


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    """An assignment problem in integers after the reductions.

    Attributes
    ----------
    members : tuple of tuple of int
        The tasks of each block.
    costs : ndarray of int64, shape (num_blocks, width)
        ``width`` is the number of units, and one more where a block may be left out.
    loads : ndarray of int64, shape (num_resources, num_blocks, width)
        0 where the pair is not allowed.
    capacities : ndarray of int64, shape (num_resources, width)
    allowed : ndarray of bool, shape (num_blocks, width)
        Pairs that are allowed and fit into the empty unit.
    apart : tuple of tuple of int
        Groups of at least two blocks of which each real unit takes at most one.
    rooms : tuple of tuple of Fraction
        ``rooms[resource][unit]`` is the capacity before it was rounded down to an integer.
    num_units : int
        Real units; the one of the blocks left out does not count.
    cost_scale : Fraction
        Costs here / costs given; negative where the problem maximises.
    arithmetic : {"exact", "scaled", "float"}
    """

    members: Groups
    costs: IntArray
    loads: IntArray
    capacities: IntArray
    allowed: BoolArray
    apart: Groups
    rooms: tuple[tuple[Fraction, ...], ...]
    num_units: int
    cost_scale: Fraction
    arithmetic: Arithmetic

    @property
    def is_plain(self) -> bool:
        """One resource, and no group that stays apart."""
        return self.capacities.shape[0] == 1 and not self.apart

    def as_plain(self) -> AssignmentProblem:
        """The same as a plain problem; only where :attr:`is_plain`."""
        from optalloc.assignment.problem import AssignmentProblem

        assert self.is_plain
        return AssignmentProblem(self.costs, self.loads[0], self.capacities[0], self.allowed)

    def value(self, placed: Sequence[int]) -> int:
        """Sum of the integer costs of a unit for each block."""
        return sum(int(self.costs[block, unit]) for block, unit in enumerate(placed))

    def used(self, placed: Sequence[int]) -> IntArray:
        """Integer loads of a placement, shape (num_resources, width)."""
        used = np.zeros_like(self.capacities)
        for block, unit in enumerate(placed):
            used[:, unit] += self.loads[:, block, unit]
        return used

    def is_feasible(self, placed: Sequence[int]) -> bool:
        """Whether a unit for each block keeps every row."""
        if not all(self.allowed[block, unit] for block, unit in enumerate(placed)):
            return False
        for group in self.apart:
            real = [placed[block] for block in group if placed[block] < self.num_units]
            if len(set(real)) < len(real):
                return False
        return bool((self.used(placed) <= self.capacities).all())

    def fullest(self, placed: Sequence[int]) -> Fraction:
        """The largest load relative to its capacity, over capacities above 0."""
        used = self.used(placed)
        shares = [
            Fraction(int(used[resource, unit])) / room
            for resource, rooms in enumerate(self.rooms)
            for unit, room in enumerate(rooms)
            if room > 0
        ]
        return max(shares, default=Fraction(0))

    def within(self, share: Fraction) -> Rows:
        """The same where no relative load may exceed ``share``."""
        capacities = self.capacities.copy()
        for resource, rooms in enumerate(self.rooms):
            for unit, room in enumerate(rooms):
                most = math.floor(share * room)
                capacities[resource, unit] = min(int(capacities[resource, unit]), most)
        fits = (self.loads <= capacities[:, None, :]).all(axis=0)
        return msgspec.structs.replace(self, capacities=capacities, allowed=self.allowed & fits)

    def share_above(self, share: Fraction) -> Fraction | None:
        """The least relative load above ``share`` that a unit could have; None: there is none."""
        nexts = [
            (math.floor(share * room) + 1) / room
            for resource, rooms in enumerate(self.rooms)
            for unit, room in enumerate(rooms)
            if room > 0 and math.floor(share * room) < int(self.capacities[resource, unit])
        ]
        return min(nexts, default=None)

    def without_costs(self) -> Rows:
        """The same question with every cost 0."""
        return msgspec.structs.replace(self, costs=np.zeros_like(self.costs))

    def assignment(self, placed: Sequence[int]) -> tuple[int, ...]:
        """The unit of each task (-1: left out) from the unit of each block."""
        units = [-1] * sum(map(len, self.members))
        for tasks, unit in zip(self.members, placed, strict=True):
            for task in tasks:
                units[task] = int(unit) if unit < self.num_units else -1
        return tuple(units)

    def placement(self, assignment: Sequence[int]) -> tuple[int, ...]:
        """The unit of each block from that of each task; :meth:`assignment` the other way round."""
        units = (assignment[tasks[0]] for tasks in self.members)
        return tuple(unit if unit >= 0 else self.num_units for unit in units)


def reduce_rows(problem: AssignmentProblem) -> Rows:
    """The rows of a problem.

    Complexity: O(num_tasks * num_units * num_resources) time and memory.
    """
    forms = problem.resource_forms
    members, block_of = _blocks(problem)
    count, units = len(members), problem.num_units
    costs, cost_scale, kind = _costs(problem, forms[0])
    leave = np.array([bool(problem.optional[list(tasks)].all()) for tasks in members], np.bool_)
    width = units + int(leave.any())
    allowed = np.zeros((count, width), dtype=np.bool_)
    block_costs = np.zeros((count, width), dtype=np.int64)
    loads = np.zeros((len(forms), count, width), dtype=np.int64)
    capacities = np.zeros((len(forms), width), dtype=np.int64)
    fits = np.logical_and.reduce([form.allowed for form in forms])
    for resource, form in enumerate(forms):
        capacities[resource, :units] = form.capacities
    for block, tasks in enumerate(members):
        rows = list(tasks)
        allowed[block, :units] = fits[rows].all(axis=0)
        block_costs[block, :units] = costs[rows, :units].sum(axis=0)
        for resource, form in enumerate(forms):
            loads[resource, block, :units] = np.where(fits[rows], form.loads[rows], 0).sum(axis=0)
        if leave[block]:
            allowed[block, units] = True
            block_costs[block, units] = costs[rows, units].sum()
    apart = {tuple(sorted(block_of[task] for task in group)) for group in problem.apart}
    for group in apart:
        for block in group:
            if group.count(block) > 1:  # together and apart at once: no unit can hold it
                allowed[block, :units] = False
    allowed[:, :units] &= (loads[:, :, :units] <= capacities[:, None, :units]).all(axis=0)
    loads[:, ~allowed] = 0
    block_costs[~allowed] = 0
    rooms = tuple(
        tuple(
            Fraction(repr(room)) * scale
            for room, scale in zip(
                problem.capacities_matrix[:, resource].tolist(), form.load_scales, strict=True
            )
        )
        for resource, form in enumerate(forms)
    )
    groups = {tuple(sorted(set(group))) for group in apart}
    kinds = [kind, *(form.arithmetic for form in forms)]
    return Rows(
        members=members,
        costs=block_costs,
        loads=loads,
        capacities=capacities,
        allowed=allowed,
        apart=tuple(sorted(group for group in groups if len(group) > 1)),
        rooms=rooms,
        num_units=units,
        cost_scale=cost_scale,
        arithmetic="float" if "float" in kinds else "scaled" if "scaled" in kinds else "exact",
    )


def _blocks(problem: AssignmentProblem) -> tuple[Groups, list[int]]:
    """Tasks joined by groups that stay together, and the block of each task."""
    first = list(range(problem.num_tasks))

    def root(task: int) -> int:
        while first[task] != task:
            first[task] = first[first[task]]
            task = first[task]
        return task

    for group in problem.together:
        for task in group[1:]:
            one, other = root(group[0]), root(task)
            first[max(one, other)] = min(one, other)
    blocks: dict[int, list[int]] = {}
    for task in range(problem.num_tasks):
        blocks.setdefault(root(task), []).append(task)
    block_of = [0] * problem.num_tasks
    for number, tasks in enumerate(blocks.values()):
        for task in tasks:
            block_of[task] = number
    return tuple(map(tuple, blocks.values())), block_of


def _costs(problem: AssignmentProblem, form: IntegerForm) -> tuple[IntArray, Fraction, Arithmetic]:
    """Integer costs of each pair and, in one more column, of leaving each task out."""
    tasks, units = problem.costs.shape
    if not problem.optional.any():
        none = np.zeros((tasks, 1), dtype=np.int64)
        return np.concatenate([form.costs, none], axis=1), form.cost_scale, form.arithmetic
    sign = 1 if problem.sense == "min" else -1
    table = np.concatenate([problem.costs, sign * problem.skip_costs[:, None]], axis=1)
    wide = integer_form(
        table,
        np.zeros(table.shape, dtype=np.int64),
        np.zeros(units + 1, dtype=np.int64),
        np.concatenate([problem.allowed, problem.optional[:, None]], axis=1),
        maximise=problem.sense == "max",
    )
    return wide.costs, wide.cost_scale, wide.arithmetic
