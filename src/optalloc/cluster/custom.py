"""A device that a cluster file defines: a catalogue device with other figures, or a new one."""

from __future__ import annotations

from typing import Any

import msgspec

from optalloc.cluster import catalog
from optalloc.cluster.device import DeviceSpec
from optalloc.errors import InputError

_POSITIVE = (
    "memory_bytes",
    "memory_bandwidth_bytes_per_s",
    "num_multiprocessors",
    "link_bandwidth_bytes_per_s",
    "devices_per_node",
    "host_bandwidth_bytes_per_s",
    "network_bandwidth_bytes_per_s",
    "power_w",
)


class CustomDevice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Figures of a device, as :class:`~optalloc.cluster.device.DeviceSpec` has them.

    With ``base``, a name of the catalogue, the figures left out are the base's; without it all of
    them are required, but for the price and ``domain_devices``.
    """

    base: str | None = None
    name: str | None = None
    title: str | None = None
    kind: str | None = None
    memory_bytes: int | None = None
    memory_bandwidth_bytes_per_s: float | None = None
    peak_flops_per_s: dict[str, float] | None = None
    num_multiprocessors: int | None = None
    link: str | None = None
    link_bandwidth_bytes_per_s: float | None = None
    link_latency_s: float | None = None
    devices_per_node: int | None = None
    host_bandwidth_bytes_per_s: float | None = None
    network_bandwidth_bytes_per_s: float | None = None
    network_latency_s: float | None = None
    power_w: float | None = None
    price_usd_per_h: float | None = None
    domain_devices: int | None = None

    def resolve(self, name: str, *, path: str, pointer: str) -> DeviceSpec:
        """The complete device, called ``name`` unless it states its own.

        Raises
        ------
        InputError
            If the base is unknown, a figure is missing, or one is not positive.
        """
        given: dict[str, Any] = {
            key: value
            for key, value in msgspec.structs.asdict(self).items()
            if value is not None and key != "base"
        }
        for key in _POSITIVE:
            if key in given and given[key] <= 0:
                raise InputError(
                    f"{key} is {given[key]}",
                    path=path,
                    pointer=f"{pointer}.{key}",
                    fix="give a number above 0",
                )
        if self.base is not None:
            return self._changed(given, name, path, pointer)
        given = {"name": name, "title": name, "kind": "gpu", "link": "link"} | given
        missing = [
            field.name
            for field in msgspec.structs.fields(DeviceSpec)
            if field.required and field.name not in given
        ]
        if missing:
            raise InputError(
                f"the device lacks {', '.join(missing)}",
                path=path,
                pointer=pointer,
                fix='give them, or start from a catalogue device with base = "h100-sxm"',
            )
        return DeviceSpec(**given)

    def _changed(self, given: dict[str, Any], name: str, path: str, pointer: str) -> DeviceSpec:
        assert self.base is not None
        try:
            base = catalog.device(self.base)
        except InputError as error:
            raise InputError(
                error.what, path=path, pointer=f"{pointer}.base", fix=error.fix
            ) from error
        own_name = name if name != "custom" else f"{base.name}-custom"
        changed = {"name": own_name, "aliases": ()} | given
        if "peak_flops_per_s" in given:
            changed["peak_flops_per_s"] = base.peak_flops_per_s | given["peak_flops_per_s"]
        changed["sources"] = {k: v for k, v in base.sources.items() if k not in given}
        return msgspec.structs.replace(base, **changed)
