"""Greedy assignment by regret, with several desirability measures, then shifts and swaps.

The task that would lose most by waiting (the difference between its second-best and its best unit
that still has room) is placed first. Measures of a pair: its cost, its priced cost c_ij + u_i w_ij,
its load, its load against the capacity, and its cost times that. The best outcome is kept.

References: Martello and Toth, *Knapsack Problems* (1990), section 7.4 (MTHG).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from optalloc.assignment.integers import IntegerForm
from optalloc.assignment.journal import Journal
from optalloc.assignment.neighbours import Neighbourhood
from optalloc.assignment.prices import capacity_prices, price_witness
from optalloc.assignment.problem import AssignmentProblem
from optalloc.assignment.result import AssignmentResult
from optalloc.result import Termination
from optalloc.stop import OnProgress, StopRule

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

#: Beyond so many tasks the first measure that leads to a plan is enough.
_LARGE = 400


def solve_greedy(
    problem: AssignmentProblem,
    stop: StopRule | None = None,
    on_progress: OnProgress | None = None,
) -> AssignmentResult:
    """A good plan quickly, with the bound of the capacity prices; rarely a proof.

    Complexity
    ----------
    O(N (N + M)) for each of at most 20 sweeps of each of the five measures.
    """
    journal = Journal(problem, "greedy", stop, on_progress)
    form = journal.form
    if not form.allowed.any(axis=1).all():
        return journal.finish(Termination.INFEASIBLE, message="a task fits on no unit")
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
        for measure in measures(form, prices):
            start = by_regret(form, measure)
            for plan in repaired_and_improved(form, start, prices, journal.should_stop):
                journal.nodes += 1
                journal.offer(plan.placed.tolist(), plan.value)
            if journal.is_proven or (problem.num_tasks > _LARGE and journal.best is not None):
                break
            if journal.should_stop():
                stopped = True
                break
    except KeyboardInterrupt:
        stopped = True
    if journal.is_proven:
        return journal.finish(
            Termination.OPTIMAL, witness=witness, message="the plan meets the price bound"
        )
    if journal.best is None:
        return journal.finish(
            Termination.LIMIT, witness=witness, message="the heuristic found no feasible plan"
        )
    return journal.finish(
        Termination.LIMIT if stopped else Termination.FEASIBLE,
        witness=witness,
        message="heuristic plan; the bound is that of the capacity prices",
    )


def measures(form: IntegerForm, prices: FloatArray) -> list[FloatArray]:
    """Desirability measures, shape (num_tasks, num_units), small is good."""
    size = np.maximum(form.capacities, 1)
    relative = form.loads / size
    above = form.costs - np.where(form.allowed, form.costs, 0).min(initial=0)
    return [
        form.costs + prices * form.loads,
        form.costs.astype(np.float64),
        relative,
        form.loads.astype(np.float64),
        above * relative,
    ]


def by_regret(form: IntegerForm, measure: FloatArray) -> IntArray:
    """Place the task of largest regret first; what fits nowhere goes where it overloads least."""
    tasks, units = measure.shape
    left = form.capacities.copy()
    placed = np.full(tasks, -1, dtype=np.int64)
    fits = np.where(form.allowed, measure, np.inf)
    best_unit = fits.argmin(axis=1)
    best, regret = np.empty(tasks), np.empty(tasks)

    def update(rows: IntArray) -> None:
        """Best unit and regret of tasks whose choice changed; no unit left means regret -inf."""
        best_unit[rows] = fits[rows].argmin(axis=1)
        best[rows] = fits[rows, best_unit[rows]]
        second = np.partition(fits[rows], 1, axis=1)[:, 1] if units > 1 else np.inf
        with np.errstate(invalid="ignore"):  # inf - inf: nothing is left
            regret[rows] = np.where(np.isfinite(best[rows]), second - best[rows], -np.inf)

    if tasks:
        update(np.arange(tasks))
    for _ in range(tasks):
        row = int(regret.argmax())
        if regret[row] == -np.inf:
            break
        if regret[row] == np.inf:  # one unit left: it cannot wait, and the largest load goes first
            forced = np.nonzero(regret == np.inf)[0]
            row = int(forced[form.loads[forced, best_unit[forced]].argmax()])
        unit = int(best_unit[row])
        placed[row] = unit
        left[unit] -= form.loads[row, unit]
        regret[row] = -np.inf
        full = (form.loads[:, unit] > left[unit]) & np.isfinite(fits[:, unit]) & (placed < 0)
        fits[full, unit] = np.inf
        if full.any():
            update(np.nonzero(full)[0])
    free = np.nonzero(placed < 0)[0]
    for task in free[np.argsort(-form.loads[free].min(axis=1), kind="stable")].tolist():
        excess = np.maximum(form.loads[task] - left, 0) / (1 + form.capacities)
        unit = int(np.where(form.allowed[task], excess, np.inf).argmin())
        placed[task] = unit
        left[unit] -= form.loads[task, unit]
    return placed


def repaired_and_improved(
    form: IntegerForm, placed: IntArray, prices: FloatArray, halt: Callable[[], bool]
) -> list[Neighbourhood]:
    """Feasible plans reached from ``placed``: by overload alone, and by cost and overload."""
    plans = []
    spread = float(np.ptp(form.costs[form.allowed])) + 1.0 if len(placed) else 1.0
    heavy = np.full(len(prices), spread * len(placed) + 1.0)
    for weights in (heavy, 3 * prices + spread / (1.0 + form.capacities)):
        plan = Neighbourhood(form, placed, weights)
        if len(placed):
            plan.descend(halt)
            plan.weights = heavy
            plan.descend(halt)
        if plan.is_feasible:
            plans.append(plan)
    return plans
