"""Reading arrays: numbers, masks, groups of tasks and fixed pairs, checked and made read-only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from optalloc.assignment.integers import NumberArray
from optalloc.errors import InputError

BoolArray = npt.NDArray[np.bool_]
Groups = tuple[tuple[int, ...], ...]


def shape_error(name: str, shape: tuple[int, ...], expected: str) -> InputError:
    """The error for an array of a wrong shape."""
    return InputError(f"{name} has the shape {shape}", pointer=f"$.{name}", fix=f"give {expected}")


def read_numbers(values: npt.ArrayLike, name: str, *, least: float | None = None) -> NumberArray:
    """A read-only int64 or float64 copy of ``values``: finite, and at least ``least``."""
    try:
        array = np.array(values)
        if array.dtype.kind == "O":  # ragged, None, huge integers, fractions
            array = np.array(values, dtype=np.float64)
    except OverflowError as error:
        raise _too_large(name) from error
    except (ValueError, TypeError) as error:
        why, row = _uneven(values)
        raise InputError(
            f"{name} is no rectangular array of numbers{why}",
            pointer=f"$.{name}{row}",
            fix="give rows of equal length that hold numbers only",
        ) from error
    if array.dtype.kind not in "iufb" or (array.dtype.kind == "b" and array.size):
        raise InputError(
            f"{name} holds values of type {array.dtype}, not numbers",
            pointer=f"$.{name}",
            fix="give integers or floats",
        )
    if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        array = array.astype(np.float64)
    array = array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
    bad = ~np.isfinite(array)
    what = "is no finite number"
    if not bad.any() and least is not None:
        bad, what = array < least, "is negative"
    if bad.any():
        place = tuple(int(k) for k in np.argwhere(bad)[0])
        pointer = f"$.{name}[{','.join(map(str, place))}]" if place else f"$.{name}"
        fix = "give a finite number"
        if name == "costs":
            fix += "; forbid a pair with allowed=False"
        raise InputError(
            f"the value {array[place]} {what}",
            pointer=pointer,
            fix=fix if what != "is negative" else "give a number of at least 0",
        )
    if array.size and max(float(array.max()), -float(array.min())) * array.size > _MOST:
        raise _too_large(name)
    array.flags.writeable = False
    return array


_MOST = 1e300  # sums of two arrays stay finite


def _too_large(name: str) -> InputError:
    return InputError(
        f"{name} holds numbers too large to be added up",
        pointer=f"$.{name}",
        fix=f"give sums of at most {_MOST:g}, in a larger unit",
    )


def _uneven(values: object) -> tuple[str, str]:
    """What is wrong with the first row that is longer or shorter than row 0, and where it is."""
    if isinstance(values, (list, tuple)) and values and isinstance(values[0], (list, tuple)):
        for number, row in enumerate(values):
            if not isinstance(row, (list, tuple)):
                return ": a number stands where row 0 is a list", f"[{number}]"
            if len(row) != len(values[0]):
                return f": the row has {len(row)} entries and row 0 {len(values[0])}", f"[{number}]"
    return "", ""


def read_allowed(values: npt.ArrayLike | None, tasks: int, units: int) -> BoolArray:
    """A read-only mask of shape (tasks, units); all True by default."""
    if values is None:
        array = np.ones((tasks, units), dtype=np.bool_)
    else:
        try:
            given = np.array(values)
        except ValueError as error:
            raise shape_error("allowed", (), f"shape ({tasks}, {units})") from error
        if given.size == 0 and tasks == 0:
            given = np.zeros((0, units), dtype=np.bool_)
        if given.shape != (tasks, units):
            raise shape_error("allowed", given.shape, f"shape ({tasks}, {units})")
        if given.dtype.kind != "b" and not (
            given.dtype.kind in "iuf" and bool(np.isin(given, (0, 1)).all())
        ):
            raise InputError(
                "allowed holds values other than true and false",
                pointer="$.allowed",
                fix="give true or false (1 or 0) for each pair",
            )
        array = given.astype(np.bool_)
    array.flags.writeable = False
    return array


def with_fixed(allowed: BoolArray, fixed: Mapping[int, int] | None) -> BoolArray:
    """``allowed`` where each fixed task may use its unit alone.

    Raises
    ------
    InputError
        If a task or unit does not exist or the pair is forbidden.
    """
    if not fixed:
        return allowed
    tasks, units = allowed.shape
    mask = allowed.copy()
    for task, unit in fixed.items():
        pointer = f"$.fixed[{task}]"
        _check_index(task, tasks, "task", pointer)
        _check_index(unit, units, "unit", pointer)
        if not allowed[task, unit]:
            raise InputError(
                f"task {task} is fixed to unit {unit}, where it is not allowed",
                pointer=pointer,
                fix="allow the pair, or fix the task to another unit",
            )
        mask[task] = False
        mask[task, unit] = True
    mask.flags.writeable = False
    return mask


def read_groups(values: Iterable[Iterable[int]], name: str, tasks: int) -> Groups:
    """Groups of at least two different tasks, each sorted; smaller groups say nothing and go.

    Raises
    ------
    InputError
        If a task does not exist or is named twice in a group.
    """
    groups: list[tuple[int, ...]] = []
    for number, group in enumerate(values):
        members: list[int] = []
        for place, task in enumerate(group):
            pointer = f"$.{name}[{number}][{place}]"
            _check_index(task, tasks, "task", pointer)
            if int(task) in members:
                raise InputError(
                    f"task {task} is named twice in one group",
                    pointer=pointer,
                    fix="name each task of a group once",
                )
            members.append(int(task))
        if len(members) > 1:
            groups.append(tuple(sorted(members)))
    return tuple(sorted(set(groups)))


def read_skip_costs(
    values: Sequence[float | int | None] | npt.NDArray[np.float64] | None, tasks: int
) -> tuple[NumberArray, BoolArray]:
    """Cost of leaving each task out (0 where it must run) and the mask of the optional tasks.

    None and NaN mean that the task must run.
    """
    if values is None:
        given: list[float | int | None] = [None] * tasks
    else:
        given = list(values.tolist() if isinstance(values, np.ndarray) else values)
    if len(given) != tasks:
        raise shape_error("skip_costs", (len(given),), f"one number, or none, for {tasks} tasks")
    optional = np.array([v is not None and v == v for v in given], dtype=np.bool_)
    filled = [0 if not is_optional else v for v, is_optional in zip(given, optional, strict=True)]
    costs = read_numbers(np.array(filled) if filled else np.zeros(0, np.int64), "skip_costs")
    optional.flags.writeable = False
    return costs, optional


def _check_index(number: object, count: int, kind: str, pointer: str) -> None:
    is_whole = isinstance(number, (int, np.integer)) and not isinstance(number, bool)
    if not is_whole or not 0 <= int(number) < count:  # type: ignore[call-overload]
        raise InputError(
            f"{kind} {number} does not exist",
            pointer=pointer,
            fix=f"use a number from 0 to {count - 1}",
        )
