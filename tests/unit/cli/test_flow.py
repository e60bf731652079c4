"""optalloc flow and certify-flow, from the words typed to the files written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.serving.tiny import timed_problem, tiny_problem

from optalloc.cli.__main__ import main
from optalloc.serving.flow.instance import save_flow


@pytest.fixture
def instance(tmp_path: Path) -> Path:
    """A small instance in a file."""
    path = tmp_path / "instance.json"
    save_flow(tiny_problem(1, linked=False), path)
    return path


def test_answer_is_shown_written_and_certified(
    instance: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table names value, proof and bottleneck; the file passes the check, also once changed."""
    answer = tmp_path / "answer.json"
    assert main(["flow", str(instance), "-o", str(answer)]) == 0
    shown = capsys.readouterr().out
    assert "tokens/s (proven optimal)" in shown
    assert "What binds this placement" in shown
    assert main(["certify-flow", str(instance), str(answer)]) == 0
    assert "says the truth" in capsys.readouterr().out
    told = json.loads(answer.read_text())
    told["objective"] *= 2
    answer.write_text(json.dumps(told))
    assert main(["certify-flow", str(instance), str(answer)]) == 2
    assert "the placement passes" in capsys.readouterr().err


def test_json_holds_the_ranges(instance: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Node numbers to first and end layer."""
    assert main(["flow", str(instance), "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["termination"] == "optimal"
    assert all(first < end for first, end in told["placement"].values())


def test_model_and_cluster_make_an_instance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bundled model on mixed devices; the instance written gives the same answer."""
    made = tmp_path / "made.json"
    words = ["--model", "llama-2-7b", "--cluster", "1xa100-sxm-80g+2xl4", "--format", "json"]
    assert main(["flow", *words, "--instance", str(made)]) == 0
    first = json.loads(capsys.readouterr().out)
    assert main(["flow", str(made), "--format", "json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert first["objective"] == pytest.approx(again["objective"])
    assert first["gap"] <= 0.02


def test_model_too_large_says_what_is_lacking(capsys: pytest.CaptureFixture[str]) -> None:
    """One L4 holds a part of a 70B model: status 3, how many layers are lacking, no traceback."""
    assert main(["flow", "--model", "llama-2-70b", "--cluster", "1xl4"]) == 3
    shown = capsys.readouterr().out
    assert "the model has 80" in shown
    assert "more layers" in shown


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "give an instance file or a model"),
        (["--model", "llama-2-7b"], "a model needs devices"),
        (["x.json", "--model", "llama-2-7b"], "one of the two"),
        (["x.json", "--cluster", "1xl4"], "--cluster has no meaning for a file"),
        (["--model", "llama-2-7b", "--batch", "4"], "--batch has no meaning for a model"),
        (["--model", "llama-2-7b", "--cluster", "1xl4", "--context", "0"], "context is 0"),
        (["--model", "t5-3b", "--cluster", "1xl4"], "keep no cache"),
        (["--model", "llama-2-7b", "--cluster", "1xa100-sxm-80g", "--dtype", "fp8"], "no fp8"),
    ],
)
def test_bad_words_are_explained(
    words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2 and one paragraph."""
    assert main(["flow", *words]) == 2
    assert text in capsys.readouterr().err


def test_latency_is_limited_minimised_and_certified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both answers pass the check; an unreachable limit is status 3 and names the least."""
    path, answer = tmp_path / "timed.json", str(tmp_path / "answer.json")
    save_flow(timed_problem(4), path)
    assert main(["flow", str(path), "--objective", "latency", "-o", answer]) == 0
    assert "from source to sink" in capsys.readouterr().out
    assert main(["certify-flow", str(path), answer]) == 0
    least = json.loads(Path(answer).read_text())["objective"]
    assert main(["flow", str(path), "--latency-limit", f"{2 * least}s", "-o", answer]) == 0
    assert "allowed, nodes and links together" in capsys.readouterr().out
    assert main(["certify-flow", str(path), answer]) == 0
    assert main(["flow", str(path), "--latency-limit", f"{least / 2}s"]) == 3
    assert f"allow {least:.6g} s" in capsys.readouterr().out
    assert main(["flow", str(path), "--objective", "latency", "--latency-limit", "1s"]) == 2
    assert "without '--objective latency'" in capsys.readouterr().err
