"""optalloc fleet and certify-fleet, from the words typed to the files written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from optalloc.cli.__main__ import main

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def test_answer_is_shown_written_and_certified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table names price, proof and headroom; the file passes the check, not once changed."""
    answer = tmp_path / "answer.json"
    words = [str(EXAMPLES / "fleet.toml"), "--utilization", "70%", "-o", str(answer)]
    assert main(["fleet", *words, "--explain"]) == 0
    shown = capsys.readouterr().out
    assert "USD/h (proven optimal)" in shown
    assert "Planned for 70% of the time, replica may fail" in shown
    assert "the next-best mix" in shown
    assert main(["certify-fleet", str(EXAMPLES / "fleet.toml"), str(answer)]) == 0
    assert "says the truth" in capsys.readouterr().out
    told = json.loads(answer.read_text())
    told["price_usd_per_h"] *= 0.5
    answer.write_text(json.dumps(told))
    assert main(["certify-fleet", str(EXAMPLES / "fleet.toml"), str(answer)]) == 1
    assert "the fleet costs" in capsys.readouterr().err


def test_knife_edge_is_pointed_out(capsys: pytest.CaptureFixture[str]) -> None:
    """4.68 USD/h serves the load of the Mélange example at 100 % of the time."""
    assert main(["fleet", str(EXAMPLES / "melange.json")]) == 0
    shown = capsys.readouterr().out
    assert "4.68 USD/h (proven optimal)" in shown
    assert "knife's edge" in shown


def test_infeasible_says_which_cap_and_the_fix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 3 with the least number of replicas that helps."""
    path = tmp_path / "fleet.toml"
    path.write_text(
        "buckets = [{input_len = 1, output_len = 1, rate_per_s = 5.0}]\n"
        '[[engines]]\nname = "e"\nrequests_per_s = [2.0]\n'
        '[[offers]]\nengine = "e"\nprice_usd_per_h = 1.0\nat_most = 2\n'
    )
    assert main(["fleet", str(path)]) == 3
    shown = capsys.readouterr().out
    assert "at most 2 replicas of e" in shown
    assert "allow 3 replicas of e instead of 2 (1 more device; the fleet then costs 3.00" in shown


def test_missing_file_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2 and one paragraph."""
    assert main(["fleet", "nowhere.toml"]) == 2
    assert "cannot read the file" in capsys.readouterr().err
