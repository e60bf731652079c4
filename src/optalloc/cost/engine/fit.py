"""Fit the constants of the engine model to measured rows, as :mod:`optalloc.cost.descent` does.

The parameters are the fitted constants and their shifts of every level of the file. A row gives up
to two figures: times to first and further tokens, or a rate.
"""

from __future__ import annotations

import msgspec
import numpy as np

from optalloc.cost.descent import (
    Array,
    Ints,
    Measured,
    Parameter,
    descend,
    priors,
    unlinked_rows,
    written,
)
from optalloc.cost.engine.constants import EngineFile
from optalloc.cost.engine.rows import RATE, TPOT, TTFT, Rows

_PENALTY = 1e-4  # of one spread; the weights of the figures sum to one
_WEIGHTS = {TTFT: 0.4, TPOT: 1.0, RATE: 1.0}


class Fit:
    """The parameters of a constants file over some rows, and how to move them."""

    def __init__(self, rows: Rows, file: EngineFile) -> None:
        self.rows, self.file = rows, file
        self.names = [name for name, c in file.constants.items() if c.prior is not None]
        place = {name: k for k, name in enumerate(self.names)}
        self.parameters: list[Parameter] = [("", "", name) for name in self.names]
        masks = [np.ones(len(rows), dtype=bool)] * len(self.names)
        for level, spreads in file.spreads.items():
            column = np.array([keys[level] for keys in rows.keys])
            for key in sorted(set(column.tolist()) - {""}):
                own = column == key
                self.parameters += [(level, key, name) for name in spreads]
                masks += [own] * len(spreads)
        self.masks = np.array(masks)
        self.constant = np.array([place[name] for _, _, name in self.parameters])
        self.prior, self.spread = priors(self.parameters, file.constants, file.spreads)

    # -- evaluation ------------------------------------------------------------------------------

    def scales(self, z: Array) -> Array:
        """Every fitted constant of every row on the scale of its link, shape (names, rows)."""
        scales = np.zeros((len(self.names), len(self.rows)))
        for k in range(len(self.names)):
            own = self.constant == k
            scales[k] = z[own] @ self.masks[own]
        return scales

    def figures(self, scales: Array) -> Array:
        """Logarithms of the predicted figures of all rows, shape (rows, 3)."""
        found = {name: np.full(len(self.rows), c.value) for name, c in self.file.constants.items()}
        for name, scale in zip(self.names, scales, strict=True):
            found[name] = unlinked_rows(scale, self.file.constants[name])
        return self.rows.predict(found)

    def predict(self, z: Array) -> Array:
        """Logarithms of the predicted figures of all rows, shape (rows, 3)."""
        return self.figures(self.scales(z))

    def ordinary(self, z: Array) -> Array:
        """These parameters for a client of no known series: none of a release or a campaign."""
        levels = [set(level.split(", ")) for level, _, _ in self.parameters]
        return np.where([bool(level & {"release", "campaign"}) for level in levels], 0.0, z)

    # -- the search for the minimum --------------------------------------------------------------

    def solve(self, used: Ints, rounds: int = 10) -> Array:
        """The parameters that fit the rows ``used`` best; those they do not concern stay at prior.

        Complexity: that of :func:`optalloc.cost.descent.descend`.
        """
        row, column = np.nonzero(np.isfinite(self.rows.log_measured[used]))
        row = used[row]
        weight = np.array([_WEIGHTS[c] for c in column.tolist()])
        measured = Measured(
            place=(row, column),
            log=self.rows.log_measured[row, column],
            weight=weight / weight.sum(),
        )
        active = np.flatnonzero(self.masks[:, used].any(axis=1))
        return descend(self, measured, active, penalty=_PENALTY, rounds=rounds)

    # -- results ---------------------------------------------------------------------------------

    def file_of(self, z: Array, *, name: str = "", date: str = "") -> EngineFile:
        """The constants file with these parameters; shifts below half a percent are left out."""
        constants, shifts = written(self.parameters, z, self.file.constants)
        return msgspec.structs.replace(
            self.file,
            name=name or self.file.name,
            date=date or self.file.date,
            constants=constants,
            shifts=shifts,
            errors=(),
        )
