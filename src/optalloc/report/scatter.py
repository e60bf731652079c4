"""The plot of a sweep as SVG: speed against price, a colour a kind of device, the front joined."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from optalloc.plan.cell import Row
from optalloc.plan.front import Axes, axes, points
from optalloc.report.sweep import plain_number

# Okabe and Ito's palette, which colour-blind readers can tell apart.
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999")
_WIDTH, _HEIGHT = 860, 520
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 30, 84, 60
INK, _FAINT = "#1b1b1b", "#6a6a6a"


def sweep_svg(rows: Sequence[Row], title: str) -> str:
    """The SVG text of a sweep; both axes are logarithmic, each point says what it is."""
    which = axes(rows)
    found = points(rows, which)
    body = (
        list(_plot(found, which)) if found else [text(_LEFT, 90, "no row has a plan and a price")]
    )
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


def _plot(found: list[tuple[float, float, Row]], which: Axes) -> Iterator[str]:
    bottom = _HEIGHT - _BOTTOM
    across = Scale([cost for cost, _, _ in found], _LEFT, _WIDTH - _RIGHT)
    ends = (bottom, _TOP) if which.more_is_better else (_TOP, bottom)
    up = Scale([speed for _, speed, _ in found], *ends)
    yield f'<path d="M{_LEFT} {_TOP}V{bottom}H{_WIDTH - _RIGHT}" fill="none" stroke="{INK}"/>'
    for tick in across.ticks():
        x = across(tick)
        yield f'<path d="M{x:.1f} {bottom}v5" stroke="{INK}"/>'
        yield text(x, bottom + 19, f"{plain_number(tick)}", anchor="middle")
    for tick in up.ticks():
        y = up(tick)
        yield f'<path d="M{_LEFT} {y:.1f}h-5" stroke="{INK}"/>'
        yield text(_LEFT - 9, y + 4, f"{plain_number(tick)}", anchor="end")
    yield text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 16, which.cost_words, anchor="middle")
    yield text(_LEFT, _TOP - 8, f"{which.speed_words} (up is faster)")
    front = sorted(((cost, speed) for cost, speed, row in found if row.front))
    line = " ".join(f"{across(cost):.1f},{up(speed):.1f}" for cost, speed in front)
    yield f'<polyline points="{line}" fill="none" stroke="{INK}" stroke-dasharray="4 3"/>'
    kinds = list(dict.fromkeys(row.device for _, _, row in found))
    for cost, speed, row in sorted(found, key=lambda point: point[2].front):
        colour = PALETTE[kinds.index(row.device) % len(PALETTE)]
        fill = colour if row.front else "#ffffff"
        yield (
            f'<circle cx="{across(cost):.1f}" cy="{up(speed):.1f}" r="5" fill="{fill}" '
            f'stroke="{colour}" stroke-width="2"><title>{escape(_label(row, which))}</title>'
            "</circle>"
        )
        if row.front:
            yield text(across(cost) + 9, up(speed) + 4, str(row.devices))
    x = float(_LEFT)
    for number, kind in enumerate(kinds):
        yield f'<circle cx="{x + 5:.1f}" cy="38" r="5" fill="{PALETTE[number % len(PALETTE)]}"/>'
        yield text(x + 15, 42, kind)
        x += 30 + 7.2 * len(kind)
    yield text(x + 10, 42, "filled and numbered (devices): on the front", fill=_FAINT)


def _label(row: Row, which: Axes) -> str:
    return (
        f"{row.devices} {row.device}, {row.sequence_length} tokens, batch {row.global_batch}: "
        f"{plain_number(getattr(row, which.speed))} {which.speed_words}, "
        f"{plain_number(getattr(row, which.cost))} {which.cost_words}"
    )


def text(
    x: float, y: float, words: str, *, anchor: str = "start", size: int = 12, fill: str = INK
) -> str:
    """A line of text at a point."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{fill}">'
        f"{escape(words)}</text>"
    )
