"""Bounds of boxes of counts that know that replicas are whole, for problems without failures.

Formulation
-----------
    minimise    sum_g p_g y_g
    subject to  sum_k x_jk = 1, x >= 0                       every bucket j is served
                sum_j load_jk x_jk <= u_k n_k                n_k: the replicas of kind k
                sum_C load_jk x_jk / u_k <= L_C - (L_C - floor(L_C)) (ceil(L_C) - n_k)
                low_g <= y_g <= high_g, limits

with ``L_C = sum_C load_jk / u_k`` for sets ``C`` of buckets. The last line holds for whole counts:
``n`` replicas do no more than ``L_C``, and each that lacks of ``ceil(L_C)`` costs at least the
broken part. These inequalities are all that wholeness of one kind implies (Magnanti, Mirchandani
and Vachani, 1993); the one that broken counts break most takes the buckets of which the kind serves
more than the broken part of ``n_k``. They are added as they are broken
(``native/serving/whole.cpp``), and the programme is solved by the dual simplex method from the last
box's basis (``native/serving/dual.cpp``), where the sums of shares are no rows: its size is that of
kinds, limits and cuts.

Why it is exact
---------------
Prices of the rows give values of the buckets and prices of replicas, which bound every fleet by
weak duality (:mod:`~optalloc.serving.mix.witness`), whether or not the programme was solved to its
end. At a single point whole counts are given, and the programme is the problem itself.
"""

from __future__ import annotations

import numpy as np

from optalloc._native import WholeBound
from optalloc.serving.mix.arrays import Counts, FleetArrays, Reals
from optalloc.serving.mix.busy import Busy
from optalloc.serving.mix.relax import Relaxed
from optalloc.serving.mix.witness import Proof, ScenarioPrices

_ROUNDS = 2  # of cuts a box; more of them cost more than they save


class WholeRelaxation:
    """Bounds boxes of counts without failures."""

    def __init__(self, arrays: FleetArrays) -> None:
        self.arrays = arrays
        self._kernel = WholeBound(
            arrays.first, arrays.serving, arrays.load, arrays.num_kinds, arrays.use
        )
        self._busy = Busy(arrays)
        room = arrays.scenarios[0].utilization * arrays.stays
        self._time: Reals = np.zeros((len(room), arrays.num_kinds))
        self._time[np.arange(len(room)), arrays.kind] = room
        self._unit: Reals = self._time.max(axis=0)
        self._cancel = np.zeros(1, dtype=np.int32)

    def box(self, low: Counts, high: Counts, cutoff: float, *, rounds: int = _ROUNDS) -> Relaxed:
        """Bound the fleets between ``low`` and ``high``, at least as far as ``cutoff``.

        ``rounds`` limits how often cuts are added: 0 leaves the counts as broken as they are.
        """
        arrays, offers = self.arrays, len(self.arrays.price)
        outcome, bound, counts, values, prices, limits = self._kernel.bound(
            low[:offers].astype(np.float64),
            high[:offers].astype(np.float64),
            arrays.price,
            self._time,
            self._unit,
            arrays.limit,
            cutoff,
            rounds,
            self._cancel,
        )
        weight = 1 if outcome else 0
        net = weight * arrays.price - self._time @ prices + limits @ arrays.use
        priced = ScenarioPrices(0, tuple(prices.tolist()), tuple(values.tolist()))
        proof = Proof(weight=weight, prices=(priced,), limits=tuple(limits.tolist()))
        totals = np.zeros(arrays.num_kinds)  # whole: boxes are cut at offers
        return Relaxed(bound, np.append(counts, totals), proof, net, np.zeros(0))

    def narrowed(
        self, found: Relaxed, low: Counts, high: Counts, room: float
    ) -> tuple[Counts, Counts]:
        """The box without counts at which one offer alone adds more than ``room`` to the bound."""
        net = np.append(found.slope, np.zeros(self.arrays.num_kinds))
        size = np.abs(net)
        steps = np.divide(room, size, out=np.full_like(size, 1e15), where=size > 0.0)
        steps = np.floor(np.minimum(steps, 1e15) + 1e-6).astype(np.int64)
        return (
            np.where(net < 0.0, np.maximum(low, high - steps), low),
            np.where(net > 0.0, np.minimum(high, low + steps), high),
        )

    def serves(self, counts: Counts) -> bool:
        """Whether a fleet serves the load."""
        return self._busy.fits(counts.astype(np.float64) @ self._time)
