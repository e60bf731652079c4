"""Trace: a simulated step in the JSON trace format that Perfetto and Chrome read.

A process a stage, with a thread for its passes and one for each direction of sending; arrows follow
a micro-batch from pass to transfer to pass; a counter shows the memory of the fullest device. A
last process spans the whole step. Times are whole nanoseconds, written in microseconds as the
format wants.

References: Google, "Trace Event Format" (phases M, X, s, t, f and C).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import msgspec

from optalloc import files
from optalloc.simulate.costs import Tail
from optalloc.simulate.excerpt import Gap
from optalloc.training.schedule import Operation, PipelineRun, Transfer

Arguments = dict[str, str | int]
Event = dict[str, str | int | float | Arguments]

PASSES = 1
"""Thread of the passes; the threads of the transfers follow."""

_TAIL_NAMES = {
    "reduce_s": "reduce gradients",
    "tied_s": "sum tied embedding",
    "update_s": "optimizer",
    "gather_s": "gather weights",
}


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """Events of a trace; ``write`` saves them as one JSON file."""

    events: tuple[Event, ...]

    def text(self) -> str:
        """The file's text: valid JSON, one event a line."""
        lines = ",\n".join(msgspec.json.encode(event).decode() for event in self.events)
        return f'{{"displayTimeUnit":"ms","traceEvents":[\n{lines}\n]}}\n'

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the trace whole or not at all; open it at https://ui.perfetto.dev."""
        files.write_text(path, self.text())


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
        events += _named(process, f"stage {stage}", stage)
        events.append(_thread(process, PASSES, "passes"))
        events += [_pass(op) for op in operations]
        gap = gaps[stage] if gaps else None
        if gap is not None:
            words = f"{gap.num_passes:,} passes not shown"
            events.append(_slice(words, process, PASSES, gap.start_s, gap.end_s, "gap"))
        events += _tail(process, run.stage_end_s[stage], tails[stage])
        times, sizes = memory[stage]
        events += [
            {
                "ph": "C",
                "name": "memory",
                "pid": process,
                "ts": _us(_ns(time_s)),
                "args": {"bytes": size},
            }
            for time_s, size in zip(times, sizes, strict=True)
        ]
    events += _transfers(run)
    whole = len(run.operations) + 1
    events += _named(whole, "step", whole)
    events.append(_slice("optimizer step", whole, PASSES, 0.0, step_time_s))
    if fixed_s > 0:
        start_s = step_time_s - fixed_s
        events.append(_slice("fixed overhead", whole, PASSES, start_s, step_time_s))
    return tuple(events)


def _ns(time_s: float) -> int:
    return round(time_s * 1e9)


def _us(time_ns: int) -> float:
    return time_ns / 1000


def _named(process: int, name: str, place: int) -> list[Event]:
    return [
        {"ph": "M", "name": "process_name", "pid": process, "args": {"name": name}},
        {"ph": "M", "name": "process_sort_index", "pid": process, "args": {"sort_index": place}},
    ]


def _thread(process: int, thread: int, name: str) -> Event:
    return {
        "ph": "M",
        "name": "thread_name",
        "pid": process,
        "tid": thread,
        "args": {"name": name},
    }


def _slice(
    name: str,
    process: int,
    thread: int,
    start_s: float,
    end_s: float,
    category: str = "step",
    arguments: Arguments | None = None,
) -> Event:
    """A slice between two times, both rounded to a nanosecond, so that neighbours keep touching."""
    start, end = _ns(start_s), _ns(end_s)
    event: Event = {
        "ph": "X",
        "name": name,
        "cat": category,
        "pid": process,
        "tid": thread,
        "ts": _us(start),
        "dur": _us(end - start),
    }
    if arguments is not None:
        event["args"] = arguments
    return event


def _pass(op: Operation) -> Event:
    return _slice(
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
            yield _slice(name, process, PASSES, start_s, start_s + length_s, "tail")
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
        arrow = [(source.stage + 1, PASSES, max(_ns(source.start_s), _ns(source.end_s) - 1))]
        if _ns(transfer.end_s) > _ns(transfer.start_s):
            process = transfer.from_stage + 1
            mine = lanes.setdefault((transfer.from_stage, transfer.kind), [])
            lane = next(
                (k for k, (_, end) in enumerate(mine) if end <= _ns(transfer.start_s)), len(mine)
            )
            if lane == len(mine):
                threads[transfer.from_stage] += 1
                mine.append((threads[transfer.from_stage], 0))
                again = f" {lane + 1}" if lane else ""
                yield _thread(process, mine[lane][0], f"send {transfer.kind}{again}")
            thread = mine[lane][0]
            mine[lane] = (thread, _ns(transfer.end_s))
            yield _sent(transfer, thread)
            arrow.append((process, thread, _ns(transfer.start_s)))
        arrow.append((target.stage + 1, PASSES, _ns(target.start_s)))
        yield from _arrow(number, arrow)


def _sent(transfer: Transfer, thread: int) -> Event:
    return _slice(
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
            "ts": _us(time),
        }
        if phase == "f":
            event["bp"] = "e"
        yield event
