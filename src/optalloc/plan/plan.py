"""Read saved plans of any family, with the format's version checked first."""

from __future__ import annotations

import os
from typing import Literal, Protocol, TypeVar

import msgspec

from optalloc import files
from optalloc.errors import FormatVersionError
from optalloc.training.plan import FORMAT_VERSION, TrainingPlan

P = TypeVar("P", bound=msgspec.Struct)


class _Version(msgspec.Struct):
    kind: Literal["training"] = "training"
    format_version: str = FORMAT_VERSION


class Head(Protocol):
    """What is read of a saved plan before the rest: made bare, it has this release's version."""

    @property
    def format_version(self) -> str: ...


def load_plan(path: str | os.PathLike[str]) -> TrainingPlan:
    """Read a saved plan; keys that a newer minor version has added are passed over.

    Raises
    ------
    InputError
        If the file is broken; the message has the JSON pointer.
    FormatVersionError
        If its major format version is not this release's.
    """
    return read_saved(path, TrainingPlan, _Version())


def read_saved(path: str | os.PathLike[str], kind: type[P], ours: Head) -> P:
    """A saved plan of one kind, its version checked first; raises as :func:`load_plan`."""
    data = files.parse_json(files.read_text(path), path=str(path))
    version = files.typed(data, type(ours), path=str(path)).format_version
    if version.split(".")[0] != ours.format_version.split(".")[0]:
        raise FormatVersionError(
            f"plan format {version} is not read by this release, which reads {ours.format_version}",
            path=str(path),
            pointer="$.format_version",
            fix="make the plan again with this release",
        )
    return files.typed(files.known_only(data, kind), kind, path=str(path))
