"""Predict published serving measurements, each row from its columns alone, and score them."""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from benchmarks.accuracy_metrics import quantile, spearman
from optalloc.cost.engine.calibrate import left_out, named_parts, setup_folds
from optalloc.cost.engine.cells import Row
from optalloc.cost.engine.constants import DEFAULT, EngineFile, read_engine_constants
from optalloc.cost.engine.fit import Fit
from optalloc.cost.engine.measured import (
    ServingProblem,
    is_latency_form,
    read_serving_rows,
    serving_problem,
)
from optalloc.cost.engine.predict import ServingPrediction, predict_serving
from optalloc.cost.engine.rows import Ints, Rows
from optalloc.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the study."""
    parser.add_argument(
        "rows", metavar="ROWS.csv", nargs="+", help="measurements, one a line; either form"
    )
    parser.add_argument(
        "--out", metavar="FILE", help="write id,status,value or id,status,ttft_ms,tpot_ms"
    )
    parser.add_argument(
        "--calibration", metavar="FILE.toml", help="constants to use; default: those of the package"
    )
    parser.add_argument(
        "--folds",
        type=int,
        default=0,
        metavar="K",
        help="refit K times and predict each row by the fit that left out its setup",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="shuffles the setups of --folds"
    )
    parser.add_argument(
        "--leave-out",
        choices=tuple(_PARTS),
        help="refit without each engine, device or model, and predict its rows by that fit",
    )
    parser.add_argument("--page", metavar="FILE.md", help="write what is printed")
    parser.add_argument("--worst", type=int, default=0, metavar="N", help="list the N worst rows")


class Scored(msgspec.Struct, frozen=True):
    """One row with its prediction."""

    row: Row
    problem: ServingProblem
    found: ServingPrediction

    @property
    def measured_rate(self) -> float | None:
        """Output tokens per second of all devices: measured, or from both times and the load; None
        where a row does not state its load, which is a guess then."""
        p = self.problem
        if p.measured_rate is not None:
            return p.measured_rate
        states_load = bool(self.row.get("concurrency", "").strip())
        if p.measured_ttft_s is None or p.measured_tpot_s is None or not states_load:
            return None
        request = p.measured_ttft_s + (p.output_len - 1.0) * p.measured_tpot_s
        return p.concurrency * p.output_len / request

    def errors(self) -> dict[str, float]:
        """Relative errors, signed, of what was measured."""
        p, f = self.problem, self.found
        pairs = {
            "throughput": (f.output_tokens_per_s, self.measured_rate),
            "tpot": (f.tpot_s, p.measured_tpot_s),
            "ttft": (f.ttft_s, p.measured_ttft_s),
        }
        return {name: a / b - 1.0 for name, (a, b) in pairs.items() if b is not None}


def run(arguments: argparse.Namespace) -> int:
    """Predict, write, print; 0 if every row of a known model was predicted."""
    file = read_engine_constants(arguments.calibration or DEFAULT)
    tables = [read_serving_rows(path) for path in arguments.rows]
    lines = [(row, _problem(row)) for table in tables for row in table]
    known = [(row, problem) for row, problem in lines if isinstance(problem, ServingProblem)]
    rows, problems = [row for row, _ in known], [problem for _, problem in known]
    _say_remarks(lines)
    parts = [f"# Accuracy of serving predictions\n\n{_HEADING.format(model=file.name)}"]
    scored: list[Scored] = []
    for title, files in _fits(problems, file, arguments):
        scored, each_s = score(rows, problems, files)
        parts.append(f"## {title}\n\n{len(scored)} of {len(lines)} rows predicted.")
        parts += [text for table in _TABLES if (text := table(scored))]
        print(f"{title}: {1e3 * each_s:.2f} ms of CPU a prediction", file=sys.stderr)
    worst = sorted(scored, key=lambda s: -max(map(abs, s.errors().values()), default=0.0))
    if arguments.worst:
        parts.append("\n".join("    " + _row_line(s) for s in worst[: arguments.worst]))
    page = "\n\n".join(parts) + "\n"
    print(page, end="")
    if arguments.page is not None:
        Path(arguments.page).write_text(page, encoding="utf-8")
    if arguments.out is not None:
        write(arguments.out, lines, scored, latency=is_latency_form(tables[0]))
    return 0


def _problem(row: Row) -> ServingProblem | str:
    """The problem of a row, or why it has none."""
    try:
        return serving_problem(row)
    except InputError as error:
        return error.what


def _say_remarks(lines: Sequence[tuple[Row, ServingProblem | str]]) -> None:
    """What of the table was taken for something else, each once, and the rows without a problem."""
    counts: Counter[str] = Counter()
    for _, problem in lines:
        counts.update(problem.remarks if isinstance(problem, ServingProblem) else [problem])
    for remark, count in counts.most_common(_MOST_REMARKS):
        print(f"{remark} ({count} row{'s' if count > 1 else ''})", file=sys.stderr)
    if (rest := len(counts) - _MOST_REMARKS) > 0:
        print(f"and {rest} more remarks", file=sys.stderr)


_MOST_REMARKS = 20


_HEADING = (
    "Written by `python -m benchmarks serving-accuracy ROWS.csv... --page FILE` for engine model "
    "`{model}`: each published row is predicted from its columns alone and compared with what it "
    "reports. Throughput of rows that give times is concurrency x output length / (TTFT + (output "
    "length - 1) TPOT); of the few that state no concurrency the times alone are compared."
)


_PARTS: dict[str, Callable[[ServingProblem], str]] = {
    "engine": lambda p: p.software,
    "device": lambda p: p.device.name,
    "model": lambda p: p.model.name,
}


def _fits(
    problems: Sequence[ServingProblem], file: EngineFile, arguments: argparse.Namespace
) -> Iterator[tuple[str, list[EngineFile]]]:
    """Title and constants of every row, for each way of fitting; the last one is written out."""
    yield "Constants as given", [file] * len(problems)
    if (folds := arguments.folds) > 1:
        parts = setup_folds(problems, folds, arguments.seed)
        title = f"Whole setups left out of the fit, in {folds} parts"
        yield title, refitted(problems, file, parts)
    if (what := arguments.leave_out) is not None:
        parts = named_parts([_PARTS[what](p) for p in problems])
        yield f"Every {what} left out of the fit in turn", refitted(problems, file, parts)


def score(
    rows: Sequence[Row], problems: Sequence[ServingProblem], files: Sequence[EngineFile]
) -> tuple[list[Scored], float]:
    """Every row with its prediction, and seconds of CPU a prediction."""
    start = time.process_time()
    found = [predict_serving(p, f) for p, f in zip(problems, files, strict=True)]
    each_s = (time.process_time() - start) / max(1, len(found))
    return [Scored(*each) for each in zip(rows, problems, found, strict=True)], each_s


def refitted(problems: Sequence[ServingProblem], file: EngineFile, parts: Ints) -> list[EngineFile]:
    """For each row the constants fitted without its part of the rows."""
    fit = Fit(Rows(problems, file), file)
    files = [file] * len(problems)
    for part, z, own in left_out(fit, parts):
        print(f"refitted {part + 1} of {parts.max() + 1}", file=sys.stderr)
        other = fit.file_of(z)
        for i in own.tolist():
            files[i] = other
    return files


def write(
    path: str,
    lines: Sequence[tuple[Row, ServingProblem | str]],
    scored: Sequence[Scored],
    *,
    latency: bool,
) -> None:
    """One line a row, in the order of the tables, in the form of the first."""
    figures = ("ttft_ms", "tpot_ms") if latency else ("value",)
    predicted = iter(scored)
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "status", *figures))
        for row, problem in lines:
            if isinstance(problem, ServingProblem):
                writer.writerow((row["id"], "ok", *_figures(next(predicted), latency=latency)))
            else:
                writer.writerow((row["id"], problem, *("" for _ in figures)))


def _figures(s: Scored, *, latency: bool) -> tuple[str, ...]:
    if latency:
        return f"{1e3 * s.found.ttft_s:.6g}", f"{1e3 * s.found.tpot_s:.6g}"
    is_time = s.row.get("metric") == "ttft_ms"
    return (f"{1e3 * s.found.ttft_s if is_time else s.found.output_tokens_per_s:.6g}",)


# -- tables ----------------------------------------------------------------------------------------


def _error_table(title: str, of: Callable[[Scored], str]) -> Callable[[Sequence[Scored]], str]:
    def table(scored: Sequence[Scored]) -> str:
        lines = [
            f"| {title} | rows | throughput median | mean | TPOT median | mean | TTFT median "
            "| mean |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        groups: dict[str, list[Scored]] = defaultdict(list)
        for s in scored:
            groups[of(s)].append(s)
        named = sorted(groups.items())
        for name, members in [*named, ("all", list(scored))]:
            lines.append(f"| {name} | {len(members)} | {' | '.join(_cells(members))} |")
        return "\n".join(lines)

    return table


def _cells(members: Sequence[Scored]) -> list[str]:
    cells = []
    for name in ("throughput", "tpot", "ttft"):
        sizes = [abs(e[name]) for s in members if name in (e := s.errors())]
        cells += (
            [f"{100 * statistics.median(sizes):.1f} %", f"{100 * statistics.fmean(sizes):.1f} %"]
            if sizes
            else ["", ""]
        )
    return cells


def _choices(scored: Sequence[Scored]) -> str:
    lines = [
        "| configurations of one model, device and lengths | groups | mean rank correlation | "
        "median | mean regret | 90 % |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for title, equal_load, least in (
        ("at any load", False, 2),
        ("at any load, ten rows or more", False, 10),
        ("at equal concurrency", True, 2),
    ):
        ranks, regrets = [], []
        for members in _groups(scored, equal_load=equal_load):
            if len(members) < least:
                continue
            ranks.append(spearman([v for v, _ in members], [v for _, v in members]))
            chosen = max(members)[1]
            regrets.append(1.0 - chosen / max(v for _, v in members))
        if ranks:
            lines.append(
                f"| {title} | {len(ranks)} | {statistics.fmean(ranks):.3f} | "
                f"{statistics.median(ranks):.3f} | {100 * statistics.fmean(regrets):.2f} % | "
                f"{100 * quantile(regrets, 0.9):.2f} % |"
            )
    lines += ["", "Compared by output tokens per second and device."]
    return "\n".join(lines) if len(lines) > 4 else ""


def _groups(scored: Sequence[Scored], *, equal_load: bool) -> list[list[tuple[float, float]]]:
    """Predicted and measured tokens per second and device of each group of two or more setups."""
    groups: dict[tuple[object, ...], list[Scored]] = defaultdict(list)
    for s in scored:
        p = s.problem
        if s.measured_rate is not None:
            load = p.concurrency if equal_load else None
            groups[p.model.name, p.device.name, p.input_len, p.output_len, load].append(s)
    found = []
    for members in groups.values():
        if len({s.problem.setup for s in members}) > 1:
            each = [
                (s, sum(w.count * w.engine.num_devices for w in s.problem.workers)) for s in members
            ]
            found.append(
                [(s.found.output_tokens_per_s / n, (s.measured_rate or 0.0) / n) for s, n in each]
            )
    return found


_TABLES = (
    _error_table("engine", lambda s: s.problem.software),
    _error_table("device", lambda s: s.problem.device.name),
    _error_table("mode", lambda s: s.problem.scenario),
    _choices,
)


def _row_line(s: Scored) -> str:
    errors = " ".join(f"{name} {100 * e:+.0f} %" for name, e in s.errors().items())
    p = s.problem
    return (
        f"{p.row_id} {errors}  {p.setup} {p.input_len:.0f}/{p.output_len:.0f} "
        f"concurrency {p.concurrency:.0f} release {p.release}"
    )


if __name__ == "__main__":
    sys.exit("run it as python -m benchmarks serving-accuracy ROWS.csv")
