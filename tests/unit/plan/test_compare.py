"""compare.py: decisions side by side, and time and memory accounted for by cause and kind."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from optalloc.cli.__main__ import main
from optalloc.cluster.load import load_cluster
from optalloc.model.load import load_model
from optalloc.plan.compare import compare
from optalloc.training.plan import Chunk, Degrees, StagePlan, TrainingPlan
from optalloc.training.strategy import Recompute
from optalloc.workload import Training

GIB = 2**30


def _stage(index: int, first: int, layers: int, total_gib: int, recompute: Recompute) -> StagePlan:
    last = first + layers == 12
    return StagePlan(
        index=index,
        num_layers={"dense": layers},
        chunks=(Chunk(first_layer=first, num_layers=layers, embedding=first == 0, head=last),),
        num_devices=4,
        devices=((4 * index, 4 * index + 4),),
        memory_bytes={"total": total_gib * GIB, "weights": 2 * GIB},
        capacity_bytes=80 * GIB,
        recompute=recompute,
        forward_s=1.0,
        backward_s=2.0,
    )


@pytest.fixture
def plan() -> TrainingPlan:
    """GPT-2 on 8 devices in stages of 7 and 5 layers: 8 s a step, of which 7 compute."""
    return TrainingPlan(
        tool_version="0",
        model=load_model("gpt2"),
        cluster=load_cluster("8xh100-sxm"),
        workload=Training(global_batch=8, sequence_length=512),
        digests={},
        cost_model="roofline-1",
        degrees=Degrees(tp=1, cp=1, pp=2, dp=4, ep=1, virtual_stages=1),
        sequence_parallel=False,
        micro_batch=1,
        num_microbatches=2,
        zero_stage=1,
        shard_group=0,
        schedule="1f1b",
        num_devices=8,
        idle_devices=0,
        stages=(
            _stage(0, 0, 7, 10, Recompute(2, 1)),
            _stage(1, 7, 5, 12, Recompute()),
        ),
        step_time_s=8.0,
        mfu=0.4,
        tokens_per_s=512.0,
        price_usd_per_step=None,
        energy_j_per_step=5600.0,
        breakdown_s={"compute": 7.0, "bubble": 1.0},
    )


def test_equal_plans_differ_in_nothing(plan: TrainingPlan) -> None:
    """No decision changed, no cause has a difference."""
    comparison = compare(plan, plan)
    assert comparison.changed == ()
    assert comparison.different_inputs == ()
    assert {cause.difference_s for cause in comparison.causes} == {0.0}
    assert comparison.summary == "Both plans take 8.00 s a step."


def test_changed_decisions_are_named(plan: TrainingPlan) -> None:
    """Twice the micro-batch of half as many, GPipe, equal stages without recomputation."""
    other = msgspec.structs.replace(
        plan,
        micro_batch=2,
        num_microbatches=1,
        schedule="gpipe",
        stages=(_stage(0, 0, 6, 10, Recompute()), _stage(1, 6, 6, 12, Recompute())),
    )
    comparison = compare(plan, other)
    assert comparison.changed == (
        "micro_batch",
        "num_microbatches",
        "schedule",
        "layers_per_chunk",
        "recompute",
    )
    shown = {d.name: (d.first, d.second) for d in comparison.decisions}
    assert shown["layers_per_chunk"] == ("7, 5", "6*2")
    assert shown["recompute"] == ("2 full + 1 selective, none", "none*2")


def test_causes_add_up_to_the_difference(plan: TrainingPlan) -> None:
    """From 7 + 1 to 6 + 0.5 + 3.5 seconds: reductions cost 3.5 s, which 1.5 s elsewhere soften."""
    other = msgspec.structs.replace(
        plan, step_time_s=10.0, breakdown_s={"compute": 6.0, "bubble": 0.5, "reduction": 3.5}
    )
    comparison = compare(plan, other)
    causes = [(c.name, c.difference_s) for c in comparison.causes]
    assert causes == [("reduction", 3.5), ("compute", -1.0), ("bubble", -0.5)]
    assert sum(c.difference_s for c in comparison.causes) == 2.0
    assert comparison.summary == (
        "The second plan takes 10.00 s a step, 25.0% slower than the first with 8.00 s. "
        "Most of it is reduction (+3.50 s), less compute (-1.00 s)."
    )


def test_memory_is_that_of_the_fullest_stage(plan: TrainingPlan) -> None:
    """12 GiB on the second stage against 15 GiB on the first; total and capacity come last."""
    full = (_stage(0, 0, 7, 15, Recompute()), plan.stages[1])
    comparison = compare(plan, msgspec.structs.replace(plan, stages=full))
    rows = [(k.name, k.first_bytes // GIB, k.second_bytes // GIB) for k in comparison.memory]
    assert rows == [("weights", 2, 2), ("total", 12, 15), ("capacity", 80, 80)]


def test_different_inputs_are_pointed_out(plan: TrainingPlan) -> None:
    """Plans of two workloads answer different questions."""
    workload = Training(global_batch=16, sequence_length=512)
    comparison = compare(plan, msgspec.structs.replace(plan, workload=workload))
    assert comparison.different_inputs == ("workload",)
    assert comparison.summary.endswith("Mind that the inputs differ: workload.")


def test_text_shows_every_section(plan: TrainingPlan) -> None:
    """The printed form has the verdict, both decisions and an unknown price as a dash."""
    other = msgspec.structs.replace(plan, schedule="gpipe")
    text = str(compare(plan, other))
    assert text.startswith("Both plans take 8.00 s a step.\n\nDecisions\n")
    assert "schedule           1f1b" in text
    assert "gpipe" in text
    price = next(line for line in text.splitlines() if "price_usd_per_step" in line)
    assert price.split() == ["price_usd_per_step", "-", "-", "-"]


def test_verb_prints_the_comparison(
    plan: TrainingPlan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a table with the verdict, as JSON, and as CSV of the decisions."""
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    plan.save(first)
    msgspec.structs.replace(plan, zero_stage=3, step_time_s=9.0).save(second)
    words = ["compare", str(first), str(second)]
    assert main(words) == 0
    assert "12.5% slower" in capsys.readouterr().out
    assert main([*words, "--format", "json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["changed"] == ["zero_stage"]
    assert data["measures"][0] == {"name": "step_time_s", "first": 8.0, "second": 9.0}
    assert main([*words, "--format", "csv"]) == 0
    assert "zero_stage,1,3,changed" in capsys.readouterr().out.splitlines()
