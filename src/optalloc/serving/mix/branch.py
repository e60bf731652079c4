"""Which count to cut a box at: the one whose two sides raise the bound most.

What a side gains is tried by bounding it without further cuts until enough is known of the offer,
and then estimated from the mean gain per broken part (pseudo-costs). The choice changes how long
a search takes, never what it proves.
"""

from __future__ import annotations

import math

import numpy as np

from optalloc.serving.mix.arrays import Counts, FleetArrays, Reals
from optalloc.serving.mix.relax import Relaxation, Relaxed

_WHOLE = 1e-6  # a count this close to a whole number is one
_ENOUGH = 3  # gains of a side after which it is no longer tried
_TRIED = 8  # offers of a box that are tried at most
_LEAST = 1e-4  # gains below this share of the room count as this


class Branching:
    """Gains seen so far, by side and offer."""

    def __init__(self, arrays: FleetArrays, relaxation: Relaxation) -> None:
        self._arrays, self._relaxation = arrays, relaxation
        self._sum: Reals = np.zeros((2, len(arrays.price)))
        self._seen: Counts = np.zeros((2, len(arrays.price)), dtype=np.int64)

    def where(self, found: Relaxed, low: Counts, high: Counts, cutoff: float) -> tuple[int, int]:
        """The offer to cut a box at, and the last count of the lower part."""
        counts = np.clip(found.counts, low, high)
        part = counts - np.floor(counts)
        broken = np.flatnonzero((high > low) & (np.minimum(part, 1.0 - part) > _WHOLE))
        if not broken.size:
            g = int((high - low).argmax())
            return g, min(round(counts[g]), int(high[g]) - 1)
        room = cutoff - found.bound if math.isfinite(cutoff) else float(self._arrays.price.max())
        unit = self._sum / np.maximum(self._seen, 1)
        mean = self._sum.sum() / max(1, self._seen.sum())
        unit = np.where(self._seen > 0, unit, mean)
        gains = np.array([unit[0, broken] * part[broken], unit[1, broken] * (1.0 - part[broken])])
        order = np.argsort(-_score(gains, room) - 1e-12 * self._arrays.price[broken], kind="stable")
        best, most = int(broken[order[0]]), -1.0
        tried = 0
        for i in order:
            g, gain = int(broken[i]), gains[:, i]
            if self._seen[:, g].min() < _ENOUGH and tried < _TRIED:
                tried += 1
                gain = self._tried(found, low, high, g, math.floor(counts[g]), cutoff)
                self.saw(g, 0, gain[0], part[g])
                self.saw(g, 1, gain[1], 1.0 - part[g])
            score = float(_score(gain, room))
            if score > most:
                best, most = g, score
            if gain.max() >= room:
                break
        return best, math.floor(counts[best])

    def saw(self, offer: int, side: int, gain: float, part: float) -> None:
        """Keep what a side (0: fewer, 1: more) of a count broken by ``part`` gained."""
        if math.isfinite(gain):
            self._sum[side, offer] += gain / part
            self._seen[side, offer] += 1

    def _tried(
        self, found: Relaxed, low: Counts, high: Counts, g: int, at: int, cutoff: float
    ) -> Reals:
        below, above = high.copy(), low.copy()
        below[g], above[g] = at, at + 1
        fewer = self._relaxation.box(low, below, cutoff, rounds=0).bound
        more = self._relaxation.box(above, high, cutoff, rounds=0).bound
        return np.maximum(0.0, np.array([fewer, more]) - found.bound)


def _score(gains: Reals, room: float) -> Reals:
    gains = np.clip(gains, _LEAST * room, room)
    score: Reals = gains[0] * gains[1]
    return score
