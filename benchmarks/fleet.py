"""Rent the cheapest replicas for a load, beside Mélange's integer programme.

For every instance (files that ``optalloc fleet`` reads, or ``--random BUCKETSxTYPES``) a row with

    price, bound, gap, cpu_s      ours: USD/h; CPU seconds of search, shares and check
    price_K, gap_K, cpu_K         Mélange's programme with each bucket cut into K slices that go to
                                  one offer each, our formulation of it in HiGHS, stopped after the
                                  limit; empty where a rule of the instance is beyond it

A row that could not be done makes the exit status 1.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import highspy
import numpy as np

from benchmarks.fleet_instances import random_fleet
from optalloc.errors import InputError, OptallocError
from optalloc.serving.mix.instance import load_fleet
from optalloc.serving.mix.problem import FleetProblem
from optalloc.serving.mix.solve import plan_fleet
from optalloc.stop import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the study."""
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--random", metavar="JxG", help="random instances, for example 400x8")
    parser.add_argument("--regions", type=int, default=1, help="of each random type (1)")
    parser.add_argument("--capped", action="store_true", help="random instances with caps")
    parser.add_argument("--utilization", type=float, default=1.0, help="of random instances (1)")
    parser.add_argument("--redundancy", default="none", help="of random instances (none)")
    parser.add_argument("--count", type=int, default=5, help="random instances (5)")
    parser.add_argument("--seed", type=int, default=0, help="of the first random instance (0)")
    parser.add_argument(
        "--slices", type=int, nargs="*", default=[1, 4], help="Mélange's slice factors (1 4)"
    )
    parser.add_argument(
        "--time-limit", type=float, default=60.0, metavar="S", help="CPU seconds each (60)"
    )
    parser.add_argument("--out", type=Path, metavar="CSV", help="also write the rows here")


def run(arguments: argparse.Namespace) -> int:
    """Print a row an instance; 1 when one could not be done."""
    columns = ["instance", "buckets", "offers", "price", "bound", "gap", "cpu_s"]
    columns += [f"{name}_{k}" for k in arguments.slices for name in ("price", "gap", "cpu")]
    rows: list[list[str]] = []
    failed = 0
    print("  ".join(f"{name:>12}" for name in columns))
    for name, make in _instances(arguments):
        try:
            row = _row(make, arguments.slices, arguments.time_limit)
        except OptallocError as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = 1
            continue
        rows.append(row)
        print("  ".join(f"{cell:>12}" for cell in row), flush=True)
    if arguments.out is not None:
        with arguments.out.open("w", newline="") as file:
            csv.writer(file).writerows([columns, *rows])
    return failed


def _instances(arguments: argparse.Namespace) -> Iterator[tuple[str, FleetProblem]]:
    for path in arguments.files:
        yield str(path), load_fleet(path)
    if arguments.random is None:
        return
    size = re.fullmatch(r"(\d+)x(\d+)", arguments.random)
    if size is None:
        raise InputError(f"{arguments.random!r} is no size", path="--random", fix="write 400x8")
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        problem = random_fleet(
            seed,
            int(size[1]),
            int(size[2]),
            regions=arguments.regions,
            capped=arguments.capped,
            utilization=arguments.utilization,
            redundancy=arguments.redundancy,
        )
        yield problem.name, problem


def _row(problem: FleetProblem, slices: list[int], limit_s: float) -> list[str]:
    begin = time.process_time()

    def out_of_time(progress: Progress) -> bool:  # noqa: ARG001
        return time.process_time() - begin >= limit_s

    result = plan_fleet(problem, stop=out_of_time)
    cells = [problem.name, str(len(problem.buckets)), str(len(problem.offers))]
    price, bound = result.bounds.primal, result.bounds.dual
    cells += ["" if price is None else f"{price:.4f}", "" if bound is None else f"{bound:.4f}"]
    cells += ["" if price is None else f"{result.bounds.gap:.3%}"]
    cells.append(f"{time.process_time() - begin:.3f}")
    for factor in slices:
        cells += _melange(problem, factor, limit_s)
    return cells


def _melange(problem: FleetProblem, slice_factor: int, limit_s: float) -> list[str]:
    """Price, gap and CPU seconds: each slice goes to one offer, all binary, counts whole."""
    if problem.redundancy != "none" or problem.limits:
        return ["", "", ""]
    begin = time.process_time()
    num = len(problem.offers)
    lp = highspy.HighsLp()
    slices = [
        j
        for j, bucket in enumerate(problem.buckets)
        for _ in range(slice_factor if bucket.rate_per_s > 0.0 else 0)
    ]
    pairs = [
        (i, g)
        for i, j in enumerate(slices)
        for g, offer in enumerate(problem.offers)
        if offer.requests_per_s[j] > 0.0
    ]
    lp.num_col_, lp.num_row_ = num + len(pairs), num + len(slices)
    prices = [offer.price_usd_per_h for offer in problem.offers]
    most = [highspy.kHighsInf if o.at_most is None else float(o.at_most) for o in problem.offers]
    lp.col_cost_ = np.append(prices, np.zeros(len(pairs)))
    lp.col_lower_ = np.append([float(o.at_least) for o in problem.offers], np.zeros(len(pairs)))
    lp.col_upper_ = np.append(most, np.ones(len(pairs)))
    lp.integrality_ = [highspy.HighsVarType.kInteger] * lp.num_col_
    lp.row_lower_ = np.append(np.full(num, -highspy.kHighsInf), np.ones(len(slices)))
    lp.row_upper_ = np.append(np.zeros(num), np.ones(len(slices)))
    index, value = list(range(num)), []
    for offer in problem.offers:
        value.append(-problem.utilization * (1.0 - offer.interruption))
    for i, g in pairs:
        j = slices[i]
        index += [g, num + i]
        rate = problem.buckets[j].rate_per_s / slice_factor
        value += [rate / problem.offers[g].requests_per_s[j], 1.0]
    starts = np.append(np.arange(num), num + 2 * np.arange(len(pairs) + 1))
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = starts.astype(np.int32)
    lp.a_matrix_.index_ = np.array(index, dtype=np.int32)
    lp.a_matrix_.value_ = np.array(value)
    solver = highspy.Highs()
    for option, setting in (
        ("output_flag", False),
        ("threads", 1),
        ("time_limit", limit_s),
        ("mip_rel_gap", 0.0),
    ):
        solver.setOptionValue(option, setting)
    solver.passModel(lp)
    solver.run()
    info = solver.getInfo()
    found, bound = info.objective_function_value, info.mip_dual_bound
    cpu = f"{time.process_time() - begin:.3f}"
    if not np.isfinite(found):
        return ["none", "", cpu]
    return [f"{found:.4f}", f"{(found - bound) / found:.3%}" if found else "", cpu]
