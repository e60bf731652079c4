"""Enumeration of every form: the oracle of the methods that reduce, price or branch.

Tasks are placed one by one, or left out where they may be. Only the definition of the problem is
used: capacities prune, groups are looked at as soon as a second member is placed, and the goals are
compared in order, as exact fractions, for each complete assignment. Nothing is pruned by cost.
Time O(prod_j (|A_j| + 1) N), memory O(N).
"""

from __future__ import annotations

import math
import time
from fractions import Fraction

from optalloc.assignment.enumerate import refuse_too_many
from optalloc.assignment.problem import AssignmentProblem
from optalloc.assignment.result import AssignmentResult
from optalloc.result import Bounds, Incumbent, Stats, Termination
from optalloc.stop import Never, OnProgress, Progress, StopRule

Goals = tuple[Fraction | int, ...]


def num_choices(problem: AssignmentProblem) -> int:
    """Ways to give each task a unit it fits into alone, or none where it may be left out."""
    return math.prod(len(choices) for choices in _choices(problem))


def solve_enumerate_forms(
    problem: AssignmentProblem,
    stop: StopRule | None = None,
    on_progress: OnProgress | None = None,
) -> AssignmentResult:
    """Try everything.

    Raises
    ------
    InputError
        If there are more assignments or tasks than the limits of ``enumerate``.
    """
    choices = _choices(problem)
    count = math.prod(map(len, choices))
    refuse_too_many(count, problem.num_tasks)
    search = _Search(problem, choices, stop, on_progress)
    try:
        whole = search.visit(0)
    except KeyboardInterrupt:
        whole = False
    if not whole:
        termination, message = Termination.LIMIT, "stopped before every assignment was tried"
    elif search.best is None:
        termination, message = Termination.INFEASIBLE, "no assignment keeps every rule"
    else:
        termination, message = Termination.OPTIMAL, "every assignment was tried"
    placed = search.best
    primal = None if placed is None else problem.evaluate(placed).objective
    kinds = {form.arithmetic for form in problem.resource_forms}
    return AssignmentResult(
        termination=termination,
        bounds=Bounds(primal=primal, dual=primal if whole else None),
        stats=Stats(
            wall_s=search.elapsed_s,
            cpu_s=time.process_time() - search.cpu,
            nodes=search.nodes,
            configurations=count,
        ),
        incumbents=tuple(search.incumbents),
        method="enumerate",
        arithmetic="float" if "float" in kinds else "scaled" if "scaled" in kinds else "exact",
        num_units=problem.num_units,
        placed=placed,
        message=message,
    )


def _choices(problem: AssignmentProblem) -> list[list[int]]:
    choices: list[list[int]] = []
    for task in range(problem.num_tasks):
        units = [
            unit
            for unit in range(problem.num_units)
            if all(form.allowed[task, unit] for form in problem.resource_forms)
        ]
        choices.append([*units, -1] if problem.optional[task] else units)
    return choices


class _Search:
    """The state of one enumeration."""

    def __init__(
        self,
        problem: AssignmentProblem,
        choices: list[list[int]],
        stop: StopRule | None,
        on_progress: OnProgress | None,
    ) -> None:
        self.problem, self.choices = problem, choices
        self.stop: StopRule = stop if stop is not None else Never()
        self.on_progress = on_progress
        self.best: tuple[int, ...] | None = None
        self.best_goals: Goals = ()
        self.nodes = 0
        self.incumbents: list[Incumbent] = []
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        tasks, units = problem.num_tasks, problem.num_units
        self.placed = [-1] * tasks
        self.loads = [form.loads.tolist() for form in problem.resource_forms]
        self.capacities = [form.capacities.tolist() for form in problem.resource_forms]
        self.used = [[0] * units for _ in self.loads]
        self.costs, self.skips = _whole_costs(problem)
        self.goals = problem.objective.split("-then-")
        self.rooms = [
            [Fraction(repr(x)) * s for x, s in zip(rooms, form.load_scales, strict=True)]
            for rooms, form in zip(
                problem.capacities_matrix.T.tolist(), problem.resource_forms, strict=True
            )
        ]
        self.friends: list[list[int]] = [[] for _ in range(tasks)]
        self.enemies: list[list[int]] = [[] for _ in range(tasks)]
        for groups, lists in ((problem.together, self.friends), (problem.apart, self.enemies)):
            for group in groups:
                for task in group:
                    lists[task] += [other for other in group if other < task]

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self.wall

    def visit(self, task: int) -> bool:
        """Place this task and all after it in every way; whether that ran to its end."""
        if task == len(self.placed):
            self._compare()
            return True
        for unit in self.choices[task]:
            if any(self.placed[other] != unit for other in self.friends[task]):
                continue
            if unit >= 0 and any(self.placed[other] == unit for other in self.enemies[task]):
                continue
            if not self._fits(task, unit):
                continue
            self.nodes += 1
            if self.nodes % 4096 == 0 and self.stop(self._progress()):
                return False
            self._add(task, unit, 1)
            self.placed[task] = unit
            whole = self.visit(task + 1)
            self.placed[task] = -1
            self._add(task, unit, -1)
            if not whole:
                return False
        return True

    def _fits(self, task: int, unit: int) -> bool:
        return unit < 0 or all(
            used[unit] + loads[task][unit] <= rooms[unit]
            for used, loads, rooms in zip(self.used, self.loads, self.capacities, strict=True)
        )

    def _add(self, task: int, unit: int, sign: int) -> None:
        if unit >= 0:
            for used, loads in zip(self.used, self.loads, strict=True):
                used[unit] += sign * loads[task][unit]

    def _compare(self) -> None:
        goals: Goals = tuple(
            self._cost() if goal == "sum" else self._fullest() for goal in self.goals
        )
        if self.best is None or goals < self.best_goals:
            self.best, self.best_goals = tuple(self.placed), goals
            value = self.problem.evaluate(self.best).objective
            self.incumbents.append(Incumbent(elapsed_s=self.elapsed_s, value=value))
            if self.on_progress is not None:
                self.on_progress(self._progress())

    def _cost(self) -> int:
        return sum(
            self.costs[task][unit] if unit >= 0 else self.skips[task]
            for task, unit in enumerate(self.placed)
        )

    def _fullest(self) -> Fraction:
        return max(
            (
                load / room
                for used, rooms in zip(self.used, self.rooms, strict=True)
                for load, room in zip(used, rooms, strict=True)
                if room > 0
            ),
            default=Fraction(0),
        )

    def _progress(self) -> Progress:
        value = self.incumbents[-1].value if self.incumbents else None
        return Progress(elapsed_s=self.elapsed_s, incumbent=value, nodes=self.nodes)


def _whole_costs(problem: AssignmentProblem) -> tuple[list[list[int]], list[int]]:
    """Costs to be minimised, of the pairs and of leaving out, as integers of one scale.

    Leaving out is paid for in either sense, so it counts as a cost here.
    """
    form = problem.resource_forms[0]
    scale = abs(form.cost_scale)
    skips = [Fraction(repr(cost)) for cost in problem.skip_costs.tolist()]
    factor = math.lcm(*(skip.denominator for skip in skips), scale.numerator)
    by_pair = Fraction(factor) / scale
    assert by_pair.denominator == 1
    costs = [[cost * by_pair.numerator for cost in row] for row in form.costs.tolist()]
    return costs, [int(skip * factor) for skip in skips]
