"""EventQueue: what happens next in a simulation."""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

T = TypeVar("T")


class EventQueue(Generic[T]):
    """Events in order of time; events of equal time come in the order they were put in.

    Times are seconds, kept as the floats they were given as: a time is only ever compared and
    copied here, so no rounding enters.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._count = 0

    def put(self, time_s: float, event: T) -> None:
        """Let ``event`` happen at ``time_s``."""
        heapq.heappush(self._heap, (time_s, self._count, event))
        self._count += 1

    def next(self) -> tuple[float, T]:
        """Remove and return the earliest event with its time, seconds."""
        time_s, _, event = heapq.heappop(self._heap)
        return time_s, event

    def __bool__(self) -> bool:
        return bool(self._heap)
