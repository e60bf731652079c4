"""The study of assignment instances and the page made of its rows."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
from benchmarks.__main__ import main
from benchmarks.gap import COLUMNS, PEERS, TRACE, holds, row_of
from benchmarks.limited import Usage, run_limited

from optalloc.assignment.formats import load_assignment

TINY = "2 3\n1 5 4\n5 1 4\n2 2 2\n2 2 2\n4 4\n"  # both units hold two tasks: 1 + 1 + 4


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Two units, three tasks, optimum 6."""
    path = tmp_path / "tiny.txt"
    path.write_text(TINY)
    return path


def test_a_row_says_what_was_found_and_what_it_cost(tiny: Path, tmp_path: Path) -> None:
    """The optimum of each method, in the columns that are promised."""
    out, trace = tmp_path / "results.csv", tmp_path / "trace.csv"
    files = ["--out", str(out), "--trace", str(trace)]
    assert main(["gap", str(tiny), "--method", "exact,greedy", *files]) == 0
    with out.open() as text:
        rows = list(csv.DictReader(text))
    assert list(rows[0]) == list(COLUMNS)
    assert [row["method"] for row in rows] == ["exact", "greedy"]
    exact = rows[0]
    assert (exact["instance"], exact["objective"], exact["bound"]) == ("tiny", "6", "6")
    assert (exact["gap"], exact["termination"]) == ("0", "optimal")
    assert 0 < float(exact["time_to_best_s"]) <= float(exact["cpu_s"])
    with trace.open() as text:
        plans = [row for row in csv.DictReader(text) if row["method"] == "exact"]
    assert list(plans[0]) == list(TRACE)
    assert (plans[-1]["objective"], plans[-1]["cpu_s"]) == ("6", exact["time_to_best_s"])


def test_an_optimum_is_proven_again(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The proof stays beside the row, and does not bear out another optimum."""
    proofs = tmp_path / "proofs"
    assert main(["gap", str(tiny), "--proofs", str(proofs), "--out", str(tmp_path / "r.csv")]) == 0
    assert "tiny: 6 optimal; proof: 6.0 optimal, " in capsys.readouterr().err
    row = {"instance": "tiny", "termination": "optimal", "objective": "6"}
    dearer = tmp_path / "dearer.txt"
    dearer.write_text(TINY.replace("5 4\n", "5 3\n", 1))
    proof = proofs / "tiny-0.jsonl.gz"
    assert holds(row, load_assignment(tiny), proof)
    assert not holds(row, load_assignment(dearer), proof)


def test_a_trace_falls_and_holds_no_value_that_no_plan_bears_out(tiny: Path) -> None:
    """Of 9, 8, 8, 5 told and a plan of 6, the trace is 9, 8, 6."""
    told = [f'{{"value": {value}, "cpu_s": {at}}}' for at, value in enumerate([9, 8, 8, 5])]
    told.append('{"plan": [0, 1, 0], "cpu_s": 7, "termination": "limit"}')
    usage = Usage("\n".join(told), 0, 8.0, 9.0, killed=False)
    _, trace = row_of(tiny, load_assignment(tiny), "exact", usage)
    assert trace == [(0, 9), (1, 8), (7, 6)]


def test_the_page_says_when_the_best_peer_was_caught_up_with(tmp_path: Path) -> None:
    """a: scip's 10 (before cbc's) at 20 s of 60, reached at 1, 2 and 5 s: 2 / 20. b: never in one
    seed of two, so infinitely late.
    """
    runs, trace, known = (tmp_path / name for name in ("runs.csv", "trace.csv", "known.csv"))
    known.write_text("name,type,best_known\na,X,9\nb,Y,9\n")
    peers = [("a", "milp", 12, 1), ("a", "cbc", 10, 30), ("a", "scip", 10, 20), ("b", "cbc", 9, 6)]
    words = [f"{name},{peer},{value},,,limit,60,60,{at}\n" for name, peer, value, at in peers]
    words += [f"{name},exact,9,,,limit,60,60,9\n" for name in "ab"]
    runs.write_text(",".join(COLUMNS) + "\n" + "".join(words))
    plans = ["a,0,0.5,11", "a,0,1,10", "a,0,9,9", "a,1,5,10", "a,2,2,9", "b,0,3,9", "b,1,3,10"]
    lines = [plan.replace(",", ",exact,", 1) + "\n" for plan in plans]
    trace.write_text(",".join(TRACE) + "\n" + "".join(lines))
    out = tmp_path / "page.md"
    files = [str(runs), "--trace", str(trace), "--best-known", str(known), "--out", str(out)]
    assert main(["gap-page", *files]) == 0
    text = out.read_text()
    assert "| a | scip | 10 | 20.00 | 60.00 | 2.00 | 0.1000 |" in text
    assert "| X | 1 | 1 | 0.1000 | 0.1000 | 0.0333 | 0.0333 |" in text
    assert "| all | 2 | 1 | inf | inf | inf | inf |" in text


def test_the_page_compares_gaps_and_proofs_with_the_best_peer(tmp_path: Path) -> None:
    """X: gaps 0 and 1 % against 1 and 3 % of 100, proof 2 s of 8 s. Y: 3 s of 12 s, and no gap."""
    runs, known, out = (tmp_path / name for name in ("runs.csv", "known.csv", "page.md"))
    known.write_text("name,type,best_known\na,X,100\nb,X,100\nc,Y,100\n")
    rows = [
        ("a", "exact", 100, "optimal", 2), ("a", "scip", 101, "optimal", 8),
        ("a", "cbc", 105, "optimal", 20), ("b", "exact", 101, "limit", 60),
        ("b", "milp", 103, "optimal", 9), ("b", "scip", "", "limit", 60),
        ("c", "exact", 100, "optimal", 3), ("c", "cpsat", 100, "optimal", 12),
    ]  # fmt: skip
    words = [f"{name},{method},{value},,,{end},{s},60,1\n" for name, method, value, end, s in rows]
    runs.write_text(",".join(COLUMNS) + "\n" + "".join(words))
    assert main(["gap-page", str(runs), "--best-known", str(known), "--out", str(out)]) == 0
    text = out.read_text()
    assert "| X | 2 | 0.5000 | 2.0000 | 0.2500 | 1 | 0.2500 | 0.2500 |" in text
    assert "| Y | 1 | 0.0000 | 0.0000 | - | 1 | 0.2500 | 0.2500 |" in text
    assert "| all | 3 | 0.3333 | 1.3333 | 0.2500 | 2 | 0.2500 | 0.2500 |" in text


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
