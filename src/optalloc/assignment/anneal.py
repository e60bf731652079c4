"""Simulated annealing: seeded, any-time, without a proof of its own.

Energy: cost plus, for each unit, its price times the load above its capacity. Moves: shift a task
to a unit of its short list (smallest priced reduced costs), or swap two tasks. A move that raises
the energy by d is taken with probability exp(-d / T); T falls geometrically. When too few of the
visited states are feasible the prices of overload rise, when too many they fall. The bound shown
with the plan is that of the capacity prices.
"""

from __future__ import annotations

import math
import random

import numpy as np

from optalloc.assignment.greedy import by_regret
from optalloc.assignment.integers import IntegerForm
from optalloc.assignment.journal import Journal
from optalloc.assignment.neighbours import Neighbourhood
from optalloc.assignment.prices import FloatArray, capacity_prices, price_witness
from optalloc.assignment.problem import AssignmentProblem
from optalloc.assignment.result import AssignmentResult
from optalloc.result import Termination
from optalloc.stop import OnProgress, StopRule

_SHORT_LIST = 8
_CHUNK = 2000
_ROUNDS_WITH_STOP = 1000


def solve_anneal(
    problem: AssignmentProblem,
    stop: StopRule | None = None,
    on_progress: OnProgress | None = None,
    *,
    seed: int = 0,
    moves: int | None = None,
) -> AssignmentResult:
    """Anneal once, or again and again from the best plan while a stop rule allows it.

    Parameters
    ----------
    seed : int
        Equal seeds give equal plans for an equal number of moves.
    moves : int, optional
        Moves tried in one cooling; by default 3,000 a task, at least 60,000 and at most 1,500,000.
    """
    journal = Journal(problem, "anneal", stop, on_progress)
    form = journal.form
    if not form.allowed.any(axis=1).all():
        return journal.finish(Termination.INFEASIBLE, message="a task fits on no unit")
    if problem.num_tasks == 0:
        journal.offer([], 0)
        return journal.finish(Termination.OPTIMAL, message="there is no task")
    count = moves if moves is not None else min(max(60_000, 3000 * problem.num_tasks), 1_500_000)
    stopped = False
    witness = None
    try:
        prices = capacity_prices(form)
        witness = price_witness(form, prices)
        if witness is not None:
            journal.raise_bound(witness.bound)
            if witness.bound > form.most:
                return journal.finish(
                    Termination.INFEASIBLE,
                    witness=witness,
                    message="the capacity prices prove that nothing fits",
                )
        walk = _Walk(form, prices, random.Random(seed), journal)
        for _ in range(1 if stop is None else _ROUNDS_WITH_STOP):
            stopped = not walk.cool(count)
            if journal.best is not None and not stopped:
                _quench(journal)
            if stopped or journal.is_proven:
                break
    except KeyboardInterrupt:
        stopped = True
    if journal.is_proven:
        return journal.finish(
            Termination.OPTIMAL, witness=witness, message="the plan meets the price bound"
        )
    if journal.best is None:
        return journal.finish(
            Termination.LIMIT, witness=witness, message="annealing found no feasible plan"
        )
    return journal.finish(
        Termination.LIMIT if stopped else Termination.FEASIBLE,
        witness=witness,
        message="heuristic plan; the bound is that of the capacity prices",
    )


def _quench(journal: Journal) -> None:
    """Shifts and swaps from the best plan until none helps."""
    form = journal.form
    heavy = np.full(len(form.capacities), float(np.ptp(form.costs)) * len(form.costs) + 1.0)
    plan = Neighbourhood(form, np.array(journal.best, dtype=np.int64), heavy)
    plan.descend(journal.should_stop)
    if plan.is_feasible:
        journal.offer(plan.placed.tolist(), plan.value)


class _Walk:
    """The state of the search, in plain lists because single elements are read and written."""

    def __init__(
        self, form: IntegerForm, prices: FloatArray, dice: random.Random, journal: Journal
    ) -> None:
        self.journal, self.dice = journal, dice
        self.tasks = form.costs.shape[0]
        self.capacities: list[int] = form.capacities.tolist()
        self.loads: list[list[int]] = form.loads.tolist()
        self.costs: list[list[float]] = np.where(form.allowed, form.costs, np.inf).tolist()
        self.whole_costs: list[list[int]] = form.costs.tolist()
        priced = np.where(form.allowed, form.costs + prices * form.loads, np.inf)
        reduced = priced - priced.min(axis=1, initial=np.inf, keepdims=True)
        order = np.argsort(reduced, axis=1, kind="stable")[:, :_SHORT_LIST]
        self.lists: list[list[int]] = [
            [unit for unit in row.tolist() if form.allowed[task, unit]]
            for task, row in enumerate(order)
        ]
        near = np.take_along_axis(reduced, order, axis=1)
        near = near[np.isfinite(near) & (near > 0)]
        self.hot = float(np.median(near)) if near.size else 1.0
        spread = float(np.ptp(form.costs[form.allowed]))
        mean_load = np.maximum(np.where(form.allowed, form.loads, 0).mean(axis=0), 1.0)
        least = max(float(prices.mean()), 0.1 * (spread + 1.0) / float(mean_load.mean()))
        self.price: list[float] = np.where(prices > 0, prices, least).tolist()
        self.placed: list[int] = by_regret(form, priced).tolist()
        self.used = [0] * len(self.capacities)
        for task, unit in enumerate(self.placed):
            self.used[unit] += self.loads[task][unit]
        self._offer()

    def _offer(self) -> None:
        if all(used <= room for used, room in zip(self.used, self.capacities, strict=True)):
            value = sum(self.whole_costs[task][unit] for task, unit in enumerate(self.placed))
            self.journal.offer(self.placed, value)

    def cool(self, moves: int) -> bool:
        """One cooling from hot to cold; whether the stop rule let it finish."""
        cold = min(0.05, self.hot / 20)
        chunks = max(1, moves // _CHUNK)
        penalty = 2.0
        for chunk in range(chunks):
            if self.journal.should_stop():
                return False
            temperature = self.hot * (cold / self.hot) ** (chunk / max(1, chunks - 1))
            share = self._moves(_CHUNK, temperature, [p * penalty for p in self.price])
            if share < 0.02:
                penalty *= 1.3
            elif share > 0.15:
                penalty = max(1.0, penalty / 1.1)
            self.journal.nodes += _CHUNK
            self.journal.report()
        return True

    def _moves(self, count: int, temperature: float, price: list[float]) -> float:
        """Try ``count`` moves; the share of states met that were feasible."""
        draw = self.dice.random
        placed, used, room = self.placed, self.used, self.capacities
        loads, costs, lists, tasks = self.loads, self.costs, self.lists, self.tasks
        over = sum(1 for u, r in zip(used, room, strict=True) if u > r)
        value = sum(self.whole_costs[task][unit] for task, unit in enumerate(placed))
        best = self.journal.best_value
        feasible = 0
        for _ in range(count):
            first = int(draw() * tasks)
            a = placed[first]
            if draw() < 0.5:
                options = lists[first]
                b = options[int(draw() * len(options))]
                second = -1
                less, more = loads[first][a], loads[first][b]
                delta = costs[first][b] - costs[first][a]
            else:
                second = int(draw() * tasks)
                b = placed[second]
                less = loads[first][a] - loads[second][a]
                more = loads[first][b] - loads[second][b]
                delta = costs[first][b] + costs[second][a] - costs[first][a] - costs[second][b]
            if a != b:
                old_a, old_b = used[a] - room[a], used[b] - room[b]
                new_a, new_b = old_a - less, old_b + more
                delta += price[a] * ((new_a if new_a > 0 else 0) - (old_a if old_a > 0 else 0))
                delta += price[b] * ((new_b if new_b > 0 else 0) - (old_b if old_b > 0 else 0))
                if delta <= 0 or draw() < math.exp(-delta / temperature):
                    used[a] -= less
                    used[b] += more
                    over += (new_a > 0) - (old_a > 0) + (new_b > 0) - (old_b > 0)
                    value += self.whole_costs[first][b] - self.whole_costs[first][a]
                    placed[first] = b
                    if second >= 0:
                        value += self.whole_costs[second][a] - self.whole_costs[second][b]
                        placed[second] = a
                    if over == 0 and (best is None or value < best):
                        self.journal.offer(placed, value)
                        best = value
            feasible += over == 0
        return feasible / count
