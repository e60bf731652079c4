"""training-accuracy: metrics worked by hand, and the study on a table of three rows."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from benchmarks import accuracy_metrics as metrics
from benchmarks.__main__ import main
from benchmarks.accuracy_metrics import Scored


def _scored(predicted_s: float, measured_s: float, **row: str) -> Scored:
    return Scored(
        row={"source": "s"} | row,
        predicted_s=predicted_s,
        measured_s=measured_s,
        memory_bytes=50 * metrics.GIB,
        reported_bytes=50 * metrics.GIB,
        capacity_bytes=80 * metrics.GIB,
        remark="",
    )


def test_regret_is_what_the_pick_costs() -> None:
    """The fastest prediction takes 1.2 s where 1.0 s were to be had."""
    job = [_scored(0.9, 1.2), _scored(1.1, 1.0), _scored(2.0, 3.0)]
    assert metrics.regret(job) == pytest.approx(0.2)


def test_rank_correlation_of_a_swap() -> None:
    """Ranks 1 2 3 against 2 1 3: 1 - 6 x 2 / (3 x 8) = 0.5."""
    job = [_scored(1.0, 2.0), _scored(2.0, 1.0), _scored(3.0, 3.0)]
    assert metrics.rank_correlation(job) == pytest.approx(0.5)


def test_every_source_weighs_the_same() -> None:
    """Nine rows at 0 % and one of another source at 10 %: 1 % of the rows, 5 % of the sources."""
    rows = [_scored(1.0, 1.0) for _ in range(9)] + [_scored(1.1, 1.0, source="t")]
    assert metrics.mape(rows) == pytest.approx(0.01)
    assert metrics.macro(rows) == pytest.approx(0.05)


def test_alternatives_of_a_job_differ_in_their_plan_alone() -> None:
    """Another batch is another job."""
    rows = [_scored(1, 1, gbs="8", tp="1"), _scored(1, 1, gbs="8", tp="2"), _scored(1, 1, gbs="9")]
    assert [len(job) for job in metrics.jobs(rows)] == [2]


def test_the_study_writes_a_line_for_every_row(tmp_path: Path) -> None:
    """One predicted, one of an unknown device predicted with a remark, one without dimensions."""
    table = tmp_path / "rows.csv"
    table.write_text(
        "row_id,source,layers,hidden,gpu,n_gpus,seq_len,gbs,step_time_s\n"
        "a,x,32,4096,H100,8,2048,64,3.0\n"
        "b,x,32,4096,Z9,8,2048,64,\n"
        "c,y,,,H100,8,2048,64,1.0\n"
    )
    out, page = tmp_path / "out.csv", tmp_path / "page.md"
    words = [str(table), "--out", str(out), "--page", str(page), "--worst", "1"]
    assert main(["training-accuracy", *words]) == 0
    with out.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["row_id", "status", "step_time_s", "mem_gb", "reason"]
    assert [(line["row_id"], line["status"]) for line in lines] == [
        ("a", "ok"),
        ("b", "ok"),
        ("c", "unsupported"),
    ]
    assert "device Z9 taken as" in lines[1]["reason"]
    assert lines[2]["reason"] == "no model dimensions"
    assert float(lines[0]["step_time_s"]) > 0.0
    assert "| x | 1 |" in page.read_text()
    assert "not fitted" not in page.read_text()
    assert main(["training-accuracy", *words, "--folds", "2", "--leave-one-source-out"]) == 0
    assert "| source | groups left out | source left out |" in page.read_text()


def test_a_table_without_times_is_predicted_all_the_same(tmp_path: Path) -> None:
    """Nothing to fit, nothing to compare with."""
    table, out = tmp_path / "rows.csv", tmp_path / "out.csv"
    table.write_text("layers,hidden,gpu,n_gpus,seq_len\n32,4096,H100,8,2048\n")
    words = [str(table), "--out", str(out), "--folds", "2", "--leave-one-source-out"]
    assert main(["training-accuracy", *words]) == 0
    assert ",ok," in out.read_text()


def test_a_table_that_is_missing_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What, where and how to fix, with the status of bad input."""
    assert main(["training-accuracy", str(tmp_path / "none.csv")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("python -m benchmarks: cannot read the file")
    assert "none.csv" in told
