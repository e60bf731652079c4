"""descent.py: how near a fit of absolute errors comes to the median."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from optalloc.cost.descent import Array, Ints, Measured, descend


class _Common:
    """Ten rows predicted by one constant, which nothing holds."""

    prior: Array = np.zeros(1)
    spread: Array = np.ones(1)
    constant: Ints = np.zeros(1, np.int64)
    masks: NDArray[np.bool_] | Array = np.ones((1, 10))

    def scales(self, z: Array) -> Array:
        return z[:, None] * self.masks

    def figures(self, scales: Array) -> Array:
        found: Array = scales[0]
        return found


@pytest.mark.parametrize(("least_error", "found"), [(0.07, 0.03), (0.014, 0.006)])
def test_rows_that_scatter_to_one_side_move_a_fit_less_the_smaller_the_least_error(
    least_error: float, found: float
) -> None:
    """Seven rows at 0 and three at 0.4, whose median is 0.

    Three pulls of 1 against seven of z / least_error: z = 3 / 7 of the least error.
    """
    measured = Measured(
        place=(np.arange(10),), log=np.repeat([0.0, 0.4], [7, 3]), weight=np.full(10, 0.1)
    )
    z = descend(
        _Common(),
        measured,
        np.array([0]),
        penalty=1e-12,
        least_error=least_error,
        start=np.array([0.2]),
        rounds=40,
    )
    assert z[0] == pytest.approx(found, abs=1e-3)
