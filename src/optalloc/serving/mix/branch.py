"""Which count to cut a box at. The choice changes how long a search takes, never what it proves."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from optalloc.serving.mix.arrays import Counts, FleetArrays, Reals
from optalloc.serving.mix.relax import Relaxed
from optalloc.serving.mix.whole import WholeRelaxation

WHOLE = 1e-6  # a count this close to a whole number is one
_ENOUGH = 3  # gains of a side after which it is no longer tried
_TRIED = 8  # offers of a box that are tried at most
_LEAST = 1e-4  # gains below this share of the room count as this


class Branching(Protocol):
    """Chooses where to cut."""

    def where(self, found: Relaxed, low: Counts, high: Counts, cutoff: float) -> tuple[int, int]:
        """The offer to cut a box at, and the last count of the lower part."""


class Dearest:
    """Cuts at the dearest broken count."""

    def __init__(self, arrays: FleetArrays) -> None:
        self._price = arrays.price

    def where(self, found: Relaxed, low: Counts, high: Counts, cutoff: float) -> tuple[int, int]:  # noqa: ARG002
        """The offer to cut a box at, and the last count of the lower part."""
        counts, part = _broken(found, low, high)
        score = np.where(part > WHOLE, part * self._price, -1.0)
        g = int(score.argmax())
        return (g, math.floor(counts[g])) if score[g] >= 0.0 else _widest(counts, low, high)


class Tried:
    """Cuts where the two sides raise the bound most.

    What a side gains is tried by bounding it without further cuts until enough is known of the
    offer, and then estimated from the mean gain per broken part (pseudo-costs).
    """

    def __init__(self, arrays: FleetArrays, relaxation: WholeRelaxation) -> None:
        self._arrays, self._relaxation = arrays, relaxation
        self._sum: Reals = np.zeros((2, len(arrays.price)))
        self._seen: Counts = np.zeros((2, len(arrays.price)), dtype=np.int64)

    def where(self, found: Relaxed, low: Counts, high: Counts, cutoff: float) -> tuple[int, int]:
        """The offer to cut a box at, and the last count of the lower part."""
        counts, part = _broken(found, low, high)
        broken = np.flatnonzero(part > WHOLE)
        if not broken.size:
            return _widest(counts, low, high)
        part = counts - np.floor(counts)
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
                self._saw(g, gain, part[g])
            score = float(_score(gain, room))
            if score > most:
                best, most = g, score
            if gain.max() >= room:
                break
        return best, math.floor(counts[best])

    def _saw(self, offer: int, gain: Reals, part: float) -> None:
        """Keep what fewer and more of a count broken by ``part`` gained."""
        seen = np.isfinite(gain)
        self._sum[seen, offer] += (gain / np.array([part, 1.0 - part]))[seen]
        self._seen[seen, offer] += 1

    def _tried(
        self, found: Relaxed, low: Counts, high: Counts, g: int, at: int, cutoff: float
    ) -> Reals:
        below, above = high.copy(), low.copy()
        below[g], above[g] = at, at + 1
        fewer = self._relaxation.box(low, below, cutoff, rounds=0).bound
        more = self._relaxation.box(above, high, cutoff, rounds=0).bound
        return np.maximum(0.0, np.array([fewer, more]) - found.bound)


def _broken(found: Relaxed, low: Counts, high: Counts) -> tuple[Reals, Reals]:
    """Counts of the relaxation, and how far each that may still change is from a whole number."""
    counts = np.clip(found.counts, low, high)
    part = counts - np.floor(counts)
    return counts, np.where(high > low, np.minimum(part, 1.0 - part), 0.0)


def _widest(counts: Reals, low: Counts, high: Counts) -> tuple[int, int]:
    g = int((high - low).argmax())
    return g, min(round(counts[g]), int(high[g]) - 1)


def _score(gains: Reals, room: float) -> Reals:
    gains = np.clip(gains, _LEAST * room, room)
    score: Reals = gains[0] * gains[1]
    return score
