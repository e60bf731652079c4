"""excerpt.py: both ends of a long step, its peak, and nothing that points at what is left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.simulate.trace_format import check_trace

from optalloc.cli.__main__ import main
from optalloc.simulate.excerpt import Gap, excerpt
from optalloc.simulate.simulation import simulate
from optalloc.training.plan import TrainingPlan
from optalloc.training.schedule import run_pipeline
from optalloc.training.strategy import Recompute, Strategy


def test_both_ends_are_kept_and_the_middle_is_a_gap() -> None:
    """Two stages of 20 passes each, 8 passes in all: two and two of each stage."""
    run = run_pipeline("1f1b", 2, 1, 10, [1.0] * 2, [2.0] * 2, [0.0] * 2, [0.5])
    memory = [([0.0, *(op.end_s for op in ops)], list(range(21))) for ops in run.operations]
    part = excerpt(run, memory, 8)
    for stage in range(2):
        whole, kept = run.operations[stage], part.run.operations[stage]
        assert kept == (*whole[:2], *whole[-2:])
        assert part.gaps[stage] == Gap(
            start_s=whole[1].end_s, end_s=whole[-2].start_s, num_passes=16
        )
        assert list(part.memory[stage][1]) == [0, 1, 2, 19, 20]
    assert 0 < len(part.run.transfers) < len(run.transfers)
    shown = {(op.kind, op.chunk, op.micro_batch) for ops in part.run.operations for op in ops}
    for t in part.run.transfers:
        assert {(t.kind, c, t.micro_batch) for c in (t.from_chunk, t.to_chunk)} <= shown


def test_a_short_step_is_left_whole() -> None:
    run = run_pipeline("gpipe", 2, 1, 3, [1.0] * 2, [2.0] * 2, [0.0] * 2, [0.5])
    memory = [([0.0] * 7, [1] * 7)] * 2
    part = excerpt(run, memory, 12)
    assert (part.run, part.gaps) == (run, (None, None))


def equal_stages(num_stages: int) -> Strategy:
    """GPT-2's twelve layers in equal stages."""
    sizes = (12 // num_stages,) * num_stages
    return Strategy(pp=num_stages, layers_per_chunk=sizes, recompute=(Recompute(),) * num_stages)


def test_a_short_trace_shows_step_peak_and_gap(make_plan: Callable[..., TrainingPlan]) -> None:
    """It ends at the step time, reaches the peak of every stage, and says what it leaves out."""
    simulation = simulate(
        make_plan(Strategy(pp=2, dp=1, layers_per_chunk=(6, 6), recompute=(Recompute(),) * 2))
    )
    events = simulation.short_trace(16).events
    whole = simulation.trace.events
    assert len(events) < len(whole) / 4
    assert check_trace(events)["f"] > 0
    slices = [(e["ts"], e["dur"]) for e in events if e["ph"] == "X"]
    ends = [ts + dur for ts, dur in slices if isinstance(ts, float) and isinstance(dur, float)]
    assert max(ends) == pytest.approx(simulation.step_time_s * 1e6, abs=1e-3)
    for stage in simulation.stages:
        sizes = [
            e["args"]["bytes"]
            for e in events
            if e["ph"] == "C" and e["pid"] == stage.index + 1 and isinstance(e["args"], dict)
        ]
        assert max(map(int, sizes)) == stage.peak_memory_bytes
    gaps = [str(e["name"]) for e in events if e.get("cat") == "gap"]
    assert gaps == ["120 passes not shown"] * 2


def test_the_verb_cuts_long_steps_unless_told_not_to(
    make_plan: Callable[..., TrainingPlan],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """12,288 passes are more than are shown; --trace-all writes them."""
    plan = make_plan(
        Strategy(pp=6, dp=1, layers_per_chunk=(2,) * 6, recompute=(Recompute(),) * 6), batch=1024
    )
    path, trace = tmp_path / "plan.json", tmp_path / "trace.json"
    plan.save(path)
    counts = []
    for words in ([], ["--trace-all"]):
        assert main(["simulate", str(path), "--trace", str(trace), *words]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert ("of 12,288 passes" in said) == (not words)
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
        counts.append(sum(e.get("cat") in ("forward", "backward") for e in events))
    assert counts[0] <= 10_000
    assert counts[1] == 12_288
