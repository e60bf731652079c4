"""The plans that verbs read: an edited one is taken as written, and the reader is told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from optalloc.errors import CertificateError, InputError
from optalloc.plan.edited import as_written, edited_line, mixed_as_written
from optalloc.plan.plan import AnyTrainingPlan, load_plan, load_training_plan
from optalloc.serving.configuration.plan import ServingPlan
from optalloc.serving.configuration.written import placed, serving_as_written
from optalloc.training.mixed.plan import MixedPlan
from optalloc.training.plan import TrainingPlan

P = TypeVar("P", TrainingPlan, MixedPlan, AnyTrainingPlan, ServingPlan)


def read_plan(path: str) -> TrainingPlan:
    """A saved plan of equal stages with true figures; as :func:`with_true_figures`."""
    return with_true_figures(load_plan(path), path)


def read_any(path: str) -> AnyTrainingPlan:
    """As :func:`read_plan`, for a plan on any cluster."""
    return with_true_figures(load_training_plan(path), path)


def read_as_it_is(path: str) -> AnyTrainingPlan:
    """A saved plan for a verb whose answer itself says whether it was edited.

    Raises
    ------
    InputError
        As :func:`with_true_figures`, with the path of the file.
    """
    return as_it_is(load_training_plan(path), path)


def as_it_is(plan: P, path: str) -> P:
    """The plan itself, once its decisions were checked; raises as :func:`with_true_figures`."""
    _written(plan, path)
    return plan


def with_true_figures(plan: P, path: str) -> P:
    """A plan as its decisions say; a warning on stderr tells what an edited one claimed.

    Raises
    ------
    InputError
        If its decisions contradict one another or break a rule.
    """
    true, reason = _written(plan, path)
    if reason:
        print(f"optalloc: {path}: {edited_line(reason)}.", file=sys.stderr)
    return true


def engines_as_written(plan: ServingPlan, path: str) -> ServingPlan:
    """A serving plan for a verb that reads its engines alone; raises where they have no place."""
    with _in_file(path):
        return placed(plan)


def _written(plan: P, path: str) -> tuple[P, str]:
    with _in_file(path):
        if isinstance(plan, ServingPlan):
            return serving_as_written(plan)
        if isinstance(plan, MixedPlan):
            return mixed_as_written(plan)
        return as_written(plan)


@contextmanager
def _in_file(path: str) -> Iterator[None]:
    """Adds to what is wrong inside a plan the file that it is in."""
    try:
        yield
    except InputError as error:
        raise InputError(error.what, path=path, pointer=error.pointer, fix=error.fix) from error


@contextmanager
def checked(path: str) -> Iterator[None]:
    """A claim that turns out not to be true is an error of the file that makes it.

    Raises
    ------
    InputError
        With the file, and what to do.
    """
    try:
        yield
    except CertificateError as error:
        raise InputError(
            str(error),
            path=path,
            fix="make it again; it was edited, or made by another release or for another input",
        ) from error
