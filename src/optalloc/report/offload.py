"""Tables of an offload plan: what runs and lives where, memory, and where the time goes."""

from __future__ import annotations

from itertools import groupby

from optalloc.report.table import Cell, Table, no_answer
from optalloc.result import Termination
from optalloc.serving.offload.explain import OffloadExplanation
from optalloc.serving.offload.plan import OffloadPlan, OffloadResult
from optalloc.units import format_bytes


def offload_tables(result: OffloadResult) -> list[Table]:
    """The answer of a search: the plan by range, memory, time; or why there is none."""
    spent = f"{result.stats.cpu_s:.2f} s of CPU"
    if result.best is None:
        title = f"No plan: {result.termination.value}, {spent}"
        return [no_answer(title, result.conflict, result.fixes, "stopped before one")]
    proven = result.termination is Termination.OPTIMAL
    shown = "proven optimal" if proven else f"gap {result.bounds.gap:.3%}"
    return plan_tables(result.best, f"{shown}, {spent}")


def plan_tables(plan: OffloadPlan, proof: str) -> list[Table]:
    """A plan: ranges with the homes of their parts, memory by device, time by cause."""
    g = plan.generation
    title = (
        f"{plan.output_tokens_per_s:,.4g} tokens/s, first token after {plan.ttft_s:,.3g} s, then "
        f"{plan.tpot_s * 1e3:,.4g} ms a token ({proof})"
    )
    placed = Table(
        title=title,
        columns=("places", "runs on", "on the device", "elsewhere"),
        rows=tuple(_ranges(plan)),
        notes=(
            f"{plan.model.name}, weights {g.dtype}"
            + (f", experts {g.expert_dtype}" if g.expert_dtype else "")
            + f", KV cache {g.kv_dtype} for {g.context_tokens:,} tokens x {g.batch}.",
        ),
    )
    memory = Table(
        title="",
        columns=("memory", "parts", "work space", "buffer", "free", "of"),
        rows=tuple(
            (
                use.device,
                *(
                    format_bytes(value)
                    for value in (
                        use.parts_bytes,
                        use.workspace_bytes,
                        use.buffer_bytes,
                        use.free_bytes,
                        use.capacity_bytes,
                    )
                ),
            )
            for use in plan.memory
        ),
        right=("parts", "work space", "buffer", "free", "of"),
    )
    times = Table(
        title="",
        columns=("time of a request", "s", "share"),
        rows=tuple(
            (cause, f"{s:,.4g}", f"{s / plan.request_s:.1%}")
            for cause, s in sorted(plan.breakdown_s.items(), key=lambda item: -item[1])
            if s > 0.0
        ),
        right=("s", "share"),
    )
    return [placed, memory, times]


def _ranges(plan: OffloadPlan) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    for gpu, group in groupby(plan.placement, key=lambda place: place.gpu):
        places = list(group)
        here: dict[str, int] = {}
        away: dict[str, int] = {}
        for place in places:
            for part in place.parts:
                if part.home == "device":
                    here[part.kind] = here.get(part.kind, 0) + 1
                else:
                    how = "" if gpu is None or part.on_cpu else ", streamed"
                    at = "CPU" if part.home == "cpu" else part.home
                    word = f"{part.kind} ({at}{how})"
                    away[word] = away.get(word, 0) + 1
        first, last = places[0].name, places[-1].name
        rows.append(
            (
                first if first == last else f"{first} to {last}",
                "CPU" if gpu is None else f"gpu{gpu} ({plan.machine.gpus[gpu].name})",
                ", ".join(f"{n} {kind}" for kind, n in here.items()),
                ", ".join(f"{n} {word}" for word, n in away.items()),
            )
        )
    return rows


def explanation_tables(explanation: OffloadExplanation) -> list[Table]:
    """Time by cause with what binds, and every change that was planned anew."""
    return [
        Table(
            title=explanation.summary,
            columns=("time of a request", "s", "share"),
            rows=tuple(
                (c.cause, f"{c.seconds:,.4g}", f"{c.share:.1%}") for c in explanation.causes
            ),
            notes=tuple(f"{text[0].upper()}{text[1:]}." for text in explanation.binds),
            right=("s", "share"),
        ),
        Table(
            title="One change at a time, planned anew",
            columns=("change", "s", "times as fast"),
            rows=tuple(
                (c.what, f"{c.request_s:,.4g}", f"{c.speedup:.3f}") for c in explanation.changes
            ),
            right=("s", "times as fast"),
        ),
    ]
