"""The device catalogue: figures of known devices by name, each with its source and date.

The data are the files ``catalog/*.toml``, one a vendor or generation. Peaks are dense; link
bandwidths are per direction and per device. ``memory_bytes`` is what the driver reports as the
total of the device where that figure is known (an "80 GB" H100 reports 81559 MiB) and the vendor's
capacity in GiB elsewhere.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

import msgspec

from optalloc import files
from optalloc.cluster.device import DeviceSpec, Source
from optalloc.errors import InputError, nearest

_FOLDER = Path(__file__).with_name("catalog")

#: Figures that carry a source.
FIGURES = (
    "memory_bytes",
    "memory_bandwidth_bytes_per_s",
    "peak_flops_per_s",
    "num_multiprocessors",
    "link_bandwidth_bytes_per_s",
    "link_latency_s",
    "devices_per_node",
    "host_bandwidth_bytes_per_s",
    "network_bandwidth_bytes_per_s",
    "network_latency_s",
    "power_w",
    "price_usd_per_h",
    "domain_devices",
)


# Document of the file -> the figures it gives; "*" stands for those without another source.
References = dict[str, tuple[str, ...]]


class Entry(DeviceSpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device as the data files write it: ``sources`` names documents of the file."""

    sources: References  # type: ignore[assignment]


class CatalogFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of the catalogue; its ``sources`` hold where a device names none itself."""

    format: Literal["optalloc.devices/1"]
    documents: dict[str, Source]
    sources: References
    devices: tuple[Entry, ...]


def device(name: str, *, path: str = "device") -> DeviceSpec:
    """The catalogue's device of that name or alias; upper case and underscores are accepted.

    Raises
    ------
    InputError
        If the name is unknown (at ``path``); the nearest known names are suggested.
    """
    key = _key(name)
    found = _find(key)
    if found is None:
        devices = _devices()
        near = nearest(key, [*devices, *_aliases()])
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise InputError(
            f"unknown device {name!r}",
            path=path,
            fix=f"{hint}'optalloc inspect devices' lists all; a cluster file can define its own",
        )
    return found


def is_device(name: str) -> bool:
    """True if the catalogue has a device of that name or alias."""
    return _find(_key(name)) is not None


def device_names() -> tuple[str, ...]:
    """Names of all devices, in the order of the data files."""
    return tuple(_devices())


def _key(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(" ", "-").removeprefix("nvidia-")


@functools.cache
def _find(key: str) -> DeviceSpec | None:
    """The device of that name or alias; only the files that mention it are parsed."""
    for path in _paths():
        if f'"{key}"' in path.read_text(encoding="utf-8"):
            for found in _read(path):
                if key == found.name or key in found.aliases:
                    return found
    return None


def _paths() -> list[Path]:
    return sorted(_FOLDER.glob("*.toml"))


@functools.cache
def _devices() -> dict[str, DeviceSpec]:
    return {d.name: d for path in _paths() for d in _read(path)}


@functools.cache
def _aliases() -> dict[str, str]:
    return {alias: d.name for d in _devices().values() for alias in d.aliases}


@functools.cache
def _read(path: Path) -> list[DeviceSpec]:
    file = files.read_toml(path, CatalogFile)
    return [_resolved(entry, file) for entry in file.devices]


def _resolved(entry: Entry, file: CatalogFile) -> DeviceSpec:
    """The entry with its source written out for every figure that it gives."""
    origin = _by_figure(file.sources) | _by_figure(entry.sources)
    fields = {name: getattr(entry, name) for name in DeviceSpec.__struct_fields__}
    fields["sources"] = {
        figure: file.documents[origin.get(figure, origin["*"])]
        for figure in FIGURES
        if fields[figure] not in (None, 0)
    }
    return DeviceSpec(**fields)


def _by_figure(references: References) -> dict[str, str]:
    return {figure: document for document, figures in references.items() for figure in figures}
