"""Instance files: OR-Library text, JSON, CSV and NPZ, read and written.

The suffix decides: ``.json``, ``.csv``, ``.npz``; everything else is OR-Library text, which is
unit-major: ``m n``, then m rows of n costs, m rows of n loads, m capacities. A CSV file has one
record a line: its kind (``sense``, ``capacities``, ``costs``, ``loads``, ``allowed``), the task it
belongs to (empty for the first two), then one number a unit. JSON alone holds every form; the
others hold plain problems.
"""

from __future__ import annotations

import csv
import io
import os
import re
import zipfile
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from optalloc import files
from optalloc.assignment.orlib import orlib_text, read_orlib
from optalloc.assignment.problem import AssignmentProblem, Objective, Sense
from optalloc.errors import InputError, nearest
from optalloc.records import read_cells

FORMAT: Final = "optalloc.assignment/1"
Row = tuple[int | float, ...]


class AssignmentFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The JSON form of an instance; arrays are task-major.

    With several resources the numbers of a unit in ``capacities``, and those of a pair (or of a
    task, where all units agree) in ``loads``, become arrays of one number a resource. ``fixed``
    lists pairs of a task and its unit.
    """

    costs: tuple[Row, ...]
    loads: tuple[tuple[Row | int | float, ...] | int | float, ...]
    capacities: tuple[Row | int | float, ...]
    allowed: tuple[tuple[bool, ...], ...] | None = None
    sense: Sense = "min"
    fixed: tuple[tuple[int, int], ...] = ()
    together: tuple[tuple[int, ...], ...] = ()
    apart: tuple[tuple[int, ...], ...] = ()
    skip_costs: tuple[int | float | None, ...] | None = None
    objective: Objective = "sum"
    format: Literal["optalloc.assignment/1"] = FORMAT


def load_assignment(
    path: str | os.PathLike[str], *, sense: Sense | None = None, index: int | None = None
) -> AssignmentProblem:
    """Read an instance.

    Parameters
    ----------
    path : str or path
        The suffix decides the format.
    sense : {"min", "max"}, optional
        Overrides the file's own sense; OR-Library text does not say and is minimised by default.
    index : int, optional
        Which instance, counted from 0, of an OR-Library file that holds several.

    Raises
    ------
    InputError
        If the file cannot be read; names the line or the pointer.
    """
    suffix = Path(path).suffix.lower()
    if index is not None and suffix in (".json", ".csv", ".npz"):
        raise InputError(
            "only OR-Library text holds several instances",
            path=str(path),
            fix="leave the index out",
        )
    if suffix == ".json":
        problem = _read_json(path)
    elif suffix == ".csv":
        problem = _read_csv(path)
    elif suffix == ".npz":
        problem = _read_npz(path)
    else:
        costs, loads, capacities = read_orlib(files.read_text(path), path=str(path), index=index)
        problem = _problem(path, costs, loads, capacities, None, "min")
    if sense is not None and sense != problem.sense:
        problem = problem.replace(sense=sense)
    return problem


def save_assignment(problem: AssignmentProblem, path: str | os.PathLike[str]) -> None:
    """Write an instance; the suffix decides the format.

    Raises
    ------
    InputError
        If the format cannot hold the instance: OR-Library text neither forbids pairs nor knows
        profits, and JSON alone holds what is not plain.
    """
    suffix = Path(path).suffix.lower()
    if suffix != ".json" and not problem.is_plain:
        raise InputError(
            "this format holds one capacity a unit, no groups, no optional tasks and the sum as "
            "objective",
            path=str(path),
            fix="write a .json file",
        )
    if suffix == ".json":
        files.write_json(path, _to_file(problem))
    elif suffix == ".csv":
        files.write_text(path, _csv_text(problem))
    elif suffix == ".npz":
        _write_npz(problem, path)
    else:
        files.write_text(path, orlib_text(problem, path=str(path)))


def _problem(
    path: str | os.PathLike[str],
    costs: npt.ArrayLike,
    loads: npt.ArrayLike,
    capacities: npt.ArrayLike,
    allowed: npt.ArrayLike | None,
    sense: Sense,
    **form: Any,
) -> AssignmentProblem:
    try:
        return AssignmentProblem(costs, loads, capacities, allowed, sense, **form)
    except InputError as error:
        pointer = error.pointer
        if found := re.fullmatch(r"\$\.fixed\[(-?\d+)\]", pointer):  # a task; a place in the file
            pointer = f"$.fixed[{list(form['fixed']).index(int(found[1]))}]"
        raise InputError(error.what, path=str(path), pointer=pointer, fix=error.fix) from error


def _to_file(problem: AssignmentProblem) -> AssignmentFile:
    skips = problem.arguments()["skip_costs"]
    return AssignmentFile(
        costs=_tuples(problem.costs.tolist()),
        loads=_tuples(problem.loads.tolist()),
        capacities=_tuples(problem.capacities.tolist()),
        allowed=None if problem.allowed.all() else tuple(map(tuple, problem.allowed.tolist())),
        sense=problem.sense,
        together=problem.together,
        apart=problem.apart,
        skip_costs=None if skips is None else _tuples(skips),
        objective=problem.objective,
    )


def _tuples(values: Any) -> Any:
    """Nested lists as nested tuples."""
    return tuple(map(_tuples, values)) if isinstance(values, list) else values


def _read_json(path: str | os.PathLike[str]) -> AssignmentProblem:
    data = files.parse_json(files.read_text(path), path=str(path))
    file = files.typed(data, AssignmentFile, path=str(path))
    fixed = dict(file.fixed)
    if len(fixed) < len(file.fixed):
        raise InputError(
            "a task is fixed twice",
            path=str(path),
            pointer="$.fixed",
            fix="name each task once",
        )
    return _problem(
        path,
        file.costs,
        file.loads,
        file.capacities,
        file.allowed,
        file.sense,
        fixed=fixed,
        together=file.together,
        apart=file.apart,
        skip_costs=file.skip_costs,
        objective=file.objective,
    )


def _csv_text(problem: AssignmentProblem) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["kind", "task", *(f"unit {unit}" for unit in range(problem.num_units))])
    writer.writerow(["sense", "", problem.sense, *[""] * (problem.num_units - 1)])
    writer.writerow(["capacities", "", *problem.capacities.tolist()])
    for kind, matrix in (("costs", problem.costs), ("loads", problem.loads_matrix)):
        writer.writerows([kind, task, *row] for task, row in enumerate(matrix.tolist()))
    if not problem.allowed.all():
        rows = problem.allowed.astype(int).tolist()
        writer.writerows(["allowed", task, *row] for task, row in enumerate(rows))
    return out.getvalue()


def _read_csv(path: str | os.PathLike[str]) -> AssignmentProblem:
    tables: dict[str, list[list[int | float]]] = {
        "capacities": [],
        "costs": [],
        "loads": [],
        "allowed": [],
    }
    sense: Sense = "min"
    width = -1
    for line, record in enumerate(read_cells(path), start=1):
        where = f"line {line}"
        if not record or not any(cell.strip() for cell in record):
            continue
        kind = record[0].strip()
        if kind == "kind":
            width = len(record)
            continue
        if kind == "sense":
            word = record[2].strip() if len(record) > 2 else ""
            if word not in ("min", "max"):
                raise InputError(
                    f"the sense {word!r} is unknown",
                    path=str(path),
                    pointer=where,
                    fix="use 'min' or 'max'",
                )
            sense = "max" if word == "max" else "min"
            continue
        if kind not in tables:
            near = nearest(kind, [*tables, "sense", "kind"], count=1)
            raise InputError(
                f"unknown kind of record {kind!r}",
                path=str(path),
                pointer=where,
                fix=f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(tables)}",
            )
        width = len(record) if width < 0 else width
        if len(record) != width:
            raise InputError(
                f"the line has {len(record)} fields instead of {width}",
                path=str(path),
                pointer=where,
                fix="give the kind, the task and one number a unit",
            )
        if kind != "capacities" and record[1].strip() != str(len(tables[kind])):
            raise InputError(
                f"task {record[1].strip()!r} stands where task {len(tables[kind])} is due",
                path=str(path),
                pointer=where,
                fix="list the tasks of a kind in order, from 0",
            )
        tables[kind].append([_number(cell, path, where) for cell in record[2:]])
    if len(tables["capacities"]) != 1:
        raise InputError(
            f"the file has {len(tables['capacities'])} records of capacities",
            path=str(path),
            fix="give exactly one",
        )
    return _problem(
        path,
        tables["costs"],
        tables["loads"],
        tables["capacities"][0],
        tables["allowed"] or None,
        sense,
    )


def _number(text: str, path: str | os.PathLike[str], where: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError as error:
        raise InputError(
            f"{text!r} is not a number", path=str(path), pointer=where, fix="give a number"
        ) from error


def _read_npz(path: str | os.PathLike[str]) -> AssignmentProblem:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no archive of arrays"
        raise InputError(
            f"cannot read the file as NPZ: {reason}",
            path=str(path),
            fix="check the path; the file may be cut off, or its arrays hold objects",
        ) from error
    known = ("costs", "loads", "capacities", "allowed", "sense")
    for name in arrays:
        if name not in known:
            raise InputError(
                f"unknown array {name!r}",
                path=str(path),
                fix=f"known arrays are {', '.join(known)}",
            )
    for name in known[:3]:
        if name not in arrays:
            raise InputError(f"the array {name!r} is missing", path=str(path), fix=f"add {name!r}")
    word = str(arrays["sense"]) if "sense" in arrays else "min"
    if word not in ("min", "max"):
        raise InputError(
            f"the sense {word!r} is unknown",
            path=str(path),
            pointer="$.sense",
            fix="use 'min' or 'max'",
        )
    return _problem(
        path,
        arrays["costs"],
        arrays["loads"],
        arrays["capacities"],
        arrays.get("allowed"),
        "max" if word == "max" else "min",
    )


def _write_npz(problem: AssignmentProblem, path: str | os.PathLike[str]) -> None:
    with files.replacing(path) as file, file.open("wb") as out:
        np.savez_compressed(
            out,
            costs=problem.costs,
            loads=problem.loads,
            capacities=problem.capacities,
            allowed=problem.allowed,
            sense=np.array(problem.sense),
        )
