"""What an exporter is, the list of targets, and writing an export whole or not at all."""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, cast

import msgspec

from optalloc.errors import ExportError, InputError, known_fix
from optalloc.training.plan import TrainingPlan

# target -> dotted path of its exporter; a target's module is imported only when it is asked for.
TARGETS = {
    "deepspeed": "optalloc.export.deepspeed.artefacts",
    "megatron": "optalloc.export.megatron.artefacts",
    "pytorch": "optalloc.export.pytorch.artefacts",
}


class Artefact(msgspec.Struct, frozen=True):
    """One file of an export: ``path`` is relative to the export's folder."""

    path: str
    text: str
    executable: bool = False


class Exporter(Protocol):
    """Turns a plan into the files of one target.

    Raises ExportError, naming the feature and the stage, where the target cannot express the plan.
    """

    def __call__(self, plan: TrainingPlan) -> tuple[Artefact, ...]: ...


def check_target(
    target: str,
    path: str = "target",
    *,
    among: Mapping[str, str] = TARGETS,
    refusal: str = "is no export target",
) -> None:
    """Raise InputError at ``path``, with the nearest name, if no target has that name."""
    if target not in among:
        raise InputError(
            f"{target!r} {refusal}",
            path=path,
            fix=known_fix(target, among),
        )


def exporter_at(dotted: str) -> object:
    """The function at a dotted path of a table of targets; its module is imported now."""
    module, _, name = dotted.rpartition(".")
    found: object = getattr(importlib.import_module(module), name)
    return found


def artefacts(plan: TrainingPlan, target: str) -> tuple[Artefact, ...]:
    """The files of an export, without writing them.

    Raises
    ------
    InputError
        If no target has that name.
    ExportError
        If the target cannot express the plan.
    """
    check_target(target)
    _refuse_unwritten(plan, target)
    return cast(Exporter, exporter_at(TARGETS[target]))(plan)


def _refuse_unwritten(plan: TrainingPlan, target: str) -> None:
    """What estimates know and no export writes: it would run another step than the plan's."""
    work = plan.workload
    for given, what, fix in (
        (work.lora_rank > 0, "low-rank adapters", "plan with lora_rank = 0"),
        (work.dropout, "dropout", "plan with dropout = false"),
        (work.dtype == "fp4", "dtype fp4", "plan with dtype fp8 or bf16"),
        (work.optimizer == "lion", "the optimizer lion", "plan with adamw or sgd"),
        (work.moment_dtype != "fp32", "moments in bf16", "plan with moment_dtype = fp32"),
    ):
        if given:
            raise ExportError(target, what, fix=fix)


def write(files: tuple[Artefact, ...], folder: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Write every file of an export, or none: all are made beside the folder and then moved in."""
    target = Path(folder)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        try:
            for file in files:
                path = staging / "new" / file.path
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(file.text, encoding="utf-8")
                path.chmod(0o755 if file.executable else 0o644)
            return _move(staging, target, files)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"cannot write the export: {error.strerror or error}",
            path=str(folder),
            fix="choose a folder that can be written",
        ) from error


def _move(staging: Path, target: Path, files: tuple[Artefact, ...]) -> tuple[Path, ...]:
    """Move the new files in; on an error put back what was there."""
    done: list[Artefact] = []
    try:
        for file in files:
            path, saved = target / file.path, staging / "old" / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                saved.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, saved)
            done.append(file)
            os.replace(staging / "new" / file.path, path)
    except OSError:
        for file in done:
            path, saved = target / file.path, staging / "old" / file.path
            path.unlink(missing_ok=True)
            if saved.exists():
                os.replace(saved, path)
        raise
    return tuple(target / file.path for file in files)
