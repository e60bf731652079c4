"""Solve assignment instances with our methods and with peers, each under the same CPU limit.

One row an instance and method:

    instance        name of the file without its ending
    method          exact, large, milp (HiGHS), anneal, greedy, dynamic; peers: cpsat, scip, cbc
    objective       of the best plan, evaluated again here from the instance; empty: no plan
    bound           proven or claimed by the method; empty: none
    gap             |objective - bound| / max of both
    termination     optimal, feasible, infeasible, limit; failed: the method crashed, or its proof
                    does not show what it claims
    cpu_s, wall_s   of the whole process group, start-up and reading the file included
    time_to_best_s  CPU seconds from the start of the process to the best plan

``--trace`` writes one row a better plan, with the columns of :data:`TRACE`: what ``gap-page`` needs
to say when a method reached what another one ended with. ``--proofs`` keeps the proof of each
``exact`` run and has each optimum proven again by the checker, which shares no code with the
search; the time of that is told apart.

Every run is a process group of its own. Its CPU time is counted and limited, so that runs on a
shared machine compare; a method that does not stop by itself is killed a little later.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from benchmarks.limited import Usage, run_limited
from optalloc.assignment.check_proof import Verdict, certify_proof
from optalloc.assignment.formats import load_assignment
from optalloc.assignment.problem import AssignmentProblem
from optalloc.assignment.proof import read_proof
from optalloc.errors import InputError
from optalloc.result import Bounds

COLUMNS = (
    "instance", "method", "objective", "bound", "gap", "termination", "cpu_s", "wall_s",
    "time_to_best_s",
)  # fmt: skip
TRACE = ("instance", "method", "seed", "cpu_s", "objective")
OURS = ("exact", "large", "milp", "anneal", "greedy", "dynamic")
#: method -> (module that must be installed, what installs it)
PEERS = {
    "cpsat": ("ortools", "ortools"),
    "scip": ("pyscipopt", "pyscipopt"),
    "cbc": ("pulp", "pulp"),
}
#: A run may exceed the limit by this part and this many seconds to write its answer.
GRACE, GRACE_S = 0.2, 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the study."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument(
        "--method",
        default="exact",
        metavar="M[,M...]",
        help=f"of {', '.join((*OURS, *PEERS))}; default: exact",
    )
    parser.add_argument(
        "--time-limit", type=float, default=60.0, metavar="S", help="CPU seconds a run (60)"
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of a run (1)")
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="of a run (0)")
    parser.add_argument("--out", type=Path, metavar="CSV", help="rows go here, else to stdout")
    parser.add_argument("--trace", type=Path, metavar="CSV", help="each better plan goes here")
    parser.add_argument(
        "--proofs", type=Path, metavar="DIR", help="keep each proof here; prove each optimum again"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write a row for each file and method; 1 when one could not be done."""
    methods = arguments.method.split(",")
    for method in methods:
        if method not in OURS and method not in PEERS:
            print(f"There is no method {method!r}: use {', '.join((*OURS, *PEERS))}.")
            return 2
        if method in PEERS and importlib.util.find_spec(PEERS[method][0]) is None:
            what = PEERS[method][1]
            print(f"The method {method} needs {what}: install it with 'pip install {what}'.")
            return 2
    if arguments.proofs is not None:
        arguments.proofs.mkdir(parents=True, exist_ok=True)
    failed = 0
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(_opened(arguments.out))
        traced = stack.enter_context(_opened(arguments.trace or Path(os.devnull)))
        writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
        tracer = csv.writer(traced, lineterminator="\n")
        writer.writeheader()
        tracer.writerow(TRACE)
        for row, trace in rows(arguments, methods):
            failed += row["termination"] == "failed"
            writer.writerow(row)
            for spent_s, value in trace:
                words = (row["instance"], row["method"], arguments.seed)
                tracer.writerow((*words, f"{spent_s:.3f}", f"{value:.12g}"))
            out.flush()
            traced.flush()
    return 1 if failed else 0


Trace = list[tuple[float, float]]  # CPU seconds and objective of each better plan


def rows(
    arguments: argparse.Namespace, methods: list[str]
) -> Iterator[tuple[dict[str, Any], Trace]]:
    """The rows, as they are measured, each with its trace."""
    with tempfile.TemporaryDirectory() as folder:
        for file in arguments.files:
            try:
                problem = load_assignment(file)
            except InputError as error:
                print(error, file=sys.stderr)
                yield from ((_failed(file, method), []) for method in methods)
                continue
            for method in methods:
                command = [
                    sys.executable, "-m", "benchmarks.solve_one", str(file), method,
                    str(arguments.time_limit), str(arguments.threads), str(arguments.seed),
                ]  # fmt: skip
                proof = None
                if arguments.proofs is not None and method == "exact":
                    proof = arguments.proofs / f"{file.stem}-{arguments.seed}.jsonl.gz"
                    proof.unlink(missing_ok=True)
                    command.append(str(proof))
                limit = arguments.time_limit * (1 + GRACE) + GRACE_S
                log = Path(folder) / "log"
                usage = run_limited(command, limit, log, threads=arguments.threads)
                row, trace = row_of(file, problem, method, usage)
                if proof is not None and row["termination"] == "optimal":
                    row["termination"] = "optimal" if holds(row, problem, proof) else "failed"
                yield row, trace


def holds(row: dict[str, Any], problem: AssignmentProblem, proof: Path) -> bool:
    """Whether the proof shows the optimum that a row claims; says what it shows."""
    begin_s = time.process_time()
    check = certify_proof(problem, *read_proof(proof))
    spent_s = time.process_time() - begin_s
    shown = f"{check.num_leaves} leaves, {spent_s:.1f} s {check.reason}".rstrip()
    print(
        f"{row['instance']}: {row['objective']} {row['termination']}; "
        f"proof: {check.objective} {check.verdict.value}, {shown}",
        file=sys.stderr,
    )
    return check.verdict is Verdict.OPTIMAL


def _failed(file: Path, method: str) -> dict[str, Any]:
    """The row of a run that gave nothing."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS, "")
    return row | {"instance": file.stem, "method": method, "termination": "failed"}


def row_of(
    file: Path, problem: AssignmentProblem, method: str, usage: Usage
) -> tuple[dict[str, Any], Trace]:
    """One row from the JSON lines a run printed, and its trace; plans are evaluated again.

    A value that is told before its plan is dropped where no plan bears it out.
    """
    trace: Trace = []
    row = _failed(file, method)
    row |= {"cpu_s": f"{usage.cpu_s:.3f}", "wall_s": f"{usage.wall_s:.3f}"}
    best: float | None = None
    bound: float | None = None
    for line in usage.output.splitlines():
        try:
            event = json.loads(line)
        except json.JSONDecodeError:  # what a peer prints itself, or a line cut off
            continue
        if not isinstance(event, dict):
            continue
        if event.get("plan") is not None:
            value = problem.evaluate(event["plan"])
            if not value.is_feasible:
                print(f"{file.stem}: {method} gave a plan that breaks a rule", file=sys.stderr)
                return row, []
            best = value.objective
        if event.get("cpu_s") is not None:
            spent_s = min(event["cpu_s"], usage.cpu_s)
            row["time_to_best_s"] = f"{spent_s:.3f}"
            told = event.get("value", best)
            if told is not None:
                trace.append((spent_s, told))
        if event.get("bound") is not None:
            bound = event["bound"]
        if "termination" in event:
            row["termination"] = event["termination"]
    if usage.killed:
        row["termination"] = "limit"
    if best is None:
        row["time_to_best_s"] = ""
    row["objective"] = "" if best is None else f"{best:.12g}"
    row["bound"] = "" if bound is None else f"{bound:.12g}"
    if best is not None and bound is not None:
        row["gap"] = f"{Bounds(primal=best, dual=bound).gap:.6g}"
    return row, _improving(trace, best, problem.sense)


def _improving(trace: Trace, best: float | None, sense: str) -> Trace:
    """The entries that are better than all before, and none better than the best plan."""
    sign = -1 if sense == "max" else 1
    kept: Trace = []
    for spent_s, value in trace:
        if best is None or sign * value < sign * best:
            continue
        if not kept or sign * value < sign * kept[-1][1]:
            kept.append((spent_s, value))
    return kept


def _opened(path: Path | None) -> TextIO:
    if path is None:
        return open(sys.stdout.fileno(), "w", encoding="utf-8", closefd=False)
    return path.open("w", encoding="utf-8")
