"""optalloc calibrate: fit the cost or the engine model to published measurements."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from optalloc.cli.answers import add_format, answered, colored

if TYPE_CHECKING:
    from optalloc.cost.constants import Written
    from optalloc.report.table import Table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument(
        "rows",
        metavar="ROWS.csv",
        nargs="+",
        help="measured training steps or served loads, one a line (docs/reference/training-rows "
        "and serving-rows); the header tells which",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE.toml",
        help="write the fitted constants; --calibration of train and estimate reads them",
    )
    parser.add_argument(
        "--folds",
        type=int,
        default=5,
        metavar="K",
        help="parts of the cross-validation, which takes most of the time; default 5; 0 to leave "
        "it out and keep the stated errors of the constants that the fit starts from",
    )
    parser.add_argument(
        "--calibration", metavar="FILE", help="priors and spreads of this file, default: shipped"
    )
    add_format(parser)


def run(arguments: argparse.Namespace) -> int:
    """Fit, judge and print; returns the exit status."""
    from pathlib import Path

    from optalloc.cost.constants import to_toml
    from optalloc.errors import InputError
    from optalloc.files import write_text
    from optalloc.report.table import render

    output = arguments.output
    if output is not None and not output.endswith(".toml"):
        raise InputError(
            f"{output!r} does not end in .toml", path="--output", fix="write -o fitted.toml"
        )
    if arguments.folds < 0 or arguments.folds == 1:
        raise InputError(
            f"--folds is {arguments.folds}",
            path="--folds",
            fix="use at least 2, or 0 for a fit that is not cross-validated",
        )
    fit = _serving if _has_column(arguments.rows[0], "scenario", "mode") else _training
    file, count, tables, facts = fit(arguments)
    names = ", ".join(Path(path).name for path in arguments.rows)
    heading = f"Fitted by 'optalloc calibrate' to {count} measurements of {names}."
    with answered(output, lambda path: write_text(path, to_toml(file, heading))):
        print(render(tables, facts, arguments.format, color=colored()), end="")
    if arguments.format == "table" and output is not None:
        verb = "estimate MODEL --cluster C" if fit is _training else "serve MODEL --cluster C"
        print(f"Saved {output}. Next: optalloc {verb} --calibration {output}")
    return 0


Fitted = tuple["Written", int, "list[Table]", "dict[str, Any]"]


def _training(arguments: argparse.Namespace) -> Fitted:
    """The cost model fitted to training steps: its file, the rows used, tables and data."""
    from optalloc.cost.calibrate import calibrate
    from optalloc.cost.constants import DEFAULT, read_constants
    from optalloc.cost.measured.problem import Unsupported, problem_of
    from optalloc.cost.measured.rows import read_rows
    from optalloc.report.calibration import facts, tables

    problems = []
    for row in [row for path in arguments.rows for row in read_rows(path)]:
        try:
            problems.append(problem_of(row))
        except Unsupported:
            continue
    file = read_constants(arguments.calibration or DEFAULT)
    found = calibrate(
        problems,
        file,
        name=_name(arguments, file.name),
        date=_today(),
        folds=arguments.folds,
        on_progress=_say,
    )
    return found.file, len(found.problems), tables(found), facts(found)


def _serving(arguments: argparse.Namespace) -> Fitted:
    """The engine model fitted to served loads: its file, the rows used, tables and data."""
    from optalloc.cost.engine.calibrate import calibrate_serving
    from optalloc.cost.engine.constants import DEFAULT, read_engine_constants
    from optalloc.cost.engine.measured import read_serving_rows, serving_problem
    from optalloc.report.serving_calibration import facts, tables

    rows = [row for path in arguments.rows for row in read_serving_rows(path)]
    file = read_engine_constants(arguments.calibration or DEFAULT)
    found = calibrate_serving(
        [serving_problem(row) for row in rows],
        file,
        name=_name(arguments, file.name),
        date=_today(),
        folds=arguments.folds,
        on_progress=_say,
    )
    return found.file, len(found.problems), tables(found), facts(found)


def _has_column(path: str, *names: str) -> bool:
    """Whether the first line of a table names one of the columns."""
    from optalloc.files import read_text

    header = read_text(path).partition("\n")[0].strip().split(",")
    return any(name in header for name in names)


def _name(arguments: argparse.Namespace, usual: str) -> str:
    from pathlib import Path

    return Path(arguments.output).stem if arguments.output is not None else usual


def _today() -> str:
    import datetime

    return datetime.date.today().isoformat()


def _say(text: str) -> None:
    print(text, file=sys.stderr)
