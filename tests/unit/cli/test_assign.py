"""The verb assign: output, files and exit status."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from optalloc.cli.__main__ import main

FOUR_BY_TWO = "2 4\n1 2 5 1\n4 4 2 3\n3 3 2 2\n3 3 2 2\n5 5\n"
PHANTOM = "2 3\n1 1 1\n1 1 1\n2 2 2\n2 2 2\n3 3\n"


@pytest.fixture
def instance(tmp_path: Path) -> str:
    path = tmp_path / "instance.txt"
    path.write_text(FOUR_BY_TWO, encoding="utf-8")
    return str(path)


def test_json_has_the_published_keys(instance: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["assign", instance, "--format", "json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["termination"] == "optimal"
    assert data["objective"] == 8
    assert data["bound"] == 8
    assert data["gap"] == 0
    assert data["assignment"] == [0, 1, 1, 0]
    assert data["unit_loads"] == [5, 5]
    assert data["method"] == "enumerate"
    assert set(data["stats"]) == {"wall_s", "cpu_s", "nodes"}


@pytest.mark.parametrize("method", ["enumerate", "dynamic", "exact", "milp", "greedy", "anneal"])
def test_every_method_is_reached(
    instance: str, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["assign", instance, "--method", method, "--format", "json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["method"] == method
    assert data["objective"] == 8


def test_table_shows_objective_gap_and_units(
    instance: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["assign", instance]) == 0
    text = capsys.readouterr().out
    assert "Objective 8 (gap 0.000%), optimal" in text
    assert "0 3" in text
    assert max(map(len, text.splitlines())) <= 100


def test_csv_has_one_row_a_task(instance: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["assign", instance, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["unit"] for row in rows] == ["0", "1", "1", "0"]
    assert [row["cost"] for row in rows] == ["1", "4", "2", "1"]


def test_the_answer_is_written_to_a_file(
    instance: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "answer.json"
    assert main(["assign", instance, "-o", str(out)]) == 0
    capsys.readouterr()
    assert json.loads(out.read_text(encoding="utf-8"))["objective"] == 8


def test_the_sense_can_be_turned(instance: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Largest: of the threes 4 + 2 = 6 beats 5, of the twos 5 + 3 = 8: 14."""
    assert main(["assign", instance, "--sense", "max", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["objective"] == 14


def test_infeasible_is_status_3_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "phantom.txt"
    path.write_text(PHANTOM, encoding="utf-8")
    assert main(["assign", str(path), "--format", "json"]) == 3
    data = json.loads(capsys.readouterr().out)
    assert data["termination"] == "infeasible"
    assert data["assignment"] is None
    assert data["objective"] is None
    assert "tasks 0, 1 and 2" in data["conflict"][0]
    assert main(["assign", str(path)]) == 3
    assert "raise the capacity" in capsys.readouterr().out


def test_bad_input_is_status_2_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["assign", str(tmp_path / "absent.txt")]) == 2
    path = tmp_path / "broken.txt"
    path.write_text("2 2\n1 2\n3 x\n", encoding="utf-8")
    assert main(["assign", str(path)]) == 2
    text = capsys.readouterr().err
    assert "absent.txt" in text
    assert "line 3" in text or "ends after" in text
    assert "Traceback" not in text
    good = tmp_path / "good.txt"
    good.write_text(FOUR_BY_TWO, encoding="utf-8")
    assert main(["assign", str(good), "--time-limit", "soon"]) == 2


@pytest.mark.parametrize(
    "words",
    [
        ["--seed", "-1"],
        ["--seed", str(2**64)],
        ["--node-limit", "-1"],
        ["--gap-limit", "nan"],
        ["--gap-limit", "-0.1"],
        ["--time-limit", "-1"],
        ["--threads", "0"],
        ["--threads", "-2", "--method", "greedy"],
        ["--threads", "0", "--method", "auto"],
    ],
)
def test_numbers_out_of_range_are_refused(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a sentence that names the option, not with a traceback."""
    path = tmp_path / "a.txt"
    path.write_text("2 3\n1 5 4\n5 1 4\n2 2 2\n2 2 2\n4 4\n")
    assert main(["assign", str(path), "--method", "exact", *words]) == 2
    assert words[0].lstrip("-") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("units", "what"),
    [([0, 1], "names 2 units for 4 tasks"), ([9] * 4, "unit 9"), ([0] * 4, "not feasible")],
)
def test_a_start_that_does_not_fit_names_its_file(
    units: list[int], what: str, instance: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = tmp_path / "start.json"
    start.write_text(json.dumps({"assignment": units}))
    assert main(["assign", instance, "--start", str(start)]) == 2
    text = capsys.readouterr().err
    assert what in text
    assert f"Where: {start} at $.assignment" in text
    assert "To fix: " in text


def test_a_limit_without_a_plan_is_status_4(
    shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(shared_data / "gap" / "chu1997" / "d20200.txt")
    assert main(["assign", path, "--method", "milp", "--time-limit", "1ms"]) == 4
    capsys.readouterr()


def test_a_remaining_gap_is_status_5_where_an_optimum_is_required(
    shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(shared_data / "gap" / "cattrysse1994" / "gap1-0.txt")
    words = ["assign", path, "--method", "greedy"]
    assert main(words) == 0
    assert main([*words, "--require-optimal"]) == 5
    assert main(["assign", path, "--method", "milp", "--require-optimal"]) == 0
    capsys.readouterr()


def test_prices_are_explained(instance: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["assign", instance, "--prices"]) == 0
    assert "A price is what one more of that capacity saves" in capsys.readouterr().out


def test_many_units_stay_on_a_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A hundred units: the first sixty and where the others are."""
    path = tmp_path / "wide.json"
    wide = {"costs": [list(range(100))], "loads": [1], "capacities": [1] * 100}
    path.write_text(json.dumps(wide), encoding="utf-8")
    assert main(["assign", str(path)]) == 0
    text = capsys.readouterr().out
    assert "The first 60 of 100 units" in text
    assert len(text.splitlines()) < 70


def test_an_uneven_row_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "uneven.json"
    path.write_text('{"costs": [[4, 6], [5]], "loads": [1, 2], "capacities": [2, 3]}')
    assert main(["assign", str(path)]) == 2
    text = capsys.readouterr().err
    assert "the row has 1 entries and row 0 2" in text
    assert "$.costs[1]" in text
