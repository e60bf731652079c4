"""Read saved plans of any family, with the format's version checked first."""

from __future__ import annotations

import os
from typing import Literal

import msgspec

from optalloc import files
from optalloc.errors import FormatVersionError
from optalloc.training.plan import FORMAT_VERSION, TrainingPlan


class _Version(msgspec.Struct):
    kind: Literal["training"] = "training"
    format_version: str = FORMAT_VERSION


def load_plan(path: str | os.PathLike[str]) -> TrainingPlan:
    """Read a saved plan; keys that a newer minor version has added are passed over.

    Raises
    ------
    InputError
        If the file is broken; the message has the JSON pointer.
    FormatVersionError
        If its major format version is not this release's.
    """
    data = files.parse_json(files.read_text(path), path=str(path))
    version = files.typed(data, _Version, path=str(path)).format_version
    if version.split(".")[0] != FORMAT_VERSION.split(".")[0]:
        raise FormatVersionError(
            f"plan format {version} is not read by this release, which reads {FORMAT_VERSION}",
            path=str(path),
            pointer="$.format_version",
            fix="make the plan again with this release",
        )
    return files.typed(files.known_only(data, TrainingPlan), TrainingPlan, path=str(path))
