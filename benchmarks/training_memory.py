"""Peak memory of published training runs: errors of rows and sources that were not fitted."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from benchmarks.accuracy_metrics import GIB, quantile
from optalloc.cost.constants import read_constants, values
from optalloc.cost.measured.cells import Row, flag, real
from optalloc.cost.measured.problem import Unsupported, problem_of
from optalloc.cost.measured.rows import read_rows
from optalloc.cost.measured.software import memory_kind
from optalloc.cost.memory_fit import Peak, by_source, fit
from optalloc.cost.predict import predict

_FOLDS = 5


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A row that reports its peak."""

    row: Row
    peak: Peak
    shipped_error: float

    @property
    def source(self) -> str:
        return self.row.get("source", "") or "unnamed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the study."""
    parser.add_argument("rows", metavar="ROWS.csv", help="measurements, one a line")
    parser.add_argument("--worst", type=int, default=0, metavar="N", help="list the N worst rows")


def run(arguments: argparse.Namespace) -> int:
    """Fit, leave out, print."""
    measured = read(read_rows(arguments.rows))
    if not measured:
        print("no row reports a peak")
        return 0
    found = fit([m.peak for m in measured])
    shipped = values(read_constants())
    print(
        f"fitted on {len(measured)} peaks: {found.workspace_bytes / GIB:.2f} GiB outside the "
        f"allocator, {found.fragmentation:.2f} reserved over allocated; shipped: "
        f"{shipped.workspace_bytes / GIB:.2f}, {shipped.fragmentation:.2f}\n"
    )
    print("| peak memory | rows | shipped constants | other groups fitted | other sources fitted |")
    print("|---|---:|---:|---:|---:|")
    columns = [
        [m.shipped_error for m in measured],
        left_out(measured, list(folds([m.row.get("group", "") for m in measured]))),
        left_out(measured, [[k for k, m in enumerate(measured) if m.source == name]
                            for name in dict.fromkeys(m.source for m in measured)]),
    ]  # fmt: skip
    for name in dict.fromkeys(m.source for m in measured):
        own = [k for k, m in enumerate(measured) if m.source == name]
        _line(name, [[column[k] for k in own] for column in columns])
    _line("all rows", columns)
    low = [quantile([1.0 / (1.0 + e) - 1.0 for e in column], 0.9) for column in columns]
    high = [quantile([abs(e) for e in column], 0.9) for column in columns]
    print("| 90 % of errors below | | " + " | ".join(f"{100 * q:.1f} %" for q in high) + " |")
    print("| 90 % above by at most | | " + " | ".join(f"{100 * q:.1f} %" for q in low) + " |")
    order = sorted(range(len(measured)), key=lambda k: -abs(columns[1][k]))
    for k in order[: arguments.worst]:
        names = (
            "row_id",
            "source",
            "model",
            "gpu",
            "precision",
            "mbs",
            "tp",
            "pp",
            "dp",
            "recompute",
        )
        cells = " ".join(f"{n}={measured[k].row[n]}" for n in names if measured[k].row.get(n))
        print(f"{100 * columns[1][k]:+7.1f} %  {measured[k].row['mem_gb']} GiB  {cells}")
    return 0


def read(rows: Sequence[Row]) -> list[Measured]:
    """The rows that report a peak, with what the formulas allocate for them."""
    file = read_constants()
    nothing = {"workspace_bytes": 0.0, "fragmentation": 1.0, "fragmentation_expandable": 1.0}
    plain = msgspec.structs.replace(
        file,
        constants=file.constants
        | {
            name: msgspec.structs.replace(file.constants[name], value=value)
            for name, value in nothing.items()
        },
    )
    found = []
    for row in rows:
        if not real(row, "mem_gb") or flag(row, "oom"):
            continue
        try:
            problem = problem_of(row)
        except Unsupported:
            continue
        peak = Peak(
            kind=memory_kind(row),
            measured_bytes=real(row, "mem_gb") * GIB,
            allocated_bytes=predict(problem, plain).reported_bytes,
        )
        error = predict(problem).reported_bytes / peak.measured_bytes - 1.0
        found.append(Measured(row=row, peak=peak, shipped_error=error))
    weights = by_source([m.source for m in found])
    return [
        msgspec.structs.replace(m, peak=msgspec.structs.replace(m.peak, weight=float(w)))
        for m, w in zip(found, weights, strict=True)
    ]


def folds(groups: Sequence[str]) -> Iterator[list[int]]:
    """Positions of each fold; a group is never divided."""
    names = sorted(set(groups))
    for first in range(min(_FOLDS, len(names))):
        chosen = set(names[first::_FOLDS])
        yield [k for k, group in enumerate(groups) if group in chosen]


def left_out(measured: Sequence[Measured], parts: Sequence[Sequence[int]]) -> list[float]:
    """The error of each row with constants fitted on all parts but its own."""
    errors = np.full(len(measured), np.nan)
    for part in parts:
        rest = [m.peak for k, m in enumerate(measured) if k not in set(part)]
        constants = fit(rest or [m.peak for m in measured])
        for k in part:
            errors[k] = constants.error(measured[k].peak)
    return errors.tolist()


def _line(name: str, columns: Sequence[Sequence[float]]) -> None:
    cells = [f"{100 * statistics.fmean(abs(e) for e in column):.1f} %" for column in columns]
    print(f"| {name} | {len(columns[0])} | {' | '.join(cells)} |")
