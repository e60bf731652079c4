"""Read saved plans of any family, with the format's version checked first."""

from __future__ import annotations

import os
from typing import TypeVar

import msgspec

from optalloc import files
from optalloc.errors import FormatVersionError, InputError
from optalloc.serving.configuration.plan import ServingPlan
from optalloc.serving.offload.plan import OffloadPlan
from optalloc.training.mixed.plan import MixedPlan
from optalloc.training.plan import TrainingPlan

P = TypeVar("P", bound=msgspec.Struct)
AnyTrainingPlan = TrainingPlan | MixedPlan
AnyPlan = TrainingPlan | MixedPlan | OffloadPlan | ServingPlan


class _Head(msgspec.Struct):
    """What is read of a saved plan before the rest; the first plans of equal stages had no kind."""

    kind: str = "training"
    format_version: str = "1.0"


def load_plan(path: str | os.PathLike[str]) -> TrainingPlan:
    """Read a saved plan; keys that a newer minor version has added are passed over.

    Raises
    ------
    InputError
        If the file is broken; the message has the JSON pointer.
    FormatVersionError
        If its major format version is not this release's.
    """
    return read_saved(path, TrainingPlan)


def load_mixed_plan(path: str | os.PathLike[str]) -> MixedPlan:
    """Read a saved plan on a mixed cluster; raises as :func:`load_plan`."""
    return read_saved(path, MixedPlan)


def load_training_plan(path: str | os.PathLike[str]) -> AnyTrainingPlan:
    """Read a saved training plan on any cluster; raises as :func:`load_plan`."""
    kinds: tuple[type[AnyTrainingPlan], ...] = (TrainingPlan, MixedPlan)
    return read_saved(path, *kinds)


def load_offload_plan(path: str | os.PathLike[str]) -> OffloadPlan:
    """Read a saved offload plan; raises as :func:`load_plan`."""
    return read_saved(path, OffloadPlan)


def load_serving_plan(path: str | os.PathLike[str]) -> ServingPlan:
    """Read a saved serving plan; raises as :func:`load_plan`."""
    return read_saved(path, ServingPlan)


def load_any_plan(path: str | os.PathLike[str]) -> AnyPlan:
    """Read a saved plan of any family; raises as :func:`load_plan`."""
    kinds: tuple[type[AnyPlan], ...] = (TrainingPlan, MixedPlan, OffloadPlan, ServingPlan)
    return read_saved(path, *kinds)


def read_saved(path: str | os.PathLike[str], *kinds: type[P]) -> P:
    """The plan in a file, read once: of that of ``kinds`` whose tag it has.

    Raises
    ------
    InputError, FormatVersionError
        As :func:`load_plan`.
    """
    data = files.parse_json(files.read_text(path), path=str(path))
    if isinstance(data, dict) and "tool_version" not in data:
        raise InputError(
            "the file holds no plan",
            path=str(path),
            fix="give what -o of 'optalloc train', 'serve' or 'offload' wrote",
        )
    head = files.typed(data, _Head, path=str(path))
    tags = {str(kind.__struct_config__.tag): kind for kind in kinds}
    if head.kind not in tags:
        raise InputError(
            f"the file holds a plan of the kind {head.kind!r}",
            path=str(path),
            pointer="$.kind",
            fix=f"give a plan of the kind {' or '.join(map(repr, tags))}",
        )
    kind = tags[head.kind]
    ours = str(next(f.default for f in msgspec.structs.fields(kind) if f.name == "format_version"))
    if head.format_version.split(".")[0] != ours.split(".")[0]:
        raise FormatVersionError(
            f"plan format {head.format_version} is not read by this release, which reads {ours}",
            path=str(path),
            pointer="$.format_version",
            fix="make the plan again with this release",
        )
    return files.typed(files.known_only(data, kind), kind, path=str(path))
