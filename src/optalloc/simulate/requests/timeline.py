"""Timeline: queue, batch and cache of all engines together, over time."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.simulate.requests.kernel import Run
from optalloc.simulate.requests.load import Requests

Reals = NDArray[np.float64]

ENGINE, START, END, ITERATIONS, PROMPT, SEQUENCES, WAITING, BLOCKS = range(8)
"""Columns of the stretches of a run."""


class Timeline(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Figures at ``time_s``; each has shape (points,).

    ``waiting`` and ``decoding`` are requests, ``kv_share`` the part of all blocks in use, and
    ``hit_share`` the part of prompt tokens that was found cached, of the requests first scheduled
    since the time before; nan where there was none.
    """

    time_s: Reals
    waiting: Reals
    decoding: Reals
    kv_share: Reals
    hit_share: Reals


def timeline(
    run: Run, requests: Requests, blocks: Sequence[int], ticks_per_s: int, points: int
) -> Timeline:
    """Figures at evenly spaced times from 0 to the last end.

    An engine keeps the figures of a stretch until the next one begins; between the end of one and a
    later begin it rests, with none.

    Parameters
    ----------
    run : Run
        Recorded.
    blocks : sequence of int
        Blocks of each engine.

    Complexity: O(n log n).
    """
    stretches = run.stretches
    time = np.linspace(0.0, float(stretches[:, END].max()), points)
    totals = np.zeros((3, points))
    for engine in range(len(blocks)):
        mine = stretches[stretches[:, ENGINE] == engine]
        if not len(mine):
            continue
        at = np.searchsorted(mine[:, START], time, side="right") - 1
        works = (at >= 0) & (time < mine[at, END])
        for row, column in zip(totals, (WAITING, SEQUENCES, BLOCKS), strict=True):
            row += np.where(works, mine[at, column], 0.0)
    return Timeline(
        time_s=time / ticks_per_s,
        waiting=totals[0],
        decoding=totals[1],
        kv_share=totals[2] / sum(blocks),
        hit_share=_hit_share(run, requests, time),
    )


def _hit_share(run: Run, requests: Requests, time: Reals) -> Reals:
    """Tokens found by tokens of prompts, between each time and the one before."""
    at = np.minimum(np.searchsorted(time, run.start), time.size - 1)
    found, read = (
        np.bincount(at, weights=tokens, minlength=time.size)
        for tokens in (run.hits, requests.input_tokens)
    )
    shares = np.full(time.size, np.nan)
    np.divide(found, read, out=shares, where=read > 0.0)
    return shares
