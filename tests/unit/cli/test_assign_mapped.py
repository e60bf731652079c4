"""The verb assign on a folder of arrays and with the method large."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks.instances import DrawnPairs

from optalloc.cli.__main__ import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """600 tasks on 30 units."""
    source = DrawnPairs(600, 30, 4)
    costs, loads = source.rows(0, 600)
    place = tmp_path / "instance"
    place.mkdir()
    np.save(place / "costs.npy", costs.astype(np.int16))
    np.save(place / "loads.npy", loads.astype(np.int16))
    np.save(place / "capacities.npy", source.capacities)
    np.savez(tmp_path / "instance.npz", costs=costs, loads=loads, capacities=source.capacities)
    return place


def _answer(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    assert main(["assign", *words, "--format", "json"]) == 0
    answer: dict[str, object] = json.loads(capsys.readouterr().out)
    answer.pop("stats")
    answer.pop("incumbents")
    return answer


def test_folder_and_archive_give_the_same_answer(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Mapped from a folder, with two threads, and from an archive."""
    one = _answer([str(folder)], capsys)
    assert one["method"] == "large"
    assert one["gap"] is not None
    assert _answer([str(folder), "--method", "large", "--threads", "2"], capsys) == one
    assert _answer([f"{folder}.npz", "--method", "large"], capsys) == one


def test_the_screen_shows_the_fullest_units(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    answer = tmp_path / "answer.json"
    assert main(["assign", str(folder), "-o", str(answer)]) == 0
    text = capsys.readouterr().out
    assert "method large" in text
    assert "The 20 fullest of 30 units" in text
    assert "prices of capacity prove the bound" in text
    assert max(map(len, text.splitlines())) <= 100
    assert len(json.loads(answer.read_text(encoding="utf-8"))["assignment"]) == 600
    assert main(["assign", str(folder), "--format", "csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 601


def test_status_says_what_was_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """5: a gap; 0: a plan in no time; 4: none in no time; 3: too little capacity; 2: misuse."""
    assert main(["assign", str(folder), "--require-optimal"]) == 5
    assert main(["assign", str(folder), "--time-limit", "0s"]) == 0
    assert "prices of capacity prove the bound" in capsys.readouterr().out
    assert main(["assign", str(folder), "--method", "milp"]) == 2
    assert main(["assign", str(folder), "--proof", "p"]) == 2
    assert main(["assign", str(folder), "--objective", "bottleneck"]) == 2
    np.save(folder / "loads.npy", np.full(600, 9))
    np.save(folder / "capacities.npy", np.full(30, 150))
    assert main(["assign", str(folder), "--time-limit", "0s"]) == 4
    assert "stopped before there was a plan" in capsys.readouterr().out
    assert main(["assign", str(folder)]) == 3
    text = capsys.readouterr().out
    assert "raise every capacity by at least 20" in text
    np.save(folder / "capacities.npy", np.full(29, 150))
    assert main(["assign", str(folder)]) == 2
    assert str(folder) in capsys.readouterr().err
