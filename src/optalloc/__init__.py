"""Globally optimal allocation of large-language-model computation to compute units, with proof."""

from __future__ import annotations

import importlib
import sys
import types
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
    "export": "optalloc.export.base",
    "export_targets": "optalloc.export.base",
    "global_optimal_allocation": "optalloc.assignment.reference",
    "load_cluster": "optalloc.cluster.load",
    "load_model": "optalloc.model.load",
    "load_workload": "optalloc.workload",
    "run_plan": "optalloc.execute.run",
    "solve_assignment": "optalloc.assignment.solve",
    "total_parameters": "optalloc.model.parameters",
}


class _Package(types.ModuleType):
    """A verb such as ``export`` shares its name with the package behind it: the verb wins."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

__all__ = sorted([*_HOME, "__version__"])  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'optalloc' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
