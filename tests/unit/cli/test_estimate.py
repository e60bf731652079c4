"""The verb estimate: what a person writes is what is predicted, and mistakes are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from optalloc.cli.__main__ import main

GPT2 = ["gpt2", "--cluster", "8xh100-sxm", "--global-batch", "64", "--seq-len", "1024"]
LLAMA = ["llama-3.1-70b", "--cluster", "64xh100-sxm", "--global-batch", "64", "--seq-len", "4096"]


def estimate(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """The JSON answer of one run."""
    assert main(["estimate", *words, "--format", "json"]) == 0
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    return data


def test_every_decision_is_taken_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    """Two stages of 7 and 5 layers, the first recomputing 3 of them."""
    words = "tp=2 pp=2 dp=2 micro_batch=4 zero=2 schedule=gpipe layers=7,5 recompute=3,selective"
    plan = estimate(capsys, *GPT2, "--set", *words.split())["plan"]
    assert plan["degrees"] == {"tp": 2, "cp": 1, "pp": 2, "dp": 2, "ep": 1, "virtual_stages": 1}
    assert (plan["micro_batch"], plan["num_microbatches"]) == (4, 8)
    assert (plan["zero_stage"], plan["schedule"]) == (2, "gpipe")
    assert [s["num_layers"] for s in plan["stages"]] == [{"decoder": 7}, {"decoder": 5}]
    rules = [s["recompute"] for s in plan["stages"]]
    assert rules == [{"full": 3, "selective": 0}, {"full": 0, "selective": 5}]


@pytest.mark.parametrize(
    ("words", "on"),
    [("tp=2", True), ("tp=1", False), ("tp=2 sp=off", False), ("tp=2 sequence_parallel=on", True)],
)
def test_sequence_parallelism_is_on_where_tp_allows_it(
    words: str, on: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = estimate(capsys, *GPT2, "--set", *words.split())["plan"]
    assert plan["sequence_parallel"] is on


def test_several_chunks_are_interleaved(capsys: pytest.CaptureFixture[str]) -> None:
    plan = estimate(capsys, *GPT2, "--set", "pp=2", "vpp=3")["plan"]
    assert plan["schedule"] == "interleaved"
    assert [[c["num_layers"] for c in s["chunks"]] for s in plan["stages"]] == [[2] * 3] * 2


def test_estimate_of_a_found_strategy_is_its_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """train's own answer, written as words, gives the same step time."""
    assert main(["train", *GPT2, "--pin", "pp=2", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["plan"]
    lines = [f"{k} = {v}" for k, v in found["degrees"].items()]
    lines += [
        f"micro_batch = {found['micro_batch']}",
        f"zero_stage = {found['zero_stage']}",
        f"shard_group = {found['shard_group']}",
        f'schedule = "{found["schedule"]}"',
        f"sequence_parallel = {str(found['sequence_parallel']).lower()}",
    ]
    chunks = sorted(
        (c["first_layer"], -c["embedding"], c["num_layers"])
        for s in found["stages"]
        for c in s["chunks"]
    )
    lines.append(f"layers_per_chunk = {[c[-1] for c in chunks]}")
    for stage in found["stages"]:
        rule = stage["recompute"]
        lines += ["[[recompute]]", f"full = {rule['full']}", f"selective = {rule['selective']}"]
    path = tmp_path / "strategy.toml"
    path.write_text("\n".join(lines))
    written = estimate(capsys, *GPT2, "--strategy", str(path))["plan"]
    assert written["step_time_s"] == pytest.approx(found["step_time_s"], rel=1e-12)


def test_what_does_not_fit_is_said_plainly(capsys: pytest.CaptureFixture[str]) -> None:
    """70 billion parameters in two stages of one device: both are too large."""
    words = [*LLAMA, "--set", "pp=2", "dp=1"]
    data = estimate(capsys, *words)
    assert data["fits"] is False
    assert [entry["stage"] for entry in data["too_large"]] == [0, 1]
    stage = data["plan"]["stages"][0]
    excess = stage["memory_bytes"]["total"] - stage["capacity_bytes"]
    assert data["too_large"][0]["excess_bytes"] == excess > 0
    assert main(["estimate", *words]) == 0
    shown = capsys.readouterr().out
    assert "DOES NOT FIT: 2 of 2 stages" in shown
    assert "OVER" in shown


def test_the_least_recomputation_is_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    """70 billion parameters on 32 devices: some layers whole, the same number on all stages.

    The screen says that the estimate may be off.
    """
    words = [*LLAMA, "--set", "tp=8", "pp=4", "dp=1", "micro_batch=4", "recompute=auto"]
    data = estimate(capsys, *words)
    rules = [stage["recompute"] for stage in data["plan"]["stages"]]
    assert data["fits"]
    assert 0.0 < data["memory_error"] < 0.3
    assert rules == [rules[0]] * 4
    assert 0 < rules[0]["full"] < 20
    assert main(["estimate", *words]) == 0
    assert "MAY NOT FIT" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        "tp=8 pp=4 dp=2 recompute=full",
        "tp=4 pp=4 dp=4 recompute=auto",
        "tp=8 pp=4 dp=2 vpp=5 recompute=3,2,1,0",
        "pp=64",
    ],
)
def test_screen_fits_100_columns(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", *LLAMA, "--set", *words.split()]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("tpp=2", "did you mean tp=...?"),
        ("tp=x", "'x' is no whole number"),
        ("tp=2 tp=4", "tp is set twice"),
        ("tp=5", "tp 5 does not divide 12 heads"),
        ("pp=2 layers=6", "layers_per_chunk has 1 entries for 2 stages"),
        ("pp=2 layers=6,7", "the chunks hold 13 layers, the model has 12"),
        ("recompute=ful", "did you mean 'full'?"),
        ("pp=2 recompute=full,full,full", "3 entries for 2 stages"),
        ("schedule=1f2b", "did you mean '1f1b'?"),
        ("dp=3", "does not divide the global batch"),
        ("dp=16", "needs 16 devices, the cluster has 8"),
        ("sp=maybe", "neither on nor off"),
    ],
)
def test_a_mistake_is_answered_with_what_to_do(
    words: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["estimate", *GPT2, "--set", *words.split()]) == 2
    shown = capsys.readouterr()
    assert expected in shown.err
    assert shown.out == ""
