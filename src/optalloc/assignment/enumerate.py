"""Enumeration: every assignment within the capacities, one by one. The oracle of the other methods.

It prunes by capacity alone, never by cost, so that nothing but the definition of the problem is
trusted. Time O(prod_j |A_j|), memory O(N).
"""

from __future__ import annotations

from optalloc.assignment.journal import Journal
from optalloc.assignment.problem import AssignmentProblem
from optalloc.assignment.result import AssignmentResult
from optalloc.errors import InputError
from optalloc.result import Termination
from optalloc.stop import OnProgress, StopRule

#: Refuse instances with more assignments than this (about ten seconds), or more tasks.
MOST_ASSIGNMENTS = 10_000_000
MOST_TASKS = 400


def num_assignments(problem: AssignmentProblem) -> int:
    """The number of ways to give each task a unit it is allowed on and fits into alone."""
    product = 1
    for count in problem.integer_form().allowed.sum(axis=1).tolist():
        product *= int(count)
    return product


def solve_enumerate(
    problem: AssignmentProblem,
    stop: StopRule | None = None,
    on_progress: OnProgress | None = None,
) -> AssignmentResult:
    """Try everything.

    Raises
    ------
    InputError
        If there are more than :data:`MOST_ASSIGNMENTS` assignments or :data:`MOST_TASKS` tasks.
    """
    count = num_assignments(problem)
    refuse_too_many(count, problem.num_tasks)
    journal = Journal(problem, "enumerate", stop, on_progress)
    form = journal.form
    tasks = problem.num_tasks
    choices = [
        [
            (unit, int(form.loads[task, unit]), int(form.costs[task, unit]))
            for unit in range(problem.num_units)
            if form.allowed[task, unit]
        ]
        for task in range(tasks)
    ]
    left = form.capacities.tolist()
    placed = [-1] * tasks
    skipped = 0

    def visit(task: int, value: int) -> bool:
        """Whether the search of this subtree ran to its end."""
        nonlocal skipped
        if task == tasks:
            journal.offer(placed, value)
            return True
        for unit, load, cost in choices[task]:
            if load > left[unit]:
                skipped += 1
                continue
            journal.nodes += 1
            if journal.nodes % 4096 == 0 and journal.should_stop():
                return False
            left[unit] -= load
            placed[task] = unit
            whole = visit(task + 1, value + cost)
            left[unit] += load
            if not whole:
                return False
        return True

    try:
        whole = visit(0, 0)
    except KeyboardInterrupt:
        whole = False
    if not whole:
        termination, message = Termination.LIMIT, "stopped before every assignment was tried"
    elif journal.best is None:
        termination, message = Termination.INFEASIBLE, "no assignment respects the capacities"
    else:
        termination, message = Termination.OPTIMAL, "every assignment was tried"
    return journal.finish(
        termination, message=message, configurations=count, pruned={"capacity": skipped}
    )


def refuse_too_many(count: int, num_tasks: int) -> None:
    """InputError where so many assignments, or tasks, are beyond the limits."""
    if count > MOST_ASSIGNMENTS or num_tasks > MOST_TASKS:
        raise InputError(
            f"enumeration would try {_short(count)} assignments of {num_tasks} tasks; its "
            f"limits are {MOST_ASSIGNMENTS:,} and {MOST_TASKS}",
            path="method",
            fix="use the method 'exact'",
        )


def _short(count: int) -> str:
    """A count of any size in a few characters."""
    text = str(count)
    return f"{count:,}" if len(text) <= 9 else f"{text[0]}.{text[1]}e{len(text) - 1}"
