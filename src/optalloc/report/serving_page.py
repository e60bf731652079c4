"""One self-contained HTML page of a serving plan and its explanation.

Tables and drawings are made here, and nothing is fetched. Every number it prints is in the plan or
in the explanation, which the page holds as JSON.
"""

from __future__ import annotations

import html
import importlib.resources
import json
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from optalloc.plan.explain_serving import ServingExplanation
from optalloc.report.scatter import INK, PALETTE, Dot, scatter_svg, text
from optalloc.report.serving import explanation_tables, plan_tables, value_text
from optalloc.report.sweep import plain_number
from optalloc.report.table import Table, cell_text
from optalloc.serving.configuration.plan import Point, ServingPlan
from optalloc.units import GIB, format_seconds

_WIDTH, _BAR, _ROW, _LABEL = 560, 22, 34, 170
_KINDS = {"weights": "#0072b2", "workspace": "#999999", "kv": "#009e73"}
_PARTS = {"fixed_s": "weights and launches", "cache_s": "cache", "growth_s": "more sequences"}


def serving_page(plan: ServingPlan, explanation: ServingExplanation) -> str:
    """The text of the page.

    Parameters
    ----------
    plan : ServingPlan
        With true figures.
    explanation : ServingExplanation
        Of that plan.
    """
    said = plan.predicted
    engines, *rivals = plan_tables(plan, explanation.objective)
    changes, times, *more = explanation_tables(explanation)
    parts = [
        f"<header><h1>{_safe(f'{plan.model.name} on {plan.cluster.name}')}</h1>"
        f"<p>{_safe(value_text(explanation.objective, explanation.value))}; {plan.mode}, "
        f"{plan.num_devices} of {plan.cluster.num_devices} devices; first token "
        f"{format_seconds(said.ttft_s)}, then {format_seconds(said.tpot_s)} a token; "
        f"{plain_number(said.output_tokens_per_s)} output tokens/s.</p>"
        f"<p>{_safe(explanation.summary)}</p>"
        "<p class=faint>Estimates of the cost model, not measurements.</p></header>",
        _section(engines.title, _table(engines), wide=True),
        _section("Memory of one device, GiB", _svg(_memory(plan), len(plan.workers))),
        _section(times.title, _svg(_times(explanation), len(explanation.engines)) + _table(times)),
        _section(changes.title, _table(changes)),
        _front(plan.front),
        *(_section(t.title, _table(t), wide=len(t.columns) > 4) for t in (*more, *rivals)),
    ]
    data = {"plan": msgspec.to_builtins(plan), "explanation": msgspec.to_builtins(explanation)}
    # No text inside may end the element that holds it.
    held = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("</", "<\\/")
    style = importlib.resources.files("optalloc.report") / "static" / "page.css"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_safe(f'{plan.model.name} on {plan.cluster.name}')}</title>\n"
        f"<style>\n{style.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + f'\n</main>\n<script type="application/json" id="data">{held}</script>\n'
        "</body>\n</html>\n"
    )


def _safe(words: str) -> str:
    return html.escape(words)


def _section(title: str, body: str, *, wide: bool = False) -> str:
    kind = ' class="wide"' if wide else ""
    return f"<section{kind}><h2>{_safe(title)}</h2>{body}</section>"


def _table(table: Table) -> str:
    """A table with its notes."""
    right = [
        name in table.right or all(isinstance(row[i], int | float | None) for row in table.rows)
        for i, name in enumerate(table.columns)
    ]
    kinds = [' class="n"' if one else "" for one in right]
    head = "".join(f"<th{k}>{_safe(n)}</th>" for k, n in zip(kinds, table.columns, strict=True))
    rows = "".join(
        "<tr>"
        + "".join(f"<td{k}>{_safe(cell_text(c))}</td>" for k, c in zip(kinds, row, strict=True))
        + "</tr>"
        for row in table.rows
    )
    notes = "".join(f"<p class=faint>{_safe(note)}</p>" for note in table.notes)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{notes}"


def _svg(body: Iterable[str], rows: int) -> str:
    height = rows * _ROW + 40
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img">' + "".join(body) + "</svg>"
        if rows
        else ""
    )


def _bars(
    rows: Sequence[tuple[str, dict[str, float]]],
    whole: float,
    colours: dict[str, str],
    say: dict[str, str],
) -> Iterator[str]:
    """A bar a row, cut into parts, over ``whole``; a legend below."""
    across = (_WIDTH - _LABEL) / whole
    for number, (label, parts) in enumerate(rows):
        y, x = number * _ROW, float(_LABEL)
        yield text(0, y + 16, label)
        yield (
            f'<rect x="{_LABEL}" y="{y}" width="{whole * across:.1f}" height="{_BAR}" '
            f'fill="none" stroke="{INK}"/>'
        )
        for name, size in parts.items():
            width = size * across
            yield (
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}" '
                f'fill="{colours[name]}"><title>{_safe(f"{say[name]}: {size:.4g}")}</title></rect>'
            )
            x += width
    x, y = float(_LABEL), len(rows) * _ROW + 8
    for name, colour in colours.items():
        yield f'<rect x="{x:.1f}" y="{y}" width="11" height="11" fill="{colour}"/>'
        yield text(x + 16, y + 10, say[name])
        x += 30 + 7.0 * len(say[name])


def _memory(plan: ServingPlan) -> Iterator[str]:
    rows = [
        (
            f"{w.role}, {w.device}",
            {kind: w.memory_bytes.get(kind, 0) / GIB for kind in _KINDS},
        )
        for w in plan.workers
    ]
    most = max(w.capacity_bytes for w in plan.workers) / GIB
    return _bars(rows, most, _KINDS, {name: name for name in _KINDS})


def _times(explanation: ServingExplanation) -> Iterator[str]:
    """A decoding iteration in milliseconds; prefill workers have none."""
    rows = [
        (f"{e.role}, {e.device}", {name: getattr(e, name) * 1e3 for name in _PARTS})
        for e in explanation.engines
    ]
    most = max(sum(parts.values()) for _, parts in rows)
    colours = dict(zip(_PARTS, PALETTE, strict=False))
    words = {name: f"{say}, ms" for name, say in _PARTS.items()}
    return _bars(rows, max(most, 1e-9), colours, words)


def _front(points: Sequence[Point]) -> str:
    """A user's speed to the right, a device's output upwards; every point is on the front."""
    if len(points) < 2:
        return ""
    dots = [
        Dot(
            p.tokens_per_s_per_user,
            p.tokens_per_s_per_device,
            p.mode,
            front=True,
            mark="",
            label=f"{p.setup}: {p.tokens_per_s_per_user:.4g} a user, "
            f"{p.tokens_per_s_per_device:.4g} a device",
        )
        for p in points
    ]
    words = ("output tokens/s of a user", "output tokens/s a device")
    return _section("The front", scatter_svg(dots, "", words), wide=True)
