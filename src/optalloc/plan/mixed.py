"""Read a saved mixed plan; tell it from a plan of equal stages; certify it."""

from __future__ import annotations

import os

import msgspec

from optalloc import files
from optalloc.errors import FormatVersionError, OptallocError
from optalloc.plan.certify import Claim
from optalloc.result import Bounds
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
    data = files.parse_json(files.read_text(path), path=str(path))
    version = files.typed(data, _Head, path=str(path)).format_version
    if version.split(".")[0] != FORMAT_VERSION.split(".")[0]:
        raise FormatVersionError(
            f"plan format {version} is not read by this release, which reads {FORMAT_VERSION}",
            path=str(path),
            pointer="$.format_version",
            fix="make the plan again with this release",
        )
    return files.typed(files.known_only(data, MixedPlan), MixedPlan, path=str(path))


def certify_mixed(plan: MixedPlan) -> Claim:
    """Check everything a mixed plan says about itself; returns what it claims about all others.

    Raises
    ------
    CertificateError
        For the first figure that is not true, with the claimed and the true value.

    Complexity: O(stages * layers).
    """
    check_mixed_plan(plan)
    certificate = plan.certificate
    if certificate is None:
        return Claim()
    return Claim(
        objective=certificate.objective,
        bounds=Bounds(primal=certificate.value, dual=certificate.bound),
        space=certificate.space,
        configurations=certificate.configurations,
        pruned=certificate.pruned,
    )
