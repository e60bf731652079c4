"""Journal: incumbents and bounds of one solve, and the result made of them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from optalloc.assignment.problem import AssignmentProblem
from optalloc.assignment.result import AssignmentResult, Witness
from optalloc.result import Bounds, Incumbent, Stats, Termination
from optalloc.stop import Never, OnProgress, Progress, StopRule, relative_gap

#: Relative gap below which rounded (``float``) arithmetic may still call a plan optimal.
TOLERANCE = 1e-9


class Journal:
    """Keeps the best plan and bound while a method runs, reports them and asks the stop rule.

    Values are sums of ``problem.integer_form().costs``, which is always minimised; the result
    speaks in the unit and sense of the problem.
    """

    def __init__(
        self,
        problem: AssignmentProblem,
        method: str,
        stop: StopRule | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        self.problem, self.form, self.method = problem, problem.integer_form(), method
        self.stop: StopRule = stop if stop is not None else Never()
        self.on_progress = on_progress
        self.best: tuple[int, ...] | None = None
        self.best_value: int | None = None
        self.bound: int | None = None
        self.nodes = 0
        self.incumbents: list[Incumbent] = []
        self.interrupted = False
        self._shown: dict[int, float] = {}  # the last values in the unit of the problem
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    @property
    def elapsed_s(self) -> float:
        """Wall seconds since the start."""
        return time.perf_counter() - self._wall

    @property
    def is_proven(self) -> bool:
        """Whether the bound has met the best plan."""
        return None not in (self.best_value, self.bound) and self.bound == self.best_value

    def offer(self, placed: Sequence[int], value: int) -> bool:
        """Keep a feasible plan if it beats the best one; whether it did."""
        if self.best_value is not None and value >= self.best_value:
            return False
        self.best, self.best_value = tuple(int(unit) for unit in placed), int(value)
        self.incumbents.append(
            Incumbent(elapsed_s=self.elapsed_s, value=self.form.objective(self.best_value))
        )
        self.report()
        return True

    def raise_bound(self, bound: int) -> None:
        """Note a proven lower bound of the integer form."""
        if self.bound is None or bound > self.bound:
            self.bound = int(bound)

    def progress(self) -> Progress:
        """The present state in the unit of the problem."""
        return Progress(
            elapsed_s=self.elapsed_s,
            incumbent=self._objective(self.best_value),
            bound=self._objective(self.bound),
            nodes=self.nodes,
        )

    def _objective(self, value: int | None) -> float | None:
        """Asked for at every poll, so that the two values of late are kept."""
        if value is None:
            return None
        if value not in self._shown:
            if len(self._shown) > 1:
                self._shown.clear()
            self._shown[value] = self.form.objective(value)
        return self._shown[value]

    def report(self) -> None:
        """Tell the listener."""
        if self.on_progress is not None:
            self.on_progress(self.progress())

    def should_stop(self) -> bool:
        """Ask the stop rule."""
        return self.stop(self.progress())

    def finish(
        self,
        termination: Termination,
        *,
        witness: Witness | None = None,
        conflict: tuple[str, ...] = (),
        message: str = "",
        configurations: int = 0,
        pruned: dict[str, int] | None = None,
    ) -> AssignmentResult:
        """The result. OPTIMAL makes the bound equal to the best value first, and is FEASIBLE where
        rounding (``float`` arithmetic) leaves a gap.
        """
        if termination is Termination.OPTIMAL and self.best_value is not None:
            self.bound = self.best_value
        primal = dual = None
        if self.best is not None:
            primal = self.problem.evaluate(self.best).objective
        if self.bound is not None and termination is not Termination.INFEASIBLE:
            dual = self.form.objective(self.bound)
            if primal is not None:  # the last bit of a float sum must not cross the bound
                dual = min(dual, primal) if self.problem.sense == "min" else max(dual, primal)
        if termination is Termination.OPTIMAL and relative_gap(primal, dual) > TOLERANCE:
            termination = Termination.FEASIBLE  # of the rounded numbers alone
            message += "; the numbers differ too much in size to prove it for unrounded ones"
        return AssignmentResult(
            termination=termination,
            bounds=Bounds(primal=primal, dual=dual),
            stats=Stats(
                wall_s=self.elapsed_s,
                cpu_s=time.process_time() - self._cpu,
                nodes=self.nodes,
                configurations=configurations,
                pruned=pruned or {},
            ),
            incumbents=tuple(self.incumbents),
            conflict=conflict,
            method=self.method,
            arithmetic=self.form.arithmetic,
            num_units=self.problem.num_units,
            placed=None if termination is Termination.INFEASIBLE else self.best,
            witness=witness,
            message=message,
        )
