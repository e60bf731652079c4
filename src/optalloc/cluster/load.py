"""load_cluster: a Cluster from a shorthand such as ``64xh100-sxm`` or from a ``cluster.toml``.

A shorthand is ``COUNTxDEVICE`` joined by ``+``; COUNT is a number of devices. They fill nodes of
the usual size of that device; fewer devices than one node make one smaller node, and a count that
leaves a remainder is refused, because the nodes would differ.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

import msgspec

from optalloc import files
from optalloc.cluster import catalog
from optalloc.cluster.custom import CustomDevice
from optalloc.cluster.device import DeviceSpec
from optalloc.cluster.topology import Cluster, Link, NodeGroup
from optalloc.errors import InputError, nearest

_PART = re.compile(r"\s*(\d+)\s*[x*×]\s*([a-z0-9][a-z0-9 ._-]*?)\s*", re.IGNORECASE)


class LinkEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A link as a person writes it; what is left out comes from the device.

    ``bandwidth_bytes_per_s`` is per direction and per device, unless ``rails`` is given: then it is
    that of one of ``rails`` adapters that the devices of a node share.
    """

    kind: str | None = None
    bandwidth_bytes_per_s: float | None = None
    latency_s: float | None = None
    oversubscription: float | None = None
    rails: int | None = None


class LinksEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Links: inside a node or domain, between the devices of a node outside it, between nodes and
    zones."""

    node: LinkEntry = LinkEntry()
    host: LinkEntry = LinkEntry()
    network: LinkEntry = LinkEntry()
    zone: LinkEntry | None = None


class GroupLinksEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Links of one group of nodes, in place of the file's."""

    node: LinkEntry | None = None
    host: LinkEntry | None = None
    network: LinkEntry | None = None


class NodesEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``count`` nodes of ``devices`` devices; ``device`` is a name, or a table that describes one.

    ``domain`` is the number of devices that ``links.node`` joins: by default the node, or what the
    device says (72 in an NVL72).
    """

    count: int = 1
    device: str | CustomDevice
    devices: int | None = None
    zone: str = "zone-0"
    domain: int | None = None
    links: GroupLinksEntry = GroupLinksEntry()


class ClusterFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``cluster.toml``. ``devices`` defines devices of the file by name."""

    format: Literal["optalloc.cluster/1"] = "optalloc.cluster/1"
    name: str | None = None
    nodes: tuple[NodesEntry, ...]
    links: LinksEntry = LinksEntry()
    devices: dict[str, CustomDevice] = {}


def load_cluster(source: str | os.PathLike[str]) -> Cluster:
    """A cluster from a shorthand or a file.

    Parameters
    ----------
    source : str or path
        ``"64xh100-sxm"``, ``"32xh100-sxm+16xa100-sxm-80g"``, or the path of a ``cluster.toml``.

    Raises
    ------
    InputError
        If the text is neither, a device is unknown, or a figure makes no sense.
    """
    if isinstance(source, os.PathLike) or is_file_name(source):
        return _from_file(Path(source))
    return _from_shorthand(source)


def is_file_name(text: str) -> bool:
    """True if ``text`` names a cluster file rather than a shorthand."""
    return text.endswith(".toml") or os.sep in text or os.path.isfile(text)


def is_shorthand(text: str) -> bool:
    """True if ``text`` has the form ``COUNTxDEVICE[+COUNTxDEVICE...]``."""
    return all(_PART.fullmatch(part) for part in text.split("+"))


def _from_shorthand(text: str) -> Cluster:
    groups: list[NodeGroup] = []
    for part in text.split("+"):
        match = _PART.fullmatch(part)
        if match is None:
            raise InputError(
                f"{part.strip()!r} is neither a shorthand nor a file",
                path="cluster",
                fix="write for example 64xh100-sxm, or the path of a cluster.toml",
            )
        groups.append(_shorthand_group(int(match[1]), catalog.device(match[2], path=text), text))
    name = "+".join(f"{group.num_devices}x{group.device.name}" for group in groups)
    return Cluster(name=name, nodes=_merged(groups))


def _shorthand_group(count: int, device: DeviceSpec, text: str) -> NodeGroup:
    size = device.devices_per_node
    if count < 1:
        raise InputError(f"{count} devices of {device.name}", path=text, fix="ask for at least 1")
    if count > size and count % size:
        low = count // size * size
        raise InputError(
            f"{count} devices of {device.name} do not fill nodes of {size}",
            path=text,
            fix=f"use {low} or {low + size}, or for a smaller last node write "
            f"{low}x{device.name}+{count - low}x{device.name}",
        )
    entry = NodesEntry(count=max(1, count // size), device=device.name, devices=min(count, size))
    return _group(entry, device, LinksEntry(), text, "$")


def _from_file(path: Path) -> Cluster:
    where = str(path)
    file = files.read_toml(path, ClusterFile)
    if not file.nodes:
        raise InputError("the cluster has no nodes", path=where, fix="add a [[nodes]] table")
    custom = {
        name: entry.resolve(name, path=where, pointer=f"$.devices.{name}")
        for name, entry in file.devices.items()
    }
    groups = []
    for index, entry in enumerate(file.nodes):
        pointer = f"$.nodes[{index}]"
        device = _device(entry.device, custom, where, f"{pointer}.device")
        groups.append(_group(entry, device, file.links, where, pointer))
    zones = {group.zone for group in groups}
    if len(zones) > 1 and file.links.zone is None:
        raise InputError(
            f"the nodes lie in {len(zones)} zones, but no link joins them",
            path=where,
            pointer="$.links.zone",
            fix="add [links.zone] with bandwidth_bytes_per_s and latency_s",
        )
    zone_link = None
    if file.links.zone is not None:
        zone_link = _link(file.links.zone, None, 1, where, "$.links.zone")
    return Cluster(name=file.name or path.stem, nodes=_merged(groups), zone_link=zone_link)


def _device(
    device: str | CustomDevice, custom: dict[str, DeviceSpec], path: str, pointer: str
) -> DeviceSpec:
    if isinstance(device, CustomDevice):
        return device.resolve("custom", path=path, pointer=pointer)
    if device in custom:
        return custom[device]
    try:
        return catalog.device(device)
    except InputError as error:
        near = nearest(device, custom, count=1)
        fix = f"did you mean {near[0]!r}?" if near else error.fix
        raise InputError(error.what, path=path, pointer=pointer, fix=fix) from error


def _group(
    entry: NodesEntry, device: DeviceSpec, links: LinksEntry, path: str, pointer: str
) -> NodeGroup:
    devices = device.devices_per_node if entry.devices is None else entry.devices
    for name, value in (("count", entry.count), ("devices", devices)):
        if value < 1:
            raise InputError(
                f"{name} is {value}",
                path=path,
                pointer=f"{pointer}.{name}",
                fix="give a whole number of at least 1",
            )
    # A smaller node holds a smaller domain; a domain over several nodes is cut to the group.
    usual = min(device.domain_devices or devices, entry.count * devices)
    domain = usual if entry.domain is None else entry.domain
    whole = domain % devices == 0 or devices % domain == 0 if domain > 0 else False
    if not whole or domain > max(devices * entry.count, device.domain_devices):
        raise InputError(
            f"a domain of {domain} devices does not fit {entry.count} nodes of {devices}",
            path=path,
            pointer=f"{pointer}.domain",
            fix="give a divisor or a multiple of the node's devices, no more than the group has",
        )
    inner = Link(
        kind=device.link,
        bandwidth_bytes_per_s=device.link_bandwidth_bytes_per_s,
        latency_s=device.link_latency_s,
    )
    host = Link(
        kind="host",
        bandwidth_bytes_per_s=device.host_bandwidth_bytes_per_s,
        latency_s=device.link_latency_s,
    )
    outer = Link(
        kind="network",
        bandwidth_bytes_per_s=device.network_bandwidth_bytes_per_s,
        latency_s=device.network_latency_s,
    )
    own = entry.links
    return NodeGroup(
        device=device,
        count=entry.count,
        devices=devices,
        domain=domain,
        node_link=_link(own.node or links.node, inner, devices, path, "$.links.node"),
        host_link=(
            _link(own.host or links.host, host, devices, path, "$.links.host")
            if domain < devices
            else None
        ),
        network=_link(own.network or links.network, outer, devices, path, "$.links.network"),
        zone=entry.zone,
    )


def _link(entry: LinkEntry, usual: Link | None, devices: int, path: str, pointer: str) -> Link:
    """The link as written, completed by the usual one, its rails shared out to the devices."""
    for key in ("bandwidth_bytes_per_s", "latency_s"):
        if usual is None and getattr(entry, key) is None:
            raise InputError(f"{key} is missing", path=path, pointer=pointer, fix=f"add {key}")
    if entry.rails is not None and entry.bandwidth_bytes_per_s is None:
        raise InputError(
            "rails without the bandwidth of one rail",
            path=path,
            pointer=f"{pointer}.rails",
            fix="add bandwidth_bytes_per_s, that of one adapter and direction",
        )
    for key, least in (
        ("bandwidth_bytes_per_s", 1.0),
        ("latency_s", 0.0),
        ("oversubscription", 1.0),
        ("rails", 1.0),
    ):
        value = getattr(entry, key)
        if value is not None and not least <= value < float("inf"):
            raise InputError(
                f"{key} is {value:g}",
                path=path,
                pointer=f"{pointer}.{key}",
                fix=f"give a number of at least {least:g}",
            )
    given = {k: v for k, v in msgspec.structs.asdict(entry).items() if v is not None}
    if entry.rails is not None and entry.bandwidth_bytes_per_s is not None:
        given["bandwidth_bytes_per_s"] = entry.bandwidth_bytes_per_s * entry.rails / devices
    return Link(**given) if usual is None else msgspec.structs.replace(usual, **given)


def _merged(groups: list[NodeGroup]) -> tuple[NodeGroup, ...]:
    """Neighbouring groups of the same kind as one."""
    merged: list[NodeGroup] = []
    for group in groups:
        if merged and msgspec.structs.replace(merged[-1], count=group.count) == group:
            count = merged[-1].count + group.count
            merged[-1] = msgspec.structs.replace(group, count=count)
        else:
            merged.append(group)
    return tuple(merged)
