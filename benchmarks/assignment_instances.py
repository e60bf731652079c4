"""Small random assignment instances in every form, and their best goals by enumeration in NumPy.

Numbers are integers or have at most two decimals, so that hundredfold they are integers and sums
are exact. The enumeration shares nothing with the package's methods: it lists every plan and looks
at all of them.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

from optalloc.assignment.problem import OBJECTIVES, AssignmentProblem, Sense

FORMS = (
    "resources",
    "apart",
    "together",
    "optional",
    "bottleneck",
    "in order",
    "fixed",
    "mixed",
    "plain",
    "identical",
)
Goals = tuple[Fraction, ...]
Longs = np.ndarray[Any, np.dtype[np.int64]]


def groups(rng: np.random.Generator, tasks: int, most: int) -> list[list[int]]:
    """Up to ``most`` groups of two to four tasks, which may overlap."""
    if tasks < 2:
        return []
    return [
        rng.permutation(tasks)[: int(rng.integers(2, min(tasks, 4) + 1))].tolist()
        for _ in range(int(rng.integers(1, most + 1)))
    ]


def draw(form: str, rng: np.random.Generator, *, tasks: int, units: int) -> AssignmentProblem:
    """A random instance of a form; a good part of them are infeasible.

    ``plain`` has one capacity a unit and nothing else; ``identical`` is ``mixed`` with several
    copies of each unit.
    """
    units, tasks = int(rng.integers(1, units + 1)), int(rng.integers(0, tasks + 1))
    copies = None
    if form == "identical":
        copies = np.sort(rng.integers(0, max(1, units // 2), units))
    mixed = form in ("mixed", "identical")
    several = form == "resources" or (mixed and rng.random() < 0.6)
    depth = (int(rng.integers(2, 4)),) if several else (1,) if rng.random() < 0.1 else ()
    low, high = (-20, 20) if rng.random() < 0.7 else (0, 3)
    costs: Any = rng.integers(low, high, (tasks, units))
    loads: Any = rng.integers(0, 8, ((tasks, units) if rng.random() < 0.7 else (tasks,)) + depth)
    top = 3 + int(tasks * 8 / units * (0.9 if rng.random() < 0.7 else 0.5))
    capacities: Any = rng.integers(0, top, (units, *depth))
    allowed = rng.random((tasks, units)) < (0.9 if rng.random() < 0.5 else 1)
    if copies is not None:
        costs, capacities, allowed = costs[:, copies], capacities[copies], allowed[:, copies]
        loads = loads[:, copies] if loads.ndim == 2 + len(depth) else loads
    if rng.random() < 0.25:
        loads, capacities = loads / 10, capacities / 10
    if rng.random() < 0.2:
        cents = rng.random(costs.shape)
        costs = np.round(costs + (cents if copies is None else cents[:, copies]), 2)
    more: dict[str, Any] = {}
    if form == "apart" or (mixed and rng.random() < 0.5):
        more["apart"] = groups(rng, tasks, 3)
    if form == "together" or (mixed and rng.random() < 0.3):
        more["together"] = groups(rng, tasks, 2)
    if form == "optional" or (mixed and rng.random() < 0.5):
        more["skip_costs"] = [
            None if rng.random() < 0.4 else int(cost) if rng.random() < 0.8 else cost + 0.25
            for cost in rng.integers(-3, 30, tasks).tolist()
        ]
    if form == "bottleneck":
        more["objective"] = "bottleneck"
    if form == "in order":
        more["objective"] = OBJECTIVES[int(rng.integers(2, 4))]
    if mixed:
        more["objective"] = OBJECTIVES[int(rng.integers(0, 4))]
    if tasks and (form == "fixed" or (mixed and rng.random() < 0.5)):
        task = int(rng.integers(tasks))
        homes = np.nonzero(allowed[task])[0]
        more["fixed"] = {task: int(rng.choice(homes))} if len(homes) else None
    sense: Sense = "max" if rng.random() < 0.3 else "min"
    return AssignmentProblem(costs, loads, capacities, allowed, sense, **more)


def num_plans(problem: AssignmentProblem) -> int:
    """How many plans keep the allowed pairs."""
    return math.prod((problem.allowed.sum(axis=1) + problem.optional).tolist())


def brute_force(problem: AssignmentProblem) -> Goals | None:
    """The best goals in order, costs to be minimised; None where nothing is feasible.

    Complexity: O(num_plans * num_tasks * num_units * num_resources) time and memory.
    """
    plans, used = _kept(problem)
    if not len(plans):
        return None
    rooms = _hundredfold(problem.capacities_matrix)
    sign = 1 if problem.sense == "min" else -1
    paid = np.concatenate(
        [sign * _hundredfold(problem.costs), _hundredfold(problem.skip_costs)[:, None]], axis=1
    )
    costs = paid[np.arange(problem.num_tasks), plans].sum(axis=1)
    # Shares of capacities up to some thousands differ by far more than a float's last digits.
    shares = (used / np.maximum(rooms, 1)).reshape(len(plans), -1).max(axis=1).round(12)
    goals: list[Fraction] = []
    left = np.arange(len(plans))
    for goal in problem.objective.split("-then-"):
        values = (costs if goal == "sum" else shares)[left]
        left = left[values == values.min()]
        goals.append(
            Fraction(int(costs[left[0]]), 100) if goal == "sum" else _share(used[left[0]], rooms)
        )
    return tuple(goals)


def feasible_plans(problem: AssignmentProblem) -> Longs:
    """Every plan that keeps every rule, one a row: the unit of each task, -1 where it is left out.

    Complexity: as :func:`brute_force`.
    """
    return _kept(problem)[0]


def _kept(problem: AssignmentProblem) -> tuple[Longs, Longs]:
    """The feasible plans, and the hundredfold load of each unit and resource in each."""
    plans = _plans(problem)
    keeps = np.ones(len(plans), dtype=np.bool_)
    for group in problem.together:
        keeps &= (plans[:, list(group)] == plans[:, [group[0]]]).all(axis=1)
    for group in problem.apart:
        for place, one in enumerate(group):
            for other in group[place + 1 :]:
                keeps &= (plans[:, one] != plans[:, other]) | (plans[:, one] < 0)
    plans = plans[keeps]
    loads, rooms = _hundredfold(problem.loads_array), _hundredfold(problem.capacities_matrix)
    used = np.zeros((len(plans), *rooms.shape), dtype=np.int64)
    for unit in range(problem.num_units):
        used[:, unit] = (plans == unit).astype(np.int64) @ loads[:, unit]
    fits = (used <= rooms).all(axis=(1, 2))
    return plans[fits], used[fits]


def _plans(problem: AssignmentProblem) -> Longs:
    """Every choice of allowed units, a plan a row; -1: left out."""
    plans = np.zeros((1, 0), dtype=np.int64)
    for row, may in zip(problem.allowed, problem.optional.tolist(), strict=True):
        units = [*np.nonzero(row)[0].tolist(), *([-1] if may else [])]
        plans = np.concatenate(
            [np.column_stack([plans, np.full(len(plans), unit)]) for unit in units]
            or [np.zeros((0, plans.shape[1] + 1), dtype=np.int64)]
        )
    return plans


def _hundredfold(numbers: Any) -> Any:
    whole = np.rint(np.asarray(numbers) * 100).astype(np.int64)
    assert np.allclose(whole, np.asarray(numbers) * 100, rtol=0, atol=1e-6)
    return whole


def _share(used: Any, rooms: Any) -> Fraction:
    pairs = zip(used.ravel().tolist(), rooms.ravel().tolist(), strict=True)
    return max((Fraction(load, room) for load, room in pairs if room > 0), default=Fraction(0))
