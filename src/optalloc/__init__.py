"""Globally optimal allocation of large-language-model computation to compute units, with proof."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Public name -> module that defines it. Names are resolved on first use (PEP 562), so that
# ``import optalloc`` costs next to nothing.
_HOME = {
    "AssignmentProblem": "optalloc.assignment.problem",
    "AssignmentResult": "optalloc.assignment.result",
    "Bounds": "optalloc.result",
    "CertificateError": "optalloc.errors",
    "Cluster": "optalloc.cluster.topology",
    "DeviceSpec": "optalloc.cluster.device",
    "Either": "optalloc.stop",
    "ExportError": "optalloc.errors",
    "FormatVersionError": "optalloc.errors",
    "Gap": "optalloc.stop",
    "InputError": "optalloc.errors",
    "MissingExtra": "optalloc.errors",
    "ModelSpec": "optalloc.model.spec",
    "NoPlan": "optalloc.errors",
    "NodeLimit": "optalloc.stop",
    "OptallocError": "optalloc.errors",
    "Progress": "optalloc.stop",
    "Result": "optalloc.result",
    "Stats": "optalloc.result",
    "Termination": "optalloc.result",
    "TimeLimit": "optalloc.stop",
    "Training": "optalloc.workload",
    "UnsupportedModel": "optalloc.errors",
    "active_parameters": "optalloc.model.parameters",
    "bundled_models": "optalloc.model.load",
    "load_cluster": "optalloc.cluster.load",
    "load_model": "optalloc.model.load",
    "load_workload": "optalloc.workload",
    "total_parameters": "optalloc.model.parameters",
    "global_optimal_allocation": "optalloc.assignment.reference",
    "solve_assignment": "optalloc.assignment.solve",
}

__all__ = sorted([*_HOME, "__version__"])  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'optalloc' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
