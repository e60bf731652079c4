"""Turns: how far one input can move before another choice is better, for plans of any kind.

A probe solves exactly for one value of one input. Values move away from the present one by factors
of two; between the last that holds and the first that does not the turn is bisected. What holds at
two values need not hold between them: the turn found is one, and the nearest one that this ladder
meets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Generic, Literal, Protocol, TypeVar

import msgspec

from optalloc.errors import InputError
from optalloc.plan.compare import Decision, Section

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


def turn_section(turns: Sequence[Turn], better: str, otherwise: str) -> Section:
    """The turns as a part of a printed explanation; ``better`` says what a gain is of, and
    ``otherwise`` what changes where no decision is named."""
    return (
        f"How far the choice holds (to within {WORTH:.1%} of the best)",
        ("input", "now", "holds to", "changes at", "what is then better"),
        tuple(_row(turn, better, otherwise) for turn in turns),
    )


def _row(turn: Turn, better: str, otherwise: str) -> tuple[str, ...]:
    changed = ", ".join(f"{d.name} {d.first} -> {d.second}" for d in turn.decisions)
    if turn.changes_at is not None:
        changed = changed or otherwise
        changed += f" ({turn.gain:.1%} {better})" if turn.gain is not None else ""
    return (
        f"{turn.quantity}, {turn.direction}",
        f"{_number(turn.now)} {turn.unit}",
        _number(turn.holds_at),
        "-" if turn.changes_at is None else _number(turn.changes_at),
        "; ".join(words for words in (turn.why, changed) if words),
    )


def _number(value: float) -> str:
    """Four digits, or all of a whole number."""
    return f"{value:,.0f}" if value.is_integer() else f"{value:,.4g}"
