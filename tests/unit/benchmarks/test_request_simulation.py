"""``python -m benchmarks request-simulation`` and ``simulation-accuracy``."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from benchmarks.__main__ import main
from benchmarks.request_simulation import studies


def test_every_workload_is_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row each, and the same in a file."""
    out = tmp_path / "speed.csv"
    assert main(["request-simulation", "--requests", "300", "--out", str(out)]) == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(studies(300, 0)) == len(capsys.readouterr().out.splitlines()) - 1
    assert all(int(row["iterations"]) > 0 for row in rows)


def test_published_rows_are_simulated(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every hundredth row: the simulation is near the closed form in the time of a token."""
    rows, out = shared_data / "measured" / "serving_latency_calibration.csv", tmp_path / "rows.json"
    words = ["--every", "100", "--out", str(out)]
    assert main(["simulation-accuracy", str(rows), *words]) == 0
    assert "0 rows failed" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert len(found) > 15
    assert sum(abs(row["tpot_s"][1] / row["tpot_s"][2] - 1.0) < 0.1 for row in found) > 10
