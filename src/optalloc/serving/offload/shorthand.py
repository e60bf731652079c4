"""Shorthand of a machine: ``2xrtx-4090+rtx-3090+64gb-ram+1tb-disk`` in place of a file.

Parts are joined by ``+``: GPUs of the catalogue with an optional count, a processor of the
catalogue (default: :data:`PROCESSOR`), its memory, and a disk. First estimates stand for what the
words do not say: weights and cache may take :data:`RAM_SHARE` of the memory, and a disk is read at
:data:`DISK_BYTES_PER_S`, what a drive on four lanes of PCIe 3 sustains.
"""

from __future__ import annotations

import re

from optalloc.cluster import catalog
from optalloc.errors import InputError
from optalloc.serving.offload.machine import CpuEntry, Disk, GpuEntry, MachineFile

PROCESSOR = "cpu-desktop"
RAM_SHARE = 0.9
DISK_BYTES_PER_S = 3e9

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([mgt])(i?)b[ -]?(ram|disk)", re.IGNORECASE)
_LIKE_SIZE = re.compile(r"[\d.]+\s*[mgt]i?b", re.IGNORECASE)
_DEVICE = re.compile(r"(?:(\d+)\s*[x*×]\s*)?([a-z0-9][a-z0-9 ._-]*)", re.IGNORECASE)
_POWERS = {"m": 2, "g": 3, "t": 4}


def machine_of(text: str) -> MachineFile:
    """The machine that a shorthand describes.

    Raises
    ------
    InputError
        If a part is no size and no device, two processors, memories or disks are named, or a count
        is 0.
    """
    gpus: list[GpuEntry] = []
    sizes: dict[str, int] = {}
    processors: list[str] = []
    for part in (word.strip() for word in text.split("+")):
        if size := _SIZE.fullmatch(part):
            unit = (1024 if size[3] else 1000) ** _POWERS[size[2].lower()]
            if size[4].lower() in sizes:
                raise _twice(part, text)
            sizes[size[4].lower()] = round(float(size[1]) * unit)
            continue
        named = _DEVICE.fullmatch(part)
        if named is None or _LIKE_SIZE.match(part):
            raise InputError(
                f"{part!r} is no part of a machine",
                path="--machine",
                fix="write for example 2xrtx-4090+64gb-ram+1tb-disk, or the path of a machine.toml",
            )
        device = catalog.device(named[2], path="--machine")
        if device.kind == "cpu":
            if processors:
                raise _twice(part, text)
            processors.append(device.name)
        else:
            gpus.append(GpuEntry(device=device.name, count=int(named[1] or 1)))
    processor = processors[0] if processors else PROCESSOR
    ram = sizes.get("ram", catalog.device(processor).memory_bytes)
    disk = None
    if "disk" in sizes:
        disk = Disk(size_bytes=sizes["disk"], bandwidth_bytes_per_s=DISK_BYTES_PER_S)
    cpu = CpuEntry(device=processor, memory_bytes=int(RAM_SHARE * ram))
    return MachineFile(gpus=tuple(gpus), cpu=cpu, disk=disk)


def _twice(part: str, text: str) -> InputError:
    return InputError(
        f"{part!r} comes on top of another of its kind",
        path="--machine",
        pointer=text,
        fix="name one processor, one memory and one disk",
    )
