"""Write the files that run a serving plan: the list of targets, and what none may leave out."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

from optalloc.errors import ExportError
from optalloc.export.base import Artefact, check_target, exporter_at, write
from optalloc.serving.configuration.plan import ServingPlan

# target -> dotted path of its exporter; a module is imported only when it is asked for.
SERVING_TARGETS = {
    "dynamo": "optalloc.export.serving.dynamo.artefacts",
    "llm-d": "optalloc.export.serving.llm_d.artefacts",
    "lws": "optalloc.export.serving.lws.artefacts",
    "sglang": "optalloc.export.serving.scripts.sglang_artefacts",
    "trtllm": "optalloc.export.serving.scripts.trtllm_artefacts",
    "vllm": "optalloc.export.serving.scripts.vllm_artefacts",
}


def serving_artefacts(plan: ServingPlan, target: str) -> tuple[Artefact, ...]:
    """The files of an export, without writing them.

    Raises
    ------
    InputError
        If no target has that name.
    ExportError
        If the target cannot express the plan; names the feature.
    """
    check_target(target, among=SERVING_TARGETS, refusal="does not run serving plans")
    for worker in plan.workers:
        if worker.engine.draft_tokens:
            raise ExportError(
                target,
                "speculative decoding whose draft model the plan does not name",
                fix="plan with draft_tokens = 0, and add the draft model's flags by hand",
            )
    exporter = cast(
        Callable[[ServingPlan], tuple[Artefact, ...]], exporter_at(SERVING_TARGETS[target])
    )
    return exporter(plan)


def export_serving(
    plan: ServingPlan, target: str, folder: str | os.PathLike[str]
) -> tuple[Path, ...]:
    """Write the files that run a serving plan; returns them.

    Raises
    ------
    InputError
        If the target is unknown or the folder cannot be written.
    ExportError
        If the target cannot express the plan.
    """
    return write(serving_artefacts(plan, target), folder)
