"""A start: the feasible assignment that a search begins with, checked against every rule."""

from __future__ import annotations

from collections.abc import Sequence

from optalloc.assignment.evaluate import broken_rules
from optalloc.assignment.problem import AssignmentProblem
from optalloc.errors import InputError


def checked_start(
    problem: AssignmentProblem, start: Sequence[int], path: str = "start"
) -> tuple[int, ...]:
    """The unit of each task (-1: left out) as integers.

    Parameters
    ----------
    problem : AssignmentProblem
    start : sequence of int, length num_tasks
    path : str
        Where it is from, for messages.

    Raises
    ------
    InputError
        If it names units that do not exist or breaks a rule: which one, by which task, and what
        would help.
    """
    try:
        broken = broken_rules(problem, start)
    except InputError as error:
        raise InputError(error.what, path=path, pointer=error.pointer, fix=error.fix) from error
    if broken:
        first, *others = broken
        more = f", and {len(others)} more of its rules" if others else ""
        raise InputError(
            f"the start is not feasible: {first.what}{more}",
            path=path,
            pointer=f"$.assignment[{first.task}]",
            fix=f"{first.fix}, or begin without a start",
        )
    return tuple(int(unit) for unit in start)
