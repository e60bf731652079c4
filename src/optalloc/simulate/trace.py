"""Trace: a simulated step in the JSON trace format that Perfetto and Chrome read.

A process a stage, with a thread for its passes and one for each direction of sending; arrows follow
a micro-batch from pass to transfer to pass; a counter shows the memory of the fullest device. A
last process spans the whole step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from optalloc.simulate.costs import Tail
from optalloc.simulate.events import (
    Event,
    counter_event,
    process_events,
    slice_event,
    thread_event,
    to_ns,
    to_us,
)
from optalloc.simulate.excerpt import Gap
from optalloc.training.schedule import Operation, PipelineRun, Transfer

PASSES = 1
"""Thread of the passes; the threads of the transfers follow."""

_TAIL_NAMES = {
    "reduce_s": "reduce gradients",
    "tied_s": "sum tied embedding",
    "update_s": "optimizer",
    "gather_s": "gather weights",
}


def trace_events(
    run: PipelineRun,
    tails: Sequence[Tail],
    memory: Sequence[tuple[Sequence[float], Sequence[int]]],
    fixed_s: float,
    step_time_s: float,
    gaps: Sequence[Gap | None] = (),
) -> tuple[Event, ...]:
    """All events of a step.

    Parameters
    ----------
    run : PipelineRun
        Passes and transfers.
    tails : sequence of Tail
        What each stage does behind its last pass.
    memory : sequence of (times in seconds, bytes)
        Steps of the memory counter, one pair a stage.
    fixed_s, step_time_s : float
        Overhead at the end of the step and end of the step, seconds.
    gaps : sequence of Gap or None
        What an excerpt leaves out of each stage.

    Complexity: O(n log n) for n passes and transfers.
    """
    events: list[Event] = []
    for stage, operations in enumerate(run.operations):
        process = stage + 1
        events += process_events(process, f"stage {stage}", stage)
        events.append(thread_event(process, PASSES, "passes"))
        events += [_pass(op) for op in operations]
        gap = gaps[stage] if gaps else None
        if gap is not None:
            words = f"{gap.num_passes:,} passes not shown"
            events.append(slice_event(words, process, PASSES, gap.start_s, gap.end_s, "gap"))
        events += _tail(process, run.stage_end_s[stage], tails[stage])
        times, sizes = memory[stage]
        events += [
            counter_event("memory", process, time_s, {"bytes": size})
            for time_s, size in zip(times, sizes, strict=True)
        ]
    events += _transfers(run)
    whole = len(run.operations) + 1
    events += process_events(whole, "step", whole)
    events.append(slice_event("optimizer step", whole, PASSES, 0.0, step_time_s))
    if fixed_s > 0:
        start_s = step_time_s - fixed_s
        events.append(slice_event("fixed overhead", whole, PASSES, start_s, step_time_s))
    return tuple(events)


def _pass(op: Operation) -> Event:
    return slice_event(
        f"{op.kind} {op.micro_batch}",
        op.stage + 1,
        PASSES,
        op.start_s,
        op.end_s,
        op.kind,
        {"micro_batch": op.micro_batch, "chunk": op.chunk},
    )


def _tail(process: int, start_s: float, tail: Tail) -> Iterator[Event]:
    for field, name in _TAIL_NAMES.items():
        length_s: float = getattr(tail, field)
        if length_s > 0:
            yield slice_event(name, process, PASSES, start_s, start_s + length_s, "tail")
        start_s += length_s


def _transfers(run: PipelineRun) -> Iterator[Event]:
    """Slices of the transfers in as many lanes as overlap, and the arrows along them."""
    starts = {
        (op.kind, op.chunk, op.micro_batch): op
        for operations in run.operations
        for op in operations
    }
    lanes: dict[tuple[int, str], list[tuple[int, int]]] = {}  # (thread, end in nanoseconds)
    threads = [PASSES] * len(run.operations)
    ordered = sorted(run.transfers, key=lambda t: (t.start_s, t.from_chunk, t.kind))
    for number, transfer in enumerate(ordered):
        source = starts[transfer.kind, transfer.from_chunk, transfer.micro_batch]
        target = starts[transfer.kind, transfer.to_chunk, transfer.micro_batch]
        arrow = [
            (
                source.stage + 1,
                PASSES,
                max(to_ns(source.start_s), to_ns(source.end_s) - 1),
            )
        ]
        if to_ns(transfer.end_s) > to_ns(transfer.start_s):
            process = transfer.from_stage + 1
            mine = lanes.setdefault((transfer.from_stage, transfer.kind), [])
            lane = next(
                (k for k, (_, end) in enumerate(mine) if end <= to_ns(transfer.start_s)),
                len(mine),
            )
            if lane == len(mine):
                threads[transfer.from_stage] += 1
                mine.append((threads[transfer.from_stage], 0))
                again = f" {lane + 1}" if lane else ""
                yield thread_event(process, mine[lane][0], f"send {transfer.kind}{again}")
            thread = mine[lane][0]
            mine[lane] = (thread, to_ns(transfer.end_s))
            yield _sent(transfer, thread)
            arrow.append((process, thread, to_ns(transfer.start_s)))
        arrow.append((target.stage + 1, PASSES, to_ns(target.start_s)))
        yield from _arrow(number, arrow)


def _sent(transfer: Transfer, thread: int) -> Event:
    return slice_event(
        f"{transfer.kind} {transfer.micro_batch} to stage {transfer.to_stage}",
        transfer.from_stage + 1,
        thread,
        transfer.start_s,
        transfer.end_s,
        "transfer",
        {"micro_batch": transfer.micro_batch, "chunk": transfer.to_chunk},
    )


def _arrow(number: int, points: list[tuple[int, int, int]]) -> Iterator[Event]:
    """A flow through slices; a point is a process, a thread and a nanosecond inside the slice."""
    for k, (process, thread, time) in enumerate(points):
        phase = "s" if k == 0 else "f" if k + 1 == len(points) else "t"
        event: Event = {
            "ph": phase,
            "name": "micro-batch",
            "cat": "flow",
            "id": number,
            "pid": process,
            "tid": thread,
            "ts": to_us(time),
        }
        if phase == "f":
            event["bp"] = "e"
        yield event
