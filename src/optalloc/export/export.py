"""export: write the files that run any plan with another tool."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from optalloc.export.base import TARGETS, Artefact, artefacts, write
from optalloc.export.mixed import mixed_artefacts
from optalloc.export.offload.base import OFFLOAD_TARGETS, offload_artefacts
from optalloc.export.serving.base import SERVING_TARGETS, serving_artefacts
from optalloc.plan.plan import AnyPlan
from optalloc.serving.configuration.plan import ServingPlan
from optalloc.serving.offload.plan import OffloadPlan
from optalloc.training.mixed.plan import MixedPlan

_TARGETS = {"training": TARGETS, "serving": SERVING_TARGETS, "offload": OFFLOAD_TARGETS}


def export(plan: AnyPlan, target: str, folder: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Write the files that run ``plan`` with another tool.

    Parameters
    ----------
    plan : TrainingPlan, MixedPlan, ServingPlan or OffloadPlan
    target : str
        One of :func:`export_targets` for the kind of plan.
    folder : path
        Made if absent. Files of the same names are replaced and nothing else is touched. If the
        export fails, nothing is.

    Returns
    -------
    tuple of Path
        The files written.

    Raises
    ------
    InputError
        If the target is unknown or the folder cannot be written.
    ExportError
        If the target cannot express the plan; names the feature.
    """
    return write(artefacts_of(plan, target), folder)


def artefacts_of(plan: AnyPlan, target: str) -> tuple[Artefact, ...]:
    """The files of an export, without writing them."""
    if isinstance(plan, ServingPlan):
        return serving_artefacts(plan, target)
    if isinstance(plan, OffloadPlan):
        return offload_artefacts(plan, target)
    if isinstance(plan, MixedPlan):
        return mixed_artefacts(plan, target)
    return artefacts(plan, target)


def export_targets(
    kind: Literal["training", "serving", "offload"] = "training",
) -> tuple[str, ...]:
    """Names accepted by :func:`export` for plans of a kind, sorted.

    >>> export_targets("offload")
    ('accelerate', 'llama.cpp', 'vllm')
    """
    return tuple(sorted(_TARGETS[kind]))
