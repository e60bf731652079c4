"""The verb explain: text, JSON and CSV of one explanation."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from optalloc.cli.__main__ import main
from optalloc.cli.schema import schema
from optalloc.cluster.load import load_cluster
from optalloc.model.load import load_model
from optalloc.training.estimate import estimate
from optalloc.training.strategy import Strategy
from optalloc.workload import Training


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """GPT-2 in two stages on two devices."""
    plan = estimate(
        load_model("gpt2"),
        load_cluster("2xh100-sxm"),
        Training(global_batch=8, sequence_length=1024),
        Strategy(pp=2),
    )
    plan.save(tmp_path / "plan.json")
    monkeypatch.chdir(tmp_path)
    return "plan.json"


def test_table_shows_time_memory_and_margins(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Within 100 columns, the findings first."""
    assert main(["explain", path]) == 0
    shown = capsys.readouterr().out
    parts = [
        "limits it:",
        "Where the time goes",
        "MFU, causal",
        "trillion tokens",
        "tightest stages first",
        "What a little more",
        "--replan",
    ]
    places = [shown.index(part) for part in parts]
    assert places == sorted(places)
    assert max(map(len, shown.splitlines())) <= 100


def test_json_is_the_explanation(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", path, "--format", "json", "--replan"]) == 0
    data = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator(schema("explanation")).validate(data)
    assert data["summary"].startswith("gpt2 on 2xh100-sxm")
    assert sum(c["time_s"] for c in data["causes"]) == pytest.approx(data["step_time_s"])
    assert all(m["replanned_gain_s"] is not None for m in data["marginals"])


def test_csv_has_a_row_a_part(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", path, "--format", "csv"]) == 0
    head = capsys.readouterr().out.splitlines()[0]
    assert head == "part,time,share,mean of stages,hidden behind computation"


def test_the_page_holds_plan_and_explanation_and_fetches_nothing(
    path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One file; its data are the plan and the explanation, unchanged; no address is in it."""
    words = ["explain", path, "--sensitivity", "--html", "page.html", "--format", "json"]
    assert main(words) == 0
    explanation = json.loads(capsys.readouterr().out)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    start = text.index('id="data">') + len('id="data">')
    data = json.loads(text[start : text.index("</script>", start)])
    assert data["explanation"] == explanation
    assert data["plan"] == json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    assert len(data["timeline"]["stages"]) == 2
    assert sum(len(s["passes"]) for s in data["timeline"]["stages"]) == 2 * 2 * 8
    assert [word for word in ("http://", "https://", "@import", "src=") if word in text] == [
        "http://"  # the name of the SVG namespace
    ]
    assert "@" + "DATA@" not in text


def test_a_broken_plan_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    path.write_text('{"kind": "training"}')
    assert main(["explain", str(path)]) == 2
    assert str(path) in capsys.readouterr().err


def test_a_misspelt_pin_is_bad_input(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where no search would use it."""
    assert main(["explain", path, "--pin", "tq=2"]) == 2
    assert "did you mean tp" in capsys.readouterr().err


def test_a_mixed_plan_says_which_flags_it_has_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page or a turn of a mixed plan is refused, not left out in silence."""
    path = str(tmp_path / "mixed.json")
    words = ["train", "gpt2", "--cluster", "1xa100-sxm-80g+1xh100-sxm", "--global-batch", "8"]
    assert main([*words, "--seq-len", "512", "-o", path]) == 0
    assert main(["explain", path]) == 0
    capsys.readouterr()
    assert main(["explain", path, "--sensitivity"]) == 2
    assert "without --sensitivity" in capsys.readouterr().err
    data = json.loads(Path(path).read_text())
    Path(path).write_text(json.dumps(data | {"step_time_s": 1.0}))
    for verb in ("explain", "simulate"):
        assert main([verb, path]) == 0
        out, err = capsys.readouterr()
        assert "was edited" in err
        assert "1.00 s" not in out


def test_a_plan_for_a_tool_is_asked_within_what_it_can_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The best plan that DeepSpeed runs is the best again under --for, and turns are found."""
    path = str(tmp_path / "plan.json")
    words = ["train", "gpt2", "--cluster", "4xa100-sxm-80g", "--global-batch", "16"]
    assert main([*words, "--seq-len", "1024", "--for", "deepspeed", "-o", path]) == 0
    step_s = json.loads(Path(path).read_text())["step_time_s"]
    capsys.readouterr()
    words = ["explain", path, "--for", "deepspeed", "--replan", "--sensitivity"]
    assert main([*words, "--format", "json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["replanned_step_time_s"] == pytest.approx(step_s, rel=1e-9)
    assert len(data["turns"]) == 6
    for turn in data["turns"]:
        assert all(d["name"] not in ("tp", "cp", "ep") for d in turn["decisions"])
    assert main(["explain", path, "--for", "megatrom"]) == 2
    assert "did you mean 'megatron'" in capsys.readouterr().err
