"""optalloc sweep: the best plan for every cell of a grid, as CSV and as a plot."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from optalloc.cli.answers import add_format, colored

if TYPE_CHECKING:
    from optalloc.plan.cell import Cell
    from optalloc.plan.cells import AnyCell, AnyRow
    from optalloc.report.table import Table

C = TypeVar("C", bound="AnyCell")
R = TypeVar("R", bound="AnyRow")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    from optalloc.cli.training_inputs import add_step

    serving = parser.add_argument_group("serving (in place of --seq-len and --global-batch)")
    for flag, what in _SERVING.items():
        serving.add_argument(flag, metavar="...", help=what)
    parser.add_argument(
        "model", metavar="MODEL", help="a bundled name, a config.json, or its folder"
    )
    parser.add_argument(
        "--gpu", metavar="NAME,...", help="devices of the catalogue; needs --devices"
    )
    parser.add_argument(
        "--cluster",
        metavar="CLUSTER,...",
        help="in place of --gpu: 64xh100-sxm, or files; a file with --devices is resized",
    )
    parser.add_argument("--devices", metavar="N,...", help="numbers of devices")
    parser.add_argument("--seq-len", metavar="N,...", help="tokens of one sequence")
    parser.add_argument("--global-batch", metavar="N,...", help="sequences of one optimizer step")
    add_step(parser)
    parser.add_argument(
        "--objective",
        choices=("step_time", "price", "energy", "throughput", "devices", "latency"),
        help="default: step_time; of serving: throughput",
    )
    parser.add_argument("--pin", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--forbid", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--time-limit", metavar="TIME", help="wall-clock limit of each cell")
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="processes at the same time; default: one a core"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write rows to this CSV; rows it has are kept"
    )
    parser.add_argument(
        "--plot",
        metavar="FILE",
        help="draw an SVG: speed against price, or of serving, device against user",
    )
    add_format(parser)


_SERVING = {
    "--input-len": "tokens of a prompt: N,...",
    "--output-len": "tokens of an answer: N,...",
    "--rate": "requests each second: R,...",
    "--concurrency": "or requests in flight: Q,...",
    "--ttft": "target of the first token",
    "--tpot": "target of each further token",
    "--prefix-len": "tokens of a prompt that are cached",
    "--weights": "types of weights to choose from",
    "--kv": "types of the cache to choose from",
    "--software": "engine software to choose from",
}


def run(arguments: argparse.Namespace) -> int:
    """Solve the grid and print it; returns the exit status."""
    if arguments.input_len is not None:
        from optalloc.cli import serve

        return serve.sweep(arguments)
    arguments.objective = arguments.objective or "step_time"
    from optalloc.plan.cell import Row
    from optalloc.plan.sweep import Sweep, sweep
    from optalloc.report.scatter import sweep_svg
    from optalloc.report.sweep import front_text, sweep_table
    from optalloc.units import format_seconds

    cells = _cells(arguments)
    title = f"{cells[0].model.name}: the best plan of each cell"
    return solve_grid(
        arguments,
        cells,
        Family(
            row=Row,
            sweep=lambda cells, jobs, done, book: sweep(cells, jobs=jobs, done=done, on_row=book),
            asked=lambda row: (
                f"{row.devices} {row.device}, {row.sequence_length} tokens, batch "
                f"{row.global_batch}"
            ),
            found=lambda row: None if row.step_time_s is None else format_seconds(row.step_time_s),
            table=sweep_table,
            facts=lambda rows: Sweep(rows=rows),
            front=lambda rows: "\n" + front_text(rows),
            svg=lambda rows: sweep_svg(rows, title),
        ),
    )


class Family(NamedTuple, Generic[C, R]):
    """What sweeps of training and of serving plans do each in their own way."""

    row: type[R]
    sweep: Callable[[Sequence[C], int, Sequence[R], Callable[[R], None]], tuple[R, ...]]
    asked: Callable[[R], str]
    found: Callable[[R], str | None]
    table: Callable[[Sequence[R]], Table]
    facts: Callable[[tuple[R, ...]], object]
    front: Callable[[Sequence[R]], str]
    svg: Callable[[Sequence[R]], str]


def solve_grid(arguments: argparse.Namespace, cells: Sequence[C], family: Family[C, R]) -> int:
    """Solve what the output has not, print and write rows; returns the exit status."""
    from optalloc import files
    from optalloc.errors import InputError
    from optalloc.report.sweep import csv_text, read_csv
    from optalloc.report.table import render

    if arguments.plot is not None and not arguments.plot.lower().endswith(".svg"):
        raise InputError(
            f"{arguments.plot!r} does not end in .svg", path="--plot", fix="write --plot front.svg"
        )
    kept = read_csv(arguments.output, family.row) if arguments.output is not None else ()
    jobs = arguments.jobs if arguments.jobs is not None else len(os.sched_getaffinity(0))
    asked = {cell.digest for cell in cells}
    book = _Book(arguments.output, kept, asked, family)
    try:
        rows = family.sweep(cells, jobs, kept, book)
    except KeyboardInterrupt:
        print(f"optalloc: interrupted. {book.kept_words()}", file=sys.stderr)
        return 130
    if arguments.output is not None:
        others = [row for row in kept if row.digest not in asked]
        files.write_text(arguments.output, csv_text([*others, *rows], family.row))
    if arguments.format == "csv":
        print(csv_text(rows, family.row), end="")
    else:
        facts = family.facts(rows)
        print(render([family.table(rows)], facts, arguments.format, color=colored()), end="")
    if arguments.format == "table":
        print(family.front(rows), end="")
    if arguments.plot is not None:  # behind the answer, which is then not lost with the file
        files.write_text(arguments.plot, family.svg(rows))
    if arguments.format == "table":
        for path in (arguments.output, arguments.plot):
            if path is not None:
                print(f"Saved {path}.")
    return _exit_status(rows, family)


def _exit_status(rows: Sequence[R], family: Family[C, R]) -> int:
    """Done with one plan; otherwise bad input before a limit before proven infeasible."""
    if any(family.found(row) is not None for row in rows):
        return 0
    found = {row.status for row in rows}
    return 2 if "error" in found else 4 if "limit" in found else 3


class _Book(Generic[C, R]):
    """Says on stderr what each cell came to, and writes its row to the CSV as it comes."""

    def __init__(
        self, path: str | None, kept: Sequence[R], asked: set[str], family: Family[C, R]
    ) -> None:
        self.path, self.family = path, family
        self.rows = {row.digest: row for row in kept}
        self.total = len(asked)
        self.done = sum(row.digest in asked and row.status != "error" for row in kept)
        if self.done:
            print(f"{self.done} of {self.total} cells are in {path} already", file=sys.stderr)

    def kept_words(self) -> str:
        """What is left of a sweep that was interrupted."""
        if self.path is None:
            return "Nothing was kept: -o FILE keeps rows as they come"
        return f"{self.done} of {self.total} rows are in {self.path}: the same command goes on"

    def __call__(self, row: R) -> None:
        from optalloc import files
        from optalloc.report.sweep import csv_text

        self.done += 1
        self.rows[row.digest] = row
        if self.path is not None:
            files.write_text(self.path, csv_text(list(self.rows.values()), self.family.row))
        print(
            f"{self.done:>{len(str(self.total))}}/{self.total}  {self.family.asked(row)}: "
            f"{self.family.found(row) or row.status} ({row.cpu_s:.1f} s of CPU)",
            file=sys.stderr,
        )


def _cells(arguments: argparse.Namespace) -> tuple[Cell, ...]:
    """The grid that the arguments ask for."""
    from optalloc.cli.training_inputs import read_workload
    from optalloc.model.load import load_model
    from optalloc.plan.sweep import grid
    from optalloc.units import parse_duration

    lengths = numbers_of(arguments.seq_len, "--seq-len")
    batches = numbers_of(arguments.global_batch, "--global-batch")
    devices = numbers_of(arguments.devices, "--devices")
    clusters = clusters_of(arguments)
    arguments.sequence_length = lengths[0] if lengths else None
    arguments.global_batch = batches[0] if batches else None
    limit = arguments.time_limit
    return grid(
        load_model(arguments.model),
        clusters,
        read_workload(arguments),
        devices=devices,
        sequence_lengths=lengths,
        global_batches=batches,
        objective=arguments.objective,
        pin=arguments.pin,
        forbid=arguments.forbid,
        time_limit_s=None if limit is None else parse_duration(limit, path="--time-limit"),
    )


def clusters_of(arguments: argparse.Namespace) -> list[str]:
    """Kinds of devices, or clusters: one of the two."""
    from optalloc.errors import InputError

    kinds, clusters = _words(arguments.gpu or ""), _words(arguments.cluster or "")
    if bool(kinds) == bool(clusters):
        raise InputError(
            "a sweep needs either --gpu or --cluster",
            path="the command line",
            fix="add --gpu h100-sxm --devices 64,128, or --cluster 64xh100-sxm,128xh100-sxm",
        )
    if kinds and not numbers_of(arguments.devices, "--devices"):
        raise InputError("--gpu needs --devices", path="--gpu", fix="add --devices 64,128")
    return kinds or clusters


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def numbers_of(text: str | None, flag: str) -> list[int]:
    """Whole numbers of at least 1, separated by commas."""
    from optalloc.errors import InputError

    found = []
    for word in _words(text or ""):
        if not word.isdecimal() or int(word) < 1:
            raise InputError(
                f"{word!r} is no whole number of at least 1",
                path=flag,
                fix=f"separate numbers by commas: {flag} 64,128",
            )
        found.append(int(word))
    return found
