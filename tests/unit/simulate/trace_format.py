"""The Trace Event Format as Perfetto's trace processor reads it: what every event must have.

Its importer of JSON drops what does not keep to this, without a word in the interface: numbers or
hexadecimal words as ids, slices of a thread that nest, arrows that begin and end inside slices,
counters of numbers.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

_NEEDED = {
    "M": {"name", "pid", "args"},
    "X": {"name", "cat", "pid", "tid", "ts", "dur"},
    "C": {"name", "pid", "ts", "args"},
    "s": {"name", "cat", "pid", "tid", "ts", "id"},
    "t": {"name", "cat", "pid", "tid", "ts", "id"},
    "f": {"name", "cat", "pid", "tid", "ts", "id", "bp"},
    "b": {"name", "cat", "pid", "tid", "ts", "id2"},
    "e": {"name", "cat", "pid", "tid", "ts", "id2"},
}
_METADATA = {
    "process_name": ("name", str),
    "thread_name": ("name", str),
    "process_sort_index": ("sort_index", int),
    "thread_sort_index": ("sort_index", int),
}


def check_trace(events: Iterable[Any]) -> dict[str, int]:
    """Assert that events are well formed; returns how many there are of each phase."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        assert set(event) >= _NEEDED[event["ph"]], event
        assert type(event["pid"]) is int, event
        if "ts" in event:
            assert event["ts"] >= 0, event
        found[event["ph"]].append(event)
    for event in found["M"]:
        key, kind = _METADATA[event["name"]]
        assert type(event["args"][key]) is kind, event
    for event in found["C"]:
        assert event["args"], event
        assert all(type(value) in (int, float) for value in event["args"].values()), event
    slices = _check_slices(found["X"])
    _check_arrows(found["s"] + found["t"] + found["f"], slices)
    _check_spans(found["b"], found["e"])
    return {phase: len(some) for phase, some in found.items() if some}


def _ns(us: float) -> int:
    return round(us * 1000)


def _check_slices(slices: list[dict[str, Any]]) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Slices of a thread nest; returns the times of each, in nanoseconds."""
    threads: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for event in slices:
        assert type(event["tid"]) is int, event
        assert event["dur"] >= 0, event
        begin = _ns(event["ts"])
        threads[event["pid"], event["tid"]].append((begin, begin + _ns(event["dur"])))
    for times in threads.values():
        times.sort(key=lambda time: (time[0], -time[1]))
        ends: list[int] = []
        for begin, end in times:
            while ends and ends[-1] <= begin:
                ends.pop()
            assert not ends or end <= ends[-1], (begin, end)
            ends.append(end)
    return threads


def _check_arrows(
    points: list[dict[str, Any]], slices: dict[tuple[int, int], list[tuple[int, int]]]
) -> None:
    """Each begins, goes on and ends inside slices, in order of time; its id is a number."""
    arrows: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for event in points:
        assert type(event["id"]) is int, event
        time = _ns(event["ts"])
        inside = slices[event["pid"], event["tid"]]
        assert any(begin <= time < end for begin, end in inside), event
        arrows[event["id"]].append((time, event["ph"]))
    for arrow in arrows.values():
        assert re.fullmatch("st*f", "".join(phase for _, phase in arrow)), arrow
        assert [time for time, _ in arrow] == sorted(time for time, _ in arrow), arrow


def _check_spans(begun: list[dict[str, Any]], ended: list[dict[str, Any]]) -> None:
    """Each that begins ends, no earlier, with the same name, category and hexadecimal id."""

    def times(events: list[dict[str, Any]]) -> dict[tuple[object, ...], float]:
        found: dict[tuple[object, ...], float] = {}
        for event in events:
            assert re.fullmatch("0x[0-9a-f]+", event["id2"]["local"]), event
            key = (event["pid"], event["cat"], event["id2"]["local"], event["name"])
            assert key not in found, event
            found[key] = event["ts"]
        return found

    begins, ends = times(begun), times(ended)
    assert set(begins) == set(ends)
    assert all(ends[key] >= begin for key, begin in begins.items())
