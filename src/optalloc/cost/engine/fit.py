"""Fit the constants of the engine model to measured rows.

    minimise   sum_i w_i min( |log t_i(z) - log T_i|, 1.6 )
               + p sum_j ( (z_j - prior_j) / spread_j )^2

over the constants on the scale of their links and their shifts (prior: none) of every level of the
file. A row gives up to two figures: times to first and further tokens, or a rate. Absolute errors
are minimised by reweighted least squares with the damping of Levenberg and Marquardt, as for the
training model (``cost/calibrate.py``); a pass over all rows with one constant moved gives its
column of the Jacobian and, times the rows concerned, those of its shifts.
"""

from __future__ import annotations

from collections import defaultdict

import msgspec
import numpy as np

from optalloc.cost.constants import linked, unlinked
from optalloc.cost.engine.constants import EngineFile
from optalloc.cost.engine.rows import RATE, TPOT, TTFT, Array, Ints, Rows

_PENALTY = 1e-4  # of one spread; the weights of the figures sum to one
_LEAST_ERROR = 0.06  # below, errors count by their squares
_MOST_ERROR = 1.6  # above, a row is held to be mislabelled and pulls no more
_STEP = 0.02
_LONGEST_STEP = 0.7
_WEIGHTS = {TTFT: 0.4, TPOT: 1.0, RATE: 1.0}
_LEAST_SHIFT = 0.005


class Fit:
    """The parameters of a constants file over some rows, and how to move them."""

    def __init__(self, rows: Rows, file: EngineFile) -> None:
        self.rows, self.file = rows, file
        self.names = [name for name, c in file.constants.items() if c.prior is not None]
        place = {name: k for k, name in enumerate(self.names)}
        #: level, key and constant of every parameter
        self.parameters: list[tuple[str, str, str]] = [("", "", name) for name in self.names]
        masks = [np.ones(len(rows), dtype=bool)] * len(self.names)
        for level, spreads in file.spreads.items():
            column = np.array([keys[level] for keys in rows.keys])
            for key in sorted(set(column.tolist()) - {""}):
                own = column == key
                self.parameters += [(level, key, name) for name in spreads]
                masks += [own] * len(spreads)
        self.masks = np.array(masks)
        self.constant = np.array([place[name] for _, _, name in self.parameters])
        self.prior = np.array([self._prior(p) for p in self.parameters])
        self.spread = np.array([self._spread(p) for p in self.parameters])

    def _prior(self, parameter: tuple[str, str, str]) -> float:
        level, _, name = parameter
        constant = self.file.constants[name]
        return 0.0 if level else linked(constant.prior or constant.value, constant.link)

    def _spread(self, parameter: tuple[str, str, str]) -> float:
        level, _, name = parameter
        return self.file.spreads[level][name] if level else self.file.constants[name].spread

    # -- evaluation ------------------------------------------------------------------------------

    def _scales(self, z: Array) -> Array:
        """Every fitted constant of every row on the scale of its link, shape (names, rows)."""
        scales = np.zeros((len(self.names), len(self.rows)))
        for k in range(len(self.names)):
            own = self.constant == k
            scales[k] = z[own] @ self.masks[own]
        return scales

    def _predict(self, scales: Array) -> Array:
        found = {name: np.full(len(self.rows), c.value) for name, c in self.file.constants.items()}
        for name, scale in zip(self.names, scales, strict=True):
            share = self.file.constants[name].link == "share"
            found[name] = 1.0 / (1.0 + np.exp(-scale)) if share else np.exp(scale)
        return self.rows.predict(found)

    def predict(self, z: Array) -> Array:
        """Logarithms of the predicted figures of all rows, shape (rows, 3)."""
        return self._predict(self._scales(z))

    # -- the search for the minimum --------------------------------------------------------------

    def solve(self, used: Ints, start: Array | None = None, rounds: int = 10) -> Array:
        """The parameters that fit the rows ``used`` best; those they do not concern stay at prior.

        Complexity: O(rounds * constants) passes over the rows and, for n parameters and m figures,
        O(rounds * n^2 (n + m)) for the normal equations.
        """
        row, column = np.nonzero(np.isfinite(self.rows.log_measured[used]))
        row = used[row]
        measured = self.rows.log_measured[row, column]
        weight = np.array([_WEIGHTS[c] for c in column.tolist()])
        weight /= weight.sum()
        active = np.flatnonzero(self.masks[:, used].any(axis=1))
        concerns = self.masks[np.ix_(active, row)]
        z = self.prior.copy()
        if start is not None:
            z[active] = start[active]

        def loss(log: Array, at: Array) -> float:
            size = np.minimum(np.abs(log[row, column] - measured), _MOST_ERROR)
            return float(weight @ size + _PENALTY * (((at - self.prior) / self.spread) ** 2).sum())

        log = self.predict(z)
        best, damping = loss(log, z), 1e-3
        hold = _PENALTY / self.spread[active] ** 2
        for _ in range(rounds):
            slopes = self._slopes(z, log)[:, row, column]
            jacobian = slopes[self.constant[active]] * concerns
            error = log[row, column] - measured
            size = np.abs(error)
            pull = weight / np.maximum(size, _LEAST_ERROR) / 2.0
            pull = np.where(size > _MOST_ERROR, 0.05 * pull, pull)
            matrix = (jacobian * pull) @ jacobian.T + np.diag(hold)
            slope = jacobian @ (pull * error) + hold * (z[active] - self.prior[active])
            gain = 0.0
            for _ in range(6):
                damped = matrix + damping * np.diag(np.diag(matrix))
                step = np.clip(np.linalg.solve(damped, slope), -_LONGEST_STEP, _LONGEST_STEP)
                moved = z.copy()
                moved[active] -= step
                moved_log = self.predict(moved)
                value = loss(moved_log, moved)
                if value < best:
                    gain, best, z, log = best - value, value, moved, moved_log
                    damping = max(damping / 4.0, 1e-4)
                    break
                damping = max(8.0 * damping, 1e-2)
            if gain < 2e-4:
                break
        return z

    def _slopes(self, z: Array, log: Array) -> Array:
        """Derivatives by every constant, shape (names, rows, 3)."""
        scales = self._scales(z)
        slopes = np.empty((len(self.names), *log.shape))
        for k in range(len(self.names)):
            moved = scales.copy()
            moved[k] += _STEP
            slopes[k] = (self._predict(moved) - log) / _STEP
        return slopes

    # -- results ---------------------------------------------------------------------------------

    def file_of(self, z: Array, *, name: str = "", date: str = "") -> EngineFile:
        """The constants file with these parameters; shifts below half a percent are left out."""
        constants = dict(self.file.constants)
        shifts: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
        for value, (level, key, constant) in zip(z.tolist(), self.parameters, strict=True):
            old = self.file.constants[constant]
            if not level:
                back = unlinked(value, old.link)
                constants[constant] = msgspec.structs.replace(old, value=float(f"{back:.5g}"))
            elif abs(value) >= _LEAST_SHIFT:
                shifts[level][key][constant] = round(value, 3)
        return msgspec.structs.replace(
            self.file,
            name=name or self.file.name,
            date=date or self.file.date,
            constants=constants,
            shifts={level: dict(keys) for level, keys in shifts.items()},
            errors=(),
        )
