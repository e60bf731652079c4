"""Make the results page from the rows of ``gap``: one table an instance, one a kind.

``python -m benchmarks gap-page RESULTS.csv... --best-known CSV --out docs/explanation/PAGE.md``.
The CSV of best known values has the columns ``name``, ``type`` and ``best_known``, as in the data's
own ``best_known.csv``. With ``--trace``, the CSV files that ``gap --trace`` wrote, a table says
when ``exact`` reached what the best peer ended with. Several rows of one instance and method
(seeds) count with their median.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from benchmarks.gap_against import Pair, against_lines
from benchmarks.gap_reach import PEERS, Final, Reach, Traces, reach, reach_lines, read_traces

_INTRO = """# Results on the assignment benchmark

One row an instance: 102 published instances of the generalized assignment problem, see
[the model](assignment.md). Gaps are to the best value known, in percent; times are CPU seconds of
the whole process, start-up and reading the file included. *Proven* means that the solver closed the
gap itself. This page was written by the command at its end.
"""


class Known(NamedTuple):
    """What is known about an instance from elsewhere."""

    kind: str
    value: float


class Cell(NamedTuple):
    """The median run of one method on one instance."""

    objective: float | None
    cpu_s: float
    best_s: float | None
    proven: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the study."""
    parser.add_argument("results", nargs="+", type=Path, metavar="CSV")
    parser.add_argument("--best-known", type=Path, required=True, metavar="CSV")
    parser.add_argument("--trace", nargs="+", type=Path, default=[], metavar="CSV")
    parser.add_argument("--out", type=Path, metavar="MD", help="default: stdout")
    parser.add_argument("--note", default="", help="a sentence on how the rows were measured")


def run(arguments: argparse.Namespace) -> int:
    """Write the page; 1 when a row names an instance without a known value."""
    known = read_known(arguments.best_known)
    cells, strange = read_results(arguments.results, known)
    reaches = reaches_of(cells, read_traces(arguments.trace))
    text = page(cells, known, arguments.note, reaches)
    if arguments.out is None:
        print(text, end="")
    else:
        arguments.out.write_text(text, encoding="utf-8")
    for name in sorted(strange):
        print(f"{name} has no known value: it is not on the page.")
    return 1 if strange else 0


def read_known(path: Path) -> dict[str, Known]:
    """Best known values by instance."""
    with path.open(encoding="utf-8") as text:
        return {
            row["name"]: Known(row["type"], float(row["best_known"]))
            for row in csv.DictReader(text)
        }


def read_results(
    paths: list[Path], known: dict[str, Known]
) -> tuple[dict[str, dict[str, Cell]], set[str]]:
    """method -> instance -> cell, and the instances without a known value."""
    groups: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    strange: set[str] = set()
    for path in paths:
        with path.open(encoding="utf-8") as text:
            for row in csv.DictReader(text):
                if not row["cpu_s"]:  # it could not be done
                    continue
                if row["instance"] in known:
                    groups[row["method"], row["instance"]].append(row)
                else:
                    strange.add(row["instance"])
    cells: dict[str, dict[str, Cell]] = defaultdict(dict)
    for (method, instance), rows in groups.items():
        cells[method][instance] = _median(rows)
    return dict(cells), strange


def _median(rows: list[dict[str, str]]) -> Cell:
    values = [float(row["objective"] or "inf") for row in rows]
    value = statistics.median_low(values)
    times = [float(row["time_to_best_s"]) for row in rows if row["time_to_best_s"]]
    return Cell(
        objective=None if math.isinf(value) else value,
        cpu_s=statistics.median(float(row["cpu_s"]) for row in rows),
        best_s=statistics.median(times) if times else None,
        proven=2 * sum(row["termination"] == "optimal" for row in rows) > len(rows),
    )


def gap_percent(cell: Cell, known: Known) -> float | None:
    """How far the plan is above the best known value; None without a plan."""
    if cell.objective is None:
        return None
    return 100 * (cell.objective - known.value) / abs(known.value)


def reaches_of(cells: dict[str, dict[str, Cell]], traces: Traces) -> dict[str, Reach]:
    """By instance, where the exact method has a trace and a peer a plan."""
    found = {}
    for name in cells.get("exact", {}):
        finals = {
            peer: Final(cell.objective, cell.best_s, cell.cpu_s)
            for peer in PEERS
            if (cell := cells.get(peer, {}).get(name)) is not None
            and cell.objective is not None
            and cell.best_s is not None
        }
        if finals and ("exact", name) in traces:
            found[name] = reach(finals, traces["exact", name])
    return found


def pairs_of(cells: dict[str, dict[str, Cell]], known: dict[str, Known]) -> dict[str, Pair]:
    """By instance, where the exact method and a peer have a row."""
    pairs = {}
    for name, exact in cells.get("exact", {}).items():
        rivals = [cells[peer][name] for peer in PEERS if name in cells.get(peer, {})]
        if not rivals:
            continue
        gaps = [gap for cell in rivals if (gap := gap_percent(cell, known[name])) is not None]
        proofs = [cell.cpu_s for cell in rivals if cell.proven]
        pairs[name] = Pair(
            kind=known[name].kind,
            exact_gap_percent=gap_percent(exact, known[name]),
            peer_gap_percent=min(gaps, default=None),
            proof_ratio=exact.cpu_s / min(proofs) if exact.proven and proofs else None,
        )
    return pairs


def page(
    cells: dict[str, dict[str, Cell]],
    known: dict[str, Known],
    note: str,
    reaches: dict[str, Reach] | None = None,
) -> str:
    """The whole page as Markdown."""
    methods = sorted(cells, key=lambda method: (method != "exact", method))
    lines = [_INTRO]
    if note:
        lines += [note, ""]
    lines += ["## By kind", ""]
    lines += _head(["kind", "method", "runs", "proven", "mean gap %", "worst gap %", "no plan"])
    for kind in sorted({item.kind for item in known.values()}):
        for method in methods:
            mine = {name: cell for name, cell in cells[method].items() if known[name].kind == kind}
            gaps = [gap_percent(cell, known[name]) for name, cell in mine.items()]
            found = [gap for gap in gaps if gap is not None]
            if mine:
                lines.append(
                    f"| {kind} | {method} | {len(mine)} | "
                    f"{sum(cell.proven for cell in mine.values())} | "
                    f"{_mean(found)} | {max(found, default=math.nan):.4f} | "
                    f"{len(gaps) - len(found)} |"
                )
    if pairs := pairs_of(cells, known):
        lines += ["", *against_lines(pairs)]
    if reaches:
        kinds = {name: item.kind for name, item in known.items()}
        lines += ["", *reach_lines(reaches, kinds)]
    lines += ["", "## By instance", ""]
    names = [name for name in known if any(name in cells[method] for method in methods)]
    columns = ["instance", "best known"]
    for method in methods:
        columns += [f"{method} gap %", "CPU s"]
    lines += _head(columns)
    for name in names:
        words = [name, f"{known[name].value:.12g}"]
        for method in methods:
            cell = cells[method].get(name)
            words += ["", ""] if cell is None else _shown(cell, known[name])
        lines.append("| " + " | ".join(words) + " |")
    lines += [
        "",
        "A time without a mark is that of the proof; with *best* it is that of the best plan, and",
        "the run went on to its limit.",
        "",
        "```sh",
        "python -m benchmarks gap FILE... --method M --time-limit 60 --out results.csv"
        " --trace trace.csv",
        "python -m benchmarks gap-page results.csv --trace trace.csv --best-known best_known.csv"
        " --out PAGE.md",
        "```",
        "",
    ]
    return "\n".join(lines)


def _shown(cell: Cell, known: Known) -> list[str]:
    gap = gap_percent(cell, known)
    if gap is None:
        return ["none", ""]
    if cell.proven:
        return [f"{gap:.4f}", f"{cell.cpu_s:.2f}"]
    return [f"{gap:.4f}", f"best {cell.best_s or 0.0:.2f}"]


def _mean(values: list[float]) -> str:
    return f"{statistics.mean(values):.4f}" if values else "-"


def _head(columns: list[str]) -> list[str]:
    return ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
