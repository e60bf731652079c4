"""Every form of the assignment problem: one goal, or two in order, over a core for the rows.

The sum of the costs is what a core minimises. The largest relative load T is found by decisions "is
there a placement within T, of cost at most what the first goal found?": a placement found lowers T
to its own largest relative load, and a refusal raises the bound to the next value that any unit
could have. T is a fraction of two integers throughout, so the search ends at the optimum itself.

Why it is exact: the reductions of :mod:`optalloc.assignment.rows` lose nothing; relative loads at
most T mean loads at most floor(T * capacity); the core proves each answer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from fractions import Fraction

import msgspec

from optalloc.assignment.cores import Answer, Core, choose_core
from optalloc.assignment.problem import AssignmentProblem
from optalloc.assignment.proof import Grown, write_proof
from optalloc.assignment.result import AssignmentResult
from optalloc.assignment.rows import Rows, reduce_rows
from optalloc.assignment.start import checked_start
from optalloc.assignment.threads import check_threads
from optalloc.errors import InputError
from optalloc.result import Bounds, Incumbent, Stats, Termination
from optalloc.stop import Never, OnProgress, Progress, StopRule

_REPORT_S = 0.2
_HEURISTICS = ("greedy", "anneal")


def solve_forms(
    problem: AssignmentProblem,
    stop: StopRule | None = None,
    on_progress: OnProgress | None = None,
    *,
    method: str = "exact",
    seed: int = 0,
    threads: int = 1,
    start: Sequence[int] | None = None,
    proof: str | os.PathLike[str] | None = None,
) -> AssignmentResult:
    """Solve a problem of any form.

    Parameters
    ----------
    problem : AssignmentProblem
    stop, on_progress
        As in :func:`solve_assignment`; progress is that of the goal being worked on.
    method : {"exact", "milp", "dynamic", "greedy", "anneal"}
        The core. The last three take what reduces to a plain problem; greedy and anneal moreover
        the sum alone.
    seed : int
    threads : int
        Of ``exact``; the others use one.
    start : sequence of int, length num_tasks, optional
        The unit of each task (-1: left out) of a feasible assignment for ``exact`` to begin with.
        The answer is no worse, goal by goal.
    proof : path, optional
        Where ``exact`` writes the proof of its bounds, see :mod:`optalloc.assignment.proof`.

    Raises
    ------
    InputError
        If the method does not take the form, or refuses the size, or the start is not feasible.
    """
    for name, option in (("proof", proof), ("start", start)):
        if option is not None and method != "exact":
            raise InputError(
                f"the method {method!r} takes no {name}",
                path="method",
                fix="use the method 'exact'",
            )
    check_threads(threads)
    goals = problem.objective.split("-then-")
    if method in _HEURISTICS and goals != ["sum"]:
        raise InputError(
            f"the method {method!r} minimises the sum of the costs alone",
            path="method",
            fix="use auto, exact, milp or enumerate",
        )
    begin = None if start is None else checked_start(problem, start)
    rows = reduce_rows(problem)
    core = choose_core(rows, method, seed=seed, threads=threads, prove=proof is not None)
    run = _Run(problem, rows, method, core, stop, on_progress)
    if begin is not None:
        run.placed = rows.placement(begin)
    try:
        run.solve()
    except KeyboardInterrupt:
        run.is_complete, run.message = False, "interrupted"
    result = run.result()
    if proof is not None:
        trees = [grown for grown in run.trees.values() if grown is not None]
        write_proof(proof, problem, result.placed, trees)
    return result


class _Run:
    """One solve: the best placement, the bound of the first goal, and what it took."""

    def __init__(
        self,
        problem: AssignmentProblem,
        rows: Rows,
        method: str,
        core: Core,
        stop: StopRule | None,
        on_progress: OnProgress | None,
    ) -> None:
        self.problem, self.rows, self.method, self.core = problem, rows, method, core
        self.goals = problem.objective.split("-then-")
        self.stop: StopRule = stop if stop is not None else Never()
        self.on_progress = on_progress
        self.placed: tuple[int, ...] | None = None
        self.first_bound: float | None = None
        self.is_complete = self.is_infeasible = False
        self.ran_out = True
        self.message = ""
        self.nodes = self.decisions = 0
        self.incumbents: list[Incumbent] = []
        self.trees: dict[str, Grown | None] = {}  # of the best bound of each goal
        self._goal = ""
        self._value: Fraction | None = None
        self._bound: Fraction | None = None
        self._core_nodes = 0
        self._share: str | None = None  # what an earlier goal leaves
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        self._reported_s = 0.0

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self._wall

    def solve(self) -> None:
        """Each goal among the optima of those before it."""
        rows, budget = self.rows, None
        for number, goal in enumerate(self.goals):
            self._goal = goal
            self._value = self._bound = None
            if goal == "sum":
                answer = self._minimise(rows)
                if answer is None:
                    return
                budget = answer.value
            else:
                share = self._flatten(rows, budget)
                if share is None:
                    return
                rows, self._share = rows.within(share), f"<={share}"
            if number == 0 and self._value is not None:
                self.first_bound = float(self._value)
        self.is_complete = True

    def _minimise(self, rows: Rows) -> Answer | None:
        """The cheapest placement; None where that is not known in the end."""
        if self.placed is not None:  # where the search begins; it keeps these rows
            self._keep(self.placed, Fraction(rows.value(self.placed)) / self.rows.cost_scale)
        answer = self._ask(rows, None, self.placed)
        self._log(answer, self._share)
        if answer.is_infeasible:
            self.is_infeasible = True
            return None
        self.ran_out = answer.ran_out
        if answer.bound is not None:
            self._raise(Fraction(answer.bound) / self.rows.cost_scale)
        if answer.placed is None:
            return None
        if self.placed is None or self._worth(answer.placed) < self._worth(self.placed):
            self._keep(answer.placed, Fraction(rows.value(answer.placed)) / self.rows.cost_scale)
        return answer if answer.is_complete else None

    def _worth(self, placed: tuple[int, ...]) -> list[Fraction]:
        """What a placement is worth, goal by goal: less is better."""
        return [
            Fraction(self.rows.value(placed)) if goal == "sum" else self.rows.fullest(placed)
            for goal in self.goals
        ]

    def _flatten(self, rows: Rows, budget: int | None) -> Fraction | None:
        """The least largest relative load within the budget; None where it is not known."""
        if budget is None:
            rows = rows.without_costs()
        if self.placed is None:
            answer = self._ask(rows, 0)
            # Without costs a bound above 0 says that there is no placement.
            if answer.is_infeasible or (answer.bound is not None and answer.bound > 0):
                self._log(answer, None, without_costs=True)
                self.is_infeasible = True
                return None
            if answer.placed is None:
                return None
            self._keep(answer.placed, rows.fullest(answer.placed))
        else:
            self._keep(self.placed, rows.fullest(self.placed))
        assert self.placed is not None
        low, high = Fraction(0), rows.fullest(self.placed)
        self._raise(low)
        while low < high:
            middle = Fraction(float((low + high) / 2))  # of few digits, where that lies between
            if not low <= middle < high:
                middle = (low + high) / 2
            self.decisions += 1
            enough = 0 if budget is None else budget
            answer = self._ask(rows.within(middle), enough)
            if answer.placed is not None and answer.value is not None and answer.value <= enough:
                high = rows.fullest(answer.placed)
                self._keep(answer.placed, high)
            elif answer.is_complete or (answer.bound is not None and answer.bound > enough):
                above = rows.share_above(middle)
                low = high if above is None else min(above, high)
                self._log(answer, f"<{low}", without_costs=budget is None)
                self._raise(low)
            else:
                return None
        return high

    def _log(self, answer: Answer, share: str | None, *, without_costs: bool = False) -> None:
        """The tree of the answer proves the bound of the present goal."""
        grown = answer.grown
        if grown is not None:
            without_costs = without_costs or grown.tree.without_costs
            tree = msgspec.structs.replace(grown.tree, share=share, without_costs=without_costs)
            grown = Grown(tree, grown.rows)
        self.trees[self._goal] = grown

    def _ask(self, rows: Rows, enough: int | None, start: tuple[int, ...] | None = None) -> Answer:
        """One call of the core, which reports through :meth:`_watch`."""
        scale = self.rows.cost_scale if enough is None else None

        def watch(nodes: int, value: int | None, bound: int | None) -> bool:
            self._core_nodes = nodes
            if scale is not None and bound is not None:
                self._raise(Fraction(bound) / scale)
            shown = None
            if scale is not None and value is not None:
                shown = float(Fraction(value) / scale)
                if not self.incumbents or self._better(shown, self.incumbents[-1].value):
                    self._note(shown)
            progress = self._progress(shown)
            if self.on_progress is not None and self.elapsed_s - self._reported_s >= _REPORT_S:
                self._reported_s = self.elapsed_s
                self.on_progress(progress)
            return self.stop(progress)

        def watch_or_stop(nodes: int, value: int | None, bound: int | None) -> bool:
            try:
                return watch(nodes, value, bound)
            except KeyboardInterrupt:  # the core stops in good order: plan, bound and tree are kept
                self.message = "interrupted"
                return True

        answer = self.core(rows, watch_or_stop, enough, start)
        self.nodes += answer.nodes
        self._core_nodes = 0
        return answer

    def _better(self, one: float, other: float) -> bool:
        is_profit = self._goal == "sum" and self.problem.sense == "max"
        return one > other if is_profit else one < other

    def _note(self, value: float) -> None:
        if self._goal == self.goals[0]:
            self.incumbents.append(Incumbent(elapsed_s=self.elapsed_s, value=value))

    def _keep(self, placed: tuple[int, ...], value: Fraction) -> None:
        """A placement better than what was known of the present goal."""
        self.placed, self._value = placed, value
        shown = float(value)
        if not self.incumbents or self._better(shown, self.incumbents[-1].value):
            self._note(shown)
        if self.on_progress is not None:
            self.on_progress(self._progress(shown))

    def _raise(self, bound: Fraction) -> None:
        """A proven bound of the present goal."""
        if self._bound is None or self._better(float(self._bound), float(bound)):
            self._bound = bound
            if self._goal == self.goals[0]:
                self.first_bound = float(bound)

    def _progress(self, shown: float | None) -> Progress:
        if shown is None and self._value is not None:
            shown = float(self._value)
        return Progress(
            elapsed_s=self.elapsed_s,
            incumbent=shown,
            bound=None if self._bound is None else float(self._bound),
            nodes=self.nodes + self._core_nodes,
        )

    def result(self) -> AssignmentResult:
        """What is known now."""
        assignment = None if self.placed is None else self.rows.assignment(self.placed)
        primal = None if assignment is None else self.problem.evaluate(assignment).objective
        dual = None if self.is_infeasible else self.first_bound
        if self.is_complete:
            dual = primal
        elif primal is not None and dual is not None:  # the last bit of a float must not cross
            is_profit = self.problem.sense == "max" and self.problem.objective.startswith("sum")
            dual = max(dual, primal) if is_profit else min(dual, primal)
        termination = Termination.LIMIT if self.ran_out else Termination.FEASIBLE
        if self.is_infeasible:
            termination = Termination.INFEASIBLE
        elif self.is_complete:
            termination = Termination.OPTIMAL
        return AssignmentResult(
            termination=termination,
            bounds=Bounds(primal=primal, dual=dual),
            stats=Stats(
                wall_s=self.elapsed_s, cpu_s=time.process_time() - self._cpu, nodes=self.nodes
            ),
            incumbents=tuple(self.incumbents),
            method=self.method,
            arithmetic=self.rows.arithmetic,
            num_units=self.problem.num_units,
            placed=assignment,
            message=self.message or self._words(termination),
        )

    def _words(self, termination: Termination) -> str:
        searched = f"{self.nodes} nodes"
        if self.decisions:
            searched += f", {self.decisions} decisions on the largest relative load"
        if termination is Termination.INFEASIBLE:
            return f"every plan refused ({searched})"
        if termination is Termination.OPTIMAL:
            return f"proven by a search of {searched}"
        if self.placed is None:
            return f"stopped before a plan was found ({searched})"
        if termination is Termination.FEASIBLE:
            return "heuristic plan"
        goal = {"sum": "the sum", "bottleneck": "the largest relative load"}[self._goal]
        return f"stopped while minimising {goal} ({searched})"
