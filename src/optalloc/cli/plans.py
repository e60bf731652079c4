"""The plans that verbs read: an edited one is taken as written, and the reader is told."""

from __future__ import annotations

import sys

from optalloc.errors import InputError
from optalloc.plan.edited import as_written, edited_line
from optalloc.plan.plan import load_plan
from optalloc.training.plan import TrainingPlan


def read_plan(path: str) -> TrainingPlan:
    """A saved plan with true figures; a warning on stderr says what an edited one claimed.

    Raises
    ------
    InputError
        If the file is broken, or its decisions contradict one another or break a rule.
    """
    plan, reason = _written(load_plan(path), path)
    if reason:
        print(f"optalloc: {path}: {edited_line(reason)}.", file=sys.stderr)
    return plan


def read_as_it_is(path: str) -> TrainingPlan:
    """A saved plan for a verb whose answer itself says whether it was edited.

    Raises
    ------
    InputError
        As :func:`read_plan`, with the path of the file.
    """
    plan = load_plan(path)
    _written(plan, path)
    return plan


def _written(plan: TrainingPlan, path: str) -> tuple[TrainingPlan, str]:
    try:
        return as_written(plan)
    except InputError as error:
        raise InputError(error.what, path=path, pointer=error.pointer, fix=error.fix) from error
