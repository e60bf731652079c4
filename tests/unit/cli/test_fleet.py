"""optalloc fleet and certify-fleet, from the words typed to the files written."""

from __future__ import annotations

import csv
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
    assert main(["certify-fleet", str(EXAMPLES / "fleet.toml"), str(answer)]) == 2
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


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Sixty requests of two sizes in half a minute."""
    rows = [f"{i / 2},{(200, 1500)[i % 2]},{(50, 300)[i % 3 == 0]}" for i in range(60)]
    path = tmp_path / "trace.csv"
    path.write_text("\n".join(["arrival_s,input_tokens,output_tokens", *rows]))
    return path


def test_model_devices_and_trace_make_a_fleet_that_is_simulated(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The instance written gives the same fleet."""
    made = tmp_path / "made.json"
    words = ["--model", "llama-3.1-8b", "--devices", "l4,a100-sxm-80g", "--buckets", str(trace)]
    words += ["--rate", "20", "--ttft", "1s", "--tpot", "60ms", "--widths", "1,2"]
    words += ["--utilization", "60%", "--instance", str(made)]
    assert main(["fleet", *words, "--simulate", "300"]) == 0
    shown = capsys.readouterr().out
    assert "USD/h (proven optimal)" in shown
    assert "Simulated: Poisson requests" in shown
    assert main(["fleet", *words, "--simulate", "-3"]) == 2
    assert "-3 requests are to be simulated" in capsys.readouterr().err
    every = ["--explain", "--simulate", "300", "--format", "json"]
    assert main(["fleet", *words, *every]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["account"]["marginal_usd_per_h"] > 0.0
    assert [one["summary"]["num_requests"] for one in first["simulated"]] == [270] * len(
        first["fleet"]
    )
    assert main(["fleet", str(made), "--utilization", "60%", "--format", "json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert first["fleet"] == again["fleet"]


def test_csv_holds_the_plain_numbers_of_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(EXAMPLES / "fleet.toml")
    assert main(["fleet", path, "--format", "json"]) == 0
    fleet = json.loads(capsys.readouterr().out)["fleet"]
    assert main(["fleet", path, "--format", "csv"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    for name in ("price_usd_per_h", "busy"):
        assert [float(row[name]) for row in rows] == [rented[name] for rented in fleet]
    assert sum(float(row["requests_per_s"]) for row in rows) == pytest.approx(15.0)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "give a fleet file or a model"),
        (["--model", "llama-3.1-8b"], "a model needs --devices"),
        (["--model", "llama-3.1-8b", "--devices", "l4"], "a model needs --buckets"),
        ([str(EXAMPLES / "fleet.toml"), "--ttft", "1s"], "planned without --ttft"),
        ([str(EXAMPLES / "fleet.toml"), "--simulate", "9"], "how long an iteration takes"),
        ([str(EXAMPLES / "fleet.toml"), "--utilization", "120%"], "Where: --utilization."),
        (
            ["--model", "llama-3.1-8b", "--devices", "l4", "--buckets", "b", "--widths", "0"],
            "widths",
        ),
    ],
)
def test_bad_words_are_explained(
    words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2 and one paragraph."""
    assert main(["fleet", *words]) == 2
    assert text in capsys.readouterr().err


def test_targets_out_of_reach_are_infeasible_and_name_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 3; the target that is named then has a fleet, a hundredth less has none."""
    buckets = tmp_path / "buckets.csv"
    buckets.write_text("input_len,output_len,rate_per_s\n1000,200,3\n8000,500,1\n")
    words = ["fleet", "--model", "llama-3.1-8b", "--devices", "h100-sxm", "--widths", "1,2"]
    words += ["--buckets", str(buckets), "--ttft"]
    assert main([*words, "1ms", "--format", "json"]) == 3
    named = json.loads(capsys.readouterr().out)["fixes"][0]["what"].removeprefix("--ttft ")
    assert main([*words, named]) == 0
    assert main([*words, f"{0.99 * float(named.removesuffix('ms'))}ms"]) == 3
    assert main([*words, "1ms", "--weights", "bf16", "--model", "llama-3.1-405b"]) == 2
    assert "are missing on each device" in capsys.readouterr().err
    assert main([*words, "1s", "--widths", "3"]) == 2
    assert "divides the heads" in capsys.readouterr().err
