"""What Kubernetes exports share: names, pods that choose their nodes, and how they are applied."""

from __future__ import annotations

import re

import yaml

from optalloc.export.base import Artefact
from optalloc.export.serving.workers import mixed_devices
from optalloc.serving.configuration.plan import ServingPlan, Worker

Tree = dict[str, object]

#: Label that nodes carry where a plan uses several kinds of device.
DEVICE_LABEL = "optalloc/device"


def label(text: str) -> str:
    """A name that Kubernetes takes: lower case, digits and dashes, at most 40 characters."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-")


def node_selector(plan: ServingPlan, worker: Worker) -> Tree:
    """Which nodes a worker's pods may run on: all of them, unless devices are mixed."""
    return {"nodeSelector": {DEVICE_LABEL: worker.device}} if mixed_devices(plan) else {}


def documents(*trees: Tree) -> str:
    """YAML documents, in order."""
    return str(yaml.safe_dump_all(trees, sort_keys=False, width=100))


def apply_script(plan: ServingPlan, command: str) -> Artefact:
    """``apply.sh``: fills in the model and the image, and applies the file."""
    mixed = ""
    if mixed_devices(plan):
        kinds = ", ".join(sorted({worker.device for worker in plan.workers}))
        mixed = f"# Nodes need the label {DEVICE_LABEL} with the device's name: {kinds}.\n"
    text = (
        "#!/bin/sh\n"
        f"# usage: MODEL=owner/name IMAGE=registry/image:tag ./apply.sh\n{mixed}"
        ': "${MODEL:?the model, as its hub or folder names it}"\n'
        ': "${IMAGE:?the image of the engines}"\n'
        "export MODEL IMAGE\n"
        f'cd "$(dirname "$0")" || exit 1\n{command}\n'
    )
    return Artefact("apply.sh", text, executable=True)
