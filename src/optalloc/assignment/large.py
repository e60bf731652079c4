"""Very many tasks and units: a plan with a certified gap, without holding all pairs.

A hundred thousand tasks on a thousand units are 10**8 pairs. They are read block by block, three
times; what is kept is a short list of candidate units for each task.

1. Prices of capacity from a sample of the tasks, on its share of the capacities.
2. A pass: the K cheapest units of each task, cost plus price times load. Better prices from these
   lists (:func:`optalloc.assignment.ascent.ascend`).
3. A second pass at those prices: the bound below, and, where it shows that the lists lack units,
   those too; then prices again.
4. A plan on the lists: tasks settle where they cost least while overloads grow dear, then trade
   places in chains (native/assignment/sparse_plan.hpp, sparse_chains.hpp).
5. A third pass: the bound at the last prices, and the plan evaluated from the source.

The bound holds for all pairs, not for the candidates alone: for any prices u >= 0

    D(u) = sum_j min_i (c_ij + u_i w_ij) - sum_i u_i L_i

is at most the cost of every feasible assignment; u is rounded to integers over a power of two and
D evaluated in integers. With all costs 0 a positive D proves that nothing is feasible.

Memory: about 90 bytes a candidate (N K of them) and 60 bytes a pair of one block a thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import msgspec
import numpy as np

from optalloc import _native
from optalloc.assignment.ascent import Lists, Longs, Reals, ascend
from optalloc.assignment.journal import Journal
from optalloc.assignment.pairs import ArraySource as ArraySource
from optalloc.assignment.pairs import FormSource, PairSource
from optalloc.assignment.problem import AssignmentProblem, Sense
from optalloc.assignment.result import AssignmentResult
from optalloc.assignment.scan import Infeasible, Scanner, alike, fitting, marks
from optalloc.assignment.threads import check_threads
from optalloc.errors import InputError
from optalloc.result import Bounds, Fix, Incumbent, Stats, Termination
from optalloc.stop import Never, OnProgress, Progress, StopRule

_SAMPLE_PAIRS = 2_000_000
_SAMPLE_STAGES = 3
_SAMPLE_TOLERANCE = 1e-6
_CANDIDATES = 24
_ROUNDS = 6
_LOSS = 1e-4  # of the bound on the lists, to other units, for which the lists may stay as they are
_TRIES = 3  # with longer and longer lists, until a plan is found


class _Answer(NamedTuple):
    """``conflict`` and ``fix`` where nothing is feasible."""

    ended: bool
    conflict: str = ""
    fix: Fix | None = None


#: Takes a better plan and its cost, or None, and a bound, or None; says whether to stop.
_Tell = Callable[[Longs | None, int | None, int | None], bool]


def solve_large(
    source: PairSource,
    *,
    num_candidates: int = _CANDIDATES,
    rounds: int = _ROUNDS,
    seed: int = 0,
    threads: int = 1,
    sense: Sense = "min",
    stop: StopRule | None = None,
    on_progress: OnProgress | None = None,
) -> AssignmentResult:
    """A feasible plan and a bound over all pairs.

    Parameters
    ----------
    source : PairSource
        A task may use every unit on which it fits.
    num_candidates : int
        K, units kept for each task.
    rounds : int
        Of exchanges, each about twice as long as the one before.
    seed : int
        Of the sample and of the order of the tasks.
    threads : int
        That read and price blocks; the result does not depend on it.
    sense : {"min", "max"}
        Whether costs are paid or earned.
    stop : StopRule, optional
        Asked between steps and inside the search for a plan; what was not reached is left out, but
        a first plan is still found in a hurry, if it can, and bounded. The nodes it sees are how
        often it was asked, the same for equal seeds.
    on_progress : callable, optional
        Called with each better plan or bound.

    Returns
    -------
    AssignmentResult
        FEASIBLE with a gap, or LIMIT; OPTIMAL where bound and plan meet; INFEASIBLE with a proof
        by prices. Ctrl-C gives LIMIT with the best plan and bound so far.

    Raises
    ------
    InputError
        If there is no task or unit, or the numbers are too large for 64-bit integers.

    Notes
    -----
    Complexity: three passes over the pairs and the sample; O(N K) memory, and O(N K) a step of
    prices and of the plan.
    """
    begin, cpu = time.perf_counter(), time.process_time()
    rule: StopRule = stop if stop is not None else Never()
    sign = -1 if sense == "max" else 1
    best: list[Longs] = []
    known: dict[str, int] = {}
    incumbents: list[Incumbent] = []

    asked = 0

    def progress() -> Progress:
        value, bound = (sign * known[k] if k in known else None for k in ("value", "bound"))
        elapsed_s = time.perf_counter() - begin
        return Progress(elapsed_s=elapsed_s, incumbent=value, bound=bound, nodes=asked)

    def tell(plan: Longs | None, value: int | None, bound: int | None) -> bool:
        nonlocal asked
        asked += 1
        is_new = False
        if plan is not None and value is not None and value < known.get("value", value + 1):
            best[:], known["value"], is_new = [plan], value, True
            incumbents.append(
                Incumbent(elapsed_s=time.perf_counter() - begin, value=float(sign * value))
            )
        if bound is not None and bound > known.get("bound", bound - 1):
            known["bound"], is_new = bound, True
        if is_new and on_progress is not None:
            on_progress(progress())
        return rule(progress())

    answer = _solve(source, sign, num_candidates, rounds, seed, threads, tell)
    value, bound = known.get("value"), known.get("bound")
    termination = Termination.FEASIBLE if answer.ended and best else Termination.LIMIT
    if value is not None and value == bound:
        termination = Termination.OPTIMAL
    if answer.conflict:
        termination, bound = Termination.INFEASIBLE, None
    return AssignmentResult(
        termination=termination,
        bounds=Bounds(
            primal=None if value is None else float(sign * value),
            dual=None if bound is None else float(sign * bound),
        ),
        stats=Stats(
            wall_s=time.perf_counter() - begin, cpu_s=time.process_time() - cpu, nodes=asked
        ),
        incumbents=tuple(incumbents),
        conflict=(answer.conflict,) if answer.conflict else (),
        fixes=(answer.fix,) if answer.fix is not None else (),
        method="large",
        arithmetic="exact",
        num_units=len(source.capacities),
        placed=tuple(best[0].tolist()) if best else None,
        message=_message(answer, bool(best)),
    )


def solve_large_problem(
    problem: AssignmentProblem,
    stop: StopRule | None = None,
    on_progress: OnProgress | None = None,
    *,
    seed: int = 0,
    threads: int = 1,
) -> AssignmentResult:
    """:func:`solve_large` of a plain problem in memory, with its numbers of any kind."""
    journal = Journal(problem, "large", stop, on_progress)
    if problem.num_tasks == 0:
        journal.offer([], 0)
        return journal.finish(Termination.OPTIMAL, message="there is no task")

    def tell(plan: Longs | None, value: int | None, bound: int | None) -> bool:
        journal.nodes += 1
        if bound is not None:
            journal.raise_bound(bound)
        if plan is not None and value is not None:
            journal.offer(plan.tolist(), value)
        elif bound is not None:
            journal.report()
        return journal.should_stop()

    answer = _solve(FormSource(journal.form), 1, _CANDIDATES, _ROUNDS, seed, threads, tell)
    message = _message(answer, journal.best is not None)
    if answer.conflict:
        ended = journal.finish(Termination.INFEASIBLE, message=message)
        return msgspec.structs.replace(
            ended, conflict=(answer.conflict,), fixes=(answer.fix,) if answer.fix else ()
        )
    termination = Termination.FEASIBLE if answer.ended and journal.best else Termination.LIMIT
    if journal.is_proven:
        termination = Termination.OPTIMAL
    return journal.finish(termination, message=message)


def _joined(one: Lists, other: Lists) -> Lists:
    """The candidates of both; those of both are there twice."""
    return Lists(
        np.concatenate((one.units, other.units), axis=1),
        np.concatenate((one.costs, other.costs), axis=1),
        np.concatenate((one.loads, other.loads), axis=1),
    )


def _message(answer: _Answer, has_plan: bool) -> str:
    if answer.conflict:
        return "prices of capacity prove that nothing fits"
    if not has_plan:
        why = "no plan was found" if answer.ended else "stopped before there was a plan"
        return f"{why}; prices of capacity prove the bound"
    return "prices of capacity prove the bound over all pairs"


def _solve(
    source: PairSource,
    sign: int,
    num_candidates: int,
    rounds: int,
    seed: int,
    threads: int,
    tell: _Tell,
) -> _Answer:
    """Plans and bounds of the costs times ``sign`` go to ``tell``."""
    if source.num_tasks == 0 or len(source.capacities) == 0:
        raise InputError("there is no pair", path="source", fix="give tasks and units")
    check_threads(threads)
    with ThreadPoolExecutor(threads) as pool:
        search = _Search(source, sign, seed, pool, tell)
        try:
            return _Answer(search.run(num_candidates, rounds))
        except Infeasible as proof:
            return _Answer(True, proof.conflict, proof.fix)
        except KeyboardInterrupt:
            return _Answer(False)


class _Search:
    """One solve: reads the source in passes and tells what it finds."""

    def __init__(
        self, source: PairSource, sign: int, seed: int, pool: ThreadPoolExecutor, tell: _Tell
    ) -> None:
        self.source, self.seed, self.tell = source, seed, tell
        self.scanner = Scanner(source, sign, pool)
        self.rooms = source.capacities
        self.interrupted = self.has_bound = self.has_plan = False

    def stopped(self) -> bool:
        return self.interrupted or self.tell(None, None, None)

    def run(self, num_candidates: int, rounds: int) -> bool:
        """Whether it came to its end."""
        reals = self.rooms.astype(np.float64)
        kept = min(max(1, num_candidates), len(self.rooms))
        prices, classes = self._sample()
        scan = self.scanner.scan(prices, kept, classes)
        lists, classes = scan.lists, scan.classes
        for trial in range(_TRIES):
            try:
                self.tell(None, None, scan.bound)
                prices = ascend(lists, reals, prices, self.stopped, classes)
                if trial == 0 and not self.stopped():
                    scan = self.scanner.scan(prices, kept, classes)
                    self._note(scan.bound)
                    priced = lists.costs + prices[lists.units] * lists.loads
                    on_lists = float(priced.min(axis=1).sum() - prices @ self.rooms)
                    if on_lists - scan.bound > _LOSS * abs(on_lists):
                        # Added, not exchanged: units that nobody lists would drive prices apart.
                        lists = _joined(lists, scan.lists)
                        prices = ascend(lists, reals, prices, self.stopped, classes)
            except KeyboardInterrupt:  # the lists and prices so far still give a plan
                self.interrupted = True
            plan = self._plan(lists, prices, rounds)
            if self.stopped() or self.interrupted or plan is not None:
                break
            if trial == 0:
                self._refute()
            if kept == len(self.rooms):
                break
            kept = min(2 * kept, len(self.rooms))
            lists = _joined(lists, self.scanner.scan(prices, kept, classes).lists)
        ended = not self.stopped()
        if ended or not self.has_bound:
            scan = self.scanner.scan(prices, 0, classes, plan)
            if plan is not None and scan.value is None:
                raise AssertionError("the plan overloads a unit")
            self._note(scan.bound)
        return ended

    def _note(self, bound: int) -> None:
        self.has_bound = True
        self.tell(None, None, bound)

    def _plan(self, lists: Lists, prices: Reals, rounds: int) -> Longs | None:
        """The best plan on the lists, None without one."""

        def watch(value: int | None, units: list[int] | None) -> bool:
            try:
                plan = None if units is None else np.array(units, dtype=np.int64)
                self.has_plan = self.has_plan or plan is not None
                return self.tell(plan, value, None) or self.interrupted
            except KeyboardInterrupt:  # the kernel stops in good order and the plan is kept
                self.interrupted = True
                return True

        units = _native.solve_sparse_assignment(
            lists.units, lists.costs, lists.loads, self.rooms, prices, rounds, self.seed, watch
        )
        return np.array(units, dtype=np.int64) if units else None

    def _sample(self) -> tuple[Reals, Longs]:
        """Prices of a few tasks on their share of each capacity, and the class of each unit.

        Units are of one class where no task of the sample tells them apart.
        """
        tasks, units = self.source.num_tasks, len(self.rooms)
        count = min(tasks, max(1, _SAMPLE_PAIRS // units, 4 * units))
        rng = np.random.default_rng(self.seed)
        chosen = np.sort(rng.choice(tasks, size=count, replace=False))
        parts = [self.scanner.rows(int(task), int(task) + 1) for task in chosen]
        costs = np.concatenate([part for part, _ in parts])
        loads = np.concatenate([part for _, part in parts])
        classes = alike(marks(costs, loads, self.seed), self.rooms)
        fits = loads <= self.rooms
        able = fits.any(axis=1)
        if not able.any():
            return np.zeros(units), classes
        lists = fitting(costs[able], loads[able], fits[able])
        rooms: Reals = self.rooms.astype(np.float64) * (count / tasks)
        # Few tasks a unit say little about single units: stop while the minimum is still soft.
        prices = ascend(
            lists,
            rooms,
            np.zeros(units),
            lambda: False,  # a second or two, without which plan and bound mean little
            classes,
            stages=_SAMPLE_STAGES,
            tolerance=_SAMPLE_TOLERANCE,
        )
        return prices, classes

    def _refute(self) -> None:
        """Looks for prices that prove, with all costs 0, that no plan exists.

        Raises
        ------
        Infeasible
            With how much larger all capacities must be at least.
        """
        reals = np.maximum(self.rooms.astype(np.float64), 1.0)
        prices = 1.0 / reals
        classes = np.arange(len(self.rooms))
        kept = min(_CANDIDATES, len(self.rooms))
        for _ in range(2):
            lists = self.scanner.scan(prices, kept, classes, free=True).lists
            bare = lists._replace(costs=np.zeros_like(lists.costs))
            found = ascend(bare, self.rooms.astype(np.float64), prices, self.stopped, classes)
            if not found.any():
                return
            prices = found / float((found * reals).max())
        # Larger prices lose less when they are rounded, and a multiple of a proof is a proof.
        prices = prices * 2.0**20
        excess = self.scanner.scan(prices, 0, classes, free=True).bound
        if excess <= 0:
            return
        share = excess / float(prices @ self.rooms)
        raise Infeasible(
            "the loads of all tasks exceed the capacities of all units, however they are placed",
            Fix(
                what=f"raise every capacity by at least {share:.3%}",
                cost="less cannot help; this much may not be enough",
            ),
        )
