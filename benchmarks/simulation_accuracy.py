"""Simulate published serving measurements request by request, and compare with them and the model.

Every closed-loop row is simulated from a cold start, where all clients send at once. How many
requests each sends is not published; the closed form has fitted the share of requests of such a
start for every series of measurements (``burst``), and a client sends one over that share. Lengths
are uniform within a tenth of their mean. Columns of the table, by kind of setup:

    measured     median error of the simulated mean against the measured figure
    model        the same for the closed form of the cost model
    difference   median difference of the two predictions
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from pathlib import Path

import msgspec

from optalloc import files
from optalloc.cost.engine.constants import EngineFile, read_engine_constants
from optalloc.cost.engine.measured import ServingProblem, read_serving_rows, serving_problem
from optalloc.cost.engine.predict import predict_serving
from optalloc.cost.engine.step import step_model
from optalloc.errors import OptallocError
from optalloc.simulate.requests.arrivals import ClosedLoop
from optalloc.simulate.requests.deployment import Deployment
from optalloc.simulate.requests.engines import engines_of
from optalloc.simulate.requests.lengths import Uniform
from optalloc.simulate.requests.load import Load
from optalloc.simulate.requests.outcome import RequestSummary
from optalloc.simulate.requests.simulate import simulate_requests

_MOST_ROUNDS = 50.0
_SPREAD = 0.1
_LINK_BYTES_PER_S = 50e9


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of one row: measured, simulated and by the closed form."""

    row_id: str
    scenario: str
    ttft_s: tuple[float, float, float]
    tpot_s: tuple[float, float, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the study."""
    parser.add_argument("rows", metavar="ROWS.csv", help="measurements with TTFT and TPOT")
    parser.add_argument("--every", type=int, default=1, metavar="K", help="each K-th row alone (1)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the rows as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print a row a kind of setup; 1 when some row could not be simulated."""
    begin, file = time.process_time(), read_engine_constants()
    found: list[Compared] = []
    requests = failed = 0
    for row in read_serving_rows(arguments.rows)[:: arguments.every]:
        try:
            problem = serving_problem(row)
            if problem.measured_ttft_s is None or problem.measured_tpot_s is None:
                continue
            told = simulated(problem, file)
        except OptallocError as error:
            print(error)
            failed += 1
            continue
        model = predict_serving(problem, file)
        requests += told.num_requests
        found.append(
            Compared(
                row_id=problem.row_id,
                scenario=problem.scenario,
                ttft_s=(problem.measured_ttft_s, told.ttft.mean_s, model.ttft_s),
                tpot_s=(problem.measured_tpot_s, told.tpot.mean_s, model.tpot_s),
            )
        )
    _print(found)
    cpu_s = time.process_time() - begin
    print(f"{requests:,} requests in {cpu_s:.1f} s of CPU; {failed} rows failed")
    if arguments.out is not None:
        files.write_json(arguments.out, found)
    return int(failed > 0)


def simulated(problem: ServingProblem, file: EngineFile) -> RequestSummary:
    """One measured closed loop, request by request."""
    steps = [
        step_model(
            problem.model, problem.device, worker.engine, campaign=problem.campaign, file=file
        )
        for worker in problem.workers
    ]
    engines = [
        engines_of(worker.engine, step, replicas=worker.count)
        for worker, step in zip(problem.workers, steps, strict=True)
    ]
    split, c = len(engines) > 1, steps[0].constants
    deployment = Deployment(
        engines=(engines[-1],),
        prefill=tuple(engines[:-1]),
        transfer_s_per_token=float(steps[0].work.kv_bytes) / _LINK_BYTES_PER_S,
        transfer_s=float(c.handover_s) if split else 0.0,
        lag_iterations=float(c.split_lag if split else steps[0].lag_iterations),
    )
    clients = max(1, round(problem.concurrency))
    load = Load(
        arrivals=ClosedLoop(clients),
        input=Uniform.around(round(problem.input_len), _SPREAD),
        output=Uniform.around(round(problem.output_len), _SPREAD),
    )
    rounds = min(_MOST_ROUNDS, 1.0 / float(c.split_burst if split else c.burst))
    count = max(clients, round(rounds * clients))
    return simulate_requests(deployment, load, num_requests=count, record=False).summary


def _print(found: list[Compared]) -> None:
    print(f"{'setup':14} {'rows':>5} {'':5} {'measured':>9} {'model':>9} {'difference':>10}")
    groups: dict[str, list[Compared]] = defaultdict(list)
    for one in found:
        groups[one.scenario].append(one)
    for scenario, members in groups.items():
        for name in ("ttft", "tpot"):
            times = [getattr(one, f"{name}_s") for one in members]
            errors = (
                statistics.median(abs(a / b - 1.0) for a, b in pairs)
                for pairs in (
                    [(simulated, measured) for measured, simulated, _ in times],
                    [(model, measured) for measured, _, model in times],
                    [(simulated, model) for _, simulated, model in times],
                )
            )
            print(f"{scenario:14} {len(members):5} {name:5}", *(f"{e:9.1%}" for e in errors))
