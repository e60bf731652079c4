"""The study of assignment instances and the page made of its rows."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
from benchmarks.__main__ import main
from benchmarks.gap import COLUMNS, PEERS
from benchmarks.limited import run_limited

TINY = "2 3\n1 5 4\n5 1 4\n2 2 2\n2 2 2\n4 4\n"  # both units hold two tasks: 1 + 1 + 4


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Two units, three tasks, optimum 6."""
    path = tmp_path / "tiny.txt"
    path.write_text(TINY)
    return path


def test_a_row_says_what_was_found_and_what_it_cost(tiny: Path, tmp_path: Path) -> None:
    """The optimum of each method, in the columns that are promised."""
    out = tmp_path / "results.csv"
    assert main(["gap", str(tiny), "--method", "exact,greedy", "--out", str(out)]) == 0
    with out.open() as text:
        rows = list(csv.DictReader(text))
    assert list(rows[0]) == list(COLUMNS)
    assert [row["method"] for row in rows] == ["exact", "greedy"]
    exact = rows[0]
    assert (exact["instance"], exact["objective"], exact["bound"]) == ("tiny", "6", "6")
    assert (exact["gap"], exact["termination"]) == ("0", "optimal")
    assert 0 < float(exact["time_to_best_s"]) <= float(exact["cpu_s"])


def test_the_page_gives_gaps_to_the_best_known(tiny: Path, tmp_path: Path) -> None:
    """Gap 0 for the optimum, and the proof is counted."""
    out, known, page = tmp_path / "r.csv", tmp_path / "known.csv", tmp_path / "page.md"
    known.write_text("name,type,best_known\ntiny,T,6\n")
    main(["gap", str(tiny), "--out", str(out)])
    assert main(["gap-page", str(out), "--best-known", str(known), "--out", str(page)]) == 0
    assert "| T | exact | 1 | 1 | 0.0000 | 0.0000 | 0 |" in page.read_text()


def test_a_file_that_cannot_be_read_costs_its_own_row_alone(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error is said, the row is marked, the others are measured, and the status is 1."""
    out = tmp_path / "results.csv"
    assert main(["gap", str(tmp_path / "none.txt"), str(tiny), "--out", str(out)]) == 1
    assert "cannot read the file" in capsys.readouterr().err
    with out.open() as text:
        rows = list(csv.DictReader(text))
    assert [row["termination"] for row in rows] == ["failed", "optimal"]


def test_a_missing_peer_is_named(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence says what to install."""
    monkeypatch.setitem(PEERS, "scip", ("no_such_module", "pyscipopt"))
    assert main(["gap", str(tiny), "--method", "scip"]) == 2
    assert "The method scip needs pyscipopt" in capsys.readouterr().out


def test_an_unknown_method_is_refused(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the methods there are."""
    assert main(["gap", str(tiny), "--method", "magic"]) == 2
    assert "cpsat" in capsys.readouterr().out


def test_a_run_beyond_its_limit_is_killed(tmp_path: Path) -> None:
    """The CPU time of the group is counted, children included."""
    code = "import os\nos.fork()\nwhile True: pass"
    usage = run_limited([sys.executable, "-c", code], 0.4, tmp_path / "log")
    assert usage.killed
    assert usage.cpu_s < 5
