"""trace.py: the trace parses, covers the step and nests, and its arrows stay inside slices."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.simulate.trace_format import check_trace

from optalloc.simulate.costs import Tail
from optalloc.simulate.simulation import simulate
from optalloc.simulate.trace import trace_events
from optalloc.training.plan import TrainingPlan
from optalloc.training.schedule import run_pipeline
from optalloc.training.strategy import Recompute, Schedule, Strategy


def _events(schedule: Schedule, link_s: float) -> list[dict[str, Any]]:
    """Three stages with 0.25 s of tail each and 0.125 s of overhead behind the step's last tail."""
    v = 2 if schedule == "interleaved" else 1
    n = 3 * v
    run = run_pipeline(schedule, 3, v, 6, [1.0] * n, [1.0] * n, [0.5] * n, [link_s] * (n - 1))
    tail = Tail(reduce_s=0.125, tied_s=0.0, update_s=0.125, gather_s=0.0)
    memory = [((0.0, 1.0), (100, 200))] * 3
    events = trace_events(run, [tail] * 3, memory, 0.125, run.end_s + 0.375)
    return [dict(event) for event in events]


def _slices(events: list[dict[str, Any]]) -> dict[tuple[int, int], list[tuple[int, int, str]]]:
    """(start, end, name) in nanoseconds by process and thread, in order of start and length."""
    found: dict[tuple[int, int], list[tuple[int, int, str]]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            start = round(event["ts"] * 1000)
            end = start + round(event["dur"] * 1000)
            found[event["pid"], event["tid"]].append((start, end, event["name"]))
    return {key: sorted(rows, key=lambda r: (r[0], -r[1])) for key, rows in found.items()}


@pytest.mark.parametrize("link_s", [0.0, 0.25, 5.0])
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved", "zb-h1"])
def test_events_are_well_formed(schedule: Schedule, link_s: float) -> None:
    """Slices nest, also where transfers overlap in time, and an arrow follows each transfer."""
    found = check_trace(_events(schedule, link_s))
    chunks = 6 if schedule == "interleaved" else 3
    assert found["s"] == found["f"] == 2 * 6 * (chunks - 1)


@pytest.mark.parametrize("link_s", [0.0, 0.25, 5.0])
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved", "zb-h1"])
def test_arrows_touch_slices(schedule: Schedule, link_s: float) -> None:
    """Each arrow starts in a pass, ends at one of the same micro-batch, and never goes back."""
    events = _events(schedule, link_s)
    slices = _slices(events)
    arrows: dict[int, list[tuple[str, int, str]]] = defaultdict(list)
    for event in events:
        if event["ph"] in "stf":
            time = round(event["ts"] * 1000)
            inside = [n for a, b, n in slices[event["pid"], event["tid"]] if a <= time < b]
            assert len(inside) == 1
            arrows[event["id"]].append((event["ph"], time, inside[0]))
    chunks = 6 if schedule == "interleaved" else 3
    assert len(arrows) == 2 * 6 * (chunks - 1)
    for points in arrows.values():
        assert "".join(phase for phase, _, _ in points) == ("stf" if link_s else "sf")
        assert [time for _, time, _ in points] == sorted(time for _, time, _ in points)
        assert points[0][2] == points[-1][2]


def test_overlapping_transfers_take_lanes_of_their_own() -> None:
    """Stage 0 sends every 1 s over a link of 5 s: three warm-up forwards are on the way at once."""
    events = _events("1f1b", 5.0)
    names = {
        event["args"]["name"]
        for event in events
        if event["name"] == "thread_name" and event["pid"] == 1
    }
    assert names == {"passes", "send forward", "send forward 2", "send forward 3"}


def test_tails_follow_the_last_pass() -> None:
    """Stage 2 of 1F1B ends its passes first; reduction and optimizer touch them."""
    rows = _slices(_events("1f1b", 0.0))[3, 1]
    last, reduce, update = rows[-3:]
    assert (last[2], reduce[2], update[2]) == ("backward 5", "reduce gradients", "optimizer")
    assert (reduce[0], update[0], update[1]) == (last[1], reduce[1], last[1] + 250_000_000)


def test_written_trace_covers_the_step(
    make_plan: Callable[..., TrainingPlan], tmp_path: Path
) -> None:
    """The file is valid JSON, ends at the step time, and counts memory up to each stage's peak."""
    strategy = Strategy(
        pp=3,
        dp=4,
        zero_stage=0,
        layers_per_chunk=(4, 4, 4),
        recompute=(Recompute(1), Recompute(), Recompute()),
    )
    simulation = simulate(make_plan(strategy))
    path = tmp_path / "step.trace.json"
    simulation.trace.write(path)
    events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    ends = [end for rows in _slices(events).values() for _, end, _ in rows]
    assert max(ends) == round(simulation.step_time_s * 1e9)
    named = {e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert named == {"stage 0", "stage 1", "stage 2", "step"}
    for stage in simulation.stages:
        counts = [
            e["args"]["bytes"] for e in events if e["ph"] == "C" and e["pid"] == stage.index + 1
        ]
        assert max(counts) == stage.peak_memory_bytes
    passes = [e for e in events if e["ph"] == "X" and e["cat"] in ("forward", "backward")]
    assert len(passes) == 2 * 3 * 16
    assert [p.name for p in tmp_path.iterdir()] == ["step.trace.json"]
