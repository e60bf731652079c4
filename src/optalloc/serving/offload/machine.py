"""Machine: the GPUs, memory and disk of one computer, read from ``machine.toml``.

Figures written in the file are taken as they are. Those of a catalogue device are peaks, so a share
of them is counted: first estimates for kernels that read weights once and multiply few tokens.
"""

from __future__ import annotations

import os
from typing import Literal

import msgspec

from optalloc import files
from optalloc.cluster import catalog
from optalloc.cluster.load import is_file_name
from optalloc.errors import InputError
from optalloc.units import GIB

#: Shares of a catalogue device's peak bandwidth and peak FLOP/s that inference reaches.
BANDWIDTH_SHARE, FLOPS_SHARE = 0.8, 0.5

#: What the driver and its context take of a GPU's memory unless the file says otherwise.
RESERVE_BYTES = GIB // 2


class GpuEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A GPU as the file writes it: a catalogue name, figures of its own, or both (they win).

    ``link_bandwidth_bytes_per_s`` and ``link_latency_s`` are those between it and CPU memory, per
    direction; ``reserve_bytes`` is memory that may not be used; ``count`` equal ones.
    """

    device: str | None = None
    count: int = 1
    memory_bytes: int | None = None
    memory_bandwidth_bytes_per_s: float | None = None
    flops_per_s: float | None = None
    link_bandwidth_bytes_per_s: float | None = None
    link_latency_s: float = 10e-6
    reserve_bytes: int = RESERVE_BYTES


class CpuEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The processor and the memory that weights and cache may take of it."""

    device: str | None = None
    memory_bytes: int
    memory_bandwidth_bytes_per_s: float | None = None
    flops_per_s: float | None = None


class Disk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A disk: the space that may be used, and how fast it is read.

    ``latency_s`` passes before the first byte of a part: opening, seeking, allocating.
    """

    size_bytes: int
    bandwidth_bytes_per_s: float
    latency_s: float = 1e-4


class PeerLink(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A direct link between two GPUs (their numbers from 0); others go through CPU memory."""

    between: tuple[int, int]
    bandwidth_bytes_per_s: float
    latency_s: float = 10e-6


class MachineFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``machine.toml``."""

    format: Literal["optalloc.machine/1"] = "optalloc.machine/1"
    gpus: tuple[GpuEntry, ...] = ()
    cpu: CpuEntry
    disk: Disk | None = None
    links: tuple[PeerLink, ...] = ()


class Gpu(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A GPU with every figure; ``memory_bytes`` is what may be used."""

    name: str
    memory_bytes: int
    memory_bandwidth_bytes_per_s: float
    flops_per_s: float
    link_bandwidth_bytes_per_s: float
    link_latency_s: float


class Cpu(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The processor with every figure."""

    memory_bytes: int
    memory_bandwidth_bytes_per_s: float
    flops_per_s: float


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One computer. GPUs are numbered from 0 in the order of the file."""

    gpus: tuple[Gpu, ...]
    cpu: Cpu
    disk: Disk | None = None
    links: tuple[PeerLink, ...] = ()

    def __post_init__(self) -> None:
        units = [(f"gpus[{k}]", gpu) for k, gpu in enumerate(self.gpus)]
        rest = [("cpu", self.cpu)] + ([] if self.disk is None else [("disk", self.disk)])
        links = [(f"links[{k}]", link) for k, link in enumerate(self.links)]
        for where, unit in [*units, *rest, *links]:
            for key, value in msgspec.structs.asdict(unit).items():
                least = 0.0 if key in ("link_latency_s", "latency_s", "memory_bytes") else 1.0
                if isinstance(value, int | float) and not least <= value < float("inf"):
                    raise InputError(
                        f"{key} is {value}",
                        pointer=f"$.{where}.{key}",
                        fix="give a number above 0",
                    )
        for k, link in enumerate(self.links):
            a, b = link.between
            if a == b or not all(0 <= end < len(self.gpus) for end in (a, b)):
                raise InputError(
                    f"a link between {a} and {b} is none between two GPUs",
                    pointer=f"$.links[{k}].between",
                    fix=f"there are {len(self.gpus)} GPUs, numbered from 0",
                )

    def hop(self, begin: int | None, end: int | None) -> tuple[float, float]:
        """Latency [s] and seconds a byte from one device to another; None is the CPU."""
        if begin == end:
            return 0.0, 0.0
        for link in self.links:
            if {begin, end} == set(link.between):
                return link.latency_s, 1.0 / link.bandwidth_bytes_per_s
        ends = [self.gpus[k] for k in (begin, end) if k is not None]
        return (
            sum(gpu.link_latency_s for gpu in ends),
            sum(1.0 / gpu.link_bandwidth_bytes_per_s for gpu in ends),
        )


def load_machine(path: str | os.PathLike[str]) -> Machine:
    """The machine of a ``machine.toml``, or of words such as ``rtx-4090+64gb-ram``.

    The words are those of :mod:`optalloc.serving.offload.shorthand`; a path ends in ``.toml`` or
    exists.

    Raises
    ------
    InputError
        If the file cannot be read, has unknown keys, lacks a figure, or one makes no sense; or a
        word is unknown.
    """
    from optalloc.serving.offload.shorthand import machine_of

    where = str(path)
    if isinstance(path, os.PathLike) or is_file_name(path):
        file = files.read_toml(path, MachineFile)
    else:
        file = machine_of(path)
    try:
        return _resolved(file)
    except InputError as error:
        raise InputError(error.what, path=where, pointer=error.pointer, fix=error.fix) from error


def _resolved(file: MachineFile) -> Machine:
    gpus: list[Gpu] = []
    for k, entry in enumerate(file.gpus):
        pointer = f"$.gpus[{k}]"
        if entry.count < 1:
            raise InputError(
                f"count is {entry.count}", pointer=f"{pointer}.count", fix="give at least 1"
            )
        memory, bandwidth, flops, link = _figures(
            entry.device,
            {
                "memory_bytes": entry.memory_bytes,
                "memory_bandwidth_bytes_per_s": entry.memory_bandwidth_bytes_per_s,
                "flops_per_s": entry.flops_per_s,
                "link_bandwidth_bytes_per_s": entry.link_bandwidth_bytes_per_s,
            },
            pointer,
        )
        gpu = Gpu(
            name=entry.device or f"gpu{k}",
            memory_bytes=max(0, int(memory) - entry.reserve_bytes),
            memory_bandwidth_bytes_per_s=bandwidth,
            flops_per_s=flops,
            link_bandwidth_bytes_per_s=link,
            link_latency_s=entry.link_latency_s,
        )
        gpus += [gpu] * entry.count
    bandwidth, flops = _figures(
        file.cpu.device,
        {
            "memory_bandwidth_bytes_per_s": file.cpu.memory_bandwidth_bytes_per_s,
            "flops_per_s": file.cpu.flops_per_s,
        },
        "$.cpu",
    )
    cpu = Cpu(
        memory_bytes=file.cpu.memory_bytes,
        memory_bandwidth_bytes_per_s=bandwidth,
        flops_per_s=flops,
    )
    return Machine(gpus=tuple(gpus), cpu=cpu, disk=file.disk, links=file.links)


def _figures(
    device: str | None, given: dict[str, int | None] | dict[str, float | None], pointer: str
) -> list[float]:
    """The figures in the order of ``given``, from the file or from the catalogue."""
    known: dict[str, float] = {}
    if device is not None:
        try:
            spec = catalog.device(device)
        except InputError as error:
            raise InputError(
                error.what, pointer=f"{pointer}.device", fix=error.fix or "see inspect devices"
            ) from error
        peak = max(spec.peak_flops_per_s.get(t, 0.0) for t in ("bf16", "fp16", "fp32"))
        known = {
            "memory_bytes": spec.memory_bytes,
            "memory_bandwidth_bytes_per_s": BANDWIDTH_SHARE * spec.memory_bandwidth_bytes_per_s,
            "flops_per_s": FLOPS_SHARE * peak,
            "link_bandwidth_bytes_per_s": BANDWIDTH_SHARE * spec.host_bandwidth_bytes_per_s,
        }
    found = {key: known.get(key) if value is None else value for key, value in given.items()}
    missing = [key for key, value in found.items() if value is None]
    if missing:
        raise InputError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing",
            pointer=pointer,
            fix='give it, or a catalogue device such as device = "rtx-4090"',
        )
    return [float(value) for value in found.values() if value is not None]
