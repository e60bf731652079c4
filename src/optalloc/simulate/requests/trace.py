"""Trace of a simulation: a process an engine with its iterations, and a span for each request.

A stretch of equal iterations is one slice. Counters show the queue, the batch and the blocks in
use. The spans of a request are waiting, reading its prompt and decoding; with two pools, also the
way between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from optalloc.simulate.events import (
    Event,
    Trace,
    counter_event,
    process_events,
    slice_event,
    span_events,
    thread_event,
)
from optalloc.simulate.requests.kernel import Run
from optalloc.simulate.requests.load import Requests

MOST_STRETCHES = 20_000
MOST_REQUESTS = 2_000
"""What a trace shows of a long simulation, from its beginning: about 20 MB."""

_ITERATIONS = 1


def request_trace(requests: Requests, run: Run, blocks: Sequence[int], ticks_per_s: int) -> Trace:
    """The beginning of a simulation as a trace.

    Complexity: O(stretches and requests shown).
    """
    events: list[Event] = []
    for engine in range(len(blocks)):
        events += process_events(engine + 1, f"engine {engine}", engine)
        events.append(thread_event(engine + 1, _ITERATIONS, "iterations"))
    shown = run.stretches[:MOST_STRETCHES]
    for stretch in shown.tolist():
        events += _stretch(stretch, blocks, ticks_per_s)
    until = int(shown[-1, 2]) if len(shown) < len(run.stretches) else None
    process = len(blocks) + 1
    events += process_events(process, "requests", len(blocks))
    for request in range(min(len(requests), MOST_REQUESTS)):
        if until is None or run.finish[request] <= until:
            events += _request(request, requests, run, process, ticks_per_s)
    return Trace(events=tuple(events))


def _stretch(stretch: Sequence[int], blocks: Sequence[int], ticks_per_s: int) -> Iterator[Event]:
    engine, start, end, iterations, prompt, decoding, waiting, used = stretch
    parts = [f"read {prompt} tokens"] if prompt else []
    parts += [f"decode {decoding}" + (f" x {iterations}" if iterations > 1 else "")] * (
        decoding > 0
    )
    start_s, process = start / ticks_per_s, engine + 1
    yield slice_event(
        ", ".join(parts),
        process,
        _ITERATIONS,
        start_s,
        end / ticks_per_s,
        "iteration",
        {"iterations": iterations, "prompt_tokens": prompt, "sequences": decoding},
    )
    yield counter_event("requests", process, start_s, {"waiting": waiting, "decoding": decoding})
    yield counter_event("cache", process, start_s, {"share": used / blocks[engine]})


def _request(
    request: int, requests: Requests, run: Run, process: int, ticks_per_s: int
) -> Iterator[Event]:
    arrival, start, first, handed, finish = (
        int(times[request]) / ticks_per_s
        for times in (run.arrival, run.start, run.first, run.handed, run.finish)
    )
    name = f"request {request}"
    yield from span_events(
        name,
        process,
        request,
        arrival,
        finish,
        {
            "input_tokens": int(requests.input_tokens[request]),
            "output_tokens": int(requests.output_tokens[request]),
            "cached_tokens": int(run.hits[request]),
            "preemptions": int(run.preemptions[request]),
            "rank": int(run.rank[request]),
        },
    )
    yield from span_events("wait", process, request, arrival, start)
    yield from span_events("read the prompt", process, request, start, first)
    if handed > 0.0:
        yield from span_events("hand over", process, request, first, handed)
    yield from span_events("decode", process, request, max(first, handed), finish)
