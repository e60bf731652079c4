"""compare.py: decisions side by side, and time and memory accounted for by cause and kind."""

from __future__ import annotations

import json
import math
from pathlib import Path

import jsonschema
import msgspec
import pytest

from optalloc.cli.__main__ import main
from optalloc.cli.schema import schema
from optalloc.cluster.load import load_cluster
from optalloc.model.load import load_model
from optalloc.plan.compare import compare
from optalloc.training.estimate import estimate
from optalloc.training.mixed.solve import plan_mixed
from optalloc.training.plan import TrainingPlan
from optalloc.training.solve import plan_training
from optalloc.training.strategy import Recompute, Strategy
from optalloc.units import format_seconds
from optalloc.workload import Training


def made(strategy: Strategy, *, batch: int = 8, cluster: str = "8xh100-sxm") -> TrainingPlan:
    """GPT-2 under a written strategy."""
    workload = Training(global_batch=batch, sequence_length=512)
    return estimate(load_model("gpt2"), load_cluster(cluster), workload, strategy)


@pytest.fixture(scope="module")
def plan() -> TrainingPlan:
    """Stages of 7 and 5 layers on 8 devices."""
    rules = (Recompute(2, 1), Recompute())
    return made(Strategy(pp=2, dp=4, zero_stage=1, layers_per_chunk=(7, 5), recompute=rules))


@pytest.fixture(scope="module")
def other() -> TrainingPlan:
    """Twice the micro-batch of half as many, GPipe, equal stages without recomputation."""
    return made(
        Strategy(pp=2, dp=4, zero_stage=1, micro_batch=2, schedule="gpipe", layers_per_chunk=(6, 6))
    )


def test_equal_plans_differ_in_nothing(plan: TrainingPlan) -> None:
    """No decision changed, no cause has a difference."""
    comparison = compare(plan, plan)
    assert comparison.changed == ()
    assert comparison.different_inputs == ()
    assert {cause.difference_s for cause in (*comparison.causes, *comparison.parts)} == {0.0}
    assert comparison.summary == f"Both plans take {format_seconds(plan.step_time_s)} a step."


def test_changed_decisions_are_named(plan: TrainingPlan, other: TrainingPlan) -> None:
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


def test_causes_and_parts_add_up_to_the_difference(plan: TrainingPlan, other: TrainingPlan) -> None:
    """Both views, sorted by the size of the difference."""
    comparison = compare(plan, other)
    change = other.step_time_s - plan.step_time_s
    for rows in (comparison.causes, comparison.parts):
        found = [row.difference_s for row in rows]
        assert math.fsum(found) == pytest.approx(change, rel=1e-9)
        assert [abs(x) for x in found] == sorted((abs(x) for x in found), reverse=True)
    assert "recomputed_layers" in {row.name for row in comparison.parts}
    word = "faster" if change < 0 else "slower"
    assert f"{abs(change / plan.step_time_s):.1%} {word} than the first" in comparison.summary


def test_figures_stand_in_both_conventions(plan: TrainingPlan, other: TrainingPlan) -> None:
    """The causal MFU is that of the plan, the square one is larger, HFU counts recomputation."""
    measures = {m.name: (m.first, m.second) for m in compare(plan, other).measures}
    assert measures["mfu_causal"] == (plan.mfu, other.mfu)
    assert measures["tokens_per_s_per_device"][0] == plan.tokens_per_s / 8
    first, second = measures["mfu_square"]
    assert first is not None
    assert second is not None
    assert first > plan.mfu
    assert measures["hfu_causal"][1] == other.mfu
    hfu = measures["hfu_causal"][0]
    assert hfu is not None
    assert hfu > plan.mfu


def test_memory_is_that_of_the_fullest_stage(plan: TrainingPlan, other: TrainingPlan) -> None:
    """Total and capacity come last, and the kinds sum to the total."""
    rows = {k.name: (k.first_bytes, k.second_bytes) for k in compare(plan, other).memory}
    assert next(iter(rows)) == "weights"
    assert list(rows)[-2:] == ["total", "capacity"]
    assert rows["total"][0] == max(s.memory_bytes["total"] for s in plan.stages)
    kinds = [rows[name] for name in rows if name not in ("total", "capacity")]
    assert tuple(map(sum, zip(*kinds, strict=True))) == rows["total"]


def test_different_inputs_are_pointed_out(plan: TrainingPlan) -> None:
    """Plans of two workloads answer different questions."""
    comparison = compare(plan, made(plan.strategy, batch=16))
    assert comparison.different_inputs == ("workload",)
    assert comparison.summary.endswith("Mind that the inputs differ: workload.")


def test_text_shows_every_section(plan: TrainingPlan) -> None:
    """The printed form has the verdict and both decisions; an unknown price is a dash."""
    bare = made(Strategy(), cluster="1xmi250x")
    text = str(compare(plan, bare))
    assert "\n\nDecisions\n" in text
    assert "1f1b" in text
    price = next(line for line in text.splitlines() if "usd_per_trillion_tokens" in line)
    assert price.split()[-2:] == ["-", "-"]


def test_a_mixed_plan_compares_with_an_even_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Causes add up to the difference; each replica is a decision; an edited step is found out."""
    workload = Training(global_batch=32, sequence_length=512)
    model = load_model("gpt2")
    even = plan_training(model, load_cluster("4xa100-sxm-80g"), workload).plan
    mixed = plan_mixed(model, load_cluster("4xa100-sxm-80g+4xv100-sxm-32g"), workload).plan
    comparison = compare(even, mixed)
    assert comparison.different_inputs == ("cluster",)
    assert comparison.edited == ("", "")
    change = mixed.step_time_s - even.step_time_s
    assert math.fsum(c.difference_s for c in comparison.causes) == pytest.approx(change, rel=1e-8)
    assert comparison.parts == comparison.causes  # like with like
    shown = {d.name: d for d in comparison.decisions}
    replicas = [name for name in shown if name.startswith("replica")]
    assert replicas
    assert all(shown[name].first == "-" for name in replicas)
    assert shown["tp"].second == "-"
    even.save(tmp_path / "even.json")
    msgspec.structs.replace(mixed, step_time_s=1.0).save(tmp_path / "mixed.json")
    assert main(["compare", str(tmp_path / "even.json"), str(tmp_path / "mixed.json")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "The second: the plan does not match its figures" in said


def test_verb_prints_the_comparison(
    plan: TrainingPlan,
    other: TrainingPlan,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As a table with the verdict, as JSON of the published schema, and as CSV of the decisions."""
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    plan.save(first)
    other.save(second)
    words = ["compare", str(first), str(second)]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "than the first" in shown
    assert max(map(len, shown.splitlines()[2:])) <= 100
    assert main([*words, "--format", "json"]) == 0
    data = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator(schema("comparison")).validate(data)
    assert data["changed"][0] == "micro_batch"
    assert data["measures"][0]["first"] == plan.step_time_s
    assert main([*words, "--format", "csv"]) == 0
    assert "schedule,1f1b,gpipe,changed" in capsys.readouterr().out.splitlines()
