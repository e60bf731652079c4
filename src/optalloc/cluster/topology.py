"""A cluster: groups of equal nodes, the links inside a node, between nodes and between zones."""

from __future__ import annotations

import msgspec

from optalloc.cluster.device import DeviceSpec
from optalloc.errors import InputError


class Link(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A link: bandwidth per direction and per device, latency of one hop.

    ``oversubscription`` of 2 halves the bandwidth when every device sends at once. ``rails`` is the
    number of adapters of a node, where it is known (0: not stated); their bandwidth is already
    shared out.
    """

    kind: str = ""
    bandwidth_bytes_per_s: float
    latency_s: float
    oversubscription: float = 1.0
    rails: int = 0

    @property
    def shared_bandwidth_bytes_per_s(self) -> float:
        """Bandwidth of one device and direction when every device sends at once."""
        return self.bandwidth_bytes_per_s / self.oversubscription


class NodeGroup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``count`` equal nodes with ``devices`` devices each, in one zone.

    ``domain`` is the number of devices joined by ``node_link``: the node itself, several nodes in
    an NVL72-like domain, or fewer than a node (bridged pairs), whose rest then meets over
    ``host_link``. ``network`` joins nodes of the same zone.
    """

    device: DeviceSpec
    count: int
    devices: int
    domain: int
    node_link: Link
    network: Link
    host_link: Link | None = None
    zone: str = "zone-0"

    def __post_init__(self) -> None:
        for name in ("count", "devices", "domain"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"{name} is {getattr(self, name)}",
                    pointer=f"$.{name}",
                    fix="give a whole number of at least 1",
                )

    @property
    def num_devices(self) -> int:
        """Devices of the whole group."""
        return self.count * self.devices

    @property
    def outer_link(self) -> Link:
        """The link on which two devices of the group meet that are as far apart as can be."""
        if self.domain >= self.num_devices:
            return self.node_link
        if self.count == 1 and self.host_link is not None:
            return self.host_link
        return self.network


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """One level of the hierarchy as a collective sees it.

    Groups of ``num_devices`` devices whose members reach each other with this bandwidth (per device
    and direction, oversubscription applied) and latency. ``name`` is "domain" (an NVLink domain
    that is not the node), "node" or "network". With ``cuts_groups`` groups that do not divide it
    lie across its edges: devices of a node are all numbered, while of the nodes of a domain a
    scheduler takes as many as groups fill.
    """

    name: str
    cuts_groups: bool = True
    num_devices: int
    bandwidth_bytes_per_s: float
    latency_s: float


class Cluster(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cluster. ``zone_link`` joins zones, where there is more than one."""

    name: str
    nodes: tuple[NodeGroup, ...]
    zone_link: Link | None = None

    @property
    def num_devices(self) -> int:
        """Devices of all groups."""
        return sum(group.num_devices for group in self.nodes)

    @property
    def device_names(self) -> tuple[str, ...]:
        """Names of the kinds of device, in order of appearance."""
        return tuple(dict.fromkeys(group.device.name for group in self.nodes))

    @property
    def zones(self) -> tuple[str, ...]:
        """Names of the zones, in order of appearance."""
        return tuple(dict.fromkeys(group.zone for group in self.nodes))

    @property
    def is_uniform(self) -> bool:
        """True if every node is of the same kind, in one zone."""
        first = self.nodes[0]
        return all(msgspec.structs.replace(g, count=first.count) == first for g in self.nodes)

    @property
    def mixture(self) -> str:
        """What is not uniform, in words; empty if all is."""
        if self.is_uniform:
            return ""
        if len(self.device_names) > 1:
            return ", ".join(self.device_names)
        return "unequal nodes" if len(self.zones) == 1 else f"{len(self.zones)} zones"

    @property
    def bisection_bandwidth_bytes_per_s(self) -> float:
        """Bytes per second and direction between two halves of the cluster, the worst halves
        chosen.

        Every device of one half sends at once over the outermost link it needs (zone link, network,
        or the link inside a node), so the worst cut puts the slowest half of the devices on one
        side.
        """
        rates = sorted((self._outer_rate(group), group.num_devices) for group in self.nodes)
        left, total = self.num_devices // 2, 0.0
        for rate, count in rates:
            total += rate * min(left, count)
            left -= min(left, count)
        return total

    def _outer_rate(self, group: NodeGroup) -> float:
        if len(self.zones) > 1 and self.zone_link is not None:
            return self.zone_link.shared_bandwidth_bytes_per_s
        link = group.outer_link if len(self.nodes) == 1 else group.network
        return link.shared_bandwidth_bytes_per_s

    def levels(self) -> tuple[Level, ...]:
        """The hierarchy of a uniform cluster, innermost first; the last one spans every device."""
        group = self.nodes[0]
        total = self.num_devices
        spans: list[tuple[str, int, Link]] = [
            ("node" if group.domain == group.devices else "domain", group.domain, group.node_link)
        ]
        if group.domain < group.devices and group.host_link is not None:
            spans.append(("node", group.devices, group.host_link))
        spans.append(("network", total, group.network))
        levels: list[Level] = []
        for name, size, link in spans:
            if not levels or levels[-1].num_devices < total:
                levels.append(
                    Level(
                        name=name,
                        cuts_groups=size <= group.devices,
                        num_devices=min(size, total),
                        bandwidth_bytes_per_s=link.shared_bandwidth_bytes_per_s,
                        latency_s=link.latency_s,
                    )
                )
        return tuple(levels)
