"""AssignmentProblem: N tasks, M units, a cost and a load for each pair, a capacity for each unit.

    minimise    sum_ij c_ij x_ij            x_ij = 1: task j runs on unit i
    subject to  sum_i x_ij = 1              each task j runs once
                sum_j w_ij x_ij <= L_i      no unit i carries more than its capacity

A *unit* holds a capacity: a device, a node, a pool, a cloud offer. Arrays are task-major, that is
``costs[task, unit]``. That is the *plain* form. A problem may also have several resources a unit,
groups that stay together or apart, tasks that may be left out, and the largest relative load as
its goal; :mod:`optalloc.assignment.rows` reduces those. How numbers become integers is said in
:mod:`optalloc.assignment.integers`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NoReturn, cast

import numpy as np
import numpy.typing as npt

from optalloc.assignment.arrays import (
    BoolArray,
    Groups,
    read_allowed,
    read_groups,
    read_numbers,
    read_skip_costs,
    shape_error,
    with_fixed,
)
from optalloc.assignment.evaluate import Evaluation as Evaluation
from optalloc.assignment.evaluate import evaluate
from optalloc.assignment.integers import IntegerForm, NumberArray, integer_form
from optalloc.errors import InputError, nearest

Sense = Literal["min", "max"]
Objective = Literal["sum", "bottleneck", "sum-then-bottleneck", "bottleneck-then-sum"]
OBJECTIVES: tuple[Objective, ...] = (
    "sum",
    "bottleneck",
    "sum-then-bottleneck",
    "bottleneck-then-sum",
)


class AssignmentProblem:
    """A frozen instance of the generalized assignment problem.

    Parameters
    ----------
    costs : array_like of int or float, shape (num_tasks, num_units)
        Cost of each task on each unit, any unit of measurement and any sign.
    loads : array_like of int or float
        What a task takes of a unit's capacity, at least 0. Shape (num_tasks, num_units), or
        (num_tasks,) where all units agree; with several resources (num_tasks, num_units,
        num_resources) or (num_tasks, num_resources).
    capacities : array_like of int or float, shape (num_units,) or (num_units, num_resources)
        What each unit holds (of each resource), in the unit of the loads. At least 0.
    allowed : array_like of bool, shape (num_tasks, num_units), optional
        False where a task may not run on a unit; all True by default.
    sense : {"min", "max"}
        Whether the costs are to be small or (as profits) large.
    fixed : mapping of task to unit, optional
        Tasks whose unit is given. They become rows of ``allowed`` with one True.
    together, apart : iterable of groups of tasks, optional
        Tasks of a group in ``together`` run on one unit; a group in ``apart`` has at most one task
        on each unit.
    skip_costs : sequence of number or None, length num_tasks, optional
        What it costs to leave a task out (paid in addition when costs are profits); None for a
        task that must run. Groups that stay together are left out whole.
    objective : {"sum", "bottleneck", "sum-then-bottleneck", "bottleneck-then-sum"}
        The sum of the costs; the largest load relative to its capacity, over all units and
        resources of capacity above 0; or the one first and the other among its optima.

    Attributes
    ----------
    costs, loads, capacities, allowed : ndarray, read-only
        int64 where every number given is an integer, else float64; ``allowed`` is bool. ``loads``
        keeps the shape it was given in, see :attr:`loads_matrix`.
    optional : ndarray of bool, shape (num_tasks,)
        Tasks that may be left out; ``skip_costs`` is 0 for the others.

    Raises
    ------
    InputError
        If shapes disagree, a number is missing, infinite or (loads, capacities) negative, or a task
        or unit that is named does not exist.
    """

    __slots__ = (
        "__dict__",
        "allowed",
        "apart",
        "capacities",
        "costs",
        "loads",
        "objective",
        "optional",
        "sense",
        "skip_costs",
        "together",
    )

    costs: NumberArray
    loads: NumberArray
    capacities: NumberArray
    allowed: BoolArray
    sense: Sense
    together: Groups
    apart: Groups
    skip_costs: NumberArray
    optional: BoolArray
    objective: Objective

    def __init__(
        self,
        costs: npt.ArrayLike,
        loads: npt.ArrayLike,
        capacities: npt.ArrayLike,
        allowed: npt.ArrayLike | None = None,
        sense: Sense = "min",
        *,
        fixed: Mapping[int, int] | None = None,
        together: Iterable[Iterable[int]] = (),
        apart: Iterable[Iterable[int]] = (),
        skip_costs: Sequence[float | int | None] | npt.NDArray[np.float64] | None = None,
        objective: Objective = "sum",
    ) -> None:
        set_ = functools.partial(object.__setattr__, self)
        set_("capacities", read_numbers(capacities, "capacities", least=0))
        shape = self.capacities.shape
        if len(shape) not in (1, 2) or 0 in shape:
            raise shape_error("capacities", shape, "one number a unit, or one a unit and resource")
        units, resources = shape[0], shape[1:]
        given = read_numbers(costs, "costs")
        set_("costs", given.reshape(0, units) if given.size == 0 and len(given) == 0 else given)
        if self.costs.ndim != 2 or self.costs.shape[1] != units:
            expected = f"one row a task and one column for each of the {units} capacities"
            raise shape_error("costs", self.costs.shape, expected)
        tasks = self.costs.shape[0]
        given = read_numbers(loads, "loads", least=0)
        empty = given.size == 0 and tasks == 0
        set_("loads", given.reshape(0, *resources) if empty else given)
        shapes = ((tasks, *resources), (tasks, units, *resources))
        if self.loads.shape not in shapes:
            expected = f"{shapes[0]} or {shapes[1]} to match the costs and capacities"
            raise shape_error("loads", self.loads.shape, expected)
        set_("allowed", with_fixed(read_allowed(allowed, tasks, units), fixed))
        for name, word, known in (
            ("sense", sense, ("min", "max")),
            ("objective", objective, OBJECTIVES),
        ):
            if word not in known:
                near = nearest(str(word), known, count=1)
                raise InputError(
                    f"the {name} {word!r} is unknown",
                    pointer=f"$.{name}",
                    fix=f"use {' or '.join(repr(k) for k in near or known)}",
                )
            set_(name, word)
        set_("together", read_groups(together, "together", tasks))
        set_("apart", read_groups(apart, "apart", tasks))
        skips, optional = read_skip_costs(skip_costs, tasks)
        set_("skip_costs", skips)
        set_("optional", optional)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"an AssignmentProblem is frozen: cannot set {name!r}")

    __delattr__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AssignmentProblem):
            return NotImplemented
        words = ("sense", "objective", "together", "apart")
        arrays = ("costs", "loads_array", "capacities", "allowed", "optional", "skip_costs")
        return all(getattr(self, name) == getattr(other, name) for name in words) and all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in arrays
        )

    def __hash__(self) -> int:
        return hash((self.sense, self.costs.tobytes(), self.capacities.tobytes()))

    def __repr__(self) -> str:
        extra = f", {self.num_resources} resources" if self.num_resources > 1 else ""
        extra += f", objective={self.objective!r}" if self.objective != "sum" else ""
        return (
            f"AssignmentProblem({self.num_tasks} tasks, {self.num_units} units, "
            f"sense={self.sense!r}{extra})"
        )

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (_rebuilt, (self.arguments(),))

    def arguments(self) -> dict[str, object]:
        """What the constructor takes to make an equal problem, by name."""
        skips = [
            cost if may else None
            for cost, may in zip(self.skip_costs.tolist(), self.optional.tolist(), strict=True)
        ]
        return {
            "costs": self.costs,
            "loads": self.loads,
            "capacities": self.capacities,
            "allowed": self.allowed,
            "sense": self.sense,
            "together": self.together,
            "apart": self.apart,
            "skip_costs": skips if self.optional.any() else None,
            "objective": self.objective,
        }

    def replace(self, **changes: object) -> AssignmentProblem:
        """An equal problem but for the arguments named."""
        return _rebuilt({**self.arguments(), **changes})

    @property
    def num_tasks(self) -> int:
        """N, the number of tasks."""
        return int(self.costs.shape[0])

    @property
    def num_units(self) -> int:
        """M, the number of units."""
        return int(self.costs.shape[1])

    @property
    def num_resources(self) -> int:
        """R, how many capacities a unit has; 1 in the plain form."""
        return int(self.capacities.shape[1]) if self.capacities.ndim == 2 else 1

    @property
    def is_plain(self) -> bool:
        """One capacity a unit, every task runs, no groups, and the sum as the goal.

        Forbidden and fixed pairs belong to the plain form.
        """
        grouped = bool(self.together or self.apart or self.optional.any())
        return self.capacities.ndim == 1 and not grouped and self.objective == "sum"

    @property
    def loads_matrix(self) -> NumberArray:
        """Loads of the first resource as a matrix of shape (num_tasks, num_units)."""
        if self.loads.shape == self.costs.shape and self.capacities.ndim == 1:
            return self.loads
        return self.loads_array[:, :, 0]

    @functools.cached_property
    def loads_array(self) -> NumberArray:
        """Loads of every resource, shape (num_tasks, num_units, num_resources)."""
        loads = self.loads[..., None] if self.capacities.ndim == 1 else self.loads
        if loads.ndim == 2:
            loads = loads[:, None, :]
        array = np.array(np.broadcast_to(loads, (*self.costs.shape, self.num_resources)))
        array.flags.writeable = False
        return cast(NumberArray, array)

    @property
    def capacities_matrix(self) -> NumberArray:
        """Capacities of shape (num_units, num_resources)."""
        return self.capacities if self.capacities.ndim == 2 else self.capacities[:, None]

    def integer_form(self) -> IntegerForm:
        """The same problem as a minimisation in int64 (computed once, see :class:`IntegerForm`).

        Raises
        ------
        InputError
            If the problem is not plain: a method that reads this form alone would answer another
            question.
        """
        if not self.is_plain:
            raise InputError(
                "this method takes the plain form alone: one capacity a unit, no groups, no "
                "optional tasks, the sum as objective",
                path="problem",
                fix="use solve_assignment with the method 'auto', which reduces the other forms",
            )
        return self.resource_forms[0]

    @functools.cached_property
    def resource_forms(self) -> tuple[IntegerForm, ...]:
        """Costs, allowed pairs and the loads and capacities of one resource, as integers."""
        loads, rooms = self.loads_array, self.capacities_matrix
        return tuple(
            integer_form(
                self.costs,
                loads[:, :, resource],
                rooms[:, resource],
                self.allowed,
                maximise=self.sense == "max",
            )
            for resource in range(self.num_resources)
        )

    def evaluate(self, assignment: Sequence[int] | npt.NDArray[np.int64]) -> Evaluation:
        """Objective, unit loads and broken rules of an assignment.

        Parameters
        ----------
        assignment : sequence of int, length num_tasks
            The unit of each task, counted from 0; -1 for a task without a unit (a violation where
            the task must run).

        Raises
        ------
        InputError
            If the length or a unit index is wrong.
        """
        return evaluate(self, assignment)


def _rebuilt(arguments: dict[str, object]) -> AssignmentProblem:
    return AssignmentProblem(**arguments)  # type: ignore[arg-type]
