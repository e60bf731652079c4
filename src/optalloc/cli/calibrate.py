"""optalloc calibrate: fit the cost model to published training measurements."""

from __future__ import annotations

import argparse
import sys

from optalloc.cli.answers import colored


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument(
        "rows", metavar="ROWS.csv", help="measurements, one a line (docs/reference/training-rows)"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE.toml",
        help="write the fitted constants; --calibration of train and estimate reads them",
    )
    parser.add_argument(
        "--folds", type=int, default=5, metavar="K", help="parts of the cross-validation, default 5"
    )
    parser.add_argument(
        "--calibration", metavar="FILE", help="priors and spreads of this file, default: shipped"
    )
    parser.add_argument(
        "--format", choices=("table", "json", "csv"), default="table", help="default: table"
    )


def run(arguments: argparse.Namespace) -> int:
    """Fit, judge and print; returns the exit status."""
    import datetime
    from pathlib import Path

    from optalloc.cost.calibrate import calibrate
    from optalloc.cost.constants import DEFAULT, read_constants, to_toml
    from optalloc.cost.measured.problem import Unsupported, problem_of
    from optalloc.cost.measured.rows import read_rows
    from optalloc.errors import InputError
    from optalloc.report.calibration import facts, tables
    from optalloc.report.table import render

    output = arguments.output
    if output is not None and not output.endswith(".toml"):
        raise InputError(
            f"{output!r} does not end in .toml", path="--output", fix="write -o fitted.toml"
        )
    if arguments.folds < 2:
        raise InputError(f"--folds is {arguments.folds}", path="--folds", fix="use at least 2")
    problems = []
    for row in read_rows(arguments.rows):
        try:
            problems.append(problem_of(row))
        except Unsupported:
            continue
    file = read_constants(arguments.calibration or DEFAULT)
    name = Path(output).stem if output is not None else file.name
    found = calibrate(
        problems,
        file,
        name=name,
        date=datetime.date.today().isoformat(),
        folds=arguments.folds,
        on_progress=lambda text: print(text, file=sys.stderr),
    )
    if output is not None:
        heading = (
            f"Fitted by 'optalloc calibrate' to {len(found.problems)} measurements of "
            f"{Path(arguments.rows).name}."
        )
        Path(output).write_text(to_toml(found.file, heading), encoding="utf-8")
    print(render(tables(found), facts(found), arguments.format, color=colored()), end="")
    if arguments.format == "table" and output is not None:
        print(f"Saved {output}. Next: optalloc estimate MODEL --cluster C --calibration {output}")
    return 0
