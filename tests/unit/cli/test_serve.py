"""The verbs read and print serving plans."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from optalloc.cli.__main__ import main

SMALL = ["--pin", "chunk=8192", "--pin", "batch=1,8,32"]
WORK = ["--input-len", "2000", "--output-len", "200"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("serving") / "plan.json"
    words = ["serve", "qwen3-8b", "--cluster", "2xh100-sxm", *WORK, *SMALL, "--tpot", "20ms"]
    assert main([*words, "-o", str(path)]) == 0
    return path


def test_answer_comes_first_then_engines_front_and_what_to_type(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["serve", "qwen3-8b", "--cluster", "2xh100-sxm", *WORK, *SMALL, "--ttft", "1s"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "proven optimal, gap 0" in out.splitlines()[0]
    assert out.index("Engines") < out.index("Front:") < out.index("Next: add -o plan.json, then")
    assert all(len(line) <= 100 for line in out.splitlines() if "Front" not in line)


def test_json_holds_the_plan_and_csv_a_row_an_engine(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["serve", "qwen3-8b", "--cluster", "1xh100-sxm", *WORK, *SMALL]
    assert main([*words, "--format", "json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["termination"] == "optimal"
    assert data["plan"]["kind"] == "serving"
    assert main([*words, "--format", "csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("role,group,device,count")
    assert len(lines) == 1 + len(data["plan"]["workers"])


@pytest.mark.parametrize("verb", ["explain", "certify"])
@pytest.mark.parametrize("form", ["table", "json"])
def test_saved_plans_are_explained_and_certified(
    saved: Path, verb: str, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, str(saved), "--format", form]) == 0
    out = capsys.readouterr().out
    assert ("gain" if verb == "explain" else "optimal") in out or "proven once" in out


def test_saved_plans_are_compared(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(saved), str(saved)]) == 0
    assert "as many output tokens/s" in capsys.readouterr().out


def test_a_plan_edited_by_hand_is_not_certified_but_taken_as_written(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "plan.json"
    data = json.loads(saved.read_text(encoding="utf-8"))
    data["predicted"]["ttft_s"] *= 2.0
    other.write_text(json.dumps(data), encoding="utf-8")
    assert main(["certify", str(other)]) == 2
    assert main(["explain", str(other)]) == 0
    assert "As written it gives" in capsys.readouterr().out
    assert main(["compare", str(saved), str(other)]) == 0
    said = capsys.readouterr()
    assert "as many output tokens/s" in said.out
    assert "computed anew" in said.err
    data["workers"][0]["count"] = 99
    other.write_text(json.dumps(data), encoding="utf-8")
    assert main(["explain", str(other)]) == 2
    assert "plan.json at $.workers" in capsys.readouterr().err


def test_recommend_takes_the_place_of_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["serve", "qwen3-8b", "--recommend", "l40s,h100-sxm", "--max-devices", "4", *WORK]
    assert main([*words, *SMALL, "--rate", "2"]) == 0
    assert "The best of each kind of device" in capsys.readouterr().out


def test_sweep_of_serving_plans(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["sweep", "qwen3-8b", "--gpu", "h100-sxm", "--devices", "1,2", *WORK, *SMALL]
    assert main([*words, "--concurrency", "4,16", "-o", str(tmp_path / "rows.csv")]) == 0
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 5
    assert "on the front" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--cluster", "1xh100-sxm"], 2, "--input-len and --output-len are missing"),
        ([*WORK], 2, "give a cluster, or devices"),
        ([*WORK, "--cluster", "1xh100-sxm", "--pin", "tq=4"], 2, "names no decision"),
        ([*WORK, "--cluster", "1xh100-sxm", "--rate", "1", "--concurrency", "2"], 2, "both"),
        ([*WORK, "--time-limit", "-1s"], 2, "--time-limit has no value"),
        ([*WORK, "--cluster", "1xh100-sxm", "--weights", "fp9"], 2, "Where: --weights"),
        ([*WORK, "--cluster", "1xh1000"], 2, "Where: 1xh1000"),
        ([*WORK, "--cluster", "1xh100-sxm", "--headroom", "120%"], 2, "Where: --headroom."),
        ([*WORK, "--cluster", "1xh100-sxm", "--concurrency", "9" * 20], 2, "Where: --concurrency."),
        ([*WORK, "--cluster", "1xh100-sxm", "--input-len", "999999"], 2, "Where: --input-len."),
        ([*WORK, "--cluster", "1xl4+1xl40s", "--concurrency", "900000"], 2, "at most 65,536"),
        ([*WORK, "--recommend", "l4", "--rate", "1", "--max-devices", "9999"], 2, "--max-devices"),
    ],
)
def test_bad_input_names_the_flag(
    words: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "qwen3-8b", *words]) == status
    assert said in capsys.readouterr().err


def test_infeasible_is_status_3_and_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["serve", "llama-3.1-70b", "--cluster", "1xh100-sxm", *WORK, *SMALL]
    assert main(words) == 3
    out = capsys.readouterr().out
    assert "GiB more on each device" in out
    assert "To fix" in out


def test_times_under_a_rate_are_said_to_be_those_of_full_engines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["serve", "qwen3-8b", "--cluster", "1xh100-sxm", *WORK, *SMALL]
    assert main(words) == 0
    assert "full engines" not in capsys.readouterr().out
    assert main([*words, "--rate", "1"]) == 0
    out = capsys.readouterr().out
    assert "are kept free; the times are those of full engines" in out
    assert all(len(line) <= 100 for line in out.splitlines() if "Front" not in line)


def test_a_target_without_a_unit_that_is_long_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A plain number is in seconds; whoever writes 500 likely means milliseconds."""
    words = ["serve", "qwen3-8b", "--cluster", "2xh100-sxm", *WORK, *SMALL]
    assert main([*words, "--ttft", "500", "--tpot", "0.05"]) == 0
    assert capsys.readouterr().err.count("for milliseconds write 500ms") == 1
    assert main([*words, "--ttft", "500s"]) == 0
    assert "milliseconds" not in capsys.readouterr().err
