"""What a search for layer placements knows so far, and whether it should go on."""

from __future__ import annotations

import time
from collections.abc import Callable

from optalloc.result import Incumbent
from optalloc.serving.flow.arrays import FlowArrays
from optalloc.serving.flow.problem import Ranges
from optalloc.serving.flow.witness import Witness
from optalloc.stop import OnProgress, Progress, StopRule

#: Relative gap at which value and bound are equal.
TOLERANCE = 1e-6


class Journal:
    """Best placement and best bound over time; every placement offered is scored here.

    ``start`` is the first one offered, also if nothing flows through it.
    """

    def __init__(
        self, arrays: FlowArrays, stop: StopRule | None, on_progress: OnProgress | None
    ) -> None:
        self.arrays = arrays
        self.placement: dict[int, tuple[int, int]] = {}
        self.start: dict[int, tuple[int, int]] = {}
        self.value = 0.0
        self.bound = float("inf")
        self.witness: Witness | None = None
        self.incumbents: list[Incumbent] = []
        self.steps = 0
        self.stopped = False
        self._stop, self._on_progress = stop, on_progress
        self._start, self._start_cpu = time.perf_counter(), time.process_time()

    def offer(self, placement: Ranges) -> float:
        """Score a placement and keep it if it is the best; returns its flow."""
        flow = self.arrays.value(placement)
        self.start = self.start or dict(placement)
        if flow > self.value * (1.0 + 1e-12):
            self.value, self.placement = flow, dict(placement)
            self.incumbents.append(Incumbent(elapsed_s=self.elapsed_s(), value=flow))
        self.expired()
        return flow

    def lower(self, bound: float, witness: Witness) -> None:
        """Take a proven bound if it is the least."""
        if bound < self.bound:
            self.bound, self.witness = bound, witness
        self.expired()

    def closed(self) -> bool:
        """Whether value and bound meet."""
        return self.value >= self.bound * (1.0 - TOLERANCE)

    def expired(self) -> bool:
        """Report, and ask the stop rule; once it says so, always."""
        progress = Progress(
            elapsed_s=self.elapsed_s(),
            incumbent=self.value if self.placement else None,
            bound=self.bound if self.bound < float("inf") else None,
            nodes=self.steps,
        )
        if self._on_progress is not None:
            self._on_progress(progress)
        if not self.stopped and self._stop is not None and self._stop(progress):
            self.stopped = True
        return self.stopped

    def within(self, seconds: float) -> Callable[[], bool]:
        """A rule that also ends after CPU seconds from now."""
        end = time.process_time() + seconds
        return lambda: self.expired() or time.process_time() > end

    def elapsed_s(self) -> float:
        """Wall-clock seconds since the start."""
        return time.perf_counter() - self._start

    def cpu_s(self) -> float:
        """CPU seconds since the start."""
        return time.process_time() - self._start_cpu
