"""What a calibration of the engine model found, as tables and as data."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from optalloc.cost.engine.calibrate import ServingCalibration
from optalloc.cost.engine.constants import Errors
from optalloc.cost.engine.rows import RATE, TPOT, TTFT, Array
from optalloc.report.calibration import constants_table
from optalloc.report.table import Cell, Table

_FIGURES = {"TPOT": TPOT, "TTFT": TTFT, "rate": RATE}


def tables(found: ServingCalibration) -> list[Table]:
    """Errors by engine; errors to expect; the fitted constants."""
    return [_engines(found), _cells(found), constants_table(found.file.constants)]


def facts(found: ServingCalibration) -> dict[str, Any]:
    """The calibration as data: the constants file, and the relative errors of every row."""
    names = ("fitted", "left_out", "device_left_out", "model_left_out")
    ways = (found.fitted, found.folds, found.devices, found.models)
    every = [
        (name, np.expm1(errors))
        for name, errors in zip(names, ways, strict=True)
        if errors is not None
    ]
    return {
        "format_version": "1.0",
        "file": msgspec.to_builtins(found.file),
        "rows": [
            {"row_id": problem.row_id} | {name: _figures(errors[i]) for name, errors in every}
            for i, problem in enumerate(found.problems)
        ],
    }


def _figures(errors: Array) -> dict[str, float]:
    return {
        name.lower(): float(errors[column])
        for name, column in _FIGURES.items()
        if np.isfinite(errors[column])
    }


def _engines(found: ServingCalibration) -> Table:
    names = [problem.software for problem in found.problems]
    ways = (found.folds, found.devices, found.models)
    left_out = [errors for errors in ways if errors is not None]
    every = (found.fitted, *left_out)
    titles = ("fitted", "left out", "device left out", "model left out")[: len(every)]
    rows: list[tuple[Cell, ...]] = []
    for name in [*sorted(set(names)), "all"]:
        own = np.array([name in (each, "all") for each in names])
        for figure, column in _FIGURES.items():
            cells = [_median_mean(errors[own, column]) for errors in every]
            if cells[0][1]:
                rows.append((name, figure, cells[0][1], *(cell[0] for cell in cells)))
    return Table(
        title="Relative errors, median and mean",
        columns=("engine", "figure", "rows", *titles),
        rows=tuple(rows),
        notes=("Left out: with all rows of the same setup, in another fit.",) if left_out else (),
        right=titles,
    )


def _median_mean(log_errors: Array) -> tuple[str, int]:
    sizes = np.abs(np.expm1(log_errors[np.isfinite(log_errors)]))
    if not len(sizes):
        return "", 0
    return f"{100 * np.median(sizes):.1f} % {100 * sizes.mean():.1f} %", len(sizes)


def _cells(found: ServingCalibration) -> Table:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            cell.key or cell.level or "any",
            cell.rows,
            *(f"{100 * e:.0f} %" for e in _errors_of(cell)),
        )
        for cell in found.file.errors
    )
    return Table(
        title="Errors that 90 % of the rows that were not fitted stay below, in a plan",
        columns=("setup", "rows", "throughput", "TPOT", "TTFT"),
        rows=rows,
        right=("throughput", "TPOT", "TTFT"),
    )


def _errors_of(cell: Errors) -> tuple[float, float, float]:
    return cell.throughput, cell.tpot, cell.ttft
