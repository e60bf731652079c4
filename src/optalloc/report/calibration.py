"""What a calibration found, as tables and as data: errors by source and by cell, and constants."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cost.calibrate import Calibration
from optalloc.cost.constants import Constant
from optalloc.report.table import Cell, Table

Array = NDArray[np.float64]


def tables(found: Calibration) -> list[Table]:
    """Errors by source; errors by device, framework and precision; the fitted constants."""
    return [_sources(found), _cells(found), constants_table(found.file.constants)]


def facts(found: Calibration) -> dict[str, Any]:
    """The calibration as data: the constants file, and the errors of every row."""
    names = ("fitted", "left_out", "source_left_out")
    every = [
        (name, errors)
        for name, errors in zip(names, (found.fitted, found.folds, found.sources), strict=True)
        if errors is not None
    ]
    return {
        "format_version": "1.0",
        "file": msgspec.to_builtins(found.file),
        "rows": [
            {"row_id": problem.row_id, "source": problem.source}
            | {name: float(errors[i]) for name, errors in every}
            for i, problem in enumerate(found.problems)
        ],
    }


def _percent(errors: Array) -> str:
    return f"{100 * float(np.abs(errors).mean()):.1f} %"


def _sources(found: Calibration) -> Table:
    names = [problem.source for problem in found.problems]
    left_out = [errors for errors in (found.folds, found.sources) if errors is not None]
    every = (found.fitted, *left_out)
    titles = ("fitted", "left out", "source left out")[: len(every)]
    rows: list[tuple[Cell, ...]] = []
    means = []
    for source in dict.fromkeys(names):
        own = np.array([name == source for name in names])
        rows.append((source, int(own.sum()), *(_percent(errors[own]) for errors in every)))
        means.append([float(np.abs(errors[own]).mean()) for errors in every])
    rows.append(("all rows", len(names), *(_percent(errors) for errors in every)))
    macro = np.mean(means, axis=0)
    rows.append(("mean over sources", len(means), *(f"{100 * mean:.1f} %" for mean in macro)))
    return Table(
        title="Mean absolute error of the step time",
        columns=("source", "rows", *titles),
        rows=tuple(rows),
        notes=("Left out: with all rows of the same group, in another fit.",) if left_out else (),
        right=titles,
    )


def _cells(found: Calibration) -> Table:
    rows = tuple(
        (
            cell.gpu or "any",
            cell.framework or "any",
            cell.precision or "any",
            cell.rows,
            f"{100 * cell.bias:+.1f} %",
            f"{100 * cell.error_90:.1f} %",
        )
        for cell in found.file.errors
    )
    return Table(
        title="Errors on rows that were not fitted",
        columns=("device", "framework", "precision", "rows", "bias", "90 %"),
        rows=rows,
        notes=(
            "A plan states its own line, if it has ten rows; else the wider of those of its device "
            "and of its framework; else the first, of sources left out entirely.",
        ),
        right=("bias", "90 %"),
    )


def constants_table(constants: dict[str, Constant]) -> Table:
    """Prior and value of each constant that was fitted."""
    rows = tuple(
        (name, f"{constant.prior:.4g}", f"{constant.value:.4g}", constant.unit)
        for name, constant in constants.items()
        if constant.prior is not None
    )
    return Table(
        title="Fitted constants",
        columns=("constant", "prior", "value", "unit"),
        rows=rows,
        right=("prior", "value"),
    )
