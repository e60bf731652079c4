"""One self-contained HTML page of a plan and its explanation.

The page draws what it holds as JSON: the plan, the explanation, and the passes of the simulated
step. Style and script are put into it; nothing is fetched. Every number it prints is in the plan or
in the explanation.
"""

from __future__ import annotations

import html
import importlib.resources
import json
from typing import Any

import msgspec

from optalloc.plan.account import part_words
from optalloc.plan.explanation import Explanation
from optalloc.simulate.excerpt import excerpt
from optalloc.simulate.simulation import simulate
from optalloc.training.plan import TrainingPlan
from optalloc.training.schedule import Operation

#: Passes drawn one by one; of more, those in the middle of each stage are drawn as one block.
MOST_PASSES = 8000


def page(plan: TrainingPlan, explanation: Explanation) -> str:
    """The text of the page.

    Parameters
    ----------
    plan : TrainingPlan
        With true figures.
    explanation : Explanation
        Of that plan.

    Complexity: O(n log n) for n passes of micro-batches through chunks.
    """
    data = {
        "plan": msgspec.to_builtins(plan),
        "explanation": msgspec.to_builtins(explanation),
        "words": {part.name: part_words(part.name) for part in explanation.parts},
        "timeline": timeline(plan),
    }
    text = _file("page.html")
    for name, value in (
        ("TITLE", html.escape(f"{plan.model.name} on {plan.cluster.name}")),
        ("STYLE", _file("page.css")),
        ("SCRIPT", _file("page.js")),
        # No text inside may end the element that holds it.
        ("DATA", json.dumps(data, ensure_ascii=False, allow_nan=False).replace("</", "<\\/")),
    ):
        text = text.replace(f"@{name}@", value, 1)
    return text


def timeline(plan: TrainingPlan) -> dict[str, Any]:
    """Passes and tails of each stage, times as shares of the step.

    A pass is ``[kind, micro_batch, chunk, start, end]``; the middle of a long stage is one pass of
    the kind ``steady``.
    """
    simulation = simulate(plan)
    step_s = simulation.step_time_s
    counters = [(one.time_s, one.memory_bytes) for one in simulation.memory]
    part = excerpt(simulation.run, counters, MOST_PASSES)
    stages = []
    for operations, end_s, tail, gap in zip(
        part.run.operations, part.run.stage_end_s, simulation.tails, part.gaps, strict=True
    ):
        drawn = [_drawn(op, step_s) for op in operations]
        if gap is not None:
            drawn.append(["steady", -1, -1, gap.start_s / step_s, gap.end_s / step_s])
        stages.append({"passes": drawn, "tail": [end_s / step_s, (end_s + tail.total_s) / step_s]})
    return {"stages": stages, "fixed": [1.0 - simulation.fixed_s / step_s, 1.0]}


def _drawn(op: Operation, step_s: float) -> list[Any]:
    start, end = round(op.start_s / step_s, 7), round(op.end_s / step_s, 7)
    return [op.kind, op.micro_batch, op.chunk, start, end]


def _file(name: str) -> str:
    resource = importlib.resources.files("optalloc.report") / "static" / name
    return resource.read_text(encoding="utf-8")
