"""Lagrangian branch and bound: the exact method for instances of practical size.

Formulation
-----------
    minimise sum_ij c_ij x_ij, x binary          costs of ``problem.integer_form()``
    sum_i x_ij = 1 for each task j               priced by lambda_j: :func:`lagrangian_bound`
    sum_j w_ij x_ij <= L_i for each unit i       kept: one 0/1 knapsack a unit, :func:`knapsack`

The native kernel climbs the dual of the task rows from the prices of the linear relaxation, dives
(places the tasks on which averaged knapsacks agree, a few at a time, and prices the rest again),
improves plans by re-solving groups of units, plunges (dives that the bound keeps below a target)
and then asks a sequence of decisions "is there a plan of cost at most z?" at rising z. A decision
is a depth-first search that fixes pairs by the price of forcing each in or out (knapsack tables
from both ends). Where few tasks are left, plunges and decisions list each unit's patterns, the
sets of tasks that fall short of its best knapsack by no more than the bound leaves room for, and
look for one pattern a unit that together hold each task once.

Why it is exact: multipliers are integers (lambda_j times a scale), so every bound is an exact
integer, valid for any multipliers; children of a node partition its plans; a pair is removed and a
node closed only where the bound with it exceeds z or its patterns are exhausted: a plan of cost at
most z loses, over all units, no more than K z - bound against the best knapsacks, so that each of
its sets is listed. Where a branch refuses a task to one of several *twins*, units of the same
costs, loads, pairs and capacity on which no branch above has placed a task, it refuses it to all:
swapped, the plan would have been found on the other side. A search that its first nodes do not end
also takes the bound of :mod:`optalloc.assignment.pools`. An interrupted search closes nothing. A
value v is called optimal once every cost below v has been refused. Loads, capacities and costs may
have any size the integer form admits: knapsacks too large for a table are enumerated with linear
bounds, and one cut short counts with its linear bound,
which only weakens the bound on the plan.

References
----------
Posta, Ferland, Michelon, "An exact method with variable fixing for solving the generalized
assignment problem", Computational Optimization and Applications 52 (2012).
"""

from __future__ import annotations

import enum
import functools
import os
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from optalloc import _native
from optalloc.assignment.integers import IntArray, IntegerForm
from optalloc.assignment.journal import Journal
from optalloc.assignment.pools import (
    FIRST_NODES,
    POOL_NODES,
    SPLIT_NODES,
    Groups,
    find_pools,
    merge,
    pooled,
    split,
)
from optalloc.assignment.problem import AssignmentProblem
from optalloc.assignment.proof import Grown, Tree, one_leaf, write_proof
from optalloc.assignment.result import AssignmentResult, Witness
from optalloc.assignment.start import checked_start
from optalloc.assignment.threads import check_threads
from optalloc.errors import InputError
from optalloc.result import Termination
from optalloc.stop import OnProgress, StopRule

_REPORT_S = 0.2
_MOST_BY_REGRET = 5_000  # tasks, of which it takes a second


class _Status(enum.IntEnum):
    """Answers of the kernel, in its order."""

    OPTIMAL = 0
    INFEASIBLE = 1
    STOPPED = 2
    TOO_LARGE = 3


def solve_exact(
    problem: AssignmentProblem,
    stop: StopRule | None = None,
    on_progress: OnProgress | None = None,
    *,
    seed: int = 0,
    threads: int = 1,
    start: Sequence[int] | None = None,
    proof: str | os.PathLike[str] | None = None,
) -> AssignmentResult:
    """Solve to proven optimality, or as far as the stop rule allows.

    Parameters
    ----------
    problem : AssignmentProblem
    stop : StopRule, optional
        Asked about once a search node; by default the search runs to the proof.
    on_progress : callable, optional
        Called with each new incumbent and bound and about five times a second.
    seed : int
        Of the lots that the heuristics draw; equal seeds give equal results unless a clock stops
        them.
    threads : int
        How many search at once. They work in rounds, so that equal seeds and numbers of threads
        give equal results; other numbers may find another assignment of the same cost.
    start : sequence of int, length num_tasks, optional
        The unit of each task of a feasible assignment to begin with.
    proof : path, optional
        Where to write the proof of the bound, see :mod:`optalloc.assignment.proof`.

    Returns
    -------
    AssignmentResult
        ``witness`` holds the best multipliers of the root: they prove ``witness.bound``, often the
        optimum itself; otherwise the search tree proves the rest. Ctrl-C gives LIMIT with the best
        plan and bound so far.

    Raises
    ------
    InputError
        If the costs are so large that multipliers would leave 64-bit integers, or the start is not
        feasible.
    """
    result, grown = search(
        problem,
        stop,
        on_progress,
        seed=seed,
        threads=threads,
        start=start,
        prove=proof is not None,
        pools=find_pools(problem.integer_form()),
    )
    if proof is not None and grown is not None:
        write_proof(proof, problem, result.placed, [grown])
    return result


def search(
    problem: AssignmentProblem,
    stop: StopRule | None = None,
    on_progress: OnProgress | None = None,
    *,
    seed: int = 0,
    threads: int = 1,
    start: Sequence[int] | None = None,
    prove: bool = False,
    pools: Groups | None = None,
) -> tuple[AssignmentResult, Grown | None]:
    """As :func:`solve_exact`; with ``prove`` also the search tree of the bound.

    A search that its first nodes do not end is left for the bound over ``pools``, and then begins
    again from there.
    """
    journal = Journal(problem, "exact", stop, on_progress)
    form = journal.form
    check_threads(threads)
    begin = None if start is None else checked_start(problem, start)
    if not form.allowed.any(axis=1).all():
        result = journal.finish(Termination.INFEASIBLE, message="a task fits on no unit")
        return result, one_leaf(is_infeasible=True)
    if problem.num_tasks == 0:
        journal.offer([], 0)
        result = journal.finish(Termination.OPTIMAL, message="there is no task")
        return result, one_leaf(is_infeasible=False)
    tables = (
        form.costs,
        np.where(form.allowed, form.loads, 0),
        form.capacities,
        form.allowed.astype(np.uint8),
    )
    kernel = functools.partial(_solve, journal, seed=seed, threads=threads, prove=prove)
    try:
        own = kernel(tables, start=begin, most_nodes=FIRST_NODES if pools else None)
        answers, how = [own], ""
        if pools and own.status == _Status.STOPPED and not own.is_stopped:
            whole = pooled(form, pools)
            merged = kernel(
                (*whole[:3], whole.allowed.astype(np.uint8)),
                start=None if journal.best is None else merge(pools, journal.best),
                pools=pools,
                most_nodes=POOL_NODES,
            )
            answers.append(merged)
            how = "bound of identical units together"
            if merged.status == _Status.INFEASIBLE:
                message = "identical units together cannot hold the tasks"
                return journal.finish(Termination.INFEASIBLE, message=message), merged.grown
            known = journal.best_value
            is_new = merged.value is not None and (known is None or merged.value < known)
            if merged.placed is not None and is_new and not merged.is_stopped:
                _offer_split(journal, pools, merged.placed, seed)
            if not journal.is_proven and not merged.is_stopped:
                own = kernel(tables, start=journal.best, floor=journal.bound)
                answers.append(own)
                how = "" if own.bound > merged.bound else how
    except KeyboardInterrupt:
        _offer_any(journal)
        return journal.finish(Termination.LIMIT, message="interrupted"), None
    nodes = journal.nodes
    # Of equal bounds the first: a later call takes it for granted and has no tree of it.
    grown = max(answers, key=lambda answer: answer.bound).grown
    if own.status == _Status.INFEASIBLE:
        why = (
            f"every plan refused ({nodes} nodes)" if nodes else "the root bound refuses every plan"
        )
        result = journal.finish(Termination.INFEASIBLE, witness=own.witness, message=why)
        return result, grown
    if not journal.is_proven:
        _offer_any(journal)
        why = "interrupted, " if journal.interrupted else ""
        message = f"{why}{nodes} nodes searched"
        return journal.finish(Termination.LIMIT, witness=own.witness, message=message), grown
    how = how or (f"search of {nodes} nodes" if nodes else "bound of the root")
    message = f"proven by the {how}"
    return journal.finish(Termination.OPTIMAL, witness=own.witness, message=message), grown


class _Answer(NamedTuple):
    """What one call of the kernel gave; stopped by the rule or Ctrl-C, or else by its own limit."""

    status: int
    value: int | None
    bound: int
    is_stopped: bool
    placed: list[int] | None
    witness: Witness | None
    grown: Grown | None


def _solve(
    journal: Journal,
    tables: tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]],
    *,
    seed: int,
    threads: int,
    prove: bool,
    start: Sequence[int] | None = None,
    floor: int | None = None,
    most_nodes: int | None = None,
    pools: Groups | None = None,
) -> _Answer:
    """Call the kernel; plans, bounds and nodes go to the journal. Plans over pools are no plans."""
    watch = _Watch(journal, most_nodes, keeps_plans=pools is None)
    status, value, units, bound, nodes, multipliers, scale, witness_bound, tree = (
        _native.solve_assignment(*tables, watch, seed, start, prove, threads, floor)
    )
    if status == _Status.TOO_LARGE:
        raise InputError(
            "the costs are too large for exact multipliers",
            pointer="$.costs",
            fix="divide the costs, or use the method 'milp'",
        )
    journal.nodes = watch.before + nodes
    if pools is None and units is not None and value is not None:
        journal.offer(units, value)
    if status != _Status.INFEASIBLE:
        journal.raise_bound(bound)
    grown = witness = None
    if tree is not None:
        rows, tree_scale, target, without_costs = tree
        claim = Tree(
            target=target, scale=tree_scale, without_costs=without_costs, pools=pools or ()
        )
        grown = Grown(claim, np.frombuffer(rows, dtype=np.int64))
    if multipliers:
        witness = Witness(
            multipliers=tuple(multipliers), scale=scale, bound=-(-witness_bound // scale)
        )
    return _Answer(status, value, bound, watch.is_stopped, units, witness, grown)


def _offer_any(journal: Journal) -> None:
    """Where a search was stopped before it found a plan: the best of four made by regret alone."""
    from optalloc.assignment.greedy import by_regret, measures

    form = journal.form
    tasks = np.arange(len(form.costs))
    if journal.best is not None or len(tasks) > _MOST_BY_REGRET:
        return
    for measure in measures(form, np.zeros(len(form.capacities)))[1:]:
        units = by_regret(form, measure)
        loads = np.bincount(units, form.loads[tasks, units], len(form.capacities))
        if form.allowed[tasks, units].all() and (loads <= form.capacities).all():
            journal.offer(units.tolist(), int(form.costs[tasks, units].sum()))


def _offer_split(journal: Journal, pools: Groups, placed: Sequence[int], seed: int) -> None:
    """Try to make a plan of one over pools."""
    form = journal.form

    def watch(nodes: int, *_: object) -> bool:
        return nodes >= SPLIT_NODES or journal.should_stop()

    def fill(tasks: list[int], group: tuple[int, ...]) -> list[int] | None:
        loads = form.loads[np.ix_(tasks, group)]
        within = np.ones(loads.shape, dtype=np.uint8)
        rooms = form.capacities[list(group)]
        return _native.solve_assignment(np.zeros_like(loads), loads, rooms, within, watch, seed)[2]

    units = split(pools, placed, fill)
    if units is not None:
        tasks = np.arange(len(units))
        journal.offer(units, int(form.costs[tasks, units].sum()))


class _Watch:
    """What the kernel calls: keeps incumbents and bounds, reports, and says whether to stop."""

    def __init__(self, journal: Journal, most_nodes: int | None, *, keeps_plans: bool) -> None:
        self.journal, self.most_nodes, self.keeps_plans = journal, most_nodes, keeps_plans
        self.before = journal.nodes
        self.is_stopped = False
        self._reported_s = journal.elapsed_s

    def __call__(self, nodes: int, value: int | None, units: list[int] | None, bound: int) -> bool:
        try:
            self._look(nodes, value, units if self.keeps_plans else None, bound)
            self.is_stopped = self.is_stopped or self.journal.should_stop()
        except KeyboardInterrupt:  # the kernel stops in good order: plan, bound and proof are kept
            self.journal.interrupted = self.is_stopped = True
        return self.is_stopped or (self.most_nodes is not None and nodes >= self.most_nodes)

    def _look(self, nodes: int, value: int | None, units: list[int] | None, bound: int) -> None:
        journal = self.journal
        journal.nodes = self.before + nodes
        raised = journal.bound is None or bound > journal.bound
        journal.raise_bound(bound)
        if value is not None and units is not None and journal.offer(units, value):
            self._reported_s = journal.elapsed_s
        elif raised or journal.elapsed_s - self._reported_s >= _REPORT_S:
            self._reported_s = journal.elapsed_s
            journal.report()


def knapsack(profits: IntArray, loads: IntArray, capacity: int) -> int:
    """Best total profit of a set of items within the capacity (reference implementation).

    Parameters
    ----------
    profits, loads : ndarray of int64, shape (num_items,)
        Items of negative profit or of a load above the capacity are left out.
    capacity : int
        In the unit of the loads.

    Complexity: O(num_items * capacity) time, O(capacity) memory.
    """
    best = np.zeros(capacity + 1, dtype=np.int64)
    for profit, load in zip(profits.tolist(), loads.tolist(), strict=True):
        if profit > 0 and load <= capacity:
            best[load:] = np.maximum(best[load:], best[: capacity + 1 - load] + profit)
    return int(best[capacity])


def lagrangian_bound(form: IntegerForm, multipliers: npt.ArrayLike, scale: int = 1) -> Fraction:
    """Lower bound of the integer form at given multipliers (reference implementation).

        sum_j lambda_j - sum_i max { sum_j (lambda_j - c_ij) y_j : sum_j w_ij y_j <= L_i, y binary }

    Parameters
    ----------
    form : IntegerForm
    multipliers : array_like of int, shape (num_tasks,)
        ``scale`` times lambda, in the unit of ``form.costs``.
    scale : int

    Complexity: O(num_tasks * sum of capacities) time.
    """
    scaled = np.asarray(multipliers, dtype=np.int64)
    total = int(scaled.sum())
    for unit, capacity in enumerate(form.capacities.tolist()):
        usable = form.allowed[:, unit]
        profits = (scaled - scale * form.costs[:, unit])[usable]
        total -= knapsack(profits, form.loads[usable, unit], capacity)
    return Fraction(total, scale)
