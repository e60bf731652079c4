"""check_integers: whether the integers of a problem say what its own numbers say, pair by pair.

Every integer must be the given number times its scale, the number read as the decimal that it
prints as or as the binary fraction that it is; where numbers are rounded, at most that. A capacity
must not be below the floor of the given one, unless all loads together are no more. A pair may be
left out only where its load is above the capacity. Then every feasible plan is feasible in integers
and costs no more there than its own cost times the scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction

from optalloc.assignment.integers import IntegerForm, NumberArray
from optalloc.assignment.problem import AssignmentProblem


def are_costs(given: NumberArray, form: IntegerForm) -> bool:
    """Whether the form's costs are the given ones of the pairs that it allows."""
    used = form.allowed
    pairs = zip(given[used].tolist(), form.costs[used].tolist(), strict=True)
    return _agree(pairs, form.cost_scale, rounded=form.arithmetic == "float")


def are_resources(problem: AssignmentProblem) -> bool:
    """Whether pairs, loads and capacities of every resource are the problem's.

    Complexity: O(num_tasks * num_units * num_resources).
    """
    loads, rooms = problem.loads_array, problem.capacities_matrix
    for resource, form in enumerate(problem.resource_forms):
        fits = problem.allowed & (loads[:, :, resource] <= rooms[:, resource])
        if not (form.allowed == fits).all():
            return False
        rounded = form.arithmetic == "float"
        for unit, scale in enumerate(form.load_scales):
            rows = form.allowed[:, unit]
            given = loads[rows, unit, resource].tolist()
            integers = form.loads[rows, unit].tolist()
            if not _agree(zip(given, integers, strict=True), scale, rounded=rounded):
                return False
            room = min(_readings(rooms[unit, resource].item()))
            if form.capacities[unit] < min(math.floor(room * scale), sum(integers)):
                return False
    return True


def _agree(pairs: Iterable[tuple[float, int]], scale: Fraction, *, rounded: bool) -> bool:
    for given, integer in set(pairs):
        exact = [reading * scale for reading in _readings(given)]
        if integer not in exact and not (rounded and integer <= max(exact)):
            return False
    return True


def _readings(value: float) -> tuple[Fraction, ...]:
    """A number as it is, and as the decimal it prints as."""
    if isinstance(value, int):
        return (Fraction(value),)
    return (Fraction(value), Fraction(repr(value)))
