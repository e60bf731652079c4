"""The linear programme of a box of counts: its bound, its counts and the prices that prove it."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from optalloc._native import FleetBound
from optalloc.serving.mix.arrays import Counts, FleetArrays, Reals
from optalloc.serving.mix.witness import Proof, ScenarioPrices

#: Share of the load by which a fleet may fall short and still count as serving it all.
SHORT = 1e-9
_DEARER, _DEAREST = 1e3, 1e9
_PLENTY = 1e15  # devices: no limit
_CLOSED = 1e-9  # relative to the price of the dearest fleet that is considered


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
        self._kernel = FleetBound(
            arrays.first, arrays.serving, arrays.load, arrays.kind, arrays.num_kinds, arrays.use
        )
        self._active = [0]
        self._cancel = np.zeros(1, dtype=np.int32)
        self._dear = float(arrays.price @ arrays.high) + 1.0

    def box(self, low: Counts, high: Counts, cutoff: float) -> Relaxed:
        """Bound the fleets between ``low`` and ``high``, at least as far as ``cutoff``."""
        while True:
            found = self._solve(low, high, cutoff)
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

    def _solve(self, low: Counts, high: Counts, cutoff: float) -> Relaxed:
        shortage = self._dear
        while True:
            bound, _, short, counts, prices, limits = self._call(
                self._active, low, high, self.arrays.price, shortage, cutoff
            )
            if bound >= cutoff or short <= SHORT or shortage > _DEAREST * self._dear:
                return self._relaxed(1, bound, counts, prices, limits, low, high)
            free = np.zeros_like(self.arrays.price)
            less, _, _, _, prices, limits = self._call(
                self._active, low, high, free, 1.0, SHORT / 2.0
            )
            if less > 0.0:
                return self._relaxed(0, math.inf, counts, prices, limits, low, high)
            shortage *= _DEARER  # all can be served, at more than was asked for leaving it undone

    def _relaxed(
        self,
        weight: int,
        bound: float,
        counts: Reals,
        prices: Reals,
        limits: Reals,
        low: Counts,
        high: Counts,
    ) -> Relaxed:
        arrays = self.arrays
        by_scenario = prices.reshape(len(self._active), arrays.num_kinds)
        room, _ = arrays.left(self._active, low, high)
        net = weight * arrays.price - (by_scenario[:, arrays.kind] * room).sum(axis=0)
        net += limits @ arrays.use
        proof = Proof(
            weight=weight,
            prices=tuple(
                ScenarioPrices(s, tuple(row.tolist()))
                for s, row in zip(self._active, by_scenario, strict=True)
                if row.any()
            ),
            limits=tuple(limits.tolist()),
        )
        return Relaxed(bound, counts, proof, net)

    def _fits(self, scenario: int, counts: Reals, low: Counts, high: Counts) -> bool:
        """Whether the load fits into what a scenario leaves of (maybe broken) counts."""
        room, spare = self.arrays.left([scenario], low, high)
        fixed = np.ascontiguousarray(counts, dtype=np.float64)
        value = self._kernel.bound(
            fixed,
            fixed,
            np.zeros_like(fixed),
            room,
            spare,
            np.full(len(self.arrays.limit), _PLENTY),
            1.0,
            2.0 * SHORT,
            SHORT,
            0.0,
            self._cancel,
        )[1]
        return value <= SHORT

    def _call(
        self,
        chosen: list[int],
        low: Counts,
        high: Counts,
        price: Reals,
        shortage: float,
        cutoff: float,
    ) -> tuple[float, float, float, Reals, Reals, Reals]:
        room, spare = self.arrays.left(chosen, low, high)
        scale = min(self._dear, cutoff) if price.any() else 1.0
        return self._kernel.bound(
            low.astype(np.float64),
            high.astype(np.float64),
            price,
            room,
            spare,
            self.arrays.limit,
            shortage,
            cutoff,
            -1.0,
            _CLOSED * scale,
            self._cancel,
        )
