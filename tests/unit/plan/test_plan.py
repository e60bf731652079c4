"""plan.py: a saved plan reads back as it was; newer versions are read or refused as promised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from optalloc import files
from optalloc.cli.__main__ import main
from optalloc.cluster.load import load_cluster
from optalloc.errors import FormatVersionError, InputError
from optalloc.model.load import load_model
from optalloc.plan.plan import load_mixed_plan, load_plan, load_training_plan
from optalloc.training.estimate import estimate
from optalloc.training.plan import TrainingPlan
from optalloc.training.strategy import Strategy
from optalloc.workload import Training


@pytest.fixture
def plan() -> TrainingPlan:
    model, cluster = load_model("qwen3-30b-a3b"), load_cluster("8xh100-sxm")
    strategy = Strategy(pp=2, dp=4, ep=4, layers_per_chunk=(23, 25))
    return estimate(model, cluster, Training(global_batch=8, sequence_length=2048), strategy)


def _grown(value: Any) -> Any:
    """The same JSON with one unknown key in every object that is a struct, not a plain mapping."""
    if isinstance(value, list):
        return [_grown(item) for item in value]
    if not isinstance(value, dict):
        return value
    grown = {key: _grown(item) for key, item in value.items()}
    if not all(isinstance(item, int | float) for item in value.values()) or "full" in value:
        grown["added_later"] = 1
    return grown


def test_a_saved_plan_reads_back_equal(plan: TrainingPlan, tmp_path: Path) -> None:
    plan.save(tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == plan


def test_a_newer_minor_version_is_read_without_the_keys_it_added(
    plan: TrainingPlan, tmp_path: Path
) -> None:
    """Keys are added to the plan, its stages, and the model, cluster and workload inside it."""
    data = json.loads(files.canonical_json(plan))
    newer = {k: v if k == "digests" else _grown(v) for k, v in data.items()}
    newer |= {"format_version": "1.7", "added_later": {"a": [1]}}
    assert "added_later" in newer["model"]["layer_types"][0]["feed_forward"]
    assert "added_later" in newer["cluster"]["nodes"][0]["device"]
    assert "added_later" in newer["stages"][0]["recompute"]
    newer["cluster"]["nodes"][0]["device"]["sources"].pop("added_later")
    (tmp_path / "plan.json").write_text(json.dumps(newer))
    read = load_plan(tmp_path / "plan.json")
    assert read.format_version == "1.7"
    assert (read.model, read.cluster, read.workload) == (plan.model, plan.cluster, plan.workload)
    assert read.strategy == plan.strategy


@pytest.mark.parametrize("version", ["2.0", "0.9", "10.0", "soon"])
def test_another_major_version_is_refused(plan: TrainingPlan, tmp_path: Path, version: str) -> None:
    data = json.loads(files.canonical_json(plan)) | {"format_version": version}
    (tmp_path / "plan.json").write_text(json.dumps(data))
    with pytest.raises(FormatVersionError) as error:
        load_plan(tmp_path / "plan.json")
    assert error.value.pointer == "$.format_version"


def test_a_wrong_value_is_named_by_its_pointer(plan: TrainingPlan, tmp_path: Path) -> None:
    data = json.loads(files.canonical_json(plan))
    data["stages"][1]["devices"] = "all"
    (tmp_path / "plan.json").write_text(json.dumps(data))
    with pytest.raises(InputError) as error:
        load_plan(tmp_path / "plan.json")
    assert error.value.pointer == "$.stages[1].devices"


def test_a_plan_of_another_kind_is_named(plan: TrainingPlan, tmp_path: Path) -> None:
    """Readers of one kind say which kind the file holds, and where."""
    plan.save(tmp_path / "plan.json")
    assert load_training_plan(tmp_path / "plan.json") == plan
    with pytest.raises(InputError, match="kind 'training'") as error:
        load_mixed_plan(tmp_path / "plan.json")
    assert error.value.pointer == "$.kind"


def test_a_verb_reads_its_plan_once(
    plan: TrainingPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe can be read once only."""
    plan.save(tmp_path / "plan.json")
    reads: list[str] = []
    read = files.read_text

    def counted(path: str) -> str:
        reads.append(path)
        return read(path)

    monkeypatch.setattr(files, "read_text", counted)
    assert main(["certify", str(tmp_path / "plan.json")]) == 0
    assert reads.count(str(tmp_path / "plan.json")) == 1
