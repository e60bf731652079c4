"""The linear programme of a box of counts: its bound, its counts and the prices that prove it.

Formulation
-----------
    minimise    sum_g p_g y_g
    subject to  n_k = sum of y_g over the offers of kind k         low <= (y, n) <= high
                y_g <= high_g z_g, or n_k <= high_k z_k            z: something is there to fail
                sum_g n_g y_g <= C_P                               shared limits
                sum_k pi_k c_sk(y, z) >= sum_j d_j min_k pi_k / R_kj    scenarios s, prices pi

with the time ``c_sk`` that scenario ``s`` leaves of kind ``k``: a failure takes one replica's time
times ``z``. A row holds for every fleet that serves in ``s``, whatever the prices; so the prices
that one scenario asked for are tried in all, and rows are added as they are broken. Which prices
are broken most is what :class:`~optalloc.serving.mix.busy.Busy` answers. Where nothing fits, the
share ``t`` of every row's right side that has to be given up is minimised instead of the price.

Why it is exact
---------------
Multipliers of the rows add up to prices of each scenario, which bound the box by weak duality
(:mod:`~optalloc.serving.mix.witness`) whether or not every broken row was added.
"""

from __future__ import annotations

import math

import highspy
import msgspec
import numpy as np

from optalloc.assignment.milp import LinearRow, QuietHighs, set_rows
from optalloc.serving.mix.arrays import Counts, FleetArrays, Ints, Reals
from optalloc.serving.mix.busy import SHORT, Busy
from optalloc.serving.mix.totals import Totals
from optalloc.serving.mix.witness import Proof, ScenarioPrices

_ROUNDS = 200  # of rows a box
_BROKEN = 1e-7  # share of the load: rows broken by less are left out
_CLEAR = 1e-4  # a known row broken by this much is added before new ones are sought
_GAINS = 0.02  # rounds that win less of what is left to the cutoff are slow
_PATIENCE = 3  # slow rounds before a box is cut instead
_TIGHT = 1e-10  # tolerances of HiGHS
_MANY_ROWS = 400
_TRIES = 3  # scenarios of a box of broken counts that are asked in vain before it is cut


class Relaxed(msgspec.Struct, frozen=True):
    """What is known of a box: no fleet in it costs less than ``bound`` (infinite: there is none).

    ``counts`` are of offers, then of kinds, then ``z``. Another replica adds ``slope`` to the bound
    (by offer, USD/h, negative where the bound counts with the most), and the first of a group adds
    ``step``.
    """

    bound: float
    counts: Reals
    proof: Proof
    slope: Reals
    step: Reals


class Relaxation:
    """Bounds boxes of counts."""

    def __init__(self, arrays: FleetArrays) -> None:
        self.arrays = arrays
        self._busy = Busy(arrays)
        self._turn, self._asked = 0, False  # the scenario asked last; all were once
        self._totals = Totals(arrays)
        self._programme = _Programme(arrays)

    def box(self, low: Counts, high: Counts, cutoff: float, *, rounds: int = _ROUNDS) -> Relaxed:
        """Bound the fleets between ``low`` and ``high``, at least as far as ``cutoff``.

        ``rounds`` limits how often rows are added.
        """
        programme = self._programme
        programme.set_box(low, high)
        before, slow = -math.inf, 0
        while True:
            weight = programme.solve()
            value = programme.value if weight else math.inf
            slow = slow + 1 if value - before < _GAINS * (cutoff - value) < math.inf else 0
            before = value
            done = value >= cutoff or rounds <= 0 or slow > _PATIENCE
            if done or not self._add_broken((low == high).all()):
                return self._relaxed(weight, low, high)
            rounds -= 1

    def serves(self, counts: Counts) -> bool:
        """Whether a fleet serves the load in every scenario."""
        left = self.arrays.left(counts.astype(np.float64), self.arrays.there(counts))
        lack, _ = self._programme.worst_known(left)
        if (lack > 2.0 * SHORT).any():
            return False
        return all(self._busy.fits(time) for time in left)

    def narrowed(
        self, found: Relaxed, low: Counts, high: Counts, room: float
    ) -> tuple[Counts, Counts]:
        """The box without totals of kinds that alone add more than ``room`` to the bound."""
        return self._totals.narrowed(found.slope, found.step, low, high, room)

    def _add_broken(self, fixed: bool) -> bool:
        """Add rows that the counts break, at most one a scenario; False where there is none."""
        programme = self._programme
        left = self.arrays.left(*programme.time)
        lack, known = programme.worst_known(left)
        far = np.flatnonzero(lack > _CLEAR)
        for s in far.tolist():
            programme.add(s, int(known[s]))
        if far.size:
            return True
        whole = (np.abs(programme.counts - np.rint(programme.counts)) <= _BROKEN).all()
        tries = len(left) if whole or not self._asked else _TRIES
        for s in np.roll(np.arange(len(left)), -self._turn)[:tries].tolist():
            self._turn = s
            busy, prices = self._busy.at(left[s])
            broken = busy > 1.0 + (SHORT if fixed else _BROKEN)
            if broken and programme.add(s, programme.know(prices)):
                return True
        self._asked = True
        return False

    def _relaxed(self, weight: int, low: Counts, high: Counts) -> Relaxed:
        arrays, programme = self.arrays, self._programme
        prices, limits = programme.prices()
        slope, step = arrays.slopes(weight, prices, limits)
        bound = float(arrays.worth(prices).sum()) - float(limits @ arrays.limit)
        bound += self._totals.least(slope, step, low, high)
        if not weight:
            bound = math.inf if bound > SHORT else -math.inf
        proof = Proof(
            weight=weight,
            prices=tuple(
                ScenarioPrices(s, tuple(row.tolist())) for s, row in enumerate(prices) if row.any()
            ),
            limits=tuple(limits.tolist()),
        )
        return Relaxed(bound, programme.counts, proof, slope, step)


class _Programme:
    """The rows known so far in HiGHS, solved from the last basis.

    Columns are counts of offers, totals of kinds, ``z`` of groups, and ``t``.
    """

    def __init__(self, arrays: FleetArrays) -> None:
        self._arrays = arrays
        offers, kinds, groups = len(arrays.price), arrays.num_kinds, len(arrays.owner)
        self._z, self._t = offers + kinds, offers + kinds + groups
        self._columns: Ints = np.arange(self._t + 1, dtype=np.int32)
        self._base = kinds + groups + len(arrays.limit)
        self._pool: Reals = np.zeros((0, kinds))  # prices at which all the load is worth one
        self._rows: list[tuple[int, int]] = []  # scenario, prices
        self._idle: Counts = np.zeros(0, dtype=np.int64)  # solutions since a row last held
        self._links: Reals = np.ones(groups)
        self._cost: Reals = np.concatenate([arrays.price, np.zeros(kinds + groups + 1)])
        self._solver = QuietHighs()
        for name in ("primal_feasibility_tolerance", "dual_feasibility_tolerance"):
            self._solver.setOptionValue(name, _TIGHT)
        lp = highspy.HighsLp()
        lp.num_col_ = self._t + 1
        lp.col_cost_ = self._cost
        lp.col_lower_, lp.col_upper_ = np.zeros(self._t + 1), np.zeros(self._t + 1)
        set_rows(lp, self._fixed_rows())
        self._solver.passModel(lp)
        self.counts: Reals = np.zeros(self._t)
        self.value = 0.0
        self._dual: Reals = np.zeros(self._base)

    def set_box(self, low: Counts, high: Counts) -> None:
        """Bounds of offers and totals; ``z`` is one where something is surely there."""
        owner = self._arrays.owner
        lows = np.concatenate([low, np.minimum(low[owner], 1), [0]]).astype(np.float64)
        highs = np.concatenate([high, np.minimum(high[owner], 1), [0]]).astype(np.float64)
        self._solver.changeColsBounds(len(lows), self._columns, lows, highs)
        links = np.maximum(high[owner], 1).astype(np.float64)
        for z in np.flatnonzero(links != self._links):
            row = self._arrays.num_kinds + int(z)
            self._solver.changeCoeff(row, self._z + int(z), -float(links[z]))
        self._links = links

    @property
    def time(self) -> tuple[Reals, Reals]:
        """Counts and ``z``, which say what time is left."""
        return self.counts[: self._z], self.counts[self._z :]

    def solve(self) -> int:
        """Solve: 1 with the least price, or 0 with the least share given up where nothing fits."""
        if self._run() == highspy.HighsModelStatus.kOptimal:
            self._take()
            return 1
        self._aim_at_share(1.0)
        if self._run() != highspy.HighsModelStatus.kOptimal:
            raise RuntimeError("the programme of a fleet ended without a solution")
        self._take()
        self._aim_at_share(0.0)
        return 0

    def prices(self) -> tuple[Reals, Reals]:
        """By scenario and kind, and by limit: what the multipliers of the rows add up to."""
        arrays = self._arrays
        prices = np.zeros((len(arrays.scenarios), arrays.num_kinds))
        if self._rows:
            scenario, known = np.array(self._rows).T
            paid = np.maximum(0.0, self._dual[self._base :])
            np.add.at(prices, scenario, paid[:, None] * self._pool[known])
        first = self._base - len(arrays.limit)
        return prices, np.maximum(0.0, -self._dual[first : self._base])

    def know(self, prices: Reals) -> int:
        """Keep prices, lowered as far as all buckets stay worth the same; returns their number."""
        arrays = self._arrays
        value = arrays.values(prices)
        lowered = (value * arrays.per_load).max(axis=1) / value.sum()
        self._pool = np.vstack([self._pool, lowered / float(arrays.worth(lowered[None])[0])])
        return len(self._pool) - 1

    def worst_known(self, left: Reals) -> tuple[Reals, Counts]:
        """By scenario, what the time left lacks at the prices it lacks most, and their number."""
        if not len(self._pool):
            return np.zeros(len(left)), np.zeros(len(left), dtype=np.int64)
        lack = 1.0 - self._pool @ left.T
        known = lack.argmax(axis=0)
        return lack[known, np.arange(len(left))], known

    def add(self, scenario: int, known: int) -> bool:
        """Add a row; False if it is there."""
        if (scenario, known) in self._rows:
            return False
        self._forget()
        arrays, prices = self._arrays, self._pool[known]
        row = np.zeros(self._t + 1)
        row[: len(arrays.price)] = prices[arrays.kind] * arrays.room[scenario]
        row[self._z : self._t] = -prices[arrays.kind_of_group] * arrays.lost[scenario]
        row[self._t] = 1.0
        used = np.flatnonzero(row).astype(np.int32)
        self._solver.addRow(1.0, highspy.kHighsInf, len(used), used, row[used])
        self._rows.append((scenario, known))
        self._idle = np.append(self._idle, 0)
        return True

    def _fixed_rows(self) -> list[LinearRow]:
        arrays = self._arrays
        offers = len(arrays.price)
        rows: list[LinearRow] = []
        for k, members in enumerate(arrays.members):
            ones = np.append(np.ones(len(members)), -1.0)
            rows.append((np.append(members, offers + k), ones, 0.0, 0.0))
        for z, owner in enumerate(arrays.owner):
            link = np.array([1.0, -self._links[z]])
            rows.append((np.array([owner, self._z + z]), link, -highspy.kHighsInf, 0.0))
        for use, limit in zip(arrays.use, arrays.limit, strict=True):
            counted = np.flatnonzero(use)
            weights = np.append(use[counted], -(limit + 1.0))
            rows.append((np.append(counted, self._t), weights, -highspy.kHighsInf, limit))
        return rows

    def _run(self) -> highspy.HighsModelStatus:
        """Solve from the last basis, and from nothing where that ends in noise."""
        decided = (highspy.HighsModelStatus.kOptimal, highspy.HighsModelStatus.kInfeasible)
        self._solver.run()
        if self._solver.getModelStatus() not in decided:
            self._solver.clearSolver()
            self._solver.run()
        status: highspy.HighsModelStatus = self._solver.getModelStatus()
        return status

    def _take(self) -> None:
        solution = self._solver.getSolution()
        values = np.asarray(solution.col_value, dtype=np.float64)
        self.counts = values[: self._t]
        self.value = float(self._cost @ values)
        self._dual = np.asarray(solution.row_dual, dtype=np.float64)
        self._idle = np.where(self._dual[self._base :] > 0.0, 0, self._idle + 1)

    def _aim_at_share(self, share: float) -> None:
        """Minimise ``t`` alone (1), or the price with all served (0)."""
        cost = (1.0 - share) * self._cost
        cost[self._t] = share
        self._solver.changeColsCost(len(cost), self._columns, cost)
        self._solver.changeColBounds(self._t, 0.0, highspy.kHighsInf if share else 0.0)

    def _forget(self) -> None:
        """Take out rows that have long held nothing, once there are many."""
        if len(self._rows) < _MANY_ROWS:
            return
        gone = self._idle > np.median(self._idle)
        rows = (np.flatnonzero(gone) + self._base).astype(np.int32)
        self._solver.deleteRows(len(rows), rows)
        self._rows = [row for row, out in zip(self._rows, gone, strict=True) if not out]
        self._idle = self._idle[~gone]
