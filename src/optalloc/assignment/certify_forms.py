"""The independent check of problems with several resources, groups, optional tasks or other goals.

It reads the problem's own arrays and nothing that a solver made of them: numbers become fractions
here, once more, as the decimals they print as. The plan's feasibility and both goals are
recomputed, and a depth-first search of its own, with its own prices of capacity, looks for anything
better. It proves small claims again and says so where a claim is too large for it.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from optalloc.assignment.problem import AssignmentProblem
from optalloc.assignment.result import AssignmentResult
from optalloc.errors import CertificateError
from optalloc.result import Termination

_MOST_NODES = 200_000
_SCALE = 1 << 16


def check_form(problem: AssignmentProblem, result: AssignmentResult) -> bool | None:
    """Check a result of any form.

    Returns
    -------
    bool or None
        Whether a claim of optimality or infeasibility was proven again; None where there is none.

    Raises
    ------
    CertificateError
        If the plan breaks a rule, its objective is another, or something better exists.
    """
    facts = _Facts(problem)
    claims = result.termination in (Termination.OPTIMAL, Termination.INFEASIBLE)
    if result.placed is None:
        if result.termination is Termination.OPTIMAL:
            raise CertificateError("the result claims an optimum and has no plan")
        return _refuted(facts, None) if claims else None
    if result.termination is Termination.INFEASIBLE:
        raise CertificateError("the result claims that nothing is feasible and has a plan")
    goals = facts.check_plan(result.placed)
    true = float(facts.in_words(facts.goals[0], goals[0]))
    claimed, bound = result.bounds.primal, result.bounds.dual
    if claimed is None or abs(claimed - true) > 1e-9 * max(1.0, abs(true)):
        raise CertificateError(f"the plan's objective is {true}, not {claimed}")
    is_profit = problem.sense == "max" and facts.goals[0] == "sum"
    slack = 1e-9 * max(1.0, abs(true))
    if bound is not None and (bound - true) * (-1 if is_profit else 1) > slack:
        raise CertificateError(f"the bound {bound} excludes the plan's own objective {true}")
    if claims and bound is not None and abs(bound - true) > slack:
        raise CertificateError(f"the plan is called optimal at {true} and the bound is {bound}")
    return _refuted(facts, goals) if claims else None


def _exact(value: float | int) -> Fraction:
    return Fraction(value) if isinstance(value, int) else Fraction(repr(value))


class _Facts:
    """The problem in fractions, costs to be minimised."""

    def __init__(self, problem: AssignmentProblem) -> None:
        self.problem = problem
        self.goals = problem.objective.split("-then-")
        self.sign = -1 if problem.sense == "max" else 1
        self.costs = [[self.sign * _exact(v) for v in row] for row in problem.costs.tolist()]
        self.loads = [
            [[_exact(v) for v in pair] for pair in row] for row in problem.loads_array.tolist()
        ]
        self.rooms = [[_exact(v) for v in row] for row in problem.capacities_matrix.tolist()]
        self.skips = [_exact(v) for v in problem.skip_costs.tolist()]
        # Rounded arithmetic may overload a unit by its stated tolerance.
        self.slacks = [
            [Fraction(form.load_tolerances[unit]) for form in problem.resource_forms]
            for unit in range(problem.num_units)
        ]
        self.is_rounded = any(form.arithmetic == "float" for form in problem.resource_forms)

    def in_words(self, goal: str, value: Fraction) -> Fraction:
        """A goal in the sense of the problem."""
        return self.sign * value if goal == "sum" else value

    def check_plan(self, placed: tuple[int, ...]) -> list[Fraction]:
        """The value of each goal; raises where a rule is broken."""
        problem = self.problem
        if len(placed) != problem.num_tasks:
            raise CertificateError("the plan names a wrong number of tasks")
        used = [[Fraction(0)] * problem.num_resources for _ in self.rooms]
        cost = Fraction(0)
        for task, unit in enumerate(placed):
            if unit == -1:
                if not problem.optional[task]:
                    raise CertificateError(f"task {task} has no unit and must run")
                cost += self.skips[task]
                continue
            if not (0 <= unit < problem.num_units and problem.allowed[task, unit]):
                raise CertificateError(f"task {task} may not run on unit {unit}")
            cost += self.costs[task][unit]
            for resource, load in enumerate(self.loads[task][unit]):
                used[unit][resource] += load
        fullest = Fraction(0)
        for unit, rooms in enumerate(self.rooms):
            for resource, room in enumerate(rooms):
                if used[unit][resource] > room + self.slacks[unit][resource]:
                    raise CertificateError(f"unit {unit} is overloaded in resource {resource}")
                if room > 0:
                    fullest = max(fullest, used[unit][resource] / room)
        for group in problem.together:
            if len({placed[task] for task in group}) > 1:
                raise CertificateError(f"tasks {group} are not together")
        for group in problem.apart:
            units = [placed[task] for task in group if placed[task] >= 0]
            if len(set(units)) < len(units):
                raise CertificateError(f"tasks {group} are not apart")
        return [cost if goal == "sum" else fullest for goal in self.goals]


def _refuted(facts: _Facts, goals: list[Fraction] | None) -> bool:
    """Whether it was proven that nothing is better; raises where something is.

    Better than (v1, v2) is: the first goal below v1, or the first at most v1 and the second below
    v2. Without ``goals`` everything is better.
    """
    if facts.is_rounded:
        return False
    if goals is None:
        questions: list[tuple[Fraction | None, bool, Fraction | None, bool]]
        questions = [(None, False, None, False)]
    else:
        questions = []
        for number, _ in enumerate(facts.goals):
            most: dict[str, tuple[Fraction, bool]] = {}
            for earlier in range(number + 1):
                most[facts.goals[earlier]] = (goals[earlier], earlier == number)
            cost, strict_cost = most.get("sum", (None, False))
            share, strict_share = most.get("bottleneck", (None, False))
            questions.append((cost, strict_cost, share, strict_share))
    proven = True
    for cost, strict_cost, share, strict_share in questions:
        found = _exists(facts, cost, strict_cost, share, strict_share)
        if found:
            raise CertificateError("something better exists than what the result claims")
        proven = proven and found is False
    return proven


def _exists(
    facts: _Facts,
    cost: Fraction | None,
    strict_cost: bool,
    share: Fraction | None,
    strict_share: bool,
) -> bool | None:
    """Whether a plan exists within a cost and a largest relative load; None: too many nodes."""
    if strict_share and share is not None and share <= 0:
        return False  # a load relative to its capacity is never negative
    problem = facts.problem
    tasks, units, resources = problem.num_tasks, problem.num_units, problem.num_resources
    # Integer costs and loads of the same meaning.
    dens = [c.denominator for row in facts.costs for c in row]
    dens += [s.denominator for s in facts.skips]
    by = math.lcm(*dens) if dens else 1
    costs = [[int(c * by) for c in row] for row in facts.costs]
    skips = [int(s * by) for s in facts.skips]
    most = None
    if cost is not None:
        most = math.ceil(cost * by) - 1 if strict_cost else math.floor(cost * by)
    loads = [[[0] * resources for _ in range(units)] for _ in range(tasks)]
    rooms = [[0] * resources for _ in range(units)]
    for unit in range(units):
        for resource in range(resources):
            column = [facts.loads[task][unit][resource] for task in range(tasks)]
            scale = math.lcm(*(load.denominator for load in column)) if column else 1
            room = facts.rooms[unit][resource]
            rooms[unit][resource] = math.floor(room * scale)
            if share is not None and room > 0:
                limit = share * room * scale
                tight = math.ceil(limit) - 1 if strict_share else math.floor(limit)
                rooms[unit][resource] = min(rooms[unit][resource], tight)
            for task, load in enumerate(column):
                loads[task][unit][resource] = int(load * scale)
    if any(room < 0 for row in rooms for room in row):
        return False  # no load at all is already too much
    return _Search(problem, costs, skips, loads, rooms, most).run()


class _Search:
    """Depth-first search for a plan of integer cost at most ``most`` (None: of any cost)."""

    def __init__(
        self,
        problem: AssignmentProblem,
        costs: list[list[int]],
        skips: list[int],
        loads: list[list[list[int]]],
        rooms: list[list[int]],
        most: int | None,
    ) -> None:
        self.problem, self.loads, self.rooms = problem, loads, rooms
        self.left = [list(row) for row in rooms]
        self.most = most
        self.nodes = 0
        tasks, units = problem.num_tasks, problem.num_units
        self.mates: list[list[int]] = [[] for _ in range(tasks)]
        self.foes: list[list[int]] = [[] for _ in range(tasks)]
        for groups, lists in ((problem.together, self.mates), (problem.apart, self.foes)):
            for group in groups:
                for task in group:
                    lists[task] += [other for other in group if other != task]
        self.choices: list[list[tuple[int, int, int]]] = []
        prices = self._prices(costs, skips)
        self.paid = sum(
            price * room
            for row, rooms_ in zip(prices, rooms, strict=True)
            for price, room in zip(row, rooms_, strict=True)
        )
        for task in range(tasks):
            mine = []
            for unit in range(units):
                load = loads[task][unit]
                fits = all(w <= room for w, room in zip(load, rooms[unit], strict=True))
                if problem.allowed[task, unit] and fits:
                    price = sum(p * w for p, w in zip(prices[unit], load, strict=True))
                    mine.append((_SCALE * costs[task][unit] + price, costs[task][unit], unit))
            if problem.optional[task]:
                mine.append((_SCALE * skips[task], skips[task], -1))
            self.choices.append(sorted(mine))
        self.order = sorted(range(tasks), key=lambda task: -self._regret(task))
        self.rest = [0] * (tasks + 1)
        for place in range(tasks - 1, -1, -1):
            mine = self.choices[self.order[place]]
            self.rest[place] = self.rest[place + 1] + (mine[0][0] if mine else 0)
        self.placed: dict[int, int] = {}

    def _regret(self, task: int) -> int:
        mine = self.choices[task]
        return mine[1][0] - mine[0][0] if len(mine) > 1 else 1 << 200

    def _prices(self, costs: list[list[int]], skips: list[int]) -> list[list[int]]:
        """Prices of a unit of each capacity times the scale; any at all give a valid bound."""
        problem = self.problem
        if self.most is None or problem.num_tasks == 0:
            return [[0] * problem.num_resources for _ in self.rooms]
        size = np.maximum(np.array(self.rooms, dtype=np.float64), 1.0)
        loads = np.array(self.loads, dtype=np.float64) / size
        room = np.array(self.rooms, dtype=np.float64) / size
        fits = problem.allowed & (loads <= room).all(axis=2)
        table = np.where(fits, np.array(costs, dtype=np.float64), np.inf)
        out = np.where(problem.optional, np.array(skips, dtype=np.float64), np.inf)
        finite = table[np.isfinite(table)]
        step = float(np.ptp(finite)) + 1.0 if len(finite) else 1.0
        price = np.zeros(room.shape)
        best, best_value = price, -np.inf
        rows = np.arange(len(table))
        for turn in range(200):
            priced = np.concatenate([table + (price * loads).sum(axis=2), out[:, None]], axis=1)
            pick = priced.argmin(axis=1)
            value = float(priced[rows, pick].sum() - (price * room).sum())
            if not math.isfinite(value):
                break
            if value > best_value:
                best, best_value = price, value
            used = np.zeros(room.shape)
            real = pick < problem.num_units
            np.add.at(used, pick[real], loads[rows[real], pick[real]])
            price = np.maximum(0.0, price + step / (1 + 0.5 * turn) * (used - room))
        return [[int(_SCALE * p) for p in row] for row in (best / size).tolist()]

    def run(self) -> bool | None:
        """Whether a plan exists; None when the search got too long."""
        # Each frame is (priced value so far, cost so far, next choice), so that many tasks do not
        # exhaust the interpreter's stack.
        limit = None if self.most is None else _SCALE * self.most + self.paid
        stack = [(0, 0, 0)]
        taken: list[tuple[int, int]] = []
        while stack:
            priced, cost, index = stack.pop()
            place = len(stack)
            if place == len(self.order):
                if self.most is None or cost <= self.most:
                    return True
            else:
                task = self.order[place]
                mine = self.choices[task]
                if index < len(mine):
                    price, step, unit = mine[index]
                    inside = limit is None or priced + price + self.rest[place + 1] <= limit
                    if inside:
                        stack.append((priced, cost, index + 1))
                        self.nodes += 1
                        if self.nodes > _MOST_NODES:
                            return None
                        if self._may(task, unit):
                            self._put(task, unit, 1)
                            taken.append((task, unit))
                            stack.append((priced + price, cost + step, 0))
                        continue
            if taken and len(taken) == place:
                self._put(*taken.pop(), -1)
        return False

    def _may(self, task: int, unit: int) -> bool:
        placed = self.placed
        if any(placed.get(other, unit) != unit for other in self.mates[task]):
            return False
        if unit < 0:
            return True
        if any(placed.get(other, -1) == unit for other in self.foes[task]):
            return False
        need, left = self.loads[task][unit], self.left[unit]
        return all(w <= room for w, room in zip(need, left, strict=True))

    def _put(self, task: int, unit: int, sign: int) -> None:
        if sign > 0:
            self.placed[task] = unit
        else:
            del self.placed[task]
        if unit >= 0:
            for resource, load in enumerate(self.loads[task][unit]):
                self.left[unit][resource] -= sign * load
