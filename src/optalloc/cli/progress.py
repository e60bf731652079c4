"""The progress line: incumbent, bound and gap on one line of the terminal, rewritten in place."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from optalloc.stop import Progress

_EVERY_S = 0.1


def _plain(value: float) -> str:
    return f"{value:,.10g}"


class ProgressLine:
    """Writes to stderr at most ten times a second; ``show`` turns a value into words."""

    def __init__(self, show: Callable[[float], str] = _plain) -> None:
        self._show = show
        self._last_s, self._width = -1.0, 0

    def __call__(self, progress: Progress) -> None:
        if progress.elapsed_s - self._last_s < _EVERY_S:
            return
        self._last_s = progress.elapsed_s
        best = "-" if progress.incumbent is None else self._show(progress.incumbent)
        bound = "-" if progress.bound is None else self._show(progress.bound)
        gap = "" if progress.gap == float("inf") else f"  gap {progress.gap:.3%}"
        text = f"{progress.elapsed_s:7.1f} s  best {best}  bound {bound}{gap}"
        text += f"  {progress.nodes:,} nodes"
        print("\r" + text.ljust(self._width), end="", file=sys.stderr, flush=True)
        self._width = len(text)

    def close(self) -> None:
        """Clear the line."""
        if self._width:
            print("\r" + " " * self._width + "\r", end="", file=sys.stderr, flush=True)


@contextmanager
def progress_line(show: Callable[[float], str] = _plain) -> Iterator[ProgressLine | None]:
    """A progress line for as long as a search runs; None where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    line = ProgressLine(show)
    try:
        yield line
    finally:
        line.close()
