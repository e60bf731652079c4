"""What verbs that answer do alike: the form of the answer, limits, colour, exit status."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from optalloc.result import Result
    from optalloc.stop import StopRule

_Number = TypeVar("_Number", int, float)


def add_format(parser: argparse.ArgumentParser) -> None:
    """The form in which the answer is printed."""
    parser.add_argument(
        "--format", choices=("table", "json", "csv"), default="table", help="default: table"
    )


def add_search(parser: argparse.ArgumentParser, *, output: str) -> None:
    """The limit of a search, the form of its answer, and ``output``: what is written where."""
    parser.add_argument(
        "--time-limit", metavar="TIME", help="stop after this wall-clock time, for example 30s"
    )
    add_format(parser)
    parser.add_argument("-o", "--output", metavar="PATH", help=output)
    parser.add_argument(
        "--require-optimal", action="store_true", help="exit with status 5 if a gap remains"
    )


def colored() -> bool:
    """True on a terminal, unless ``NO_COLOR`` is set."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


@contextlib.contextmanager
def answered(path: str | None, save: Callable[[str], object] | None) -> Iterator[None]:
    """The answer is printed inside, and then saved where there is something to save.

    So no answer is lost with a file that cannot be written, and no file where the reader of the
    answer has gone (``| head``).
    """
    try:
        yield
        sys.stdout.flush()
    finally:
        if path is not None and save is not None:
            save(path)


def stop_rule(arguments: argparse.Namespace) -> StopRule | None:
    """The first given limit that is reached ends the search; None without one.

    Raises
    ------
    InputError
        For a time that cannot be read, and for a limit below 0.
    """
    from optalloc.stop import Either, Gap, NodeLimit, TimeLimit
    from optalloc.units import parse_duration

    rules: list[StopRule] = []
    if arguments.time_limit is not None:
        limit_s = parse_duration(arguments.time_limit, path="--time-limit")
        rules.append(TimeLimit(_limit(limit_s, "--time-limit")))
    if getattr(arguments, "node_limit", None) is not None:
        rules.append(NodeLimit(_limit(arguments.node_limit, "--node-limit")))
    if getattr(arguments, "gap_limit", None) is not None:
        rules.append(Gap(_limit(arguments.gap_limit, "--gap-limit")))
    return Either(*rules) if rules else None


def _limit(value: _Number, path: str) -> _Number:
    from optalloc.errors import InputError

    if not value >= 0:
        raise InputError(f"the limit is {value}", path=path, fix="give a number of at least 0")
    return value


def status(result: Result, plan: object | None, *, require_optimal: bool) -> int:
    """The exit status of a search that ended with ``plan``, None for none."""
    from optalloc.result import Termination

    if result.termination is Termination.INFEASIBLE:
        return 3
    if plan is None:
        return 4
    if require_optimal and result.termination is not Termination.OPTIMAL:
        return 5
    return 0
