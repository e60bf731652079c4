"""edited.py: a changed plan is taken as written, and every reader says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from optalloc.cli.__main__ import main
from optalloc.cluster.load import load_cluster
from optalloc.model.load import load_model
from optalloc.plan.edited import as_written
from optalloc.plan.explain import explain
from optalloc.plan.plan import load_plan
from optalloc.training.plan import TrainingPlan
from optalloc.training.solve import plan_training
from optalloc.workload import Training


@pytest.fixture(scope="module")
def found() -> TrainingPlan:
    """The best plan of GPT-2 on four devices, with its certificate."""
    workload = Training(global_batch=16, sequence_length=512)
    return plan_training(load_model("gpt2"), load_cluster("4xa100-sxm-80g"), workload).plan


def edited(found: TrainingPlan, path: Path, **changes: Any) -> Path:
    """The plan's file with some of its keys changed."""
    found.save(path)
    data = json.loads(path.read_text())
    data.update(changes)
    path.write_text(json.dumps(data))
    return path


def test_a_true_plan_is_left_alone(found: TrainingPlan) -> None:
    assert as_written(found) == (found, "")


def test_a_changed_decision_changes_the_figures_and_ends_the_proof(
    found: TrainingPlan, tmp_path: Path
) -> None:
    """ZeRO 3 in place of what was found: predicted anew, without a certificate."""
    path = edited(found, tmp_path / "plan.json", zero_stage=3 if found.zero_stage != 3 else 0)
    plan, reason = as_written(load_plan(path))
    assert reason
    assert plan.certificate is None
    assert plan.step_time_s != found.step_time_s
    assert as_written(plan) == (plan, "")
    explanation = explain(load_plan(path))
    assert explanation.edited == reason
    assert explanation.step_time_s == plan.step_time_s
    assert "was edited" in explanation.summary.splitlines()[0]


@pytest.mark.parametrize(
    "verb", [["explain", "P"], ["compare", "P", "P"], ["simulate", "P"], ["certify", "P"]]
)
def test_every_verb_says_that_a_figure_was_edited(
    verb: list[str], found: TrainingPlan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A step time that nobody predicted: certify refuses it, the others answer and say so."""
    path = str(edited(found, tmp_path / "plan.json", step_time_s=0.001))
    status = main([path if word == "P" else word for word in verb])
    said = "".join(capsys.readouterr())
    assert status == (2 if verb[0] == "certify" else 0)
    assert "step time" in said
    if verb[0] != "certify":
        assert "was edited" in said
        assert "1.00 ms" not in said


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"stages": []}, "$.stages"),
        ({"micro_batch": 3}, "$.num_microbatches"),
        ({"zero_stage": 7}, "$.zero_stage"),
    ],
)
def test_decisions_that_contradict_are_bad_input(
    changes: dict[str, Any],
    pointer: str,
    found: TrainingPlan,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit status 2, the file and the place in it."""
    path = edited(found, tmp_path / "plan.json", **changes)
    assert main(["explain", str(path)]) == 2
    said = capsys.readouterr().err
    assert str(path) in said
    assert pointer in said


def test_inputs_that_make_no_sense_are_bad_input(
    found: TrainingPlan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A domain of no devices, and layers of a type that is nowhere described."""
    data = json.loads(edited(found, tmp_path / "plan.json").read_text())
    path = tmp_path / "plan.json"
    cluster = {**data["cluster"], "nodes": [{**data["cluster"]["nodes"][0], "domain": 0}]}
    model = {**data["model"], "layers": [{"layer": "nowhere", "count": 12}]}
    for changes, said in (({"cluster": cluster}, "domain is 0"), ({"model": model}, "'nowhere'")):
        path.write_text(json.dumps(data | changes))
        for verb in ("explain", "certify"):
            assert main([verb, str(path)]) == 2
            assert said in capsys.readouterr().err
