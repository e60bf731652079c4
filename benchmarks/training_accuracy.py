"""Predict published training measurements, each row from its columns alone, and score them."""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks import accuracy_metrics as metrics
from benchmarks.accuracy_metrics import GIB, Scored
from optalloc.cost.calibrate import Fit, Rows, fold_of
from optalloc.cost.constants import DEFAULT, ConstantsFile, expected_error, read_constants
from optalloc.cost.measured.cells import Row
from optalloc.cost.measured.problem import Unsupported, problem_of
from optalloc.cost.measured.rows import read_rows
from optalloc.cost.predict import predict, problem_keys

COLUMNS = ("row_id", "status", "step_time_s", "mem_gb", "reason")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the study."""
    parser.add_argument("rows", metavar="ROWS.csv", help="measurements, one a line")
    parser.add_argument("--out", metavar="FILE", help="write row_id,status,step_time_s,mem_gb")
    parser.add_argument(
        "--calibration", metavar="FILE.toml", help="constants to use; default: those of the package"
    )
    parser.add_argument(
        "--folds",
        type=int,
        default=0,
        metavar="K",
        help="refit K times and predict each row by the fit that left out its group",
    )
    parser.add_argument(
        "--leave-one-source-out",
        action="store_true",
        help="refit for every source and predict its rows by the fit that left it out",
    )
    parser.add_argument("--page", metavar="FILE.md", help="write what is printed")
    parser.add_argument("--worst", type=int, default=0, metavar="N", help="list the N worst rows")


def run(arguments: argparse.Namespace) -> int:
    """Predict, write, print; 0 if every row with model dimensions was predicted."""
    rows = read_rows(arguments.rows)
    file = read_constants(arguments.calibration or DEFAULT)
    scored, lines = score(rows, [file] * len(rows))
    parts = [
        f"# Accuracy of training predictions\n\n{_HEADING.format(model=file.name)}",
        f"## {_SHIPPED}\n\n{table(scored, len(lines))}",
    ]
    unseen: dict[str, list[Scored]] = {}
    for title, files in _refits(arguments, rows, file):
        scored, refitted_lines = score(rows, files)
        lines = refitted_lines if not unseen else lines
        unseen[title] = metrics.timed(scored)
    if unseen:
        parts.append(f"## Rows that were not fitted\n\n{unseen_table(unseen)}")
    shown = next(iter(unseen.values()), metrics.timed(scored))
    worst = sorted(shown, key=lambda s: -abs(s.error))[: arguments.worst]
    if worst:
        parts.append("The rows that are furthest off:")
        parts.append("\n".join(["    " + _row_line(s) for s in worst]))
    if arguments.out is not None:
        write(arguments.out, lines)
    page = "\n\n".join(part.rstrip("\n") for part in parts) + "\n"
    print(page, end="")
    if arguments.page is not None:
        Path(arguments.page).write_text(page, encoding="utf-8")
    return 0


_HEADING = (
    "Written by `python -m benchmarks training-accuracy ROWS.csv --page FILE`, with "
    "`--folds 5 --leave-one-source-out --worst 20` for all of it, for cost model `{model}`: each "
    "published row is predicted from its columns alone, and compared with the step time and the "
    "peak memory that it reports."
)
_SHIPPED = "The constants as given, on these rows"
_FOLDS = "groups left out"
_SOURCES = "source left out"
_UNSEEN = (
    "Mean absolute error of the step time of rows that were in no fit: with the groups of "
    "near-identical rows left out, or with the whole source left out; each refit starts from the "
    "constants as given.\n"
)


def _refits(
    arguments: argparse.Namespace, rows: Sequence[Row], file: ConstantsFile
) -> Iterator[tuple[str, list[ConstantsFile]]]:
    """Title and constants of every row, for each way of refitting that was asked for."""
    if arguments.folds < 2 and not arguments.leave_one_source_out:
        return
    problems = []
    for row in rows:
        try:
            problems.append(problem_of(row))
        except Unsupported:
            continue
    fit = Fit(Rows(problems, file), file)
    if not len(fit.rows):
        return
    if arguments.folds > 1:
        yield _FOLDS, refitted(rows, fit, arguments.folds)
    if arguments.leave_one_source_out:
        yield _SOURCES, refitted(rows, fit, 0)


def refitted(rows: Sequence[Row], fit: Fit, folds: int) -> list[ConstantsFile]:
    """For each row the constants fitted without its group, or with no folds without its source."""
    start, prepared = fit.given(), fit.rows
    names = [_source_of(row) if not folds else row.get("group", "") for row in rows]
    kept = [p.row for p in prepared.problems]
    if folds:
        parts = fold_of(prepared.problems, folds)
        part_of = {row.get("group", ""): int(part) for row, part in zip(kept, parts, strict=True)}
    else:
        part_of = {name: k for k, name in enumerate(dict.fromkeys(map(_source_of, kept)))}
        parts = np.array([part_of[_source_of(row)] for row in kept])
    files = {}
    for part in sorted(set(part_of.values())):
        used = np.flatnonzero(parts != part)
        files[part] = fit.file_of(fit.solve(used, start, rounds=3)) if len(used) else fit.file
        print(f"refitted {len(files)} of {len(set(part_of.values()))}", file=sys.stderr)
    # Rows without a step time are in no fit.
    return [files[part_of[name]] if name in part_of else fit.file for name in names]


def _source_of(row: Row) -> str:
    return row.get("source", "") or "unnamed"


def score(
    rows: Sequence[Row], files: Sequence[ConstantsFile] | None = None
) -> tuple[list[Scored], list[tuple[str, ...]]]:
    """Predictions of all rows that have dimensions, and the lines of the output file.

    ``files`` are the constants to use for each row, default: the package's.
    """
    files = files or [read_constants()] * len(rows)
    scored: list[Scored] = []
    lines: list[tuple[str, ...]] = []
    for row, file in zip(rows, files, strict=True):
        try:
            problem = problem_of(row)
        except Unsupported as unsupported:
            lines.append((row.get("row_id", ""), "unsupported", "", "", str(unsupported)))
            continue
        found = predict(problem, file)
        error = expected_error(file, problem_keys(problem))
        remarks = [*problem.remarks]
        if error is not None:
            wider = 1.5 if problem.remarks else 1.0
            remarks.insert(0, f"+-{wider * error.error_90:.0%} in 9 of 10 cases")
        remark = "; ".join(remarks)
        scored.append(
            Scored(
                row=row,
                predicted_s=found.step_time_s,
                measured_s=problem.measured_s,
                memory_bytes=found.memory_bytes,
                reported_bytes=found.reported_bytes,
                capacity_bytes=found.capacity_bytes,
                remark=remark,
            )
        )
        memory = f"{found.reported_bytes / GIB:.4g}"
        lines.append((problem.row_id, "ok", f"{found.step_time_s:.6g}", memory, remark))
    return scored, lines


def write(path: str, lines: Sequence[tuple[str, ...]]) -> None:
    """One line a row, in the order of the table."""
    with Path(path).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(lines)


def table(scored: Sequence[Scored], num_rows: int) -> str:
    """Everything the study measures, as Markdown."""
    timed = metrics.timed(scored)
    lines = [f"{len(scored)} of {num_rows} rows predicted, {len(timed)} with a step time", ""]
    if timed:
        lines += _errors(timed) + _jobs(timed)
    lines += _memory(scored)
    return "\n".join(lines)


def unseen_table(unseen: dict[str, list[Scored]]) -> str:
    """Errors by source, one column a way of leaving rows out, and the jobs of the first of them."""
    lines = [
        _UNSEEN,
        f"| source | {' | '.join(unseen)} |",
        "|---|" + "---:|" * len(unseen),
    ]
    first = next(iter(unseen.values()))
    groups = [metrics.by_source(scored) for scored in unseen.values()]
    rows = [(name, [metrics.mape(group[name]) for group in groups]) for name in groups[0]]
    rows.append(("all rows", [metrics.mape(scored) for scored in unseen.values()]))
    rows.append(("mean over sources", [metrics.macro(scored) for scored in unseen.values()]))
    lines += [f"| {name} | {' | '.join(f'{100 * e:.1f} %' for e in es)} |" for name, es in rows]
    return "\n".join([*lines, "", *_jobs(first)])


def _errors(timed: Sequence[Scored]) -> list[str]:
    lines = [
        "| source | rows | mean error | median | 90 % | bias |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for source, rows in metrics.by_source(timed).items():
        lines.append(_error_line(source, rows))
    lines.append(_error_line("all rows", timed))
    return [*lines, f"| mean over sources | | {100 * metrics.macro(timed):.1f} % | | | |", ""]


def _error_line(name: str, rows: Sequence[Scored]) -> str:
    sizes = [abs(s.error) for s in rows]
    cells = (
        metrics.mape(rows),
        statistics.median(sizes),
        metrics.quantile(sizes, 0.9),
        statistics.median(s.error for s in rows),
    )
    words = [f"{100 * c:.1f} %" for c in cells[:3]] + [f"{100 * cells[3]:+.1f} %"]
    return f"| {name} | {len(rows)} | {' | '.join(words)} |"


def _jobs(timed: Sequence[Scored]) -> list[str]:
    lines = [
        "| plans of one job | jobs | mean regret | 90 % | median rank correlation |",
        "|---|---:|---:|---:|---:|",
    ]
    every = metrics.jobs(timed)
    sources = dict.fromkeys(rows[0].source for rows in every)
    for name in (*sources, "all"):
        chosen = [rows for rows in every if name in (rows[0].source, "all")]
        if not chosen:
            continue
        regrets = [metrics.regret(rows) for rows in chosen]
        ranks = [metrics.rank_correlation(rows) for rows in chosen]
        lines.append(
            f"| {name} | {len(chosen)} | {100 * statistics.fmean(regrets):.2f} % | "
            f"{100 * metrics.quantile(regrets, 0.9):.2f} % | {statistics.median(ranks):.3f} |"
        )
    return [*lines, ""] if every else []


def _memory(scored: Sequence[Scored]) -> list[str]:
    lines = []
    groups = [(n, e) for n, rows in metrics.by_source(scored).items()
              if (e := metrics.memory_error(rows))]  # fmt: skip
    if groups:
        lines += ["| peak memory | rows | mean error | bias |", "|---|---:|---:|---:|"]
        for name, errors in [*groups, ("all rows", [e for _, es in groups for e in es])]:
            lines.append(
                f"| {name} | {len(errors)} | {100 * statistics.fmean(map(abs, errors)):.1f} % | "
                f"{100 * statistics.median(errors):+.1f} % |"
            )
    total, seen = metrics.out_of_memory(scored)
    if total:
        ran, over = metrics.false_alarms(scored)
        lines += ["", f"{seen} of {total} rows that ran out of memory are predicted above 95 % "
                  f"of the capacity, and {over} of {ran} that ran above 105 % of it"]  # fmt: skip
    return lines


def _row_line(s: Scored) -> str:
    names = ("row_id", "source", "model", "gpu", "n_gpus", "precision", "seq_len", "gbs", "mbs",
             "tp", "pp", "vpp", "cp", "ep", "dp", "recompute", "release")  # fmt: skip
    cells = " ".join(f"{n}={s.row[n]}" for n in names if s.row.get(n))
    return f"{100 * s.error:+7.1f} %  {s.predicted_s:.4g} s for {s.measured_s:.4g} s  {cells}"


if __name__ == "__main__":
    sys.exit("run it as python -m benchmarks training-accuracy ROWS.csv")
