"""simulation.py: the replayed step agrees with the planner's figures; its memory adds up."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from optalloc.cli.__main__ import main
from optalloc.errors import InputError
from optalloc.model.load import load_model
from optalloc.model.lower import lower
from optalloc.simulate.costs import PipelineCosts, Tail
from optalloc.simulate.simulation import simulate, stage_memory
from optalloc.training.plan import TrainingPlan
from optalloc.training.schedule import run_pipeline
from optalloc.training.strategy import Recompute, Strategy

NONE = Recompute()

STRATEGIES = {
    "one stage": Strategy(dp=4, layers_per_chunk=(12,), recompute=(NONE,)),
    "1f1b, uneven, recomputing": Strategy(
        tp=2,
        sequence_parallel=True,
        pp=3,
        dp=2,
        micro_batch=2,
        layers_per_chunk=(3, 4, 5),
        recompute=(Recompute(2, 1), Recompute(0, 3), NONE),
    ),
    "gpipe, gradients reduced by every stage": Strategy(
        pp=2,
        dp=8,
        zero_stage=0,
        schedule="gpipe",
        layers_per_chunk=(7, 5),
        recompute=(Recompute(7), Recompute(5)),
    ),
    "interleaved over nodes": Strategy(
        tp=4,
        pp=4,
        virtual_stages=2,
        schedule="interleaved",
        layers_per_chunk=(0, 2, 2, 2, 1, 2, 2, 1),
        recompute=(Recompute(1), NONE, Recompute(0, 1), NONE),
    ),
    "zb-h1 with sharded weights": Strategy(
        pp=4,
        dp=4,
        zero_stage=3,
        shard_group=2,
        schedule="zb-h1",
        layers_per_chunk=(2, 3, 4, 3),
        recompute=(Recompute(1), NONE, NONE, NONE),
    ),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_replay_agrees_with_the_native_evaluation(
    name: str, make_plan: Callable[..., TrainingPlan]
) -> None:
    """Step time and peak memory by stage, which the planner's kernel finds in another way."""
    plan = make_plan(STRATEGIES[name])
    simulation = simulate(plan)
    assert simulation.step_time_s == pytest.approx(plan.step_time_s, rel=1e-9)
    assert abs(simulation.difference) < 1e-9
    for use, stage in zip(simulation.stages, plan.stages, strict=True):
        assert use.peak_memory_bytes == pytest.approx(stage.memory_bytes["total"], abs=8)
        assert use.capacity_bytes == stage.capacity_bytes


@pytest.mark.parametrize("model", ["t5-3b", "mixtral-8x7b", "gemma-3-27b"])
def test_replay_agrees_for_chains_of_several_layer_types(
    model: str, make_plan: Callable[..., TrainingPlan]
) -> None:
    """Encoder and decoder, experts, local and global attention."""
    layers = sum(run.count for run in lower(load_model(model)).sequence)
    split = (layers // 4, layers // 4 + 1, layers // 4 - 1)
    strategy = Strategy(
        tp=2,
        pp=4,
        dp=4,
        ep=4 if model.startswith("mixtral") else 1,
        layers_per_chunk=(*split, layers - sum(split)),
        recompute=(Recompute(3, 2), Recompute(1), NONE, NONE),
    )
    plan = make_plan(strategy, model=model, cluster="32xh100-sxm")
    simulation = simulate(plan)
    assert simulation.step_time_s == pytest.approx(plan.step_time_s, rel=1e-9)
    for use, stage in zip(simulation.stages, plan.stages, strict=True):
        assert use.peak_memory_bytes == pytest.approx(stage.memory_bytes["total"], rel=1e-12)


def test_shares_of_a_step_add_up(make_plan: Callable[..., TrainingPlan]) -> None:
    """Passes, tail and idle time of every stage make the step."""
    simulation = simulate(make_plan(STRATEGIES["1f1b, uneven, recomputing"]))
    for use in simulation.stages:
        assert use.busy_s + use.tail_s + use.idle_s == pytest.approx(simulation.step_time_s)
        assert 0 < use.busy_share < 1
        assert 0 < use.idle_share < 1
    assert simulation.idle_share == pytest.approx(
        sum(use.idle_share for use in simulation.stages) / 3
    )


def test_plans_that_contradict_themselves_are_refused(
    make_plan: Callable[..., TrainingPlan],
) -> None:
    """A stage too few, a layer placed twice, a layer left out, half of the batch."""
    plan = make_plan(STRATEGIES["1f1b, uneven, recomputing"])
    first, *rest = plan.stages
    chunk = first.chunks[0]

    def with_layers(count: int) -> TrainingPlan:
        chunks = (msgspec.structs.replace(chunk, num_layers=count),)
        stage = msgspec.structs.replace(first, chunks=chunks)
        return msgspec.structs.replace(plan, stages=(stage, *rest))

    broken = {
        "2 stages for pp = 3": msgspec.structs.replace(plan, stages=plan.stages[:2]),
        "begins at layer 3, but the one before ends at 4": with_layers(chunk.num_layers + 1),
        "begins at layer 3, but the one before ends at 2": with_layers(chunk.num_layers - 1),
        "is 32 for a global batch of 64": msgspec.structs.replace(plan, num_microbatches=8),
    }
    for words, wrong in broken.items():
        with pytest.raises(InputError, match=words):
            simulate(wrong)


def _costs() -> PipelineCosts:
    tail = Tail(reduce_s=0.0, tied_s=0.0, update_s=0.0, gather_s=0.0)
    return PipelineCosts(
        forward_s=(1.0, 1.0),
        backward_s=(1.0, 1.0),
        weight_s=(1.0, 1.0),
        link_s=(0.0,),
        waiting_bytes=(10.0, 10.0),
        split_bytes=(14.0, 14.0),
        resident_bytes=(100.0, 200.0),
        capacity_bytes=1000.0,
        tails=(tail, tail),
        fixed_s=0.0,
    )


def test_memory_of_1f1b_by_hand() -> None:
    """F = 1, B = 2. Stage 0 holds one from 0, two from 1; its first backward ends at 6.

    Stage 1 runs F0 1-2, B0 2-4, F1 4-5, B1 5-7, F2 7-8, B2 8-10; stage 0 B0 4-6, F2 6-7, B1 7-9,
    B2 10-12.
    """
    one = (1.0, 1.0)
    run = run_pipeline("1f1b", 2, 1, 3, one, one, one, [0.0])
    memory = stage_memory(run, _costs(), 0)
    assert memory.time_s == (0.0, 0.0, 1.0, 6.0, 6.0, 9.0, 12.0)
    assert memory.memory_bytes == (100, 110, 120, 110, 120, 110, 100)


def test_memory_of_split_backwards_by_hand() -> None:
    """ZB-H1, one stage of two, F = B = W = 1, two micro-batches; stage 1 delays a weight gradient
    by one.

    Stage 1 runs F0 1-2, B0 2-3, F1 3-4, B1 4-5, W0 5-6, W1 6-7: it holds 10 behind F0, 14 behind
    B0, 24 with F1, 28 behind B1, then 14 and nothing.
    """
    one = (1.0, 1.0)
    run = run_pipeline("zb-h1", 2, 1, 2, one, one, one, [0.0])
    memory = stage_memory(run, _costs(), 1)
    assert memory.time_s == (0.0, 1.0, 3.0, 3.0, 5.0, 6.0, 7.0)
    assert memory.memory_bytes == (200, 210, 214, 224, 228, 214, 200)


def test_verb_prints_stages_and_writes_the_trace(
    make_plan: Callable[..., TrainingPlan], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a table, as JSON and as CSV with one row a stage."""
    plan = make_plan(STRATEGIES["1f1b, uneven, recomputing"])
    saved, trace = tmp_path / "plan.json", tmp_path / "step.trace.json"
    plan.save(saved)
    assert main(["simulate", str(saved), "--trace", str(trace)]) == 0
    assert "Simulated step" in capsys.readouterr().out
    assert json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    assert main(["simulate", str(saved), "--format", "json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["step_time_s"] == pytest.approx(plan.step_time_s, rel=1e-9)
    assert [stage["index"] for stage in data["stages"]] == [0, 1, 2]
    assert main(["simulate", str(saved), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [float(row["busy_s"]) for row in rows] == [s["busy_s"] for s in data["stages"]]


def test_verb_refuses_a_broken_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, and no trace is written."""
    broken, trace = tmp_path / "plan.json", tmp_path / "step.trace.json"
    broken.write_text('{"kind": "training"}', encoding="utf-8")
    assert main(["simulate", str(broken), "--trace", str(trace)]) == 2
    assert "optalloc:" in capsys.readouterr().err
    assert not trace.exists()
