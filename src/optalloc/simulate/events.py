"""Events: the JSON trace format that Perfetto and Chrome read, and its file.

Times are whole nanoseconds, written in microseconds as the format wants.

References: Google, "Trace Event Format" (phases M, X, s, t, f, b, e and C).
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec

from optalloc import files

Arguments = Mapping[str, str | int | float]
Event = dict[str, str | int | float | Arguments]


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


def to_ns(time_s: float) -> int:
    """The whole nanosecond next to a time."""
    return round(time_s * 1e9)


def to_us(time_ns: int) -> float:
    """A time as it is written."""
    return time_ns / 1000


def process_events(process: int, name: str, place: int) -> list[Event]:
    """Name and place of a process."""
    return [
        {"ph": "M", "name": "process_name", "pid": process, "args": {"name": name}},
        {"ph": "M", "name": "process_sort_index", "pid": process, "args": {"sort_index": place}},
    ]


def thread_event(process: int, thread: int, name: str) -> Event:
    """Name of a thread."""
    return {
        "ph": "M",
        "name": "thread_name",
        "pid": process,
        "tid": thread,
        "args": {"name": name},
    }


def slice_event(
    name: str,
    process: int,
    thread: int,
    start_s: float,
    end_s: float,
    category: str = "step",
    arguments: Arguments | None = None,
) -> Event:
    """A slice between two times, both rounded to a nanosecond, so that neighbours keep touching."""
    start, end = to_ns(start_s), to_ns(end_s)
    event: Event = {
        "ph": "X",
        "name": name,
        "cat": category,
        "pid": process,
        "tid": thread,
        "ts": to_us(start),
        "dur": to_us(end - start),
    }
    if arguments is not None:
        event["args"] = arguments
    return event


def counter_event(name: str, process: int, time_s: float, values: Arguments) -> Event:
    """What a counter shows from a time on."""
    return {
        "ph": "C",
        "name": name,
        "pid": process,
        "ts": to_us(to_ns(time_s)),
        "args": values,
    }


def span_events(
    name: str,
    process: int,
    number: int,
    start_s: float,
    end_s: float,
    arguments: Arguments | None = None,
) -> list[Event]:
    """Begin and end of a span on a track of its own, told from others by its number."""
    place = {"local": f"{number:#x}"}  # of this process; a plain id has no process in Perfetto
    same: Event = {"name": name, "cat": "request", "id2": place, "pid": process, "tid": 0}
    begin: Event = {"ph": "b", "ts": to_us(to_ns(start_s)), **same}
    if arguments is not None:
        begin["args"] = arguments
    return [begin, {"ph": "e", "ts": to_us(to_ns(end_s)), **same}]
