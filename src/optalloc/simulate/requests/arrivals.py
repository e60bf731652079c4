"""Arrivals: when requests come. Equal seeds give equal draws at every rate, scaled in time."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.errors import InputError

Reals = NDArray[np.float64]


class Poisson(msgspec.Struct, frozen=True, tag_field="kind", tag="poisson"):
    """Independent arrivals, ``rate_per_s`` in the mean."""

    rate_per_s: float

    def times_s(self, count: int, random: np.random.Generator) -> Reals:
        """Arrival of each request, seconds."""
        return np.cumsum(random.exponential(1.0, count)) / _positive(self.rate_per_s)


class Bursts(msgspec.Struct, frozen=True, tag_field="kind", tag="burst"):
    """Poisson arrivals that alternate between a busy and a quiet rate (Markov-modulated).

    ``rate_per_s`` is the mean rate, ``peak`` how many times it the rate in a burst is, ``share``
    the part of the time that bursts take (``peak * share`` of all requests come in one), ``length``
    the requests that come in a burst in the mean.
    """

    rate_per_s: float
    peak: float = 4.0
    share: float = 0.1
    length: float = 50.0

    def __post_init__(self) -> None:
        if not (self.peak >= 1.0 and 0.0 < self.share < 1.0 and self.peak * self.share <= 1.0):
            raise InputError(
                f"bursts of {self.peak:g} times the rate cannot take {self.share:g} of the time",
                path="arrivals",
                fix="give a share below 1 with peak * share at most 1",
            )

    def times_s(self, count: int, random: np.random.Generator) -> Reals:
        """Arrival of each request, seconds.

        At a mean rate of 1 a burst lasts ``length / peak``, and as much quiet follows as its share
        asks for; the operational time of a unit-rate process is mapped through these rates.
        """
        on = self.length / self.peak
        off = on * (1.0 - self.share) / self.share
        quiet = (1.0 - self.peak * self.share) / (1.0 - self.share)
        operational = np.cumsum(random.exponential(1.0, count))
        times, work = [0.0], [0.0]
        while work[-1] < operational[-1]:
            for mean, rate in ((off, quiet), (on, self.peak)):
                lasts = float(random.exponential(mean))
                times.append(times[-1] + lasts)
                work.append(work[-1] + lasts * rate)
        return np.interp(operational, work, times) / _positive(self.rate_per_s)


class ClosedLoop(msgspec.Struct, frozen=True, tag_field="kind", tag="closed"):
    """``clients`` requests in flight: each answered one is followed by the next after ``think_s``
    seconds in the mean (exponential)."""

    clients: int
    think_s: float = 0.0


class AtOnce(msgspec.Struct, frozen=True, tag_field="kind", tag="at-once"):
    """Every request is there at the beginning."""


Arrivals = Poisson | Bursts | ClosedLoop | AtOnce


def _positive(rate_per_s: float) -> float:
    if not 0.0 < rate_per_s < float("inf"):
        raise InputError(
            f"the rate is {rate_per_s:g} requests/s", path="arrivals", fix="give a number above 0"
        )
    return rate_per_s
