"""What an assignment costs, how full it makes the units, and which rules it breaks."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from optalloc.errors import InputError

if TYPE_CHECKING:
    from optalloc.assignment.problem import AssignmentProblem

FloatArray = npt.NDArray[np.float64]

_FEW = 6  # units that a message lists


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What an assignment costs and which rules it breaks.

    Attributes
    ----------
    objective : float
        Value of the problem's first goal.
    cost : float
        Sum of the costs and of what the tasks left out cost, in the unit of the costs.
    largest_relative_load : float
        Over all units and resources of capacity above 0: load / capacity.
    unit_loads : tuple of float
        One a unit, in the unit of the loads (of the first resource).
    resource_loads : tuple of tuple of float
        One a unit and resource.
    violations : tuple of str
        Empty means feasible.
    """

    objective: float
    cost: float
    largest_relative_load: float
    unit_loads: tuple[float, ...]
    resource_loads: tuple[tuple[float, ...], ...]
    violations: tuple[str, ...] = ()

    @property
    def is_feasible(self) -> bool:
        """Whether every rule of the problem is kept."""
        return not self.violations

    def value(self, goal: str) -> float:
        """The value of the goal ``sum`` or ``bottleneck``."""
        return self.cost if goal == "sum" else self.largest_relative_load


class Broken(NamedTuple):
    """A rule that an assignment breaks: in words, a task to blame, and what would help."""

    what: str
    task: int
    fix: str


def evaluate(
    problem: AssignmentProblem, assignment: Sequence[int] | npt.NDArray[np.int64]
) -> Evaluation:
    """Evaluate the unit of each task (-1: none); see :meth:`AssignmentProblem.evaluate`."""
    chosen = _read(problem, assignment)
    loads, over, fullest = _loads(problem, chosen)
    broken = _pair_rules(problem, chosen) + over + _group_rules(problem, chosen)
    cost = _cost(problem, chosen)
    first = problem.objective.partition("-")[0]
    return Evaluation(
        objective=cost if first == "sum" else fullest,
        cost=cost,
        largest_relative_load=fullest,
        unit_loads=tuple(loads[:, 0].tolist()),
        resource_loads=tuple(tuple(row) for row in loads.tolist()),
        violations=tuple(rule.what for rule in broken),
    )


def broken_rules(
    problem: AssignmentProblem, assignment: Sequence[int] | npt.NDArray[np.int64]
) -> list[Broken]:
    """The rules behind :attr:`Evaluation.violations`, in the same order."""
    chosen = _read(problem, assignment)
    over = _loads(problem, chosen)[1]
    return _pair_rules(problem, chosen) + over + _group_rules(problem, chosen)


def _pair_rules(problem: AssignmentProblem, chosen: list[int]) -> list[Broken]:
    broken: list[Broken] = []
    for task, unit in enumerate(chosen):
        if unit < 0 and not problem.optional[task]:
            what = f"task {task} has no unit"
        elif unit >= 0 and not problem.allowed[task, unit]:
            what = f"task {task} may not run on unit {unit}"
        else:
            continue
        homes = np.flatnonzero(problem.allowed[task]).tolist()
        some = f"one of the units {', '.join(map(str, homes[:_FEW]))}" if homes else "a unit"
        some += " and others" if len(homes) > _FEW else ""
        broken.append(Broken(what, task, f"place task {task} on {some}"))
    return broken


def _read(
    problem: AssignmentProblem, assignment: Sequence[int] | npt.NDArray[np.int64]
) -> list[int]:
    chosen = [int(unit) for unit in assignment]
    if len(chosen) != problem.num_tasks:
        raise InputError(
            f"the assignment names {len(chosen)} units for {problem.num_tasks} tasks",
            pointer="$.assignment",
            fix="name one unit a task",
        )
    for task, unit in enumerate(chosen):
        if not -1 <= unit < problem.num_units:
            raise InputError(
                f"unit {unit} does not exist",
                pointer=f"$.assignment[{task}]",
                fix=f"use a number from 0 to {problem.num_units - 1}",
            )
    return chosen


def _cost(problem: AssignmentProblem, chosen: list[int]) -> float:
    form = problem.resource_forms[0]
    tasks = np.array([t for t, unit in enumerate(chosen) if unit >= 0], dtype=np.int64)
    units = np.array([unit for unit in chosen if unit >= 0], dtype=np.int64)
    skipped = [t for t, unit in enumerate(chosen) if unit < 0 and problem.optional[t]]
    sign = 1 if problem.sense == "min" else -1
    paid = sum((Fraction(repr(problem.skip_costs[t].item())) for t in skipped), Fraction(0))
    if form.cost_tolerance > 0:
        return float(problem.costs[tasks, units].astype(float).sum()) + sign * float(paid)
    return float(Fraction(int(form.costs[tasks, units].sum())) / form.cost_scale + sign * paid)


def _loads(problem: AssignmentProblem, chosen: list[int]) -> tuple[FloatArray, list[Broken], float]:
    """Loads a unit and resource, what is overloaded, and the largest load / capacity."""
    tasks = np.array([t for t, unit in enumerate(chosen) if unit >= 0], dtype=np.int64)
    units = np.array([unit for unit in chosen if unit >= 0], dtype=np.int64)
    width, count = problem.num_units, problem.num_resources
    rooms = problem.capacities_matrix
    raw = np.zeros((width, count))
    over: list[tuple[int, int, Broken]] = []
    fullest = 0.0
    for resource, form in enumerate(problem.resource_forms):
        used = np.zeros(width, dtype=np.int64)
        np.add.at(used, units, form.loads[tasks, units])
        weights = problem.loads_array[tasks, units, resource].astype(float)
        raw[:, resource] = np.bincount(units, weights, minlength=width)
        of = f" of resource {resource}" if count > 1 else ""
        for unit in range(width):
            room = rooms[unit, resource].item()
            if used[unit] > form.capacities[unit]:
                text = f"unit {unit} carries {raw[unit, resource]:.12g} of capacity {room:.12g}{of}"
                choices = problem.allowed[tasks].sum(axis=1) + problem.optional[tasks]
                movable = np.where(choices > 1, form.loads[tasks, units], -1)
                heaviest = int(tasks[np.where(units == unit, movable, -2).argmax()])
                fix = f"move tasks off unit {unit}, for example task {heaviest}"
                over.append((unit, resource, Broken(text, heaviest, fix)))
            if room > 0:
                share = raw[unit, resource] / room
                if form.arithmetic != "float" and used[unit] <= form.capacities[unit]:
                    load = Fraction(int(used[unit])) / form.load_scales[unit]
                    share = float(load / Fraction(repr(room)))
                fullest = max(fullest, share)
    return raw, [rule for _, _, rule in sorted(over)], fullest


def _group_rules(problem: AssignmentProblem, chosen: list[int]) -> list[Broken]:
    broken: list[Broken] = []
    for group in problem.together:
        if len({chosen[task] for task in group}) > 1:
            names = ", ".join(map(str, group))
            stray = next(task for task in group if chosen[task] != chosen[group[0]])
            fix = f"give tasks {names} one unit"
            broken.append(Broken(f"tasks {names} are not together", stray, fix))
    for group in problem.apart:
        seen: dict[int, int] = {}
        for task in group:
            unit = chosen[task]
            if unit >= 0 and unit in seen:
                what = f"tasks {seen[unit]} and {task} must stay apart and share unit {unit}"
                broken.append(Broken(what, task, f"give task {task} another unit"))
            seen.setdefault(unit, task)
    return broken
