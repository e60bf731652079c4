"""Which count to cut a box at. The choice changes how long a search takes, never what it proves."""

from __future__ import annotations

import math

import numpy as np

from optalloc.serving.mix.arrays import Counts, FleetArrays, Reals
from optalloc.serving.mix.relax import Relaxation, Relaxed
from optalloc.serving.mix.whole import WholeRelaxation

WHOLE = 1e-6  # a count this close to a whole number is one
_ENOUGH = 3  # gains of a side after which it is no longer tried
_TRIED = 8  # offers of a box that are tried at most
_LEAST = 1e-4  # gains below this share of the room count as this


class Branching:
    """Cuts where the two sides raise the bound most: totals of kinds, or else counts of offers.

    What a side gains is tried by bounding it without further rows until enough is known of the
    entry, and then estimated from the mean gain per broken part (pseudo-costs).
    """

    def __init__(self, arrays: FleetArrays, relaxation: Relaxation | WholeRelaxation) -> None:
        self._relaxation = relaxation
        self._offers, self._owner = len(arrays.price), arrays.owner
        #: Offers of one kind do not fail alike where a region fails.
        self._alike = not any(scenario.whole for scenario in arrays.scenarios)
        cheapest = np.array([arrays.price[m].min() for m in arrays.members])
        self._price: Reals = np.concatenate(
            [arrays.price, cheapest, cheapest[arrays.kind_of_group]]
        )
        self._sum: Reals = np.zeros((2, len(self._price)))
        self._seen: Counts = np.zeros((2, len(self._price)), dtype=np.int64)

    def where(self, found: Relaxed, low: Counts, high: Counts, cutoff: float) -> tuple[int, int]:
        """The entry to cut a box at, and the last count of the lower part."""
        counts, broken = self._broken(found, low, high)
        if not broken.size:
            g = int((high - low)[: self._offers].argmax())
            return g, min(round(counts[g]), int(high[g]) - 1)
        part = counts - np.floor(counts)
        room = cutoff - found.bound if math.isfinite(cutoff) else float(self._price.max())
        unit = self._sum / np.maximum(self._seen, 1)
        mean = self._sum.sum() / max(1, self._seen.sum())
        unit = np.where(self._seen > 0, unit, mean)
        gains = np.array([unit[0, broken] * part[broken], unit[1, broken] * (1.0 - part[broken])])
        order = np.argsort(-_score(gains, room) - 1e-12 * self._price[broken], kind="stable")
        best, most = int(broken[order[0]]), -1.0
        tried = 0
        for i in order:
            e, gain = int(broken[i]), gains[:, i]
            if self._seen[:, e].min() < _ENOUGH and tried < _TRIED:
                tried += 1
                gain = self._tried(found, low, high, self._cut(e, counts), cutoff)
                self._saw(e, gain, part[e])
            score = float(_score(gain, room))
            if score > most:
                best, most = e, score
            if gain.max() >= room:
                break
        return self._cut(best, counts)

    def _broken(self, found: Relaxed, low: Counts, high: Counts) -> tuple[Reals, Counts]:
        """Counts of the relaxation, and those that are not whole, of kinds and groups first."""
        low = np.append(low, np.minimum(low[self._owner], 1))
        high = np.append(high, np.minimum(high[self._owner], 1))
        counts = np.clip(found.counts, low, high)
        off = np.where(high > low, np.abs(counts - np.rint(counts)), 0.0)
        broken = np.flatnonzero(off > WHOLE)
        totals = broken[broken >= self._offers]
        return counts, totals if totals.size and self._alike else broken

    def _cut(self, entry: int, counts: Reals) -> tuple[int, int]:
        """Where an entry of the counts cuts a box; a group has something or nothing."""
        group = entry - (len(counts) - len(self._owner))
        return (int(self._owner[group]), 0) if group >= 0 else (entry, math.floor(counts[entry]))

    def _saw(self, entry: int, gain: Reals, part: float) -> None:
        """Keep what fewer and more of a count broken by ``part`` gained."""
        seen = np.isfinite(gain)
        self._sum[seen, entry] += (gain / np.array([part, 1.0 - part]))[seen]
        self._seen[seen, entry] += 1

    def _tried(
        self, found: Relaxed, low: Counts, high: Counts, cut: tuple[int, int], cutoff: float
    ) -> Reals:
        entry, at = cut
        below, above = high.copy(), low.copy()
        below[entry], above[entry] = at, at + 1
        fewer = self._relaxation.box(low, below, cutoff, rounds=0).bound
        more = self._relaxation.box(above, high, cutoff, rounds=0).bound
        return np.maximum(0.0, np.array([fewer, more]) - found.bound)


def _score(gains: Reals, room: float) -> Reals:
    gains = np.clip(gains, _LEAST * room, room)
    score: Reals = gains[0] * gains[1]
    return score
