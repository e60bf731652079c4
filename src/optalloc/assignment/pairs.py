"""Where the pairs of a very large instance come from: arrays in memory or mapped from files.

A source gives rows of costs and loads when it is asked for them; nobody holds all pairs.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from optalloc.assignment.arrays import shape_error
from optalloc.assignment.integers import IntegerForm
from optalloc.assignment.problem import Sense
from optalloc.errors import InputError

Longs = npt.NDArray[np.int64]
Integers = npt.NDArray[np.integer[Any]]
_NAMES = ("costs", "loads", "capacities", "allowed", "sense")


class PairSource(Protocol):
    """Where pairs come from: arrays, files, or a function of the row."""

    @property
    def num_tasks(self) -> int: ...
    @property
    def capacities(self) -> Longs:
        """Shape (num_units,)."""
        ...

    def rows(self, first: int, last: int) -> tuple[Longs, Longs]:
        """Costs and loads of the tasks ``first`` to ``last - 1``, int64, (last - first, num_units).

        The same rows every time, also to several threads at once; loads of at least 0. A load above
        the capacity forbids the pair.
        """
        ...


class ArraySource:
    """Arrays of any integer type, for example ``numpy.load(path, mmap_mode="r")``.

    Parameters
    ----------
    costs : ndarray of integers, shape (num_tasks, num_units)
        Any sign, below 2**53 in size.
    loads : ndarray of integers, shape (num_tasks, num_units) or (num_tasks,)
        At least 0, which is checked when they are read.
    capacities : array_like of int, shape (num_units,)
        At least 0.
    allowed : ndarray of bool, shape (num_tasks, num_units), optional
        False where a task may not run on a unit.
    sense : {"min", "max"}
        Whether the costs are paid or earned; :func:`solve_large` is told so by its own argument.

    Raises
    ------
    InputError
        If shapes or types do not fit.
    """

    def __init__(
        self,
        costs: Integers,
        loads: Integers,
        capacities: npt.ArrayLike,
        allowed: npt.NDArray[np.bool_] | None = None,
        sense: Sense = "min",
    ) -> None:
        rooms = np.asarray(capacities)
        if rooms.ndim != 1 or rooms.dtype.kind not in "iu" or len(rooms) == 0:
            raise InputError(
                f"capacities has the shape {rooms.shape} and the type {rooms.dtype}",
                pointer="$.capacities",
                fix="give one integer a unit",
            )
        if int(rooms.min()) < 0 or int(rooms.max()) > 2**53:
            raise InputError(
                f"the capacity of unit {int(np.argmax((rooms < 0) | (rooms > 2**53)))} is not in "
                "the range from 0 to 2**53",
                pointer="$.capacities",
                fix="count capacities and loads in a larger unit",
            )
        self.capacities: Longs = rooms.astype(np.int64)
        shape = (len(costs), len(rooms))
        if costs.shape != shape:
            raise shape_error("costs", costs.shape, f"one row a task of {len(rooms)} numbers")
        if loads.shape not in (shape, shape[:1]):
            raise shape_error("loads", loads.shape, f"{shape} or {shape[:1]} to match the costs")
        if allowed is not None and (allowed.shape != shape or allowed.dtype.kind != "b"):
            raise shape_error("allowed", allowed.shape, f"true or false in the shape {shape}")
        for name, array in (("costs", costs), ("loads", loads)):
            if array.dtype.kind not in "iu":
                raise InputError(
                    f"{name} holds numbers of the type {array.dtype}",
                    pointer=f"$.{name}",
                    fix="give integers; scale decimals first",
                )
        self.costs, self.loads, self.allowed, self.sense = costs, loads, allowed, sense

    @property
    def num_tasks(self) -> int:
        """N."""
        return len(self.costs)

    def rows(self, first: int, last: int) -> tuple[Longs, Longs]:
        """The rows as int64.

        Raises
        ------
        InputError
            If a load is negative or a cost too large.
        """
        costs = np.array(self.costs[first:last]).astype(np.int64)
        loads = np.array(self.loads[first:last]).astype(np.int64)
        for name, bad in (("costs", np.abs(costs) > 2**53), ("loads", loads < 0)):
            if bad.any():
                place = [int(k) for k in np.argwhere(bad)[0]]
                place[0] += first
                raise InputError(
                    "the load is negative" if name == "loads" else "the cost is above 2**53",
                    pointer=f"$.{name}[{','.join(map(str, place))}]",
                    fix="give loads of at least 0, and costs below 2**53",
                )
        if loads.ndim == 1:
            loads = np.repeat(loads[:, None], len(self.capacities), axis=1)
        if self.allowed is not None:
            loads[~np.array(self.allowed[first:last])] = int(self.capacities.max()) + 1
        return costs, loads


class FormSource:
    """The integer form of an :class:`AssignmentProblem` as a source."""

    def __init__(self, form: IntegerForm) -> None:
        self._form = form
        self.capacities: Longs = form.capacities
        self._forbidden = int(form.capacities.max()) + 1

    @property
    def num_tasks(self) -> int:
        """N."""
        return len(self._form.costs)

    def rows(self, first: int, last: int) -> tuple[Longs, Longs]:
        """The rows; pairs that are not allowed carry more than any capacity."""
        allowed = self._form.allowed[first:last]
        loads = np.where(allowed, self._form.loads[first:last], self._forbidden)
        return self._form.costs[first:last], loads


def open_pairs(path: str | os.PathLike[str]) -> ArraySource:
    """Arrays of a folder or of an ``.npz`` file, mapped into memory where that is possible.

    Parameters
    ----------
    path : str or path
        A folder with ``costs.npy``, ``loads.npy``, ``capacities.npy`` and perhaps ``allowed.npy``,
        or an ``.npz`` file of arrays of those names. Arrays of a compressed file are unpacked.

    Raises
    ------
    InputError
        If an array is missing or none, or shapes do not fit.
    """
    whole = Path(path)
    try:
        arrays = _mapped_folder(whole) if whole.is_dir() else _mapped_archive(whole)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise InputError(
            f"the arrays cannot be read: {error}",
            path=str(path),
            fix="give a folder of .npy files or an .npz file, of plain numbers",
        ) from error
    for name in _NAMES[:3]:
        if name not in arrays:
            raise InputError(
                f"there is no array {name!r}",
                path=str(path),
                fix=f"save {name}.npy in the folder" if whole.is_dir() else f"save it as {name}",
            )
    sense: Sense = "max" if str(arrays.get("sense", "min")) == "max" else "min"
    try:
        return ArraySource(
            arrays["costs"], arrays["loads"], arrays["capacities"], arrays.get("allowed"), sense
        )
    except InputError as error:
        raise InputError(
            error.what, path=str(path), pointer=error.pointer, fix=error.fix
        ) from error


def _mapped_folder(folder: Path) -> dict[str, Any]:
    paths = {name: folder / f"{name}.npy" for name in _NAMES}
    return {
        name: np.load(path, mmap_mode="r", allow_pickle=False)
        for name, path in paths.items()
        if path.exists()
    }


def _mapped_archive(path: Path) -> dict[str, Any]:
    """Members that are stored as they are lie in the file as in an ``.npy`` file of their own."""
    arrays: dict[str, Any] = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as raw:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name not in _NAMES:
                continue
            if member.compress_type != zipfile.ZIP_STORED:
                with archive.open(member) as packed:
                    arrays[name] = np.lib.format.read_array(packed, allow_pickle=False)
                continue
            raw.seek(member.header_offset + 26)
            lengths = [int.from_bytes(raw.read(2), "little") for _ in range(2)]
            raw.seek(member.header_offset + 30 + sum(lengths))
            version = np.lib.format.read_magic(raw)
            read = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                read = np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(raw)
            if dtype.hasobject:
                raise ValueError(f"{name} holds objects")
            if dtype.kind == "U":
                with archive.open(member) as packed:
                    arrays[name] = np.lib.format.read_array(packed, allow_pickle=False)
                continue
            order: Literal["C", "F"] = "F" if fortran else "C"
            start = raw.tell()
            arrays[name] = np.memmap(
                path, dtype=dtype, mode="r", offset=start, shape=shape, order=order
            )
    return arrays
