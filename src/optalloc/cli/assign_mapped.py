"""The verb assign on arrays that are mapped from files: pairs that nobody holds in memory."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from optalloc.cli.answers import answered, colored, status

_MOST_ROWS = 20


def is_mapped(arguments: argparse.Namespace) -> bool:
    """A folder of arrays, or an ``.npz`` file for the method large."""
    path = Path(arguments.file)
    return path.is_dir() or (arguments.method == "large" and path.suffix.lower() == ".npz")


def run_mapped(arguments: argparse.Namespace, stop: Any) -> int:
    """Solve and print; returns the exit status."""
    from optalloc.assignment.large import solve_large
    from optalloc.assignment.pairs import open_pairs
    from optalloc.cli.progress import progress_line
    from optalloc.errors import InputError
    from optalloc.files import canonical_json, write_text
    from optalloc.report.table import render

    if arguments.method not in ("auto", "large"):
        raise InputError(
            f"the method {arguments.method!r} does not read a folder of arrays",
            path="--method",
            fix="use the method large, or give a file",
        )
    unused = ("start", "proof", "prices", "index")
    for name in unused:
        if getattr(arguments, name) not in (None, False):
            raise InputError(
                "the method large does not take this option", path=f"--{name}", fix="leave it out"
            )
    if arguments.objective not in (None, "sum"):
        raise InputError(
            "the method large minimises the sum alone", path="--objective", fix="leave it out"
        )
    source = open_pairs(arguments.file)
    try:
        with progress_line() as line:
            result = solve_large(
                source,
                seed=arguments.seed,
                threads=arguments.threads,
                sense=arguments.sense or source.sense,
                stop=stop,
                on_progress=line,
            )
    except InputError as error:
        where = arguments.file if error.path in ("", "source") else error.path
        raise InputError(error.what, path=where, pointer=error.pointer, fix=error.fix) from error
    data = _plain(source, result, arguments.sense or source.sense)
    tables = [_by_task(source, result) if arguments.format == "csv" else _by_unit(source, data)]
    with answered(arguments.output, lambda path: write_text(path, canonical_json(data))):
        print(render(tables, data, arguments.format, color=colored()), end="")
    return status(result, result.placed, require_optimal=arguments.require_optimal)


def _chosen(source: Any, placed: Any) -> tuple[Any, Any]:
    """Costs and loads of the pairs of a plan."""
    import numpy as np

    tasks, units = np.arange(len(placed)), np.array(placed)
    loads = source.loads[tasks] if source.loads.ndim == 1 else source.loads[tasks, units]
    return source.costs[tasks, units].astype(np.int64), loads.astype(np.int64)


def _plain(source: Any, result: Any, sense: str) -> dict[str, Any]:
    """The answer in the published JSON form."""
    import numpy as np

    from optalloc.cli.assign import published

    loads = None
    if result.placed is not None:
        used = np.zeros(len(source.capacities), dtype=np.int64)
        np.add.at(used, list(result.placed), _chosen(source, result.placed)[1])
        loads = used.tolist()
    return published(result, sense, loads)


def _by_task(source: Any, result: Any) -> Any:
    from optalloc.report.table import Table

    placed = result.placed or ()
    costs, loads = _chosen(source, placed) if placed else ((), ())
    rows = tuple(
        (task, unit, int(cost), int(load))
        for task, (unit, cost, load) in enumerate(zip(placed, costs, loads, strict=True))
    )
    return Table(title="", columns=("task", "unit", "cost", "load"), rows=rows)


def _by_unit(source: Any, data: dict[str, Any]) -> Any:
    """The fullest units, or why there is no plan."""
    from optalloc.report.table import Table, no_answer
    from optalloc.result import Fix

    claim = f"{data['termination']}, method large, {data['stats']['wall_s']:.2f} s"
    if data["assignment"] is None:
        fixes = [Fix(**fix) for fix in data["fixes"]]
        return no_answer(f"No assignment: {claim}", data["conflict"], fixes, data["message"])
    counts = [0] * len(source.capacities)
    for unit in data["assignment"]:
        counts[unit] += 1
    rooms = source.capacities.tolist()
    loads = data["unit_loads"]
    order = sorted(range(len(rooms)), key=lambda unit: (loads[unit] - rooms[unit], unit))[::-1]
    rows = tuple(
        (unit, loads[unit], rooms[unit], counts[unit]) for unit in sorted(order[:_MOST_ROWS])
    )
    gap = "no bound" if data["gap"] is None else f"gap {data['gap']:.3%}"
    notes = [f"Bound {data['bound']:,}: {data['message']}."] if data["bound"] is not None else []
    if len(rooms) > _MOST_ROWS:
        notes.append(
            f"The {_MOST_ROWS} fullest of {len(rooms):,} units; -o FILE writes every task."
        )
    return Table(
        title=f"Objective {data['objective']:,} ({gap}), {claim}",
        columns=("unit", "load", "capacity", "number of tasks"),
        rows=rows,
        notes=tuple(notes),
    )
