"""Whether a load fits into some time of each kind: how busy it is at least."""

from __future__ import annotations

import math

import numpy as np

from optalloc._native import WholeBound
from optalloc.serving.mix.arrays import FleetArrays, Reals

#: Share of the load by which a fleet may fall short and still count as serving it all.
SHORT = 1e-9
_PLENTY = 1e9  # times the fleet
_NOTHING = 1e-12  # replicas: none


class Busy:
    """Answers for one load; each answer starts from the last one's basis.

    The least ``t`` is sought at which the load fits into ``t`` times the time: a fleet of one offer
    that has every kind, at broken counts. Kinds of equal throughputs count as one.
    """

    def __init__(self, arrays: FleetArrays) -> None:
        kinds, table = arrays.tables
        alone = np.isin(arrays.serving, kinds)  # one kind a table
        first = np.append(0, np.cumsum(alone))[arrays.first]
        self._kernel = WholeBound(
            first.astype(np.int32),
            table[arrays.serving[alone]].astype(np.int32),
            arrays.load[alone],
            len(kinds),
            np.zeros((0, 1)),
        )
        self._table, self._load = table, arrays.load
        self._unit: Reals = np.ones(len(kinds))
        self._cancel = np.zeros(1, dtype=np.int32)

    def fits(self, time: Reals) -> bool:
        """Whether the load fits into ``time`` by kind, in replicas' whole time."""
        return self.at(time, 1.0 + SHORT)[0] <= 1.0 + SHORT

    def at(self, time: Reals, enough: float = math.inf) -> tuple[float, Reals]:
        """How busy ``time`` is at least, infinite if it never does, and the prices that show it.

        From ``enough`` on any bound on that will do.
        """
        by_table = np.zeros(len(self._unit))
        np.add.at(by_table, self._table, np.where(time < _NOTHING, 0.0, time))
        if not self._load.size or not by_table.any():
            return (math.inf if self._load.size else 0.0), np.ones(len(self._table))
        outcome, busy, _, _, prices, _ = self._kernel.bound(
            np.zeros(1),
            np.full(1, _PLENTY),
            np.ones(1),
            by_table[None, :],
            self._unit,
            np.zeros(0),
            enough,
            0,
            self._cancel,
        )
        return (busy if outcome else math.inf), prices[self._table]
