"""optalloc certify: a saved plan is checked, a changed one is named and refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from optalloc.cli.__main__ import main

WORDS = ["gpt2", "--cluster", "2xh100-sxm", "--global-batch", "8", "--seq-len", "512"]


@pytest.fixture
def saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A searched plan in a file."""
    path = tmp_path / "plan.json"
    assert main(["train", *WORDS, "-o", str(path)]) == 0
    capsys.readouterr()
    return path


def test_a_searched_plan_is_certified(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The screen says what was checked and what the search claims; JSON says the same."""
    assert main(["certify", str(saved)]) == 0
    shown = capsys.readouterr().out
    assert "memory of every stage" in shown
    assert "the search proved that nothing is better" in " ".join(shown.split())
    assert main(["certify", str(saved), "--format", "json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["valid"]
    assert data["optimal"]
    assert data["bounds"]["gap"] == 0.0
    assert data["objective"] == "step_time"
    assert data["configurations"] == json.loads(saved.read_text())["certificate"]["configurations"]


def test_a_changed_plan_is_refused(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message has the claimed and the true value."""
    plan = json.loads(saved.read_text())
    plan["step_time_s"] *= 0.9
    saved.write_text(json.dumps(plan))
    assert main(["certify", str(saved)]) == 2
    told = capsys.readouterr().err
    assert "the step time is" in told
    assert f"Where: {saved}. To fix: make it again" in told


def test_an_estimated_plan_claims_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its figures are checked, no more."""
    path = tmp_path / "plan.json"
    assert main(["estimate", *WORDS, "--set", "dp=2", "-o", str(path)]) == 0
    assert main(["certify", str(path)]) == 0
    assert "claims nothing" in capsys.readouterr().out
    assert main(["certify", str(path), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["bounds"]["gap"] is None
