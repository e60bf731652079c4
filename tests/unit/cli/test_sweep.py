"""The verb sweep: CSV, resuming, plot, and what is wrong with a grid."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import jsonschema
import pytest

from optalloc.cli.__main__ import main
from optalloc.cli.schema import schema
from optalloc.plan.cell import Cell, Row, solve_cell
from optalloc.plan.serving_cell import ServingRow
from optalloc.report.sweep import csv_text, read_csv

COLUMNS = Row.__struct_fields__
GRID = ["sweep", "gpt2", "--seq-len", "512", "--jobs", "1"]
FOUR = [*GRID, "--gpu", "h100-sxm,a100-sxm-80g", "--devices", "1,2", "--global-batch", "16"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_sweep_writes_rows_and_a_plot(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Progress on stderr; table and points on stdout; both files whole, and nothing beside them."""
    assert main([*FOUR, "-o", "rows.csv", "--plot", "plot.svg"]) == 0
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == 4
    assert err.splitlines()[-1].startswith("4/4")
    assert "seconds a step (up is faster) against USD a step" in out
    assert out.count("optimal") == 0  # nothing but optima: nothing to say
    assert max(map(len, out.splitlines())) <= 100
    assert sorted(path.name for path in folder.iterdir()) == ["plot.svg", "rows.csv"]
    rows = list(csv.DictReader((folder / "rows.csv").read_text().splitlines()))
    assert [(r["device"], r["devices"]) for r in rows] == [
        ("h100-sxm", "1"),
        ("h100-sxm", "2"),
        ("a100-sxm-80g", "1"),
        ("a100-sxm-80g", "2"),
    ]
    front = [r for r in rows if r["front"] == "yes"]
    assert front
    assert len(front) < 4
    drawn = ET.fromstring((folder / "plot.svg").read_text())
    space = "{http://www.w3.org/2000/svg}"
    titles = [circle.findtext(f"{space}title") for circle in drawn.iter(f"{space}circle")]
    assert len([title for title in titles if title]) == 4
    (line,) = drawn.iter(f"{space}polyline")
    assert len(line.attrib["points"].split()) == len(front)


def test_a_sweep_is_resumed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows that are there are kept as they are; a larger grid adds to them."""
    assert main([*FOUR, "-o", "rows.csv"]) == 0
    first = (folder / "rows.csv").read_text()
    capsys.readouterr()
    assert main([*FOUR, "-o", "rows.csv"]) == 0
    assert capsys.readouterr().err == "4 of 4 cells are in rows.csv already\n"
    assert (folder / "rows.csv").read_text() == first
    more = [*GRID, "--gpu", "h100-sxm", "--devices", "1,4", "--global-batch", "16"]
    assert main([*more, "-o", "rows.csv"]) == 0
    assert capsys.readouterr().err.splitlines()[0] == "1 of 2 cells are in rows.csv already"
    rows = read_csv("rows.csv", Row)
    assert len(rows) == 5
    assert csv_text(rows, Row).splitlines()[0] == ",".join(COLUMNS)


@pytest.mark.usefixtures("folder")
def test_a_sweep_without_a_plan_says_why_by_its_status() -> None:
    """Bad input is not proven infeasible; neither is done."""
    batch = ["--devices", "1", "--global-batch", "16"]
    assert main([*GRID, "--gpu", "h100sxm", *batch]) == 2
    large = ["sweep", "llama-3.1-70b", "--seq-len", "512", "--jobs", "1"]
    assert main([*large, "--gpu", "h100-sxm", *batch]) == 3
    assert main([*large, "--gpu", "h100-sxm,h100sxm", *batch]) == 2


@pytest.mark.usefixtures("folder")
def test_a_failed_cell_has_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    """Twelve devices fill no nodes of eight: said once, the others are solved."""
    words = [*GRID, "--gpu", "h100-sxm", "--devices", "8,12", "--global-batch", "16"]
    assert main([*words, "-o", "rows.csv"]) == 0
    assert "12 devices of h100-sxm do not fill nodes of 8" in " ".join(
        capsys.readouterr().out.split()
    )
    assert [row.status for row in read_csv("rows.csv", Row)] == ["optimal", "error"]


@pytest.mark.usefixtures("folder")
def test_json_follows_the_published_schema(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*GRID, "--cluster", "1xh100-sxm,2xh100-sxm", "--global-batch", "16,32"]
    assert main([*words, "--format", "json"]) == 0
    data = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator(schema("sweep")).validate(data)
    assert len(data["rows"]) == 4
    assert main([*words, "--format", "csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--global-batch", "16"], "either --gpu or --cluster"),
        (["--gpu", "", "--global-batch", "16"], "either --gpu or --cluster"),
        (["--gpu", "h100-sxm", "--global-batch", "16"], "--gpu needs --devices"),
        (["--cluster", "8xh100-sxm"], "--global-batch is missing"),
        (["--cluster", "8xh100-sxm", "--global-batch", "16,x"], "'x' is no whole number"),
        (["--cluster", "8xh100-sxm", "--global-batch", "16", "--jobs", "0"], "0 jobs"),
        (["--cluster", "8xh100-sxm", "--global-batch", "16", "--plot", "a.pdf"], "end in .svg"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_bad_input_is_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "gpt2", "--seq-len", "512", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("text", ["a,b\n1,2\n", ",".join(COLUMNS) + "\nx,y\n"])
def test_another_file_is_not_written_over(
    text: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused before anything is solved, and stays as it was."""
    (folder / "rows.csv").write_text(text)
    assert main([*FOUR, "-o", "rows.csv"]) == 2
    assert "rows.csv" in capsys.readouterr().err
    assert (folder / "rows.csv").read_text() == text


def test_an_interrupted_sweep_keeps_its_rows(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keyboard ends it in the second cell: status 130, one row, and how to go on."""
    solved: list[Cell] = []

    def solve(cell: Cell) -> Row:
        if solved:
            raise KeyboardInterrupt
        solved.append(cell)
        return solve_cell(cell)

    monkeypatch.setattr("optalloc.plan.sweep.solve_cell", solve)
    assert main([*FOUR, "-o", "rows.csv"]) == 130
    assert "1 of 4 rows are in rows.csv" in capsys.readouterr().err
    assert len(read_csv(folder / "rows.csv", Row)) == 1


def test_a_sweep_of_serving_plans_is_drawn_too(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A point for each cell with a plan."""
    words = ["sweep", "qwen3-8b", "--gpu", "h100-sxm", "--devices", "1,2", "--input-len", "500"]
    words += ["--output-len", "100", "--pin", "batch=8", "--plot", "users.svg"]
    assert main(words) == 0
    assert "Saved users.svg." in capsys.readouterr().out
    drawn = ET.fromstring((folder / "users.svg").read_text())
    dots = [one for one in drawn.iter() if one.tag.endswith("circle") and len(one)]
    assert len(dots) == 2


@pytest.mark.usefixtures("folder")
def test_a_sweep_of_serving_plans_is_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    """The same command solves nothing; a sweep of training plans does not write over it."""
    words = ["sweep", "qwen3-8b", "--gpu", "h100-sxm,h1000", "--devices", "1", "--input-len", "500"]
    words += ["--output-len", "100", "--pin", "batch=8", "--concurrency", "8,16", "--jobs", "1"]
    assert main([*words, "-o", "rows.csv"]) == 0
    rows = read_csv("rows.csv", ServingRow)
    assert [row.status for row in rows] == ["optimal", "optimal", "error", "error"]
    capsys.readouterr()
    assert main([*words, "-o", "rows.csv"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "2 of 4 cells are in rows.csv already"
    assert len(said) == 3
    assert read_csv("rows.csv", ServingRow)[:2] == rows[:2]
    assert main([*FOUR, "-o", "rows.csv"]) == 2
    assert "not a sweep of this kind" in capsys.readouterr().err
