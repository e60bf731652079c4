"""The verb train: the screen, the JSON, the exit status, and what a mistake is answered with."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from optalloc.cli.__main__ import main
from optalloc.export.base import artefacts
from optalloc.plan.plan import load_plan

GPT2 = ["gpt2", "--cluster", "8xh100-sxm", "--global-batch", "64", "--seq-len", "1024"]


def train(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> dict[str, Any]:
    """The JSON answer of one run."""
    assert main(["train", *words, "--format", "json"]) == status
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    return data


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The message of a run that is bad input."""
    assert main(["train", *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    return shown.err


def test_a_model_with_a_vision_tower_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    """The screen ends with the next command, though no tool builds the tower."""
    words = ["qwen2.5-vl-7b", "--cluster", "8xh100-sxm", "--global-batch", "8", "--seq-len", "1024"]
    assert main(["train", *words]) == 0
    assert "proven optimal" in capsys.readouterr().out


def test_json_has_the_published_keys(capsys: pytest.CaptureFixture[str]) -> None:
    """And the figures agree with each other: 12 layers, a step that is the sum of its causes."""
    data = train(capsys, *GPT2)
    assert data["termination"] == "optimal"
    assert data["objective"]["name"] == "step_time"
    assert data["objective"]["unit"] == "s"
    assert data["bounds"]["gap"] == 0
    assert data["bounds"]["primal"] == data["bounds"]["dual"] == data["objective"]["value"]
    keys = {"cpu_s", "search_cpu_s", "wall_s", "configurations", "pruned", "nodes"}
    assert keys == set(data["stats"])
    assert data["stats"]["configurations"] >= sum(data["stats"]["pruned"].values())
    assert data["conflict"] == data["fixes"] == []
    assert "tp" in data["space"]
    plan = data["plan"]
    assert set(plan["degrees"]) == {"tp", "cp", "pp", "dp", "ep", "virtual_stages"}
    assert plan["micro_batch"] * plan["num_microbatches"] * plan["degrees"]["dp"] == 64
    assert plan["step_time_s"] == pytest.approx(data["objective"]["value"], rel=1e-12)
    assert sum(plan["breakdown_s"].values()) == pytest.approx(plan["step_time_s"], rel=1e-9)
    assert sum(n for s in plan["stages"] for n in s["num_layers"].values()) == 12
    for stage in plan["stages"]:
        memory = stage["memory_bytes"]
        assert sum(v for k, v in memory.items() if k != "total") == memory["total"]
        assert memory["total"] <= stage["capacity_bytes"]
        assert set(stage["recompute"]) == {"full", "selective"}
        assert stage["num_devices"] >= 1


def test_processor_time_includes_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    """It is that of the process, which is more than the search's."""
    stats = train(capsys, *GPT2)["stats"]
    assert stats["cpu_s"] > stats["wall_s"]


def test_alternatives_are_no_better_and_say_why(capsys: pytest.CaptureFixture[str]) -> None:
    """Three, in ascending order, each with a reason."""
    data = train(capsys, *GPT2)
    values = [rival["value"] for rival in data["alternatives"]]
    assert len(values) == 3
    assert values == sorted(values)
    assert values[0] >= data["objective"]["value"]
    assert all(rival["reason"] for rival in data["alternatives"])
    assert all(rival["differences"] for rival in data["alternatives"])
    assert all(rival["headroom_bytes"] >= 0 for rival in data["alternatives"])


def test_alternatives_within_a_share_are_listed_and_saved(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """All of them, with what differs; the saved plan holds them too and is true."""
    path = tmp_path / "plan.json"
    data = train(capsys, *GPT2, "--alternatives", "100%", "-o", str(path))
    most = 2.0 * data["objective"]["value"]
    assert data["alternatives_complete"]
    assert len(data["alternatives"]) > 3
    assert all(rival["value"] <= most for rival in data["alternatives"][3:])
    assert all(
        rival["tie"] == (rival["value"] <= (1.0 + data["cost_model_error"]) * most / 2.0)
        for rival in data["alternatives"]
    )
    saved = load_plan(path)
    assert [rival.value for rival in saved.alternatives] == [
        rival["value"] for rival in data["alternatives"]
    ]
    assert main(["certify", str(path)]) == 0
    assert main(["train", *GPT2, "--alternatives"]) == 0
    assert "All degrees within" in capsys.readouterr().out


def test_a_share_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A word, and less than nothing."""
    assert "no share" in refused(capsys, *GPT2, "--alternatives", "some")
    assert "no share" in refused(capsys, *GPT2, "--alternatives", "-0.1")


def test_the_robust_plan_says_what_it_costs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Its worst case is proven and no worse than that of the plan that is best without."""
    path = tmp_path / "plan.json"
    data = train(capsys, *GPT2, "--robust", "-o", str(path))
    robust = data["robustness"]
    assert data["termination"] == "optimal"
    assert data["bounds"]["primal"] == robust["worst"] <= robust["nominal_worst"]
    assert robust["price"] >= -1e-9
    assert main(["certify", str(path)]) == 0
    assert main(["train", *GPT2, "--robust", "--for", "megatron"]) == 0
    assert "at worst" in capsys.readouterr().out
    assert "worst case" in refused(capsys, *GPT2, "--robust", "--objective", "devices")


@pytest.mark.parametrize(
    "words",
    [
        "llama-3.1-70b --cluster 64xh100-sxm --global-batch 1024 --seq-len 8192",
        "llama-3.1-405b --cluster 1024xh100-sxm --global-batch 2048 --seq-len 8192",
        "deepseek-v3 --cluster 2048xh100-sxm --global-batch 15360 --seq-len 4096",
        "t5-3b --cluster 8xh100-sxm --global-batch 64 --seq-len 512 --decoder-seq-len 128",
    ],
)
def test_screen_fits_and_keeps_its_order(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """100 columns, 60 lines; answer, stages, memory, time, rivals, next command."""
    assert main(["train", *words.split()]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) <= 60
    parts = [
        "proven optimal, gap 0",
        "Stages",
        "Memory of",
        "Where the time",
        "Next best",
        "Next: ",
    ]
    places = [shown.out.index(part) for part in parts]
    assert places == sorted(places)
    assert shown.err == ""  # progress is for terminals


def test_saved_plan_is_the_printed_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``-o`` writes what ``--format json`` shows, in the format that the other verbs read."""
    path = tmp_path / "plan.json"
    data = train(capsys, *GPT2, "-o", str(path))
    assert json.loads(path.read_text()) == data["plan"]
    assert load_plan(path).step_time_s == data["plan"]["step_time_s"]


def test_csv_has_a_row_a_stage(capsys: pytest.CaptureFixture[str]) -> None:
    """Plain numbers: 12 layers over two stages of four devices."""
    assert main(["train", *GPT2, "--pin", "pp=2", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["stage"] for row in rows] == ["0", "1"]
    assert sum(int(row["decoder_layers"]) for row in rows) == 12


def test_a_cluster_too_small_is_infeasible_with_tried_fixes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Status 3; more memory or more devices help, and the larger cluster does have a plan."""
    words = ["llama-3.1-70b", "--global-batch", "16", "--seq-len", "4096"]
    data = train(capsys, *words, "--cluster", "8xa100-sxm-40g", status=3)
    assert data["termination"] == "infeasible"
    assert data["plan"] is None
    assert data["bounds"]["gap"] is None
    assert any("memory" in text for text in data["conflict"])
    devices = next(fix["what"] for fix in data["fixes"] if fix["what"].endswith("devices"))
    count = int(devices.split()[0])
    assert train(capsys, *words, "--cluster", f"{count}xa100-sxm-40g")["plan"] is not None


def test_infeasible_screen_says_what_conflicts(capsys: pytest.CaptureFixture[str]) -> None:
    """And what to do about it."""
    words = ["llama-3.1-70b", "--global-batch", "16", "--seq-len", "4096"]
    assert main(["train", *words, "--cluster", "8xa100-sxm-40g"]) == 3
    shown = capsys.readouterr().out
    assert shown.startswith("No plan exists (proven)")
    assert "To fix: " in shown


def test_pins_that_conflict_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    """tp = 2 needs another data degree than 8 of 8 devices: either pin may be dropped."""
    data = train(capsys, *GPT2, "--pin", "tp=2", "--pin", "dp=8", status=3)
    assert {"--pin tp=2", "--pin dp=8"} <= set(data["conflict"])
    assert "drop --pin tp=2" in [fix["what"] for fix in data["fixes"]]


def test_a_pin_holds_and_never_helps(capsys: pytest.CaptureFixture[str]) -> None:
    """A smaller space has no better plan."""
    free = train(capsys, *GPT2)["objective"]["value"]
    data = train(capsys, *GPT2, "--pin", "tp=2", "--forbid", "zero_stage=1,2,3")
    assert data["plan"]["degrees"]["tp"] == 2
    assert data["plan"]["zero_stage"] == 0
    assert data["objective"]["value"] >= free


def test_price_is_dollars_for_the_devices_used(capsys: pytest.CaptureFixture[str]) -> None:
    """Step seconds x devices x dollars an hour / 3600."""
    data = train(capsys, *GPT2, "--objective", "price")
    plan = data["plan"]
    per_h = plan["cluster"]["nodes"][0]["device"]["price_usd_per_h"]
    by_hand = plan["step_time_s"] * plan["num_devices"] * per_h / 3600
    assert data["objective"]["unit"] == "USD/step"
    assert data["objective"]["value"] == pytest.approx(by_hand, rel=1e-12)


def test_devices_are_the_fewest_that_reach_the_target(capsys: pytest.CaptureFixture[str]) -> None:
    """With one device fewer there is no plan below the target."""
    target = ["--target", "100ms"]
    data = train(capsys, *GPT2, "--objective", "devices", *target)
    count = int(data["objective"]["value"])
    assert data["plan"]["num_devices"] == count > 1
    assert data["plan"]["step_time_s"] <= 0.1
    fewer = ",".join(str(n) for n in range(1, count))
    train(capsys, *GPT2, *target, "--pin", f"num_devices={fewer}", status=3)


def test_a_limit_leaves_a_gap_that_can_be_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Stopped at once: a plan with a bound below it, status 0, or 5 on request."""
    data = train(capsys, *GPT2, "--time-limit", "0s")
    assert data["termination"] == "limit"
    assert 0 < data["bounds"]["gap"] < 1
    assert data["bounds"]["dual"] < data["bounds"]["primal"]
    train(capsys, *GPT2, "--time-limit", "0s", "--require-optimal", status=5)
    train(capsys, *GPT2, "--require-optimal", status=0)


def test_flags_come_before_the_workload_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file's batch of 64 with the flag's sequences of 512 tokens."""
    path = tmp_path / "workload.toml"
    path.write_text('kind = "training"\nglobal_batch = 64\nsequence_length = 1024\n')
    words = ["gpt2", "--cluster", "2xh100-sxm", "--workload", str(path), "--seq-len", "512"]
    workload = train(capsys, *words)["plan"]["workload"]
    assert (workload["global_batch"], workload["sequence_length"]) == (64, 512)


@pytest.mark.parametrize("tool", ["megatron", "deepspeed", "pytorch"])
def test_a_plan_for_a_tool_can_be_exported_to_it(
    tool: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Memory is short enough that stages would recompute differently if they could."""
    path = tmp_path / "plan.json"
    words = ["llama-2-7b", "--cluster", "8xa100-sxm-40g", "--global-batch", "32"]
    train(capsys, *words, "--seq-len", "4096", "--for", tool, "-o", str(path))
    assert artefacts(load_plan(path), tool)


def test_a_model_that_the_tool_cannot_run_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2, and no plan that cannot be exported."""
    words = ["bert-large-uncased", "--cluster", "1xh100-sxm", "--global-batch", "1"]
    assert main(["train", *words, "--seq-len", "128", "--for", "megatron"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "megatron cannot express encoder layers" in shown.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["lama-3.1-70b", *GPT2[1:]], "llama-3.1-70b"),
        (["gpt2", "--cluster", "8xh10-sxm", *GPT2[3:]], "h100-sxm"),
        ([*GPT2, "--pin", "tpp=2"], "did you mean tp=...?"),
        ([*GPT2, "--pin", "tp=two"], "'two' is no whole number"),
        ([*GPT2, "--forbid", "schedule=1f2b"], "use one of gpipe, 1f1b"),
        ([*GPT2, "--for", "megatrn"], "did you mean 'megatron'?"),
        ([*GPT2, "--target", "3 parsecs"], "--target"),
        (GPT2[:-2], "add --seq-len N"),
        (["gpt2", "--cluster", "8xh100-sxm"], "--global-batch and --seq-len are missing"),
        ([*GPT2[:4], "0", *GPT2[5:]], "global_batch is 0. Where: --global-batch"),
    ],
)
def test_a_mistake_is_answered_with_what_to_do(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refused(capsys, *words)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("global_batch = ", "not valid TOML"),
        ("global_batch = 8\nsequence_lenght = 8\n", "did you mean 'sequence_length'?"),
    ],
)
def test_a_broken_workload_file_is_named(
    text: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "workload.toml"
    path.write_text(text)
    shown = refused(capsys, "gpt2", "--cluster", "8xh100-sxm", "--workload", str(path))
    assert expected in shown
    assert str(path) in shown


def test_a_cut_off_config_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "llama", "hidden_')
    assert "the file may be cut off" in refused(capsys, str(path), *GPT2[1:])


def test_the_answer_is_shown_even_if_it_cannot_be_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A search may have taken long, so a wrong path must not cost its answer."""
    (tmp_path / "file").touch()
    words = ["gpt2", "--cluster", "2xh100-sxm", "--global-batch", "8", "--seq-len", "512"]
    assert main(["train", *words, "-o", str(tmp_path / "file" / "plan.json")]) == 2
    shown = capsys.readouterr()
    assert "proven optimal" in shown.out
    assert "cannot write the file" in shown.err
