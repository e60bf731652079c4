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
    words = _homeless(problem) or _crowded(problem) or _irreducible(problem, is_infeasible)
    return words, cheapest_relaxation(problem)


def _homeless(problem: AssignmentProblem) -> tuple[str, ...]:
    """Tasks that fit on no unit."""
    words: list[str] = []
    form = problem.integer_form()
    for task in np.nonzero(~form.allowed.any(axis=1))[0].tolist():
        units = np.nonzero(problem.allowed[task])[0].tolist()
        if not units:
            words.append(f"task {task} is allowed on no unit")
            continue
        loads = problem.loads_matrix[task, units]
        need = [
            f"unit {unit} (needs {load:.12g}, holds {problem.capacities[unit]:.12g})"
            for unit, load in list(zip(units, loads.tolist(), strict=True))[:_SHOWN]
        ]
        more = f" and {len(units) - _SHOWN} more units" if len(units) > _SHOWN else ""
        words.append(f"task {task} fits on no unit it may use: {', '.join(need)}{more}")
    return tuple(words)


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


def _irreducible(problem: AssignmentProblem, is_infeasible: IsInfeasible) -> tuple[str, ...]:
    """A set of tasks and units from which nothing can be dropped, as far as time allows."""
    until = time.perf_counter() + _SECONDS
    rule = _Until(until)
    tasks, units = list(range(problem.num_tasks)), list(range(problem.num_units))
    for task in range(problem.num_tasks):
        rest = [t for t in tasks if t != task]
        if rule.moment_s > time.perf_counter() and is_infeasible(_part(problem, rest, units), rule):
            tasks = rest
    for unit in range(problem.num_units):
        rest = [u for u in units if u != unit]
        if rule.moment_s > time.perf_counter() and is_infeasible(_part(problem, tasks, rest), rule):
            units = rest
    smallest = "" if time.perf_counter() < until else " (a smaller set may conflict too)"
    held = ", ".join(f"unit {u} holds {problem.capacities[u]:.12g}" for u in units[:_SHOWN])
    held += f" and {len(units) - _SHOWN} more units hold theirs" if len(units) > _SHOWN else ""
    return (f"{_names('task', tasks)} do not fit together in any distribution: {held}{smallest}",)


def _part(problem: AssignmentProblem, tasks: list[int], units: list[int]) -> AssignmentProblem:
    """The tasks alone, where only the capacities of ``units`` bind; the others hold everything."""
    loads = problem.loads_matrix[tasks]
    capacities = problem.capacities.copy()
    for unit in range(problem.num_units):
        if unit not in units:
            capacities[unit] = max(capacities[unit], np.ceil(loads[:, unit].sum()) + 1)
    return AssignmentProblem(
        np.zeros(loads.shape, dtype=np.int64), loads, capacities, problem.allowed[tasks]
    )


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
