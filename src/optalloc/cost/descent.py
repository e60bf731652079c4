"""Robust fits of constants: a weighted sum of absolute errors, and a hold on every parameter.

    minimise   sum_i w_i min( |l_i(z) - m_i|, most )  +  p sum_j ( (z_j - prior_j) / spread_j )^2

l_i and m_i are logarithms of predictions and measurements. The parameters z are constants on the
scale of their links and shifts of some of them for some rows, whose prior is none. Absolute errors
are minimised by reweighted least squares (Gauss-Newton with the damping of Levenberg and
Marquardt), in which errors below a least one pull in proportion: the smaller it is, the nearer the
fit comes to the median of rows that scatter to one side, and the more rounds it takes.

A prediction depends on a row's resolved constants alone, so one pass over all rows with one
constant moved gives that column of the Jacobian and, times the rows it concerns, those of its
shifts: as many passes as constants, not as parameters. Measurements that the same parameters
concern form a cell, whose products of columns are summed once for each pair of constants.

References: Levenberg (1944), Marquardt (1963); Holland and Welsch, "Robust regression using
iteratively reweighted least-squares" (1977).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cost.constants import Constant, linked, unlinked

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
#: level, key and constant of a parameter; level and key are empty for the constant itself
Parameter = tuple[str, str, str]
Shifts = dict[str, dict[str, dict[str, float]]]

_MOST_ERROR = 1.6  # above, a row is held to be mislabelled and pulls no more
_STEP = 0.02
_LONGEST_STEP = 0.7
_LEAST_SHIFT = 0.005


class Fitted(Protocol):
    """What is fitted: parameters, the rows they concern, and the prediction.

    ``constant`` is the number of each parameter's constant, ``masks`` the rows of each parameter,
    shape (parameters, rows).
    """

    prior: Array
    spread: Array
    constant: Ints
    masks: NDArray[np.bool_] | Array

    def scales(self, z: Array) -> Array:
        """Every fitted constant of every row on the scale of its link, shape (names, rows)."""

    def figures(self, scales: Array) -> Array:
        """Logarithms of the predictions; rows are the first dim."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Measurements: their place in what is predicted, logarithms and weights, which sum to one.

    ``place`` holds an index array for each dim of the prediction, the first by row.
    """

    place: tuple[Ints, ...]
    log: Array
    weight: Array


def priors(
    parameters: Sequence[Parameter],
    constants: Mapping[str, Constant],
    spreads: Mapping[str, Mapping[str, float]],
) -> tuple[Array, Array]:
    """Prior of each parameter on the scale of its link, and how far a fit may plausibly move it."""
    prior = [
        0.0
        if level
        else linked(constants[name].prior or constants[name].value, constants[name].link)
        for level, _, name in parameters
    ]
    spread = [
        spreads[level][name] if level else constants[name].spread for level, _, name in parameters
    ]
    return np.array(prior), np.array(spread)


def unlinked_rows(scale: Array, constant: Constant) -> Array:
    """A constant of every row back from the scale of its link."""
    return 1.0 / (1.0 + np.exp(-scale)) if constant.link == "share" else np.exp(scale)


def slopes(fit: Fitted, z: Array, log: Array) -> Array:
    """Derivatives of all predictions ``log`` by every constant; constants are the first dim."""
    scales = fit.scales(z)
    found = np.empty((len(scales), *log.shape))
    for k in range(len(scales)):
        moved = scales.copy()
        moved[k] += _STEP
        found[k] = (fit.figures(moved) - log) / _STEP
    return found


def descend(
    fit: Fitted,
    measured: Measured,
    concerned: Ints,
    *,
    penalty: float,
    least_error: float = 0.06,
    start: Array | None = None,
    rounds: int,
) -> Array:
    """The parameters that fit the measurements best.

    Parameters
    ----------
    concerned : ndarray of int64
        The parameters that move; the others stay at their prior.
    penalty : float
        p, the weight of one spread.
    least_error : float
        Errors below it pull in proportion to their size, those above it all alike.
    start : ndarray of float64, optional
        Parameters to start from; default: the priors.

    Complexity: O(rounds * constants) passes over the rows, O(rounds * n^3) for the normal equations
    of n parameters and, for c constants, m measurements and a parameters that concern each of k
    cells, O(rounds * (c^2 m + k a^2)) to set them up.
    """
    z = fit.prior.copy()
    if start is not None:
        z[concerned] = start[concerned]
    prior, own = fit.prior[concerned], fit.constant[concerned]
    hold = penalty / fit.spread[concerned] ** 2
    cells = _cells(fit.masks[np.ix_(concerned, measured.place[0])])

    def loss(log: Array, at: Array) -> float:
        size = np.minimum(np.abs(log[measured.place] - measured.log), _MOST_ERROR)
        return float(
            measured.weight @ size + penalty * (((at - fit.prior) / fit.spread) ** 2).sum()
        )

    log = fit.figures(fit.scales(z))
    best, damping = loss(log, z), 1e-3
    for _ in range(rounds):
        columns = np.array([column[measured.place] for column in slopes(fit, z, log)])
        error = log[measured.place] - measured.log
        size = np.abs(error)
        pull = measured.weight / np.maximum(size, least_error) / 2.0
        pull = np.where(size > _MOST_ERROR, 0.05 * pull, pull)
        matrix, slope = np.diag(hold), hold * (z[concerned] - prior)
        for of, share, members in cells:
            pulled, to = columns[:, members] * pull[members], own[of]
            products = (pulled @ columns[:, members].T)[np.ix_(to, to)]
            matrix[np.ix_(of, of)] += products * share * share[:, None]
            slope[of] += (pulled @ error[members])[to] * share
        gain = 0.0
        for _ in range(6):
            damped = matrix + damping * np.diag(np.diag(matrix))
            step = np.clip(np.linalg.solve(damped, slope), -_LONGEST_STEP, _LONGEST_STEP)
            moved = z.copy()
            moved[concerned] -= step
            moved_log = fit.figures(fit.scales(moved))
            value = loss(moved_log, moved)
            if value < best:
                gain, best, z, log = best - value, value, moved, moved_log
                damping = max(damping / 4.0, 1e-4)
                break
            damping = max(8.0 * damping, 1e-2)
        if gain < 2e-4:
            break
    return z


def _cells(concerns: NDArray[np.bool_] | Array) -> list[tuple[Ints, Array, Ints]]:
    """Parameters, how far they count, and measurements of each cell."""
    kinds, kind = np.unique(concerns.T, axis=0, return_inverse=True)
    found = []
    for k, each in enumerate(kinds):
        of = np.flatnonzero(each)
        found.append((of, each[of].astype(np.float64), np.flatnonzero(kind.ravel() == k)))
    return found


def written(
    parameters: Sequence[Parameter], z: Array, constants: Mapping[str, Constant]
) -> tuple[dict[str, Constant], Shifts]:
    """Constants and shifts with these parameters; shifts below half a percent are left out."""
    found = dict(constants)
    shifts: Shifts = {}
    for value, (level, key, name) in zip(z.tolist(), parameters, strict=True):
        old = constants[name]
        if not level:
            back = unlinked(value, old.link)
            found[name] = msgspec.structs.replace(old, value=float(f"{back:.5g}"))
        elif abs(value) >= _LEAST_SHIFT:
            shifts.setdefault(level, {}).setdefault(key, {})[name] = round(value, 3)
    return found, shifts
