"""AssignmentProblem: N tasks, M units, a cost and a load for each pair, a capacity for each unit.

    minimise    sum_ij c_ij x_ij            x_ij = 1: task j runs on unit i
    subject to  sum_i x_ij = 1              each task j runs once
                sum_j w_ij x_ij <= L_i      no unit i carries more than its capacity

A *unit* holds a capacity: a device, a node, a pool, a cloud offer. Arrays are task-major, that is
``costs[task, unit]``. :mod:`optalloc.assignment.integers` says how the numbers become integers.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal, NoReturn

import msgspec
import numpy as np
import numpy.typing as npt

from optalloc.assignment.integers import IntegerForm, NumberArray, integer_form
from optalloc.errors import InputError

Sense = Literal["min", "max"]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What an assignment costs and which rules it breaks.

    ``objective`` is in the unit of the costs, ``unit_loads`` (one a unit) in that of the loads. An
    empty ``violations`` means feasible.
    """

    objective: float
    unit_loads: tuple[float, ...]
    violations: tuple[str, ...] = ()

    @property
    def is_feasible(self) -> bool:
        """Whether every task has an allowed unit and no unit is overloaded."""
        return not self.violations


class AssignmentProblem:
    """A frozen instance of the generalized assignment problem.

    Parameters
    ----------
    costs : array_like of int or float, shape (num_tasks, num_units)
        Cost of each task on each unit, any unit of measurement and any sign.
    loads : array_like of int or float, shape (num_tasks,) or (num_tasks, num_units)
        What a task takes of a unit's capacity, at least 0; one number a task where all units agree.
    capacities : array_like of int or float, shape (num_units,)
        What each unit holds, in the unit of the loads. At least 0.
    allowed : array_like of bool, shape (num_tasks, num_units), optional
        False where a task may not run on a unit; all True by default.
    sense : {"min", "max"}
        Whether the costs are to be small or (as profits) large.

    Attributes
    ----------
    costs, loads, capacities, allowed : ndarray, read-only
        int64 where every number given is an integer, else float64; ``allowed`` is bool. ``loads``
        keeps the shape it was given in, see :attr:`loads_matrix`.

    Raises
    ------
    InputError
        If shapes disagree or a number is missing, infinite or (loads, capacities) negative.
    """

    __slots__ = ("__dict__", "allowed", "capacities", "costs", "loads", "sense")

    costs: NumberArray
    loads: NumberArray
    capacities: NumberArray
    allowed: BoolArray
    sense: Sense

    def __init__(
        self,
        costs: npt.ArrayLike,
        loads: npt.ArrayLike,
        capacities: npt.ArrayLike,
        allowed: npt.ArrayLike | None = None,
        sense: Sense = "min",
    ) -> None:
        set_ = functools.partial(object.__setattr__, self)
        set_("capacities", _numbers(capacities, "capacities", least=0))
        if self.capacities.ndim != 1 or len(self.capacities) == 0:
            raise _shape_error("capacities", self.capacities.shape, "one number a unit")
        units = len(self.capacities)
        given = _numbers(costs, "costs")
        set_("costs", given.reshape(0, units) if given.size == 0 and len(given) == 0 else given)
        if self.costs.ndim != 2 or self.costs.shape[1] != units:
            expected = f"one row a task and one column for each of the {units} capacities"
            raise _shape_error("costs", self.costs.shape, expected)
        tasks = self.costs.shape[0]
        given = _numbers(loads, "loads", least=0)
        set_("loads", given.reshape(0) if given.size == 0 and tasks == 0 else given)
        if self.loads.shape not in ((tasks,), (tasks, units)):
            expected = f"({tasks},) or ({tasks}, {units}) to match the costs"
            raise _shape_error("loads", self.loads.shape, expected)
        set_("allowed", _allowed(allowed, tasks, units))
        if sense not in ("min", "max"):
            raise InputError(
                f"the sense {sense!r} is unknown", pointer="$.sense", fix="use 'min' or 'max'"
            )
        set_("sense", sense)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"an AssignmentProblem is frozen: cannot set {name!r}")

    __delattr__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AssignmentProblem):
            return NotImplemented
        return self.sense == other.sense and all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("costs", "loads_matrix", "capacities", "allowed")
        )

    def __hash__(self) -> int:
        return hash((self.sense, self.costs.tobytes(), self.capacities.tobytes()))

    def __repr__(self) -> str:
        return (
            f"AssignmentProblem({self.num_tasks} tasks, {self.num_units} units, "
            f"sense={self.sense!r})"
        )

    def __reduce__(self) -> tuple[type[AssignmentProblem], tuple[object, ...]]:
        return (
            AssignmentProblem,
            (self.costs, self.loads, self.capacities, self.allowed, self.sense),
        )

    @property
    def num_tasks(self) -> int:
        """N, the number of tasks."""
        return int(self.costs.shape[0])

    @property
    def num_units(self) -> int:
        """M, the number of units."""
        return int(self.costs.shape[1])

    @property
    def loads_matrix(self) -> NumberArray:
        """Loads as a matrix of shape (num_tasks, num_units)."""
        if self.loads.ndim == 2:
            return self.loads
        if self.loads.dtype == np.int64:
            return np.broadcast_to(self.loads[:, None], self.costs.shape).astype(np.int64)
        return np.broadcast_to(self.loads[:, None], self.costs.shape).astype(np.float64)

    def integer_form(self) -> IntegerForm:
        """The same problem as a minimisation in int64 (computed once, see :class:`IntegerForm`)."""
        return self._integer_form

    @functools.cached_property
    def _integer_form(self) -> IntegerForm:
        return integer_form(
            self.costs,
            self.loads_matrix,
            self.capacities,
            self.allowed,
            maximise=self.sense == "max",
        )

    def evaluate(self, assignment: Sequence[int] | npt.NDArray[np.int64]) -> Evaluation:
        """Objective, unit loads and broken rules of an assignment.

        Parameters
        ----------
        assignment : sequence of int, length num_tasks
            The unit of each task, counted from 0; -1 for a task without a unit (a violation).

        Raises
        ------
        InputError
            If the length or a unit index is wrong.
        """
        chosen = [int(unit) for unit in assignment]
        if len(chosen) != self.num_tasks:
            raise InputError(
                f"the assignment names {len(chosen)} units for {self.num_tasks} tasks",
                pointer="$.assignment",
                fix="name one unit a task",
            )
        for task, unit in enumerate(chosen):
            if not -1 <= unit < self.num_units:
                raise InputError(
                    f"unit {unit} does not exist",
                    pointer=f"$.assignment[{task}]",
                    fix=f"use a number from 0 to {self.num_units - 1}",
                )
        form, violations = self.integer_form(), []
        tasks = np.array([t for t, unit in enumerate(chosen) if unit >= 0], dtype=np.int64)
        units = np.array([unit for unit in chosen if unit >= 0], dtype=np.int64)
        for task, unit in enumerate(chosen):
            if unit < 0:
                violations.append(f"task {task} has no unit")
            elif not self.allowed[task, unit]:
                violations.append(f"task {task} may not run on unit {unit}")
        used = np.zeros(self.num_units, dtype=np.int64)
        np.add.at(used, units, form.loads[tasks, units])
        raw = np.bincount(
            units, self.loads_matrix[tasks, units].astype(float), minlength=self.num_units
        )
        for unit in np.nonzero(used > form.capacities)[0].tolist():
            violations.append(
                f"unit {unit} carries {raw[unit]:.12g} of capacity {self.capacities[unit]:.12g}"
            )
        if form.cost_tolerance > 0:
            objective = float(self.costs[tasks, units].astype(float).sum())
        else:
            objective = form.objective(int(form.costs[tasks, units].sum()))
        return Evaluation(
            objective=objective,
            unit_loads=tuple(float(load) for load in raw),
            violations=tuple(violations),
        )


def _shape_error(name: str, shape: tuple[int, ...], expected: str) -> InputError:
    return InputError(f"{name} has the shape {shape}", pointer=f"$.{name}", fix=f"give {expected}")


def _numbers(values: npt.ArrayLike, name: str, *, least: float | None = None) -> NumberArray:
    """A read-only int64 or float64 copy of ``values``, checked."""
    try:
        array = np.array(values)
        if array.dtype.kind == "O":  # ragged, None, huge integers, fractions
            array = np.array(values, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{name} is no rectangular array of numbers: {error}",
            pointer=f"$.{name}",
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
    array.flags.writeable = False
    return array


def _allowed(values: npt.ArrayLike | None, tasks: int, units: int) -> BoolArray:
    if values is None:
        array = np.ones((tasks, units), dtype=np.bool_)
    else:
        try:
            given = np.array(values)
        except ValueError as error:
            raise _shape_error("allowed", (), f"shape ({tasks}, {units})") from error
        if given.size == 0 and tasks == 0:
            given = np.zeros((0, units), dtype=np.bool_)
        if given.shape != (tasks, units):
            raise _shape_error("allowed", given.shape, f"shape ({tasks}, {units})")
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
