"""optalloc schema: the JSON Schema of a file format, made from the type that reads it."""

from __future__ import annotations

import argparse
import importlib
import inspect
from typing import Any

from optalloc import files
from optalloc.errors import InputError, known_fix
from optalloc.units import dimension_of

# Name -> the type that reads and writes this format, and whether people write it (then a quantity
# may also be a string with a unit).
FORMATS = {
    "assignment": ("optalloc.assignment.formats", "AssignmentFile", False),
    "cluster": ("optalloc.cluster.load", "ClusterFile", True),
    "comparison": ("optalloc.plan.compare", "Comparison", False),
    "explanation": ("optalloc.plan.explanation", "Explanation", False),
    "fleet": ("optalloc.serving.mix.instance", "FleetFile", True),
    "fleet-answer": ("optalloc.serving.mix.result", "FleetAnswer", False),
    "flow": ("optalloc.serving.flow.instance", "FlowFile", False),
    "flow-answer": ("optalloc.serving.flow.result", "FlowAnswer", False),
    "machine": ("optalloc.serving.offload.machine", "MachineFile", True),
    "model": ("optalloc.model.load", "ModelFile", True),
    "mixed-plan": ("optalloc.training.mixed.plan", "MixedPlan", False),
    "offload-plan": ("optalloc.serving.offload.plan", "OffloadPlan", False),
    "plan": ("optalloc.training.plan", "TrainingPlan", False),
    "serving-plan": ("optalloc.serving.configuration.plan", "ServingPlan", False),
    "serving-explanation": ("optalloc.plan.explain_serving", "ServingExplanation", False),
    "serving-comparison": ("optalloc.plan.compare_serving", "ServingComparison", False),
    "sweep": ("optalloc.plan.sweep", "Sweep", False),
    "workload": ("optalloc.workload", "Workload", True),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("name", nargs="?", metavar="NAME", help=f"one of {', '.join(FORMATS)}")
    parser.add_argument("--write", metavar="DIR", help="write every schema to a folder instead")


def run(arguments: argparse.Namespace) -> int:
    """Print one schema, or write all of them; returns the exit status."""
    if arguments.write is not None:
        for name in FORMATS:
            files.write_json(f"{arguments.write}/{name}.schema.json", schema(name))
        return 0
    if arguments.name is None:
        raise InputError(
            "no format was named", path="optalloc schema", fix=f"name one of {', '.join(FORMATS)}"
        )
    print(files.canonical_json(schema(arguments.name)), end="")
    return 0


def schema(name: str) -> dict[str, Any]:
    """JSON Schema (2020-12) of the format ``name``.

    Raises
    ------
    InputError
        If there is no such format.
    """
    if name not in FORMATS:
        raise InputError(
            f"there is no format {name!r}",
            path="optalloc schema",
            fix=known_fix(name, FORMATS),
        )
    module, type_, by_people = FORMATS[name]
    made = files.json_schema(getattr(importlib.import_module(module), type_))
    _clean_descriptions(made)
    if by_people:
        _accept_what_readers_do(made)
    return made


def _clean_descriptions(node: Any) -> None:
    """Take the indentation out of docstrings, which not every version of Python keeps."""
    if isinstance(node, dict):
        if isinstance(node.get("description"), str):
            node["description"] = inspect.cleandoc(node["description"])
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            _clean_descriptions(item)


def _accept_what_readers_do(node: Any) -> None:
    """Let a key that names a dimension hold a string with a unit, and a tag be left out."""
    if isinstance(node, list):
        for item in node:
            _accept_what_readers_do(item)
    if not isinstance(node, dict):
        return
    properties = node.get("properties", {})
    if "required" in node:
        # The reader knows the type where only one can stand: its tag may be left out.
        tags = {k for k, v in properties.items() if len(v.get("enum", ())) == 1} - {"format"}
        node["required"] = [key for key in node["required"] if key not in tags]
    for key, value in properties.items():
        if dimension_of(key) is not None:
            properties[key] = _or_string(value)
    for value in node.values():
        _accept_what_readers_do(value)


def _or_string(value: dict[str, Any]) -> dict[str, Any]:
    quantity = {"type": "string", "description": "a number with a unit, for example '450 GB/s'"}
    if value.get("type") == "object":
        return value | {"additionalProperties": _or_string(value["additionalProperties"])}
    choices = value.get("anyOf", [{k: v for k, v in value.items() if k != "default"}])
    kept = {"default": value["default"]} if "default" in value else {}
    return {"anyOf": [*choices, quantity]} | kept
