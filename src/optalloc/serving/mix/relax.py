"""The linear programme of a box of counts: its bound, its counts and the prices that prove it."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from optalloc._native import FleetBound
from optalloc.serving.mix.arrays import Counts, FleetArrays, Reals
from optalloc.serving.mix.witness import Proof, ScenarioPrices

_ROUNDS = 40  # of cuts a box
_PLENTY = 1e9  # times the fleet
_NOTHING = 1e-12  # replicas: none
#: Share by which a fleet may be overfull and still count as serving it all.
SHORT = 1e-9


class Relaxed(msgspec.Struct, frozen=True):
    """What is known of a box: no fleet in it costs less than ``bound`` (infinite: there is none).

    ``net`` is what another replica adds to the bound, USD/h; it is negative where the bound counts
    with the most replicas.
    """

    bound: float
    counts: Reals
    proof: Proof
    net: Reals


class Relaxation:
    """Bounds boxes of counts; scenarios enter once a fleet was met that they forbid."""

    def __init__(self, arrays: FleetArrays) -> None:
        self.arrays = arrays
        tables = (arrays.first, arrays.serving, arrays.load, arrays.num_kinds)
        self._boxes = FleetBound(*tables, arrays.use)
        self._busy = FleetBound(*tables, np.zeros((0, 1)))
        self._active = [0]
        self._cancel = np.zeros(1, dtype=np.int32)

    def box(self, low: Counts, high: Counts, cutoff: float, *, rounds: int = _ROUNDS) -> Relaxed:
        """Bound the fleets between ``low`` and ``high``, at least as far as ``cutoff``.

        ``rounds`` limits how often cuts are added: 0 leaves the counts as broken as they are.
        """
        while True:
            found = self._solve(low, high, cutoff, rounds)
            if found.bound >= cutoff:
                return found
            broken = [s for s in self._others() if not self._fits(s, found.counts, low, high)]
            if not broken:
                return found
            self._active += broken

    def serves(self, counts: Counts) -> bool:
        """Whether a fleet serves the load in every scenario."""
        return all(
            self._fits(s, counts.astype(np.float64), counts, counts)
            for s in [*self._active, *self._others()]
        )

    def _others(self) -> list[int]:
        return [s for s in range(len(self.arrays.scenarios)) if s not in self._active]

    def _solve(self, low: Counts, high: Counts, cutoff: float, rounds: int) -> Relaxed:
        arrays = self.arrays
        room, spare, unit = arrays.left(self._active, low, high)
        outcome, bound, counts, values, prices, limits = self._boxes.bound(
            low.astype(np.float64),
            high.astype(np.float64),
            arrays.price,
            self._by_kind(room),
            spare,
            unit,
            arrays.limit,
            cutoff,
            rounds,
            self._cancel,
        )
        weight = 1 if outcome else 0
        by_scenario = prices.reshape(len(self._active), arrays.num_kinds)
        net = weight * arrays.price - (by_scenario[:, arrays.kind] * room).sum(axis=0)
        net += limits @ arrays.use
        worth = values.reshape(len(self._active), -1)
        proof = Proof(
            weight=weight,
            prices=tuple(
                ScenarioPrices(s, tuple(row.tolist()), tuple(each.tolist()))
                for s, row, each in zip(self._active, by_scenario, worth, strict=True)
                if row.any()
            ),
            limits=tuple(limits.tolist()),
        )
        return Relaxed(bound, counts, proof, net)

    def _by_kind(self, room: Reals) -> Reals:
        """Time by offer, scenario and kind."""
        scenarios, offers = room.shape
        time = np.zeros((offers, scenarios, self.arrays.num_kinds))
        time[np.arange(offers), :, self.arrays.kind] = room.T
        return time

    def _fits(self, scenario: int, counts: Reals, low: Counts, high: Counts) -> bool:
        """Whether the load fits into what a scenario leaves of (maybe broken) counts.

        The least ``t`` is sought at which it fits into ``t`` times the fleet.
        """
        room, spare, unit = self.arrays.left([scenario], low, high)
        time = -spare[0]
        np.add.at(time, self.arrays.kind, room[0] * counts)
        time[time < _NOTHING] = 0.0
        if not time.any():
            return not self.arrays.load.size
        outcome, busy, *_ = self._busy.bound(
            np.zeros(1),
            np.full(1, _PLENTY),
            np.ones(1),
            time.reshape(1, 1, -1),
            np.zeros_like(spare),
            unit,
            np.zeros(0),
            1.0 + SHORT,
            0,
            self._cancel,
        )
        return outcome == 1 and busy <= 1.0 + SHORT
