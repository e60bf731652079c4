"""The plans that verbs read: an edited one is taken as written, and the reader is told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from optalloc.errors import CertificateError, InputError
from optalloc.plan.edited import as_written, edited_line, mixed_as_written
from optalloc.plan.mixed import is_mixed_plan, load_mixed_plan
from optalloc.plan.plan import load_plan
from optalloc.training.mixed.plan import MixedPlan
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


def read_mixed(path: str) -> MixedPlan:
    """As :func:`read_plan`, for a plan on a mixed cluster."""
    plan, reason = _written_mixed(load_mixed_plan(path), path)
    if reason:
        print(f"optalloc: {path}: {edited_line(reason)}.", file=sys.stderr)
    return plan


def read_any(path: str) -> TrainingPlan | MixedPlan:
    """As :func:`read_as_it_is`, for a plan on any cluster."""
    if not is_mixed_plan(path):
        return read_as_it_is(path)
    plan = load_mixed_plan(path)
    _written_mixed(plan, path)
    return plan


@contextmanager
def checked(path: str) -> Iterator[None]:
    """Adds to a claim that turns out not to be true the file that makes it, and what to do."""
    try:
        yield
    except CertificateError as error:
        raise CertificateError(
            f"{str(error).rstrip('.')}. Where: {path}. To fix: make it again; it was edited, or "
            "made by another release or for another input."
        ) from error


def _written_mixed(plan: MixedPlan, path: str) -> tuple[MixedPlan, str]:
    try:
        return mixed_as_written(plan)
    except InputError as error:
        raise InputError(error.what, path=path, pointer=error.pointer, fix=error.fix) from error


def _written(plan: TrainingPlan, path: str) -> tuple[TrainingPlan, str]:
    try:
        return as_written(plan)
    except InputError as error:
        raise InputError(error.what, path=path, pointer=error.pointer, fix=error.fix) from error
