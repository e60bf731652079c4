"""The study serving-search, on a small case."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from benchmarks.__main__ import main


def test_a_case_is_proven_twice(tmp_path: Path) -> None:
    """One row, with what was counted."""
    out = tmp_path / "rows.csv"
    assert main(["serving-search", "qwen3-8b,1xh100-sxm,2000,200", "--out", str(out)]) == 0
    (row,) = csv.DictReader(out.open(encoding="utf-8"))
    assert row["proof"] == "agrees"
    assert float(row["gap"]) == 0.0
    assert int(row["configurations"]) > 100


def test_a_case_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serving-search", "qwen3-8b,1xh100-sxm"]) == 2
    assert "is no case" in capsys.readouterr().err
