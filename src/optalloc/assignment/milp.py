"""Mixed-integer programming with HiGHS: an independent second opinion with live bounds.

Formulation
-----------
    minimise sum_ij c_ij x_ij, x binary          (:func:`_model`, one column an allowed pair)
    sum_i x_ij = 1 for each task j               (:func:`_model`, rows 0 .. N-1)
    sum_j w_ij x_ij <= L_i for each unit i       (:func:`_model`, rows N .. N+M-1)

HiGHS computes in floating point: every plan is evaluated again in integers before it counts, and
the bound is believed to a small tolerance, after which it is rounded up to a whole cost.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import highspy
import numpy as np
import numpy.typing as npt

from optalloc.assignment.integers import IntArray, IntegerForm
from optalloc.assignment.journal import Journal
from optalloc.assignment.problem import AssignmentProblem
from optalloc.assignment.result import AssignmentResult
from optalloc.result import Termination
from optalloc.stop import OnProgress, StopRule

#: Relative gap at which costs too large to be told apart in floating point count as equal.
TOLERANCE = 1e-9
_LARGEST_COST = 1e7
LARGEST_CAPACITY = 1e6

#: Columns, their coefficients, and the least and the greatest value of their sum.
LinearRow = tuple[IntArray, npt.NDArray[np.float64], float, float]


def solve_milp(
    problem: AssignmentProblem,
    stop: StopRule | None = None,
    on_progress: OnProgress | None = None,
    *,
    seed: int = 0,
) -> AssignmentResult:
    """Solve with HiGHS, single-threaded; obeys the stop rule and Ctrl-C."""
    journal = Journal(problem, "milp", stop, on_progress)
    form = journal.form
    tasks = problem.num_tasks
    if not form.allowed.any(axis=1).all():
        return journal.finish(Termination.INFEASIBLE, message="a task fits on no unit")
    if tasks == 0:
        journal.offer([], 0)
        return journal.finish(Termination.OPTIMAL, message="there is no task")
    rows, columns = np.nonzero(form.allowed)
    unit_cost = cost_unit(form.costs)
    solver = solver_for(_model(form, rows, columns, unit_cost), seed, unit_cost)
    cancelled = threading.Event()

    def take(values: Any) -> None:
        """Offer a solution of HiGHS if it is one in integers too."""
        chosen = np.asarray(values)[: len(rows)] > 0.5
        placed = np.full(tasks, -1, dtype=np.int64)
        placed[rows[chosen]] = columns[chosen]
        if int(chosen.sum()) != tasks or (placed < 0).any():
            return
        used = np.zeros(problem.num_units, dtype=np.int64)
        np.add.at(used, placed, form.loads[np.arange(tasks), placed])
        if (used <= form.capacities).all():
            journal.offer(placed.tolist(), int(form.costs[np.arange(tasks), placed].sum()))

    def believe(dual: float) -> None:
        if math.isfinite(dual):
            journal.raise_bound(whole_bound(dual, unit_cost))

    def improving(event: Any) -> None:
        take(event.data_out.mip_solution)

    def look(event: Any) -> None:
        journal.nodes = max(journal.nodes, int(event.data_out.mip_node_count))
        believe(event.data_out.mip_dual_bound)
        journal.report()
        if cancelled.is_set() or journal.should_stop():
            cancelled.set()
            event.interrupt()

    solver.cbMipImprovingSolution += improving
    solver.cbMipInterrupt += look
    # HiGHS holds the interpreter's main thread otherwise, and Ctrl-C would have to wait for it.
    worker = threading.Thread(target=solver.run, daemon=True)
    worker.start()
    try:
        while worker.is_alive():
            worker.join(0.05)
            if not cancelled.is_set() and journal.should_stop():
                cancelled.set()
    except KeyboardInterrupt:
        cancelled.set()
        worker.join()
    status = solver.getModelStatus()
    info = solver.getInfo()
    journal.nodes = max(journal.nodes, int(info.mip_node_count))
    if status == highspy.HighsModelStatus.kInfeasible:
        return journal.finish(Termination.INFEASIBLE, message="HiGHS found no solution to exist")
    if status == highspy.HighsModelStatus.kOptimal:
        take(solver.getSolution().col_value)
        believe(info.mip_dual_bound)
    if journal.best_value is None or journal.bound is None:
        why = "stopped before a plan was found"
        if status == highspy.HighsModelStatus.kOptimal:
            why = "the solution of HiGHS does not hold in integers"
        return journal.finish(Termination.LIMIT, message=why)
    journal.bound = min(journal.bound, journal.best_value)
    open_ = journal.best_value - journal.bound
    if open_ <= TOLERANCE * max(abs(journal.best_value), abs(journal.bound)):
        return journal.finish(Termination.OPTIMAL, message="bound of HiGHS (floating point)")
    return journal.finish(Termination.LIMIT, message="stopped with a gap; bound of HiGHS")


class QuietHighs(highspy.Highs):  # type: ignore[misc]
    """HiGHS on one thread that prints nothing, its banner (of enabling callbacks) included.

    HiGHS keeps one pool of threads a process and computes nothing for a solver that asks for
    another number of them. All of this package ask for one; where other code of the process made
    a larger pool, it is ended first.
    """

    def enableCallbacks(self) -> None:  # noqa: N802
        self.setOptionValue("output_flag", False)
        self.setOptionValue("threads", 1)
        super().enableCallbacks()

    def run(self) -> highspy.HighsStatus:
        """Solve the model that was passed."""
        status: highspy.HighsStatus = super().run()
        not_begun = self.getModelStatus() == highspy.HighsModelStatus.kNotset
        if status == highspy.HighsStatus.kError and not_begun:
            highspy.Highs.resetGlobalScheduler(True)
            status = super().run()
        return status


def cost_unit(costs: IntArray) -> float:
    """What costs are divided by for HiGHS: 1, or a power of two where they are very large."""
    top = float(np.abs(costs).max())
    return 2.0 ** math.ceil(math.log2(top / _LARGEST_COST)) if top > _LARGEST_COST else 1.0


def solver_for(lp: highspy.HighsLp, seed: int, unit_cost: float) -> QuietHighs:
    """HiGHS with the model, single-threaded, to search until no whole cost is left between."""
    solver = QuietHighs()
    solver.passModel(lp)
    for name, value in (
        ("random_seed", seed),
        ("mip_rel_gap", 0.0),
        ("mip_abs_gap", 0.999 if unit_cost == 1.0 else 0.0),
        ("mip_feasibility_tolerance", 1e-9),
        ("primal_feasibility_tolerance", 1e-9),
    ):
        solver.setOptionValue(name, value)
    return solver


def whole_bound(dual: float, unit_cost: float) -> int:
    """A finite bound of HiGHS, believed to a small tolerance, as a whole cost."""
    slack = 1e-6 * max(1.0, abs(dual)) if unit_cost == 1.0 else TOLERANCE * abs(dual)
    return math.ceil((dual - slack) * unit_cost)


def set_rows(lp: highspy.HighsLp, rows: Sequence[LinearRow]) -> None:
    """Put the rows into a model whose columns are set."""
    lp.num_row_ = len(rows)
    lp.row_lower_ = np.array([low for _, _, low, _ in rows])
    lp.row_upper_ = np.array([high for _, _, _, high in rows])
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    starts = np.cumsum([0, *(len(index) for index, _, _, _ in rows)])
    lp.a_matrix_.start_ = starts.astype(np.int32)
    lp.a_matrix_.index_ = np.concatenate([index for index, _, _, _ in rows]).astype(np.int32)
    lp.a_matrix_.value_ = np.concatenate([weights for _, weights, _, _ in rows])


def _model(form: IntegerForm, rows: Any, columns: Any, unit_cost: float) -> highspy.HighsLp:
    """Columns in the order of ``rows`` (task) and ``columns`` (unit) of the allowed pairs."""
    tasks, units = form.costs.shape
    count = len(rows)
    scale = np.array([max(1.0, top / LARGEST_CAPACITY) for top in form.capacities.tolist()])
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = count, tasks + units
    lp.col_cost_ = form.costs[rows, columns] / unit_cost
    lp.col_lower_, lp.col_upper_ = np.zeros(count), np.ones(count)
    lp.integrality_ = [highspy.HighsVarType.kInteger] * count
    lp.row_lower_ = np.concatenate([np.ones(tasks), np.full(units, -highspy.kHighsInf)])
    lp.row_upper_ = np.concatenate([np.ones(tasks), form.capacities / scale])
    index = np.empty(2 * count, dtype=np.int32)
    value = np.empty(2 * count)
    index[0::2], value[0::2] = rows, 1.0
    index[1::2], value[1::2] = tasks + columns, form.loads[rows, columns] / scale[columns]
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = np.arange(0, 2 * count + 1, 2, dtype=np.int32)
    lp.a_matrix_.index_, lp.a_matrix_.value_ = index, value
    return lp
