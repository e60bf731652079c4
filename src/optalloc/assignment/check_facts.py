"""Facts: what the proof checker knows of a problem, in integers.

It is read from the problem's own arrays, and not from the reduction that the solvers use; the
integers are taken only where they say the same as the numbers given. Tasks that stay together are
one task here, numbered in the order of their first member; what may be left out has one more unit,
the last, which takes no load and keeps nobody apart.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from optalloc.assignment.check_integers import are_costs, are_resources
from optalloc.assignment.integers import integer_form
from optalloc.assignment.problem import AssignmentProblem

Longs = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class FaultError(Exception):
    """The log does not prove its claim."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """N tasks (those that stay together count once), W units, R resources.

    Attributes
    ----------
    costs : ndarray of int64, shape (N, W)
        To be minimised.
    loads : ndarray of int64, shape (R, N, W)
    capacities : ndarray of int64, shape (R, W)
    rooms : tuple of tuple of Fraction, shape (R, num_units)
        The capacities before they were rounded down.
    allowed, foes : ndarray of bool, shapes (N, W) and (N, N)
        Pairs that are allowed and fit into the empty unit; tasks that no unit holds both.
    members : tuple of tuple of int
        The problem's tasks in each task here.
    num_units : int
        Units of the problem: W, or W - 1.
    cost_scale : Fraction
        Costs here / costs given; negative where the problem maximises.
    is_rounded : bool
        Integers are rounded down: what they prove is a bound.
    """

    costs: Longs
    loads: Longs
    capacities: Longs
    rooms: tuple[tuple[Fraction, ...], ...]
    allowed: Bools
    foes: Bools
    members: tuple[tuple[int, ...], ...]
    num_units: int
    cost_scale: Fraction
    is_rounded: bool

    def limited(self, share: Fraction, *, strict: bool) -> Facts:
        """The same for plans of a largest relative load at most, or below, ``share``."""
        capacities = self.capacities.copy()
        for resource, rooms in enumerate(self.rooms):
            for unit, room in enumerate(rooms):
                if room > 0:
                    most = math.ceil(share * room) - 1 if strict else math.floor(share * room)
                    capacities[resource, unit] = min(int(capacities[resource, unit]), most)
        fits = (self.loads <= capacities[:, None, :]).all(axis=0)
        return msgspec.structs.replace(self, capacities=capacities, allowed=self.allowed & fits)

    def placed(self, assignment: tuple[int, ...]) -> list[int]:
        """The unit of each task here of a plan that keeps the groups together."""
        return [assignment[tasks[0]] % self.costs.shape[1] for tasks in self.members]

    def cost(self, placed: list[int]) -> int:
        """Sum of the costs."""
        return sum(int(self.costs[task, unit]) for task, unit in enumerate(placed))

    def fullest(self, placed: list[int]) -> Fraction:
        """The largest load relative to its capacity, over capacities above 0."""
        used = np.zeros_like(self.capacities)
        for task, unit in enumerate(placed):
            used[:, unit] += self.loads[:, task, unit]
        shares = [
            int(used[resource, unit]) / room
            for resource, rooms in enumerate(self.rooms)
            for unit, room in enumerate(rooms)
            if room > 0
        ]
        return max(shares, default=Fraction(0))


class Normal(NamedTuple):
    """Costs as ``offset + divisor * cost``, with ``cost`` 0 for each task's cheapest pair."""

    costs: Longs
    offset: int
    divisor: int

    @property
    def dearest(self) -> int:
        """No plan has a normal cost above this."""
        return int(self.costs.max(axis=1).sum()) if self.costs.size else 0


def normal_costs(facts: Facts) -> Normal:
    """The normal costs of the allowed pairs; 0 elsewhere."""
    if not facts.allowed.any(axis=1).all():
        return Normal(np.zeros_like(facts.costs), 0, 1)
    low = np.where(facts.allowed, facts.costs, np.iinfo(np.int64).max).min(axis=1)
    above = np.where(facts.allowed, facts.costs - low[:, None], 0)
    divisor = max(int(np.gcd.reduce(above, axis=None)), 1) if above.size else 1
    return Normal(above // divisor, int(low.sum()), divisor)


def read_facts(problem: AssignmentProblem) -> Facts:
    """Read a problem.

    Raises
    ------
    FaultError
        If its integers do not say what its numbers say.

    Complexity: O(num_tasks * (num_tasks + num_units * num_resources)) time and memory.
    """
    if not are_resources(problem):
        raise FaultError("the integers of the instance are not its loads and capacities")
    members = _joined(problem)
    home = {task: number for number, tasks in enumerate(members) for task in tasks}
    count, units, forms = len(members), problem.num_units, problem.resource_forms
    may_leave = [bool(problem.optional[list(tasks)].all()) for tasks in members]
    width = units + (1 if any(may_leave) else 0)
    costs_of, cost_scale, cost_kind = _costs(problem)
    costs = np.zeros((count, width), dtype=np.int64)
    allowed = np.zeros((count, width), dtype=np.bool_)
    loads = np.zeros((len(forms), count, width), dtype=np.int64)
    capacities = np.zeros((len(forms), width), dtype=np.int64)
    for resource, form in enumerate(forms):
        capacities[resource, :units] = form.capacities
    for number, tasks in enumerate(members):
        mine = list(tasks)
        costs[number] = costs_of[mine, :width].sum(axis=0)
        allowed[number, :units] = np.all([form.allowed[mine].all(axis=0) for form in forms], axis=0)
        allowed[number, units:] = may_leave[number]
        for resource, form in enumerate(forms):
            # A load above its capacity is stored as the capacity + 1, and the pair is not allowed.
            loads[resource, number, :units] = form.loads[mine].sum(axis=0)
    foes = np.zeros((count, count), dtype=np.bool_)
    for group in problem.apart:
        for one in group:
            for other in group:
                foes[home[one], home[other]] |= one != other
    allowed[foes.diagonal(), :units] = False  # to stay together and apart
    np.fill_diagonal(foes, False)
    loads *= allowed
    allowed &= (loads <= capacities[:, None, :]).all(axis=0)
    rooms = tuple(
        tuple(
            Fraction(repr(room)) * scale
            for room, scale in zip(column, form.load_scales, strict=True)
        )
        for column, form in zip(problem.capacities_matrix.T.tolist(), forms, strict=True)
    )
    return Facts(
        costs=costs,
        loads=loads,
        capacities=capacities,
        rooms=rooms,
        allowed=allowed,
        foes=foes,
        members=members,
        num_units=units,
        cost_scale=cost_scale,
        is_rounded="float" in (cost_kind, *(form.arithmetic for form in forms)),
    )


def _joined(problem: AssignmentProblem) -> tuple[tuple[int, ...], ...]:
    """The parts that groups which stay together make of the tasks."""
    label = np.arange(problem.num_tasks)
    for group in problem.together:
        for task in group:
            label[label == label[task]] = label[group[0]]
    parts: dict[int, list[int]] = {}
    for task, name in enumerate(label.tolist()):
        parts.setdefault(name, []).append(task)
    return tuple(map(tuple, parts.values()))


def _costs(problem: AssignmentProblem) -> tuple[Longs, Fraction, str]:
    """Integer costs of each pair and, in a last column, of leaving a task out."""
    sign = -1 if problem.sense == "max" else 1
    # Where nothing may be left out, the skip costs are 0, and may be of another type.
    skips = problem.skip_costs if problem.optional.any() else problem.costs[:, 0] * 0
    given = np.concatenate([problem.costs, sign * skips[:, None]], axis=1)
    form = integer_form(
        given,
        np.zeros((problem.num_tasks, problem.num_units + 1), dtype=np.int64),
        np.zeros(problem.num_units + 1, dtype=np.int64),
        np.column_stack([problem.allowed, problem.optional]),
        maximise=problem.sense == "max",
    )
    if not are_costs(given, form):
        raise FaultError("the integers of the instance are not its costs")
    return form.costs, form.cost_scale, form.arithmetic
