"""Tables of a layer placement: who holds which layers, and what binds."""

from __future__ import annotations

from optalloc.report.table import Cell, Table, no_answer
from optalloc.result import Termination
from optalloc.serving.flow.network import Cut, routes
from optalloc.serving.flow.problem import FlowProblem
from optalloc.serving.flow.result import FlowResult

_FEW = 12


def flow_tables(problem: FlowProblem, result: FlowResult) -> list[Table]:
    """The placement by range of layers, or why there is none."""
    spent = f"{result.stats.cpu_s:.2f} s of CPU"
    if result.placed is None:
        title = f"No placement: {result.termination.value}, {spent}"
        return [no_answer(title, result.conflict, result.fixes, result.message)]
    through: dict[int, float] = {}
    if result.routes:
        for route in result.routes:
            for node in route.nodes:
                through[node] = through.get(node, 0.0) + route.tokens_per_s
    else:
        for (_, end), flow in routes(problem, result.placed).links.items():
            if end is not None:
                through[end] = through.get(end, 0.0) + flow
    ranges: dict[tuple[int, int, str], list[int]] = {}
    for node, (first, end) in result.placed.items():
        ranges.setdefault((first, end, problem.nodes[node].type), []).append(node)
    rows: list[tuple[Cell, ...]] = []
    for (first, end, type_), nodes in sorted(ranges.items()):
        table = problem.nodes[nodes[0]].throughput_tokens_per_s
        rows.append(
            (
                f"{first}-{end - 1}",
                type_,
                _listed(nodes),
                f"{len(nodes) * table[end - first - 1]:,.1f}",
                f"{sum(through.get(node, 0.0) for node in nodes):,.1f}",
            )
        )
    value, gap = result.bounds.primal or 0.0, result.bounds.gap
    shown = "proven optimal" if result.termination is Termination.OPTIMAL else f"gap {gap:.2%}"
    unused = len(problem.nodes) - len(result.placed)
    notes = [] if result.cut is None else [bottleneck(problem, result.cut)]
    notes += _latency_notes(result)
    if unused:
        notes.append(f"{unused} of {len(problem.nodes)} nodes are not used.")
    return [
        Table(
            title=f"{_amount(result, value)} ({shown}), {spent}",
            columns=("layers", "type", "nodes", "can pass", "passes"),
            rows=tuple(rows),
            notes=tuple(notes),
            right=("can pass", "passes"),
        )
    ]


def _amount(result: FlowResult, value: float) -> str:
    if result.objective == "flow":
        return f"{value:,.2f} tokens/s"
    flow = sum(route.tokens_per_s for route in result.routes)
    return f"{_time(value)} from source to sink, for up to {flow:,.2f} tokens/s"


def _latency_notes(result: FlowResult) -> list[str]:
    if result.latency_limit_s is not None and result.latency_s is not None:
        return [
            f"A token takes up to {_time(result.latency_s)} of the {_time(result.latency_limit_s)}"
            " allowed, nodes and links together."
        ]
    if result.objective == "flow" and result.latency_s is not None:
        links = result.link_latency_s or 0.0
        more = f", {_time(links)} of it the latency of links" if links else ""
        return [f"A token takes up to {_time(result.latency_s)} on the slowest route{more}."]
    return []


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:,.4g} ms" if seconds < 1.0 else f"{seconds:,.4g} s"


def bottleneck(problem: FlowProblem, cut: Cut) -> str:
    """One sentence on what every token has to cross and is full."""
    parts = []
    if cut.nodes:
        types = sorted({problem.nodes[node].type for node in cut.nodes})
        parts.append(f"the throughput of node {_listed(list(cut.nodes))} ({', '.join(types)})")
    if cut.links:
        names = [
            f"{'source' if a is None else a} to {'sink' if b is None else b}" for a, b in cut.links
        ]
        more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
        parts.append(f"the link {', '.join(names[:_FEW])}{more}")
    return f"What binds this placement: {' and '.join(parts)}." if parts else "Nothing binds."


def _listed(nodes: list[int]) -> str:
    shown = " ".join(map(str, nodes[:_FEW]))
    return f"{shown} and {len(nodes) - _FEW} more" if len(nodes) > _FEW else shown
