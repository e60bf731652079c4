"""Published serving measurements against the engine model's predictions.

The data are 1,938 + 372 published rows (README_serving of the folder ``measured``). Constants were
fitted on these rows, so the figures say how well the formulas describe them; the documentation has
those of setups left out of the fit.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from optalloc.cost.engine.constants import read_engine_constants
from optalloc.cost.engine.measured import ServingProblem, read_serving_rows, serving_problem
from optalloc.cost.engine.predict import predict_serving


def _problems(shared_data: Path, name: str) -> list[ServingProblem]:
    path = shared_data / "measured" / name
    if not path.is_file():
        pytest.skip(f"no measurements at {path}")
    return [serving_problem(row) for row in read_serving_rows(str(path))]


def test_times_under_load_are_described(shared_data: Path) -> None:
    """Every eighth row: half of the TPOT within 8 %, half of the TTFT within 18 %."""
    file = read_engine_constants()
    tpot, ttft = [], []
    for p in _problems(shared_data, "serving_latency_calibration.csv")[::8]:
        found = predict_serving(p, file)
        tpot.append(abs(found.tpot_s / (p.measured_tpot_s or 1.0) - 1.0))
        ttft.append(abs(found.ttft_s / (p.measured_ttft_s or 1.0) - 1.0))
    assert statistics.median(tpot) < 0.08
    assert statistics.median(ttft) < 0.18


def test_rates_are_described(shared_data: Path) -> None:
    """Half of the rates within 10 %."""
    file = read_engine_constants()
    errors = [
        abs(predict_serving(p, file).output_tokens_per_s / p.measured_rate - 1.0)
        for p in _problems(shared_data, "serving_calibration.csv")[::3]
        if p.measured_rate is not None
    ]
    assert statistics.median(errors) < 0.10
