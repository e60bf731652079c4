"""Other solvers on the assignment problem, each with its own defaults.

A peer gets the plain model (one binary a pair, a row a task, a row a unit), one thread unless more
are asked for, and a limit of CPU time: by its own clock where it has a CPU clock, else by a thread
that watches this process and interrupts the solver. Plans and bounds are told as they come.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.solve_one import cpu_s, tell
from optalloc.assignment.problem import AssignmentProblem

_LOOK_S = 0.05


def watch(limit_s: float, interrupt: Callable[[], None]) -> None:
    """Call ``interrupt`` once this process has used its CPU seconds."""

    def look() -> None:
        while cpu_s() < limit_s:
            time.sleep(_LOOK_S)
        interrupt()

    threading.Thread(target=look, daemon=True).start()


def solve_cpsat(problem: AssignmentProblem, limit_s: float, threads: int, seed: int) -> None:
    """OR-Tools CP-SAT: exactly one unit a task, a linear row a unit."""
    from ortools.sat.python import cp_model

    form = problem.integer_form()
    model = cp_model.CpModel()
    tasks, units = np.nonzero(form.allowed)
    x = {
        (j, i): model.new_bool_var("") for j, i in zip(tasks.tolist(), units.tolist(), strict=True)
    }
    for j in range(problem.num_tasks):
        model.add_exactly_one(x[j, i] for i in range(problem.num_units) if (j, i) in x)
    for i, room in enumerate(form.capacities.tolist()):
        mine = [j for j in range(problem.num_tasks) if (j, i) in x]
        model.add(sum(int(form.loads[j, i]) * x[j, i] for j in mine) <= room)
    model.minimize(sum(int(form.costs[pair]) * variable for pair, variable in x.items()))

    class Listener(cp_model.CpSolverSolutionCallback):  # type: ignore[misc]
        def on_solution_callback(self) -> None:
            plan = [0] * problem.num_tasks
            for (j, i), variable in x.items():
                if self.boolean_value(variable):
                    plan[j] = i
            tell(plan=plan, cpu_s=cpu_s(), bound=form.objective(int(self.best_objective_bound)))

    solver = cp_model.CpSolver()
    solver.parameters.num_workers = threads
    solver.parameters.random_seed = seed
    listener = Listener()
    watch(limit_s, solver.stop_search)
    status = solver.solve(model, listener)
    names = {cp_model.OPTIMAL: "optimal", cp_model.INFEASIBLE: "infeasible"}
    tell(
        bound=form.objective(round(solver.best_objective_bound)),
        termination=names.get(status, "limit"),
    )


def solve_scip(problem: AssignmentProblem, limit_s: float, threads: int, seed: int) -> None:  # noqa: ARG001
    """SCIP, on one thread; its own CPU clock keeps the limit."""
    import pyscipopt

    form = problem.integer_form()
    model = pyscipopt.Model()
    model.hideOutput()
    tasks, units = np.nonzero(form.allowed)
    x = {
        (j, i): model.addVar(vtype="B", obj=int(form.costs[j, i]))
        for j, i in zip(tasks.tolist(), units.tolist(), strict=True)
    }
    for j in range(problem.num_tasks):
        mine = [x[j, i] for i in range(problem.num_units) if (j, i) in x]
        model.addCons(pyscipopt.quicksum(mine) == 1)
    for i, room in enumerate(form.capacities.tolist()):
        terms = [int(form.loads[j, i]) * x[j, i] for j in range(problem.num_tasks) if (j, i) in x]
        model.addCons(pyscipopt.quicksum(terms) <= room)
    model.setParam("timing/clocktype", 1)  # CPU seconds
    model.setParam("limits/time", max(0.1, limit_s - cpu_s()))
    model.setParam("randomization/randomseedshift", seed)

    def plan_of(solution: Any) -> list[int]:
        plan = [0] * problem.num_tasks
        for (j, i), variable in x.items():
            if model.getSolVal(solution, variable) > 0.5:
                plan[j] = i
        return plan

    class Listener(pyscipopt.Eventhdlr):  # type: ignore[misc]
        def eventinit(self) -> None:
            self.model.catchEvent(pyscipopt.SCIP_EVENTTYPE.BESTSOLFOUND, self)

        def eventexit(self) -> None:
            self.model.dropEvent(pyscipopt.SCIP_EVENTTYPE.BESTSOLFOUND, self)

        def eventexec(self, event: Any) -> None:  # noqa: ARG002
            tell(plan=plan_of(self.model.getBestSol()), cpu_s=cpu_s())

    listener = Listener()
    model.includeEventhdlr(listener, "plans", "tells each better plan")
    model.optimize()
    names = {"optimal": "optimal", "infeasible": "infeasible"}
    bound = model.getDualbound()
    tell(
        bound=form.objective(math.ceil(bound - 1e-6)) if abs(bound) < 1e19 else None,
        termination=names.get(model.getStatus(), "limit"),
    )


def solve_cbc(problem: AssignmentProblem, limit_s: float, threads: int, seed: int) -> None:
    """CBC by the executable that PuLP brings; the time of the best plan comes from its log."""
    import tempfile
    from pathlib import Path

    import pulp

    form = problem.integer_form()
    model = pulp.LpProblem("assignment", pulp.LpMinimize)
    tasks, units = np.nonzero(form.allowed)
    x = {
        (j, i): pulp.LpVariable(f"x_{j}_{i}", cat="Binary")
        for j, i in zip(tasks.tolist(), units.tolist(), strict=True)
    }
    model += pulp.lpSum(int(form.costs[pair]) * variable for pair, variable in x.items())
    for j in range(problem.num_tasks):
        model += pulp.lpSum(x[j, i] for i in range(problem.num_units) if (j, i) in x) == 1
    for i, room in enumerate(form.capacities.tolist()):
        mine = [j for j in range(problem.num_tasks) if (j, i) in x]
        model += pulp.lpSum(int(form.loads[j, i]) * x[j, i] for j in mine) <= room
    with tempfile.TemporaryDirectory() as folder:
        log, before_s = Path(folder) / "log", cpu_s()
        solver = pulp.PULP_CBC_CMD(
            msg=False,
            timeLimit=max(0.1, limit_s - before_s),
            threads=threads if threads > 1 else None,
            timeMode="cpu",
            options=[f"randomCbcSeed {seed}"],
            logPath=str(log),
            gapRel=0.0,
        )
        model.solve(solver)
        text = log.read_text(encoding="utf-8", errors="replace")
    values = {pair: variable.value() for pair, variable in x.items()}
    if None not in values.values():
        plan = [-1] * problem.num_tasks
        for (j, i), value in values.items():
            if value > 0.5:
                plan[j] = i
        if problem.evaluate(plan).is_feasible:
            found = re.findall(r"solution of [-\d.e+]+ found .*\(([\d.]+) seconds\)", text)
            tell(plan=plan, cpu_s=before_s + float(found[-1]) if found else cpu_s())
    lower = re.search(r"Lower bound:\s+([-\d.e+]+)", text)
    done = model.sol_status == pulp.LpSolutionOptimal and "Optimal solution found" in text
    if done:
        bound = round(pulp.value(model.objective))
    else:
        bound = None if lower is None else int(np.ceil(float(lower.group(1)) - 1e-6))
    infeasible = model.status == pulp.LpStatusInfeasible
    tell(
        bound=None if bound is None else form.objective(bound),
        termination="optimal" if done else "infeasible" if infeasible else "limit",
    )


PEERS: dict[str, Callable[[AssignmentProblem, float, int, int], None]] = {
    "cpsat": solve_cpsat,
    "scip": solve_scip,
    "cbc": solve_cbc,
}
