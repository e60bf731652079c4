"""Whether a load fits into some time of each kind: how busy it is at least."""

from __future__ import annotations

import numpy as np

from optalloc._native import WholeBound
from optalloc.serving.mix.arrays import FleetArrays, Reals
from optalloc.serving.mix.relax import SHORT

_PLENTY = 1e9  # times the fleet
_NOTHING = 1e-12  # replicas: none


class Busy:
    """Answers for one load; each answer starts from the last one's basis.

    The least ``t`` is sought at which the load fits into ``t`` times the time: a fleet of one offer
    that has every kind, at broken counts.
    """

    def __init__(self, arrays: FleetArrays) -> None:
        self._kernel = WholeBound(
            arrays.first, arrays.serving, arrays.load, arrays.num_kinds, np.zeros((0, 1))
        )
        self._load = arrays.load
        self._unit: Reals = np.ones(arrays.num_kinds)
        self._cancel = np.zeros(1, dtype=np.int32)

    def fits(self, time: Reals) -> bool:
        """Whether the load fits into ``time`` by kind, in replicas' whole time."""
        time = np.where(time < _NOTHING, 0.0, time)
        if not self._load.size or not time.any():
            return not self._load.size
        outcome, busy, *_ = self._kernel.bound(
            np.zeros(1),
            np.full(1, _PLENTY),
            np.ones(1),
            time[None, :],
            self._unit,
            np.zeros(0),
            1.0 + SHORT,
            0,
            self._cancel,
        )
        return outcome == 1 and busy <= 1.0 + SHORT
