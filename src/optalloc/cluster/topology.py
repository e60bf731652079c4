"""A cluster: groups of equal nodes, the links inside a node, between nodes and between zones."""

from __future__ import annotations

import msgspec

from optalloc.cluster.device import DeviceSpec


class Link(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A link: bandwidth per direction and per device, latency of one hop.

    ``oversubscription`` of 2 halves the bandwidth when every device sends at once.
    """

    kind: str = ""
    bandwidth_bytes_per_s: float
    latency_s: float
    oversubscription: float = 1.0


class NodeGroup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``count`` equal nodes with ``devices`` devices each, in one zone.

    ``domain`` is the number of devices joined by ``node_link``: the node itself, or several nodes in an
    NVL72-like domain. ``network`` joins nodes of the same zone.
    """

    device: DeviceSpec
    count: int
    devices: int
    domain: int
    node_link: Link
    network: Link
    zone: str = "zone-0"


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """One level of the hierarchy as a collective sees it: groups of ``num_devices`` devices whose members
    reach each other with this bandwidth (per device and direction, oversubscription applied) and latency.
    """

    name: str
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
        return sum(group.count * group.devices for group in self.nodes)

    @property
    def device_names(self) -> tuple[str, ...]:
        """Names of the kinds of device, in order of appearance."""
        return tuple(dict.fromkeys(group.device.name for group in self.nodes))

    @property
    def is_uniform(self) -> bool:
        """True if every node is of the same kind, in one zone."""
        first = self.nodes[0]
        return all(msgspec.structs.replace(g, count=first.count) == first for g in self.nodes)

    def levels(self) -> tuple[Level, ...]:
        """The hierarchy of a uniform cluster, innermost first; the last level spans every device."""
        group = self.nodes[0]
        total = self.num_devices
        inner, outer = group.node_link, group.network
        levels = [
            Level(
                name="node",
                num_devices=min(group.domain, total),
                bandwidth_bytes_per_s=inner.bandwidth_bytes_per_s / inner.oversubscription,
                latency_s=inner.latency_s,
            )
        ]
        if total > group.domain:
            levels.append(
                Level(
                    name="network",
                    num_devices=total,
                    bandwidth_bytes_per_s=outer.bandwidth_bytes_per_s / outer.oversubscription,
                    latency_s=outer.latency_s,
                )
            )
        return tuple(levels)
