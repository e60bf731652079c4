"""The study training-search, on a small case."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from benchmarks.__main__ import main


def test_a_case_is_proven_and_certified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One row: every configuration is accounted for by a bound, or was solved."""
    out = tmp_path / "rows.csv"
    assert main(["training-search", "gpt2,8xh100-sxm,64,1024", "--out", str(out)]) == 0
    (row,) = csv.DictReader(out.open(encoding="utf-8"))
    assert row["certificate"] == "checked"
    assert float(row["gap"]) == 0.0
    assert int(row["configurations"]) > 1000
    shares = [float(row[name]) for name in row if name.endswith(("bound", "search", "memory"))]
    assert 0.9 < sum(shares) <= 1.0
    assert 0.0 < float(row["search_cpu_s"]) < float(row["cpu_s"])
    assert "configurations" in capsys.readouterr().out


def test_a_case_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The message shows one; the status is that of bad input."""
    assert main(["training-search", "gpt2,8xh100-sxm,64"]) == 2
    assert "llama" in capsys.readouterr().err
