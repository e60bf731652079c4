"""Turns: how far one input can move before another choice is better, for plans of any kind.

A probe solves exactly for one value of one input. Values move away from the present one by factors
of two; between the last that holds and the first that does not the turn is bisected. What holds at
two values need not hold between them: the turn found is one, and the nearest one that this ladder
meets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Generic, Literal, Protocol, TypeVar

import msgspec

from optalloc.errors import InputError
from optalloc.plan.compare import Decision

#: A plan counts as better where it takes less by more than this share of its objective.
WORTH = 1e-3
#: The furthest factor tried either way.
FURTHEST = 16
_PRECISION = 1.05  # of a turn: the ratio of the values around it

Direction = Literal["less", "more"]
DIRECTIONS: tuple[Direction, Direction] = ("less", "more")
Case = TypeVar("Case")
Asked = TypeVar("Asked", contravariant=True)


class Stopped(Exception):
    """A search ended at its limit before it had proven its answer."""


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """How far one input can move in one direction, and what then is better.

    ``holds_at`` is the furthest value at which the choice was proven to be the best to within
    ``WORTH``, ``changes_at`` the nearest tried at which it was not (None: it holds as far as was
    tried, or the search was stopped). ``decisions`` are those of the better plan that differ;
    ``gain`` is what it saves, as a share of the objective. Where the choice has no plan there,
    ``gain`` is None and ``why`` says so.
    """

    quantity: str
    unit: str
    direction: Direction
    now: float
    holds_at: float
    changes_at: float | None
    gain: float | None
    decisions: tuple[Decision, ...]
    why: str


class Moving(msgspec.Struct, Generic[Case], frozen=True, kw_only=True):
    """An input that can move: its present value, and what is asked at another one."""

    quantity: str
    unit: str
    now: float
    step: int  # values are multiples of it; 0: any number
    at: Callable[[float], Case]


class Probe(Protocol[Asked]):
    """Asks whether a choice is still the best."""

    def holds(self, case: Asked, /) -> bool:
        """True if nothing is better by more than ``WORTH``: proven."""

    def better(self, case: Asked, /) -> tuple[float | None, tuple[Decision, ...], str]:
        """What the best plan saves, what it decides differently, and why if nothing is known."""


def turn_of(probe: Probe[Case], which: Moving[Case], direction: Direction) -> Turn:
    """Climb the ladder, then bisect."""
    holds, fails = which.now, None
    stopped = False
    try:
        for power in range(1, int(math.log2(FURTHEST)) + 1):
            factor = 2.0**power if direction == "more" else 0.5**power
            value = _rounded(which.now * factor, which.step)
            if not value or value == holds:
                break
            if not probe.holds(which.at(value)):
                fails = value
                break
            holds = value
        while fails is not None and max(fails / holds, holds / fails) > _PRECISION:
            middle = _rounded(math.sqrt(fails * holds), which.step)
            if not min(holds, fails) < middle < max(holds, fails):
                break
            if probe.holds(which.at(middle)):
                holds = middle
            else:
                fails = middle
        gain, different, why = (None, (), "") if fails is None else probe.better(which.at(fails))
    except Stopped:
        gain, different, why, stopped = None, (), "the search was stopped", True
    except InputError as error:  # a value that no workload may have
        gain, different, why = None, (), error.what
    return Turn(
        quantity=which.quantity,
        unit=which.unit,
        direction=direction,
        now=which.now,
        holds_at=holds,
        changes_at=None if stopped else fails,
        gain=gain,
        decisions=different,
        why=why,
    )


def _rounded(value: float, step: int) -> float:
    """The nearest multiple of the step, downwards."""
    return value if step == 0 else float(math.floor(value / step) * step)
