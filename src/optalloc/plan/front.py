"""front: the rows of a sweep that no other row beats in both time and money."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from optalloc.plan.cell import Row


class Axes(msgspec.Struct, frozen=True, kw_only=True):
    """What is drawn against what: fields of a row, their names, and which is better.

    Cells of one workload compare by step time and price of a step; others only by tokens per second
    and price of a trillion tokens.
    """

    cost: str
    cost_words: str
    speed: str
    speed_words: str
    more_is_better: bool


def axes(rows: Sequence[Row]) -> Axes:
    """The axes on which these rows can be compared."""
    if len({(r.model, r.sequence_length, r.global_batch) for r in rows}) <= 1:
        return Axes(
            cost="price_usd_per_step",
            cost_words="USD a step",
            speed="step_time_s",
            speed_words="seconds a step",
            more_is_better=False,
        )
    return Axes(
        cost="usd_per_trillion_tokens",
        cost_words="USD a trillion tokens",
        speed="tokens_per_s",
        speed_words="tokens/s",
        more_is_better=True,
    )


def points(rows: Sequence[Row], which: Axes) -> list[tuple[float, float, Row]]:
    """(cost, speed, row) of the rows that have a plan and a price."""
    return [
        (cost, speed, row)
        for row in rows
        if (cost := getattr(row, which.cost)) is not None
        and (speed := getattr(row, which.speed)) is not None
    ]


def marked(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows with ``front`` set: no other is as good in one and better in the other.

    Complexity: O(n log n).
    """
    which = axes(rows)
    sign = -1.0 if which.more_is_better else 1.0
    order = sorted((cost, sign * speed, row.digest) for cost, speed, row in points(rows, which))
    best, front, last = float("inf"), set(), (float("nan"), float("nan"))
    for cost, time, digest in order:
        if time < best or (cost, time) == last:  # equal points are all on it
            best, last = min(best, time), (cost, time)
            front.add(digest)
    return tuple(msgspec.structs.replace(row, front=row.digest in front) for row in rows)
