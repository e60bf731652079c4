"""Why nothing is feasible: the smallest set of tasks and units that conflict, and what would help.

Three reasons are tried, the plainest first: a task that fits on no unit; tasks whose loads together
exceed all units they may use; tasks that no distribution fits (found by dropping, one by one, tasks
and units without which the rest is still infeasible).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from fractions import Fraction

import msgspec
import numpy as np

from optalloc.assignment.arrays import Groups
from optalloc.assignment.problem import AssignmentProblem
from optalloc.assignment.relax import cheapest_relaxation
from optalloc.result import Fix
from optalloc.stop import Progress, StopRule

IsInfeasible = Callable[[AssignmentProblem, StopRule], bool]

_SHOWN = 12
_SUBSETS_UP_TO = 10
_SECONDS = 5.0


class _Until(msgspec.Struct, frozen=True):
    """Stop at a moment of the performance counter."""

    moment_s: float

    def __call__(self, progress: Progress) -> bool:  # noqa: ARG002
        return time.perf_counter() >= self.moment_s


def explain_conflict(
    problem: AssignmentProblem, is_infeasible: IsInfeasible
) -> tuple[tuple[str, ...], tuple[Fix, ...]]:
    """Sentences that name the conflict, and fixes each of which was verified.

    Parameters
    ----------
    problem : AssignmentProblem
        Proven to be infeasible.
    is_infeasible : callable
        Proves that a smaller problem is infeasible too, or gives up at the stop rule.
    """
    words = _homeless(problem)
    if not words and problem.is_plain:
        words = _crowded(problem)
    words = words or _irreducible(problem, is_infeasible)
    return words, cheapest_relaxation(problem)


def _homeless(problem: AssignmentProblem) -> tuple[str, ...]:
    """Tasks that must run and fit on no unit."""
    words: list[str] = []
    allowed = np.logical_and.reduce([form.allowed for form in problem.resource_forms])
    lost = ~allowed.any(axis=1) & ~problem.optional
    for task in np.nonzero(lost)[0].tolist():
        units = np.nonzero(problem.allowed[task])[0].tolist()
        if not units:
            words.append(f"task {task} is allowed on no unit")
            continue
        need = [_shortage(problem, task, unit) for unit in units[:_SHOWN]]
        more = f" and {len(units) - _SHOWN} more units" if len(units) > _SHOWN else ""
        words.append(f"task {task} fits on no unit it may use: {', '.join(need)}{more}")
    return tuple(words)


def _shortage(problem: AssignmentProblem, task: int, unit: int) -> str:
    """The first resource of a unit that a task alone exceeds."""
    for resource, form in enumerate(problem.resource_forms):
        if not form.allowed[task, unit]:
            load = problem.loads_array[task, unit, resource]
            room = problem.capacities_matrix[unit, resource]
            of = f" of resource {resource}" if problem.num_resources > 1 else ""
            return f"unit {unit} (needs {load:.12g}, holds {room:.12g}{of})"
    return f"unit {unit}"


def _crowded(problem: AssignmentProblem) -> tuple[str, ...]:
    """Tasks that may only use certain units and together exceed what those hold."""
    allowed, units = problem.integer_form().allowed, problem.num_units
    homes = {frozenset(np.nonzero(row)[0].tolist()) for row in allowed}
    if units <= _SUBSETS_UP_TO:
        sets = {
            frozenset(some)
            for size in range(1, units + 1)
            for some in itertools.combinations(range(units), size)
        }
    else:
        sets = homes | {frozenset(range(units))}
        if len(homes) <= 100:
            sets |= {a | b for a, b in itertools.combinations(homes, 2)}
    # Decimals are added as decimals: 0.1 + 0.2 does not exceed 0.3.
    exact = {value: Fraction(repr(value)) for value in set(problem.loads.ravel().tolist())}
    rooms = [Fraction(repr(value)) for value in problem.capacities.tolist()]
    loads = problem.loads_matrix
    for some in sorted(sets, key=lambda s: (len(s), sorted(s))):
        inside = np.zeros(units, dtype=np.bool_)
        inside[list(some)] = True
        tasks = np.nonzero(~(allowed & ~inside).any(axis=1))[0].tolist()
        least = {
            task: min(exact[loads[task, u].item()] for u in some if allowed[task, u])
            for task in tasks
        }
        room = sum((rooms[unit] for unit in some), Fraction(0))
        total = sum(least.values(), Fraction(0))
        if total <= room:
            continue
        for task in sorted(tasks, key=lambda t: (least[t], t)):
            if total - least[task] > room:
                total -= least.pop(task)
        return (
            f"{_names('task', sorted(least))} fit only on {_names('unit', sorted(some))} and need "
            f"{float(total):.12g} there, but {'they hold' if len(some) > 1 else 'it holds'} "
            f"{float(room):.12g}",
        )
    return ()


class _Part(msgspec.Struct, frozen=True):
    """Some tasks, and the capacities and groups that bind them; all else is dropped."""

    tasks: tuple[int, ...]
    rooms: tuple[tuple[int, int], ...]
    together: Groups
    apart: Groups

    def problem(self, whole: AssignmentProblem) -> AssignmentProblem:
        """The part as a question of feasibility; a capacity that does not bind holds everything."""
        rows = list(self.tasks)
        number = {task: place for place, task in enumerate(rows)}
        loads = whole.loads_array[rows]
        capacities = whole.capacities_matrix.copy()
        for unit, resource in np.ndindex(*capacities.shape):
            if (unit, resource) not in self.rooms:
                every = np.ceil(loads[:, unit, resource].sum()) + 1
                capacities[unit, resource] = max(capacities[unit, resource], every)

        def inside(groups: Groups) -> list[list[int]]:
            return [[number[task] for task in group if task in number] for group in groups]

        skips = [0 if may else None for may in whole.optional[rows].tolist()]
        one = whole.num_resources == 1
        return AssignmentProblem(
            np.zeros(loads.shape[:2], dtype=np.int64),
            loads[:, :, 0] if one else loads,
            capacities[:, 0] if one else capacities,
            whole.allowed[rows],
            together=inside(self.together),
            apart=inside(self.apart),
            skip_costs=skips if whole.optional[rows].any() else None,
        )


def _irreducible(problem: AssignmentProblem, is_infeasible: IsInfeasible) -> tuple[str, ...]:
    """Tasks, capacities and groups from which nothing can be dropped, as far as time allows."""
    until = time.perf_counter() + _SECONDS
    rule = _Until(until)
    part = _Part(
        tuple(range(problem.num_tasks)),
        tuple(np.ndindex(*problem.capacities_matrix.shape)),
        problem.together,
        problem.apart,
    )
    for name in ("tasks", "rooms", "together", "apart"):
        for item in getattr(part, name):
            if time.perf_counter() >= until:
                break
            rest = tuple(other for other in getattr(part, name) if other != item)
            smaller = msgspec.structs.replace(part, **{name: rest})
            if is_infeasible(smaller.problem(problem), rule):
                part = smaller
    smallest = "" if time.perf_counter() < until else " (a smaller set may conflict too)"
    facts = [_holds(problem, unit, resource) for unit, resource in part.rooms[:_SHOWN]]
    if len(part.rooms) > _SHOWN:
        facts[-1] += f" and {len(part.rooms) - _SHOWN} more units hold theirs"
    used = set(part.tasks)
    for groups, word in ((part.together, "together"), (part.apart, "apart")):
        for group in groups:
            mine = [task for task in group if task in used]
            if len(mine) > 1:
                facts.append(f"{_names('task', mine)} must stay {word}")
    if not part.rooms:  # the groups alone conflict with the units there are
        facts.append(_units_of(problem, part.tasks))
    names = _names("task", part.tasks)
    verb = "do" if len(part.tasks) > 1 else "does"
    return (f"{names} {verb} not fit together in any distribution: {', '.join(facts)}{smallest}",)


def _units_of(problem: AssignmentProblem, tasks: tuple[int, ...]) -> str:
    units = np.nonzero(problem.allowed[list(tasks)].any(axis=0))[0].tolist()
    return f"they may use {_names('unit', units)}" if units else "they may use no unit"


def _holds(problem: AssignmentProblem, unit: int, resource: int) -> str:
    of = f" of resource {resource}" if problem.num_resources > 1 else ""
    return f"unit {unit} holds {problem.capacities_matrix[unit, resource]:.12g}{of}"


def _names(kind: str, numbers: Sequence[int]) -> str:
    """``tasks 0, 1 and 7``; runs of four or more are written ``3 to 9``."""
    shown: list[str] = []
    first = 0
    for last, number in enumerate(numbers):
        if last + 1 < len(numbers) and numbers[last + 1] == number + 1:
            continue
        run = numbers[first : last + 1]
        shown += [f"{run[0]} to {run[-1]}"] if len(run) > 3 else [str(member) for member in run]
        first = last + 1
    if len(numbers) == 1:
        return f"{kind} {shown[0]}"
    tail = f" and {shown[-1]}" if len(shown) > 1 else shown[-1]
    return f"{kind}s {', '.join(shown[:-1])}{tail}"
