"""Mixed plans: what targets refuse, and the PyTorch script under gloo equal to one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import optalloc as oa
from optalloc.errors import ExportError
from optalloc.export.mixed import export_mixed, mixed_artefacts
from optalloc.training.mixed.plan import MixedPlan
from optalloc.training.mixed.strategy import MixedStrategy, ReplicaChoice, StageChoice


def unequal(name: str) -> MixedPlan:
    """Five devices: two stages with tp 2 and dp 2, and a replica of one device with fewer
    micro-batches."""
    model = oa.load_model(name)
    layers = sum(run.count for run in model.layers)
    strategy = MixedStrategy(
        micro_batch=2,
        replicas=(
            ReplicaChoice(
                num_microbatches=6,
                stages=(
                    StageChoice(group=0, num_layers=layers - 4, tp=2, recompute=oa.Recompute(2, 0)),
                    StageChoice(group=1, num_layers=4, dp=2),
                ),
            ),
            ReplicaChoice(num_microbatches=2, stages=(StageChoice(group=0, num_layers=layers),)),
        ),
    )
    cluster = oa.load_cluster("3xh100-sxm+2xa100-sxm-80g")
    workload = oa.Training(global_batch=16, sequence_length=1024)
    return oa.estimate_mixed(model, cluster, workload, strategy)


@pytest.mark.parametrize("target", ["megatron", "deepspeed"])
def test_targets_of_equal_stages_name_what_differs(target: str) -> None:
    """The second stage has another tp than the first."""
    with pytest.raises(ExportError, match=r"tp 1 on replica 0 beside tp 2.*stage 1"):
        mixed_artefacts(unequal("llama-3-8b"), target)


def test_facts_give_every_rank_one_stage() -> None:
    """Five ranks, each in one stage; shares of 6 and 2 micro-batches, one after the other."""
    files = {file.path: file.text for file in mixed_artefacts(unequal("llama-3-8b"), "pytorch")}
    facts = json.loads(files["plan_facts.json"])
    ranks = [k for r in facts["replicas"] for s in r["stages"] for k in s["ranks"]]
    assert sorted(ranks) == list(range(5))
    assert [r["first_micro_batch"] for r in facts["replicas"]] == [0, 6]
    assert "1) processes=2" in files["launch.sh"]


def test_what_the_script_has_not_is_refused() -> None:
    """Context parallelism inside a mixed plan."""
    strategy = MixedStrategy(
        micro_batch=2,
        replicas=(
            ReplicaChoice(num_microbatches=8, stages=(StageChoice(group=0, num_layers=32, cp=2),)),
        ),
    )
    cluster = oa.load_cluster("2xh100-sxm+2xa100-sxm-80g")
    workload = oa.Training(global_batch=16, sequence_length=1024)
    plan = oa.estimate_mixed(oa.load_model("llama-3-8b"), cluster, workload, strategy)
    with pytest.raises(ExportError, match="cp 2"):
        mixed_artefacts(plan, "pytorch")


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-3-8b", "gpt2"])
def test_an_unequal_plan_trains_as_one_process_does(name: str, tmp_path: Path) -> None:
    """Losses of three SGD steps with a large rate: any gradient of a wrong weight would show.

    GPT-2 ties its embeddings, over two stages in one replica and on one device in the other.
    """
    from optalloc.execute.processes import launch

    export_mixed(unequal(name), "pytorch", tmp_path)
    facts = tmp_path / "plan_facts.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"optimizer": "sgd"}))
    words = ["--scale-down", "--cpu", "--compare", "--steps", "3", "--learning-rate", "0.3"]
    words += ["--tolerance", "inf", "--metrics", str(tmp_path / "metrics.json")]
    launch(tmp_path / "train_mixed.py", words, processes=5, timeout_s=300)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["losses"] == pytest.approx(metrics["reference_losses"], abs=2e-6)
    assert abs(metrics["losses"][0] - metrics["losses"][2]) > 2e-4
