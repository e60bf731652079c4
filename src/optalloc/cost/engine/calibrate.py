"""Calibrate the engine model on measured rows and say how far it is off on others.

Errors are those of a cross-validation in which whole setups are left out of the fit, so that load
points of one configuration never stand on both sides. Errors to state with a plan are those of
predictions made as a plan's are: with no series of measurements to say how a client measures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np

from optalloc.cost.engine.constants import ERROR_LEVELS, NEW_MODEL, EngineFile, Errors
from optalloc.cost.engine.fit import Fit
from optalloc.cost.engine.measured import ServingProblem
from optalloc.cost.engine.rows import RATE, TPOT, TTFT, Array, Ints, Rows
from optalloc.errors import InputError


class ServingCalibration(msgspec.Struct, frozen=True, kw_only=True):
    """A fit and how well it does.

    ``fitted``, ``folds``, ``devices`` and ``models`` are logarithms of predicted over measured
    figures, shape (rows, 3), on the rows of the fit, and with each row's setup, device or model
    left out; nan where nothing was measured. The latter three are None where the fit was not
    judged.
    """

    file: EngineFile
    problems: tuple[ServingProblem, ...]
    fitted: Array
    folds: Array | None
    devices: Array | None
    models: Array | None


def calibrate_serving(
    problems: Sequence[ServingProblem],
    file: EngineFile,
    *,
    name: str,
    date: str,
    folds: int = 5,
    on_progress: Callable[[str], None] = lambda _: None,
) -> ServingCalibration:
    """Fit the constants of ``file`` to rows, and judge the fit on setups that are left out of it.

    With no ``folds`` it is not judged, and keeps the errors that ``file`` states.

    Raises
    ------
    InputError
        If there are fewer rows than constants, or one says something that is not known.

    Complexity: about ``(1 + 2 folds + devices) * rounds * constants`` passes over the rows.
    """
    for problem in problems:
        if problem.remarks:
            raise InputError(
                f"a fit would be to something else: {problem.remarks[0]}",
                path=problem.row_id,
                fix="correct the row, or leave it out",
            )
    rows = Rows(problems, file)
    fit = Fit(rows, file)
    if len(rows) < len(fit.names):
        raise InputError(
            f"{len(rows)} rows for {len(fit.names)} constants",
            path="ROWS",
            fix="give more measurements",
        )
    on_progress(f"fitting {len(fit.parameters)} parameters to {len(rows)} rows")
    z = fit.solve(np.arange(len(rows)))
    final = fit.file_of(z, name=name, date=date)
    fitted = fit.predict(z) - rows.log_measured
    if not folds:
        return ServingCalibration(
            file=msgspec.structs.replace(final, errors=file.errors),
            problems=tuple(problems),
            fitted=fitted,
            folds=None,
            devices=None,
            models=None,
        )
    cross, ordinary = [], []
    for what, parts in (
        ("setups", setup_folds(rows.problems, folds)),
        ("devices", named_parts([p.device.name for p in rows.problems])),
        ("models", dealt([p.model.name for p in rows.problems], folds)),
    ):
        found, plain = np.empty_like(rows.log_measured), np.empty_like(rows.log_measured)
        for part, other, own in left_out(fit, parts):
            on_progress(f"leaving out {what}: {part + 1} of {parts.max() + 1}")
            found[own] = fit.predict(other)[own]
            plain[own] = fit.predict(fit.ordinary(other))[own]
        cross.append(found - rows.log_measured)
        ordinary.append(plain - rows.log_measured)
    return ServingCalibration(
        file=msgspec.structs.replace(final, errors=error_cells(rows, *ordinary)),
        problems=tuple(problems),
        fitted=fitted,
        folds=cross[0],
        devices=cross[1],
        models=cross[2],
    )


def left_out(fit: Fit, parts: Ints) -> Iterator[tuple[int, Array, Ints]]:
    """For each part of the rows: its number, the fit without it, and its rows.

    Every fit starts from the priors: one that has seen all rows would carry something of them over.
    """
    for part in range(int(parts.max()) + 1):
        used, own = np.flatnonzero(parts != part), np.flatnonzero(parts == part)
        yield part, fit.solve(used) if len(used) else fit.prior, own


def setup_folds(problems: Sequence[ServingProblem], folds: int, seed: int = 0) -> Ints:
    """A part for each row; rows of one setup share theirs."""
    return dealt([p.setup for p in problems], folds, seed)


def dealt(names: Sequence[str], folds: int, seed: int = 0) -> Ints:
    """One of at most ``folds`` parts for each row, at random; rows of one name share theirs."""
    order = sorted(set(names))
    np.random.default_rng(seed).shuffle(order)
    place = {name: k % folds for k, name in enumerate(order)}
    return np.array([place[name] for name in names])


def named_parts(names: Sequence[str]) -> Ints:
    """A part for each row; rows of one name share theirs."""
    order = sorted(set(names))
    return np.array([order.index(name) for name in names])


_LEAST_ROWS = 20


def error_cells(
    rows: Rows, cross: Array, new_device: Array, new_model: Array
) -> tuple[Errors, ...]:
    """Relative errors that 90 % of the rows of a cell do not exceed.

    All are logarithms of predicted over measured figures of rows whose setup, or whose device, or
    whose model, was left out of the fit. The first cell is of the last and is at least what any
    model without rows has; the last cell stands for any device without a cell.
    """
    errors = _relative(rows, cross)
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, keys in enumerate(rows.keys):
        for level in ERROR_LEVELS:
            if keys.get(level):
                groups[level, keys[level]].append(i)
    order = sorted(groups, key=lambda cell: (ERROR_LEVELS.index(cell[0]), cell[1]))
    last = _cell("", "", _relative(rows, new_device))
    found = [
        _cell(level, key, errors[:, groups[level, key]], last)
        for level, key in order
        if len(groups[level, key]) >= _LEAST_ROWS
    ]
    return (_cell(NEW_MODEL, "", _relative(rows, new_model)), *found, last)


def _relative(rows: Rows, log_errors: Array) -> Array:
    """Relative errors of TTFT, TPOT and throughput, shape (3, rows); the last is that of a measured
    rate, or of the one that follows from both times."""
    output = np.array([p.output_len for p in rows.problems])
    measured = np.exp(rows.log_measured)
    predicted = measured * np.exp(log_errors)
    whole = [t[:, TTFT] + (output - 1.0) * t[:, TPOT] for t in (predicted, measured)]
    follows = whole[1] / whole[0] - 1.0
    rate = np.where(np.isfinite(follows), follows, np.expm1(log_errors[:, RATE]))
    return np.stack([np.expm1(log_errors[:, TTFT]), np.expm1(log_errors[:, TPOT]), rate])


def _cell(level: str, key: str, errors: Array, common: Errors | None = None) -> Errors:
    """The cell of some rows; a figure that too few of them have is the common one."""
    found = []
    for each, usual in zip(errors, _usual(common), strict=True):
        known = np.abs(each[np.isfinite(each)])
        enough = len(known) >= _LEAST_ROWS or (common is None and len(known) > 0)
        found.append(round(float(np.quantile(known, 0.9)), 3) if enough else usual)
    ttft, tpot, throughput = found
    return Errors(
        level=level, key=key, rows=errors.shape[1], ttft=ttft, tpot=tpot, throughput=throughput
    )


def _usual(common: Errors | None) -> tuple[float, float, float]:
    if common is None:
        return 1.0, 1.0, 1.0
    return common.ttft, common.tpot, common.throughput
