"""How uncertain compute and link efficiencies are, from the residuals on published measurements.

Prints the file ``optalloc/cost/fitted/NAME.uncertainty.toml``. The model of the residuals is in
:mod:`optalloc.cost.uncertainty`; every source counts the same, and residuals beyond the 90 %
quantile count as that (a few rows of other software would decide everything else).
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import math
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cost.measured.problem import Problem, Unsupported, problem_of
from optalloc.cost.measured.rows import read_rows
from optalloc.cost.predict import predict
from optalloc.cost.uncertainty import SIDES, scaled

Array = NDArray[np.float64]
_STEP = 0.99  # the factor of an efficiency that shows how strongly the time depends on it
_KEPT = 0.9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the study."""
    parser.add_argument("rows", metavar="ROWS.csv", help="measurements, one a line")


def run(arguments: argparse.Namespace) -> int:
    """Print the file; 0."""
    sources, residuals, slopes = [], [], []
    for row in read_rows(arguments.rows):
        try:
            problem = problem_of(row)
        except Unsupported:
            continue
        if problem.measured_s:
            predicted = predict(problem).step_time_s
            sources.append(row["source"])
            residuals.append(math.log(problem.measured_s / predicted))
            slopes.append([_slope(problem, predicted, k) for k in range(len(SIDES))])
    count = Counter(sources)
    weights = np.array([1.0 / count[source] for source in sources])
    residual, slope = np.array(residuals), np.array(slopes)
    error = float(np.mean(np.abs(np.exp(-residual) - 1.0)))
    sides = np.exp(deviations(residual, slope, weights)) - 1.0
    text = (
        f"residuals of {len(sources)} published step times from {len(count)} sources "
        f"({Path(arguments.rows).stem}); python -m benchmarks training-uncertainty"
    )
    print(f"step_time = {error:.3g}")
    for name, side in zip(SIDES, sides, strict=True):
        print(f"{name} = {side:.2g}")
    print(f'source = "{text}"\ndate = "{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"')
    return 0


def _slope(problem: Problem, predicted_s: float, side: int) -> float:
    """Relative change of the predicted time against that of one efficiency, at least 0."""
    corner = tuple(_STEP if k == side else 1.0 for k in range(len(SIDES)))
    clusters = [scaled(cluster, corner) for cluster in problem.clusters]
    slower = predict(msgspec.structs.replace(problem, clusters=type(problem.clusters)(clusters)))
    return max(0.0, math.log(slower.step_time_s / predicted_s) / -math.log(_STEP))


def deviations(residual: Array, slope: Array, weight: Array) -> Array:
    """Standard deviations of the logarithms of the efficiencies, shape (sides,).

    Weighted least squares of the squared residuals on the squared slopes, shape (n, sides), with no
    negative variance: the best of all subsets of sides.
    """
    order = np.argsort(np.abs(residual))
    total = np.cumsum(weight[order])
    cap = np.abs(residual)[order][int(np.searchsorted(total, _KEPT * total[-1]))]
    squares = np.minimum(np.abs(residual), cap) ** 2
    root = np.sqrt(weight)
    best, variance = np.inf, np.zeros(slope.shape[1])
    subsets = [
        list(some)
        for size in range(1, slope.shape[1] + 1)
        for some in itertools.combinations(range(slope.shape[1]), size)
    ]
    for some in subsets:
        left = slope[:, some] ** 2 * root[:, None]
        fitted, *_ = np.linalg.lstsq(left, squares * root, rcond=None)
        loss = float(((left @ fitted - squares * root) ** 2).sum())
        if (fitted >= 0.0).all() and loss < best:
            best, variance = loss, np.zeros(slope.shape[1])
            variance[some] = fitted
    return np.sqrt(variance)
