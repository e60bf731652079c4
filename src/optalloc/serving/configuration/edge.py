"""Edge: the value next to those out of reach, found by few tries around a guess."""

from __future__ import annotations

import math
from collections.abc import Callable


def edge(
    good: float,
    bad: float,
    guess: float,
    reached: Callable[[float], float | None],
    *,
    near: float,
    whole: bool = False,
) -> float:
    """The value nearest to ``bad`` that is within reach, to the factor ``near``.

    Parameters
    ----------
    good, bad : float
        A value within reach and one that is not, above 0; either may be the larger.
    guess : float
        Where the edge likely is.
    reached : callable
        Tries a value: None where it is out of reach, else it or one nearer to ``bad`` that is
        within reach too.
    near : float
        Factor above 1 that may lie between what is in and out of reach at the end.
    whole : bool
        Whole numbers alone; of two next to each other, none lies between.

    Complexity: for a guess d factors of ``near`` away O(log d) tries, each twice as far as the one
    before, and as many that halve what is left.
    """
    sign = 1.0 if bad > good else -1.0
    at, step = sign * math.log(guess), math.log(near) * (1.0 - 1e-9)
    while max(good, bad) > min(good, bad) * near and not (whole and abs(good - bad) <= 1.0):
        low, high = sign * math.log(good), sign * math.log(bad)
        value = math.exp(sign * (at if low < at < high else (low + high) / 2.0))
        if whole:
            value = min(max(round(value), min(good, bad) + 1.0), max(good, bad) - 1.0)
        found = reached(value)
        if found is None:
            bad, at = value, sign * math.log(value)
            at = max(at - step, (low + at) / 2.0)
        else:
            good, at = found, sign * math.log(found)
            at = min(at + step, (at + high) / 2.0)
        step *= 2.0
    return good
