"""Plots of sweeps as SVG: two figures on logarithmic axes, a colour a kind, the front joined."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from optalloc.plan.cell import Row
from optalloc.plan.front import axes, points
from optalloc.plan.serving_cell import ServingRow
from optalloc.report.sweep import plain_number

# Okabe and Ito's palette, which colour-blind readers can tell apart.
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999")
_WIDTH, _HEIGHT = 860, 520
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 30, 84, 60
INK, _FAINT = "#1b1b1b", "#6a6a6a"


class Dot(NamedTuple):
    """A point: its kind gives the colour, ``front`` fills it and joins it to others of the front,
    ``mark`` stands beside it there, and ``label`` says what it is."""

    x: float
    y: float
    kind: str
    front: bool
    mark: str
    label: str


def sweep_svg(rows: Sequence[Row], title: str) -> str:
    """The SVG text of a sweep of training plans: speed against price."""
    which = axes(rows)
    dots = [
        Dot(
            cost,
            speed,
            row.device,
            row.front,
            str(row.devices),
            f"{row.devices} {row.device}, {row.sequence_length} tokens, batch {row.global_batch}: "
            f"{plain_number(speed)} {which.speed_words}, {plain_number(cost)} {which.cost_words}",
        )
        for cost, speed, row in points(rows, which)
    ]
    up = f"{which.speed_words} (up is faster)"
    return scatter_svg(dots, title, (which.cost_words, up), falls=not which.more_is_better)


def serving_sweep_svg(rows: Sequence[ServingRow], title: str) -> str:
    """The SVG text of a sweep of serving plans: output of a device against speed for a user."""
    across, up = "output tokens/s of a user", "output tokens/s a device"
    dots = [
        Dot(
            user,
            device,
            row.device,
            row.front,
            str(row.devices),
            f"{row.devices} {row.device}, {row.input_len} to {row.output_len} tokens: "
            f"{plain_number(user)} {across}, {plain_number(device)} {up}, {row.engines}",
        )
        for row in rows
        if (user := row.tokens_per_s_per_user) is not None
        and (device := row.tokens_per_s_per_device) is not None
    ]
    return scatter_svg(dots, title, (across, up))


def scatter_svg(
    dots: Sequence[Dot], title: str, words: tuple[str, str], *, falls: bool = False
) -> str:
    """The SVG text of points; both axes are logarithmic, each point says what it is.

    Parameters
    ----------
    words : tuple of str
        Names of the axes: across, up.
    falls : bool
        Whether less is drawn higher.
    """
    body = list(_plot(dots, words, falls=falls))
    if not dots:
        body = [text(_LEFT, 90, "no row has a plan and both figures")]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" font-family="system-ui, sans-serif" font-size="12" '
        f'role="img" aria-label="{escape(title)}">\n'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>\n'
        + "\n".join([text(_LEFT, 24, title, size=16), *body])
        + "\n</svg>\n"
    )


class Scale:
    """A logarithmic axis from pixels ``a`` to ``b``, a little wider than its values."""

    def __init__(self, values: Sequence[float], a: float, b: float) -> None:
        low, high = math.log(min(values)), math.log(max(values))
        margin = max(0.05 * (high - low), 0.05)
        self.low, self.high, self.a, self.b = low - margin, high + margin, a, b

    def __call__(self, value: float) -> float:
        share = (math.log(value) - self.low) / (self.high - self.low)
        return self.a + share * (self.b - self.a)

    def ticks(self) -> list[float]:
        """Round numbers: 1, 2 and 5 times powers of ten, or evenly where the axis is short."""
        low, high = math.exp(self.low), math.exp(self.high)
        if high < 4.0 * low:
            power = 10.0 ** math.floor(math.log10((high - low) / 4.0))
            step = next(m * power for m in (1, 2, 5, 10) if (high - low) / (m * power) <= 6)
            return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        found = [m * 10.0**p for p in range(first, last + 1) for m in (1, 2, 5)]
        found = [tick for tick in found if low <= tick <= high]
        return found[:: -(-len(found) // 9)]


def _plot(dots: Sequence[Dot], words: tuple[str, str], *, falls: bool) -> Iterator[str]:
    if not dots:
        return
    bottom = _HEIGHT - _BOTTOM
    across = Scale([dot.x for dot in dots], _LEFT, _WIDTH - _RIGHT)
    up = Scale([dot.y for dot in dots], *((_TOP, bottom) if falls else (bottom, _TOP)))
    yield f'<path d="M{_LEFT} {_TOP}V{bottom}H{_WIDTH - _RIGHT}" fill="none" stroke="{INK}"/>'
    for tick in across.ticks():
        x = across(tick)
        yield f'<path d="M{x:.1f} {bottom}v5" stroke="{INK}"/>'
        yield text(x, bottom + 19, f"{plain_number(tick)}", anchor="middle")
    for tick in up.ticks():
        y = up(tick)
        yield f'<path d="M{_LEFT} {y:.1f}h-5" stroke="{INK}"/>'
        yield text(_LEFT - 9, y + 4, f"{plain_number(tick)}", anchor="end")
    yield text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 16, words[0], anchor="middle")
    yield text(_LEFT, _TOP - 8, words[1])
    front = sorted((dot.x, dot.y) for dot in dots if dot.front)
    line = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in front)
    yield f'<polyline points="{line}" fill="none" stroke="{INK}" stroke-dasharray="4 3"/>'
    kinds = list(dict.fromkeys(dot.kind for dot in dots))
    for dot in sorted(dots, key=lambda one: one.front):
        colour = PALETTE[kinds.index(dot.kind) % len(PALETTE)]
        fill = colour if dot.front else "#ffffff"
        yield (
            f'<circle cx="{across(dot.x):.1f}" cy="{up(dot.y):.1f}" r="5" fill="{fill}" '
            f'stroke="{colour}" stroke-width="2"><title>{escape(dot.label)}</title></circle>'
        )
        if dot.front and dot.mark:
            yield text(across(dot.x) + 9, up(dot.y) + 4, dot.mark)
    x = float(_LEFT)
    for number, kind in enumerate(kinds):
        yield f'<circle cx="{x + 5:.1f}" cy="38" r="5" fill="{PALETTE[number % len(PALETTE)]}"/>'
        yield text(x + 15, 42, kind)
        x += 30 + 7.2 * len(kind)
    if any(dot.mark for dot in dots):
        yield text(x + 10, 42, "filled and numbered (devices): on the front", fill=_FAINT)


def text(
    x: float, y: float, words: str, *, anchor: str = "start", size: int = 12, fill: str = INK
) -> str:
    """A line of text at a point."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{fill}">'
        f"{escape(words)}</text>"
    )
