"""certify_assignment: an independent check of what a method claims.

From the raw arrays alone it recomputes feasibility and objective, in integers and fractions, and
checks the proof of the bound: the multipliers of a :class:`Witness` by one knapsack a unit (first
the fractional relaxation, then lists of undominated states), or else by a small search of its
own. It shares no code with the solvers; that the integer form stands for the raw numbers is
checked here too.
"""

from __future__ import annotations

import enum
from fractions import Fraction

import msgspec
import numpy as np

from optalloc.assignment.certify_forms import check_form
from optalloc.assignment.problem import AssignmentProblem
from optalloc.assignment.result import AssignmentResult, Witness
from optalloc.errors import CertificateError
from optalloc.result import Termination

_MOST_STATES = 400_000
_MOST_NODES = 50_000


class Proof(enum.Enum):
    """How the bound of a claim was checked."""

    MULTIPLIERS = "multipliers"
    """One knapsack a unit at the multipliers of the witness gives the bound."""
    REPROVED = "reproved"
    """A second, separate search over all assignments found nothing better."""
    SEARCH = "search"
    """Only the method's own complete search says so; plan and objective were checked."""
    NONE = "none"
    """The result claims no proof; its plan and objective were checked."""


class AssignmentCertificate(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a check that found nothing wrong.

    ``objective`` is recomputed in the unit of the costs (None without a plan); ``root_bound`` is
    the bound proven by the witness alone, None without one.
    """

    proof: Proof
    objective: float | None
    root_bound: float | None


def certify_assignment(
    problem: AssignmentProblem, result: AssignmentResult
) -> AssignmentCertificate:
    """Check a result against its problem.

    Raises
    ------
    CertificateError
        If the plan is infeasible, its objective is another, or the bound is refuted.
    """
    if not problem.is_plain:
        again = check_form(problem, result)
        objective = result.bounds.primal if result.placed is not None else None
        proofs = {None: Proof.NONE, True: Proof.REPROVED, False: Proof.SEARCH}
        return AssignmentCertificate(proof=proofs[again], objective=objective, root_bound=None)
    _check_form(problem)
    form = problem.integer_form()
    value = None if result.placed is None else _check_plan(problem, result)
    witness_bound: int | None = None
    if result.witness is not None:
        claims = result.termination in (Termination.OPTIMAL, Termination.INFEASIBLE)
        goal = form.most + 1 if result.termination is Termination.INFEASIBLE else value
        witness_bound = multiplier_bound(problem, result.witness, goal, exact=claims)
        if value is not None and witness_bound > value:
            raise CertificateError("the multipliers prove a bound above the value of the plan")
    root = None if witness_bound is None else form.objective(witness_bound)
    proof = Proof.NONE
    if result.termination is Termination.OPTIMAL:
        if value is None:
            raise CertificateError("the result claims an optimum and has no plan")
        proof = _prove(problem, value - 1, witness_bound)
    elif result.termination is Termination.INFEASIBLE:
        if value is not None:
            raise CertificateError("the result claims that nothing is feasible and has a plan")
        proof = _prove(problem, form.most, witness_bound)
    return AssignmentCertificate(
        proof=proof, objective=None if value is None else form.objective(value), root_bound=root
    )


def _exact(value: float | int, scale: Fraction) -> Fraction:
    """A number times a scale; a decimal scale reads the decimal the number prints as."""
    if isinstance(value, int):
        return value * scale
    return (Fraction(repr(value)) if scale.numerator % 5 == 0 else Fraction(value)) * scale


def _check_form(problem: AssignmentProblem) -> None:
    """Each integer is its raw number times the scale (rounded down at most), pair by pair."""
    form = problem.integer_form()
    if not np.array_equal(
        form.allowed, problem.allowed & (problem.loads_matrix <= problem.capacities)
    ):
        raise CertificateError("the integer form allows other pairs than the problem")
    rounded = form.arithmetic == "float"
    tables = [(problem.costs, form.costs, [form.cost_scale] * problem.num_units)]
    tables.append((problem.loads_matrix, form.loads, list(form.load_scales)))
    for raw, whole, scales in tables:
        for unit, scale in enumerate(scales):
            rows = np.nonzero(form.allowed[:, unit])[0]
            pairs = set(zip(raw[rows, unit].tolist(), whole[rows, unit].tolist(), strict=True))
            for given, integer in pairs:
                error = _exact(given, scale) - integer
                if not (error == 0 or (rounded and 0 <= error < 1)):
                    raise CertificateError(f"{given} became {integer} at the scale {scale}")
    for unit, scale in enumerate(form.load_scales):
        capacity = int(_exact(problem.capacities[unit].item(), scale))
        every = sum(form.loads[form.allowed[:, unit], unit].tolist())
        if int(form.capacities[unit]) < min(capacity, every) or capacity < form.capacities[unit]:
            raise CertificateError(f"the capacity of unit {unit} is not {capacity}")


def _check_plan(problem: AssignmentProblem, result: AssignmentResult) -> int:
    """Feasibility and objective from scratch; the value in the integer form."""
    form, placed = problem.integer_form(), result.placed or ()
    if len(placed) != problem.num_tasks:
        raise CertificateError("the plan names a wrong number of tasks")
    used = [Fraction(0)] * problem.num_units
    loads, value, raw_value = problem.loads_matrix, 0, Fraction(0)
    for task, unit in enumerate(placed):
        if not (0 <= unit < problem.num_units and problem.allowed[task, unit]):
            raise CertificateError(f"task {task} may not run on unit {unit}")
        used[unit] += _exact(loads[task, unit].item(), form.load_scales[unit])
        value += int(form.costs[task, unit])
        raw_value += _exact(problem.costs[task, unit].item(), form.cost_scale)
    for unit, load in enumerate(used):
        room = _exact(problem.capacities[unit].item(), form.load_scales[unit])
        slack = Fraction(form.load_tolerances[unit]) * form.load_scales[unit]
        if load > room + slack:
            raise CertificateError(f"unit {unit} is overloaded")
    claimed, true = result.bounds.primal, float(raw_value / form.cost_scale)
    if claimed is None or abs(claimed - true) > 1e-9 * max(1.0, abs(true)):
        raise CertificateError(f"the plan costs {true}, not {claimed}")
    return value


def _prove(problem: AssignmentProblem, z: int, witness_bound: int | None) -> Proof:
    """How it is known that no assignment of the integer form costs at most ``z``."""
    if witness_bound is not None and witness_bound > z:
        return Proof.MULTIPLIERS
    better = _search(problem, z)
    if better is True:
        raise CertificateError("a better assignment exists than the one claimed to be optimal")
    return Proof.REPROVED if better is False else Proof.SEARCH


def multiplier_bound(
    problem: AssignmentProblem, witness: Witness, goal: int | None = None, *, exact: bool = True
) -> int:
    """The Lagrangian bound of the integer form at given multipliers, rounded up.

    Knapsacks are solved exactly (if ``exact``) only until the bound reaches ``goal``; a fractional
    knapsack stands for the others and for those too large for a list of states. The result is a
    bound either way.

    Complexity
    ----------
    O(N M log N) for the relaxation, O(sum_i n_i L_i) for the knapsacks with n_i useful items.
    """
    form, scale = problem.integer_form(), witness.scale
    if len(witness.multipliers) != problem.num_tasks or scale < 1:
        raise CertificateError("the witness does not fit the problem")
    if not form.allowed.any(axis=1).all():
        return form.most + 1
    items: list[list[tuple[int, int]]] = []
    for unit in range(problem.num_units):
        rows = np.nonzero(form.allowed[:, unit])[0].tolist()
        useful = []
        for task in rows:
            profit = witness.multipliers[task] - scale * int(form.costs[task, unit])
            if profit > 0:
                useful.append((profit, int(form.loads[task, unit])))
        items.append(useful)
    rooms = form.capacities.tolist()
    worth = [_fractional(useful, room) for useful, room in zip(items, rooms, strict=True)]
    total = sum(witness.multipliers)
    for unit, useful in enumerate(items):
        bound = -((sum(worth) - total) // scale)
        if not exact or (goal is not None and bound >= goal):
            break
        solved = _knapsack(useful, rooms[unit])
        if solved is not None:
            worth[unit] = solved
    return -((sum(worth) - total) // scale)


def _fractional(items: list[tuple[int, int]], room: int) -> int:
    """At least the value of the knapsack: that of its linear relaxation, rounded down.

    For any price q >= 0 of capacity the value is at most q room + sum max(0, p - q w). The price is
    the density of the item that would be cut; a float may choose it, as every price is valid.
    """
    left, cut = room, (0, 1)
    for profit, load in sorted(items, key=lambda item: -item[0] / max(item[1], 0.5)):
        left -= load
        if left < 0:
            cut = (profit, load)
            break
    up, down = cut
    value = up * room + sum(max(0, profit * down - up * load) for profit, load in items)
    return value // down


def _knapsack(items: list[tuple[int, int]], room: int) -> int | None:
    """Exact value by lists of undominated (load, profit) states; None beyond the state limit."""
    states = [(0, 0)]
    for profit, load in sorted(items, key=lambda item: -item[1]):
        added = [(used + load, value + profit) for used, value in states if used + load <= room]
        merged = sorted([*states, *added], key=lambda state: (state[0], -state[1]))
        states, best = [], -1
        for used, value in merged:
            if value > best:
                states.append((used, value))
                best = value
        if len(states) > _MOST_STATES // max(1, len(items)):
            return None
    return states[-1][1]


def _search(problem: AssignmentProblem, z: int) -> bool | None:
    """Whether an assignment of value at most ``z`` exists; None when the search got too long."""
    form = problem.integer_form()
    if not form.allowed.any(axis=1).all():
        return False
    units = problem.num_units
    scale = 64
    prices = [int(price * scale) for price in _rough_prices(problem)]
    choices: list[list[tuple[int, int, int, int]]] = []
    for task in range(problem.num_tasks):
        pairs = []
        for unit in range(units):
            if form.allowed[task, unit]:
                cost, load = int(form.costs[task, unit]), int(form.loads[task, unit])
                pairs.append((scale * cost + prices[unit] * load, cost, load, unit))
        choices.append(sorted(pairs))
    choices.sort(key=lambda pairs: pairs[0][0] - pairs[1][0] if len(pairs) > 1 else -(1 << 100))
    rest = [0] * (len(choices) + 1)
    for position in range(len(choices) - 1, -1, -1):
        rest[position] = rest[position + 1] + choices[position][0][0]
    left = form.capacities.tolist()
    paid = sum(price * room for price, room in zip(prices, left, strict=True))
    limit = scale * z + paid
    nodes = 0
    # Each frame is (priced value so far, cost so far, next choice); an explicit stack, so that
    # many tasks do not exhaust the interpreter's.
    stack = [(0, 0, 0)]
    taken: list[tuple[int, int]] = []
    while stack:
        priced, cost, index = stack.pop()
        position = len(stack)
        if position == len(choices):
            if cost <= z:
                return True
            index = units
        elif index < len(choices[position]):
            price, step, load, unit = choices[position][index]
            if priced + price + rest[position + 1] <= limit:
                stack.append((priced, cost, index + 1))
                nodes += 1
                if nodes > _MOST_NODES:
                    return None
                if load <= left[unit]:
                    left[unit] -= load
                    taken.append((unit, load))
                    stack.append((priced + price, cost + step, 0))
                continue
        if taken and len(taken) == position:
            unit, load = taken.pop()
            left[unit] += load
    return False


def _rough_prices(problem: AssignmentProblem) -> list[float]:
    """Prices of capacity from 200 subgradient steps; any prices at all give a valid bound."""
    form = problem.integer_form()
    size = np.maximum(form.capacities, 1).astype(np.float64)
    loads = np.where(form.allowed, form.loads / size, 0.0)
    costs = np.where(form.allowed, form.costs.astype(np.float64), np.inf)
    u, best, best_value = np.zeros(len(size)), np.zeros(len(size)), -np.inf
    if len(costs) == 0:
        return [0.0] * len(size)
    step = float(np.ptp(form.costs[form.allowed])) + 1.0
    for turn in range(200):
        priced = costs + u * loads
        pick = priced.argmin(axis=1)
        used = np.bincount(pick, loads[np.arange(len(pick)), pick], minlength=len(size))
        value = float(priced.min(axis=1).sum() - (u * form.capacities / size).sum())
        if value > best_value:
            best_value, best = value, u
        u = np.maximum(0.0, u + step / (1 + 0.5 * turn) * (used - form.capacities / size))
    return [float(price) for price in best / size]
