"""Files that run a serving plan: the list of targets, and what none may leave out."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from optalloc.errors import ExportError
from optalloc.export.base import Artefact, check_target, exporter_at
from optalloc.export.serving.devices import check_gpus
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
    check_gpus(plan, target)
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
