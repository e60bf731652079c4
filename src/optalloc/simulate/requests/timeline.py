"""Timeline: queue, batch and cache of all engines together, over time."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]

ENGINE, START, END, ITERATIONS, PROMPT, SEQUENCES, WAITING, BLOCKS = range(8)
"""Columns of the stretches of a run."""


class Timeline(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Figures at ``time_s``; each has shape (points,).

    ``waiting`` and ``decoding`` are requests, ``kv_share`` the part of all blocks in use.
    """

    time_s: Reals
    waiting: Reals
    decoding: Reals
    kv_share: Reals


def timeline(
    stretches: NDArray[np.int64], blocks: Sequence[int], ticks_per_s: int, points: int
) -> Timeline:
    """Figures at evenly spaced times from 0 to the last end.

    An engine keeps the figures of a stretch until the next one begins; between the end of one and a
    later begin it rests, with none.

    Parameters
    ----------
    stretches : ndarray of int64, shape (n, 8)
        Of all engines.
    blocks : sequence of int
        Blocks of each engine.

    Complexity: O(n log n).
    """
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
    )
