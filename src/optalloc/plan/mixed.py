"""Read a saved mixed plan; tell it from a plan of equal stages; certify it."""

from __future__ import annotations

import os

import msgspec

from optalloc import files
from optalloc.errors import OptallocError
from optalloc.plan.certify import Claim
from optalloc.plan.plan import read_saved
from optalloc.training.mixed.certify import check_mixed_plan
from optalloc.training.mixed.plan import FORMAT_VERSION, MixedPlan


class _Head(msgspec.Struct):
    kind: str = "training"
    format_version: str = FORMAT_VERSION


def is_mixed_plan(path: str | os.PathLike[str]) -> bool:
    """True if a file holds a mixed plan; whatever is wrong with it is for its reader to say."""
    try:
        data = files.parse_json(files.read_text(path), path=str(path))
        return files.typed(data, _Head, path=str(path)).kind == "mixed-training"
    except OptallocError:
        return False


def load_mixed_plan(path: str | os.PathLike[str]) -> MixedPlan:
    """Read a saved mixed plan; keys that a newer minor version has added are passed over.

    Raises
    ------
    InputError
        If the file is broken; the message has the JSON pointer.
    FormatVersionError
        If its major format version is not this release's.
    """
    return read_saved(path, MixedPlan, _Head())


def certify_mixed(plan: MixedPlan) -> Claim:
    """Check everything a mixed plan says about itself; returns what it claims about all others.

    Raises
    ------
    CertificateError
        For the first figure that is not true, with the claimed and the true value.

    Complexity: O(stages * layers).
    """
    check_mixed_plan(plan)
    return Claim.of(plan.certificate)
