"""Mixed plans: what targets refuse, and the PyTorch script under gloo equal to one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.export.conftest import DENSE

import optalloc as oa
from optalloc.errors import ExportError
from optalloc.export.export import export
from optalloc.export.mixed import mixed_artefacts
from optalloc.export.pins import plan_mixed_for_target
from optalloc.model.spec import LayerRun, ModelSpec
from optalloc.plan.mixed import certify_mixed
from optalloc.training.mixed.build import MixedCosts
from optalloc.training.mixed.estimate import mixed_figures
from optalloc.training.mixed.plan import MixedPlan
from optalloc.training.mixed.strategy import MixedStrategy, ReplicaChoice, StageChoice

Metrics = dict[str, list[float]]


def unequal(model: ModelSpec, *, sequence_length: int = 1024) -> MixedPlan:
    """Five devices: two stages with tp 2 and dp 2, and a replica of one device with fewer
    micro-batches."""
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
    workload = oa.Training(global_batch=16, sequence_length=sequence_length)
    return oa.estimate_mixed(model, cluster, workload, strategy)


def alike(name: str = "llama-3-8b", *, tp: int = 4, dp: int = 2) -> MixedPlan:
    """A pipeline of equal degrees: 20 layers on an A100 node, then 12 on half an H100 node."""
    strategy = MixedStrategy(
        micro_batch=2 * dp,
        replicas=(
            ReplicaChoice(
                num_microbatches=16 // (2 * dp),
                stages=(
                    StageChoice(group=1, num_layers=12, tp=tp, dp=dp),
                    StageChoice(group=1, num_layers=8, tp=tp, dp=dp),
                    StageChoice(group=0, num_layers=12, tp=tp, dp=dp),
                ),
            ),
        ),
    )
    cluster = oa.load_cluster("8xh100-sxm+16xa100-sxm-80g")
    workload = oa.Training(global_batch=16, sequence_length=1024)
    return oa.estimate_mixed(oa.load_model(name), cluster, workload, strategy)


def test_megatron_runs_equal_degrees_on_unequal_devices() -> None:
    """Ranks are in the order of the stages: two A100 nodes, then the H100 node; 2 sequences of each
    of 2 replicas make the micro-batch of 4."""
    (file,) = mixed_artefacts(alike(), "megatron")
    for words in (
        "--pipeline-model-parallel-layout 'Et*12|t*8|t*12L'",
        "--tensor-model-parallel-size 4",
        "--pipeline-model-parallel-size 3",
        "--micro-batch-size 2",
        "--use-distributed-optimizer",
        "  0) processes=8 ;;  # a100-sxm-80g\n  1) processes=8 ;;  # a100-sxm-80g\n"
        "  2) processes=8 ;;  # h100-sxm\n",
        "--nnodes 3",
    ):
        assert words in file.text
    with pytest.raises(ExportError, match="tensor parallelism"):
        mixed_artefacts(alike(), "deepspeed")


def test_deepspeed_cuts_where_the_mixed_plan_does() -> None:
    """The embedding counts as a piece before the first 12 layers, norm and head as two behind."""
    files = {file.path: file.text for file in mixed_artefacts(alike(tp=1, dp=8), "deepspeed")}
    assert json.loads(files["ds_config.json"])["train_micro_batch_size_per_gpu"] == 2
    runs = [chunk["runs"] for chunk in json.loads(files["plan_facts.json"])["chunks"]]
    assert [sum(run[2] for run in chunk) for chunk in runs] == [12, 8, 12]


def test_stages_without_consecutive_ranks_are_refused() -> None:
    """Two replicas of two stages: the first stages lie on the first halves of two nodes, so the
    ranks of the first stage would be on both nodes before those of the second."""
    strategy = MixedStrategy(
        micro_batch=1,
        replicas=(
            ReplicaChoice(
                num_microbatches=8,
                stages=(StageChoice(group=0, num_layers=16, tp=4),) * 2,
                count=2,
            ),
        ),
    )
    cluster = oa.load_cluster("16xh100-sxm+8xa100-sxm-80g")
    workload = oa.Training(global_batch=16, sequence_length=1024)
    plan = oa.estimate_mixed(oa.load_model("llama-3-8b"), cluster, workload, strategy)
    with pytest.raises(ExportError, match="order which ranks cannot have"):
        mixed_artefacts(plan, "megatron")


def test_what_is_planned_for_a_tool_can_be_exported_to_it() -> None:
    """And nothing better is known of other equal degrees than the bound."""
    model, cluster = oa.load_model("llama-3-8b"), oa.load_cluster("4xh100-sxm+4xa100-sxm-80g")
    workload = oa.Training(global_batch=16, sequence_length=2048)
    free = plan_mixed_for_target("pytorch", model, cluster, workload)
    for target in ("megatron", "deepspeed"):
        result = plan_mixed_for_target(target, model, cluster, workload)
        assert result.termination is oa.Termination.OPTIMAL
        assert mixed_artefacts(result.plan, target)
        certify_mixed(result.plan)
        if target == "deepspeed":
            assert result.plan.step_time_s >= free.plan.step_time_s * (1.0 - 1e-9)


@pytest.mark.parametrize("target", ["megatron", "deepspeed"])
def test_targets_of_equal_stages_name_what_differs(target: str) -> None:
    """The second stage has another tp than the first."""
    with pytest.raises(ExportError, match=r"tp 1 on replica 0 beside tp 2.*stage 1"):
        mixed_artefacts(unequal(oa.load_model("llama-3-8b")), target)


def test_facts_give_every_rank_one_stage() -> None:
    """Five ranks, each in one stage; shares of 6 and 2 micro-batches, one after the other."""
    files = {
        file.path: file.text
        for file in mixed_artefacts(unequal(oa.load_model("llama-3-8b")), "pytorch")
    }
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


def run(plan: MixedPlan, folder: Path, *words: str, **facts: object) -> Metrics:
    """Three steps of the exported script in local processes, compared with one process."""
    from optalloc.execute.processes import launch

    export(plan, "pytorch", folder)
    path = folder / "plan_facts.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    words = (*words, "--cpu", "--compare", "--steps", "3", "--tolerance", "inf")
    launch(
        folder / "train_mixed.py",
        [*words, "--metrics", str(folder / "metrics.json")],
        processes=plan.num_devices,
        timeout_s=300,
    )
    metrics: Metrics = json.loads((folder / "metrics.json").read_text())
    return metrics


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-3-8b", "gpt2"])
def test_an_unequal_plan_trains_as_one_process_does(name: str, tmp_path: Path) -> None:
    """Losses of three SGD steps with a large rate: any gradient of a wrong weight would show.

    GPT-2 ties its embeddings, over two stages in one replica and on one device in the other.
    """
    words = ("--scale-down", "--learning-rate", "0.3")
    metrics = run(unequal(oa.load_model(name)), tmp_path, *words, optimizer="sgd")
    assert metrics["losses"] == pytest.approx(metrics["reference_losses"], abs=2e-6)
    assert abs(metrics["losses"][0] - metrics["losses"][2]) > 2e-4


@pytest.mark.torch
@pytest.mark.slow
def test_every_process_holds_the_states_that_the_plan_counts(tmp_path: Path) -> None:
    """At full width: weights in 16 bits, gradients in 32, and of weights in 32 bits and two moments
    the share of the process. Norms, which tp does not split, are a thousandth."""
    model = ModelSpec(
        name="tiny",
        family="llama",
        hidden=64,
        vocabulary=512,
        layer_types=(DENSE,),
        layers=(LayerRun("decoder", 6),),
        tied_embeddings=False,
        final_norm=64,
    )
    plan = unequal(model, sequence_length=32)
    metrics = run(plan, tmp_path, "--learning-rate", "0.01")
    costs = MixedCosts(plan.model, plan.cluster, plan.workload, name=plan.cost_model)
    expected = [
        cost.state_bytes / costs.costs[stage.group].fragmentation
        for replica, figures in zip(plan.replicas, mixed_figures(plan), strict=True)
        for stage, cost in zip(replica.stages, figures, strict=True)
        for _ in range(stage.num_devices)
    ]
    first = [end for s in plan.stages for begin, _ in s.devices for end in range(begin, _)]
    by_rank = [size for _, size in sorted(zip(first, expected, strict=True))]
    assert metrics["measured_state_bytes_by_rank"] == pytest.approx(by_rank, rel=0.03)
    assert metrics["losses"] == pytest.approx(metrics["reference_losses"], rel=0.01)
