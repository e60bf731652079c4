"""Files that run an offload plan: the list of runtimes, and what none may leave out."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from optalloc.errors import ExportError
from optalloc.export.base import Artefact, check_target, exporter_at
from optalloc.serving.offload.plan import OffloadPlan
from optalloc.serving.offload.runtimes import against, limits_of

# runtime -> dotted path of its exporter; a module is imported only when it is asked for.
OFFLOAD_TARGETS = {
    "accelerate": "optalloc.export.offload.accelerate.artefacts",
    "llama.cpp": "optalloc.export.offload.llama_cpp.artefacts",
    "vllm": "optalloc.export.offload.vllm.artefacts",
}


def offload_artefacts(plan: OffloadPlan, target: str) -> tuple[Artefact, ...]:
    """The files of an export, without writing them.

    Raises
    ------
    InputError
        If no runtime has that name.
    ExportError
        If the runtime cannot express the plan.
    """
    check_target(target, among=OFFLOAD_TARGETS, refusal="does not run offload plans")
    reasons = [against(limits, plan.placement) for limits in limits_of(target, plan.machine)]
    if None not in reasons:
        raise ExportError(
            target, str(reasons[0]), fix=f"plan with 'optalloc offload ... --for {target}'"
        )
    exporter = cast(
        Callable[[OffloadPlan], tuple[Artefact, ...]], exporter_at(OFFLOAD_TARGETS[target])
    )
    return exporter(plan)


def ranges(plan: OffloadPlan) -> list[tuple[int | None, int, int]]:
    """Device, first and end layer of every range that holds a layer; the ends are not counted."""
    found: list[tuple[int | None, int, int]] = []
    for layer, place in enumerate(plan.placement[1:-1]):
        if found and found[-1][0] == place.gpu:
            found[-1] = (place.gpu, found[-1][1], layer + 1)
        else:
            found.append((place.gpu, layer, layer + 1))
    return found
