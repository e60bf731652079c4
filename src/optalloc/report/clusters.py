"""Devices and clusters as tables: the catalogue, one device, one topology."""

from __future__ import annotations

from typing import Any

import msgspec

from optalloc.cluster import catalog
from optalloc.cluster.device import DeviceSpec
from optalloc.cluster.topology import Cluster, Link, NodeGroup
from optalloc.report.table import Cell, Table
from optalloc.units import format_bytes, format_flops_rate, format_rate, format_seconds


def devices_table() -> Table:
    """The catalogue, one row a device; peaks are dense, links per direction and device."""
    rows = [_device_row(catalog.device(name)) for name in catalog.device_names()]
    return Table(
        title="Devices",
        columns=(
            "name",
            "GiB",
            "GB/s",
            "bf16 TF/s",
            "fp8 TF/s",
            "link",
            "link GB/s",
            "net GB/s",
            "USD/h",
        ),
        rows=tuple(rows),
        notes=(
            "GiB and GB/s of memory; dense peaks in 10^12 FLOP/s (fp16 where bf16 is missing);",
            "link and network per direction and device.",
            "optalloc inspect NAME shows one device with the source and date of every figure.",
        ),
    )


def devices_facts() -> list[dict[str, Any]]:
    """All figures of all devices, for JSON."""
    return [device_facts(catalog.device(name)) for name in catalog.device_names()]


def device_table(device: DeviceSpec) -> Table:
    """One device: each figure with its source and date."""
    rows: list[tuple[Cell, ...]] = []
    for figure in catalog.FIGURES:
        value = getattr(device, figure)
        if value in (None, 0):
            continue
        source = device.sources.get(figure)
        origin = ("", "") if source is None else (source.title, source.date)
        if isinstance(value, dict):
            shown = [(f"peak {t}", f"{peak / 1e12:,.1f} TFLOP/s") for t, peak in value.items()]
        else:
            shown = [(_label(figure), _quantity(figure, value))]
        rows += [(label, text, *origin) for label, text in shown]
    notes = (f"Also called {', '.join(device.aliases)}.",) if device.aliases else ()
    return Table(
        title=f"{device.name}: {device.title}",
        columns=("figure", "value", "source", "date"),
        rows=tuple(rows),
        notes=("Dense peaks; links per direction and device.", *notes),
    )


def device_facts(device: DeviceSpec) -> dict[str, Any]:
    """All fields of a device, for JSON."""
    facts: dict[str, Any] = msgspec.to_builtins(device)
    return facts


def cluster_tables(cluster: Cluster) -> list[Table]:
    """A cluster: its nodes, its links, and its figures as a whole."""
    nodes = Table(
        title=f"Cluster {cluster.name}",
        columns=("zone", "nodes", "device", "a node", "devices", "memory", "bf16 peak"),
        rows=tuple(_group_row(group) for group in cluster.nodes),
    )
    links = Table(
        title="Links, per direction and device",
        columns=("joins", "of", "devices", "kind", "bandwidth", "latency", "oversubscribed"),
        rows=tuple(row for group in cluster.nodes for row in _link_rows(group))
        + (() if cluster.zone_link is None else (_zone_row(cluster, cluster.zone_link),)),
        notes=tuple(_sums(cluster)),
    )
    return [nodes, links]


def cluster_facts(cluster: Cluster) -> dict[str, Any]:
    """A cluster with its derived figures, for JSON."""
    facts: dict[str, Any] = msgspec.to_builtins(cluster)
    price = price_usd_per_h(cluster)
    derived: dict[str, Any] = {
        "num_devices": cluster.num_devices,
        "num_nodes": sum(group.count for group in cluster.nodes),
        "device_names": list(cluster.device_names),
        "zones": list(cluster.zones),
        "is_uniform": cluster.is_uniform,
        "memory_bytes": sum(g.num_devices * g.device.memory_bytes for g in cluster.nodes),
        "bisection_bandwidth_bytes_per_s": cluster.bisection_bandwidth_bytes_per_s,
        "power_w": sum(g.num_devices * g.device.power_w for g in cluster.nodes),
        "price_usd_per_h": price,
        "levels": msgspec.to_builtins(cluster.levels()) if cluster.is_uniform else None,
    }
    return facts | derived


def price_usd_per_h(cluster: Cluster) -> float | None:
    """Price of the whole cluster, dollars an hour; None where a device has no public price."""
    prices = [group.device.price_usd_per_h for group in cluster.nodes]
    if any(price is None for price in prices):
        return None
    return sum(g.num_devices * (g.device.price_usd_per_h or 0.0) for g in cluster.nodes)


def _device_row(device: DeviceSpec) -> tuple[Cell, ...]:
    peaks = device.peak_flops_per_s
    half = peaks.get("bf16", peaks.get("fp16"))
    return (
        device.name,
        round(device.memory_bytes / 2**30, 1),
        _short(device.memory_bandwidth_bytes_per_s / 1e9),
        None if half is None else _short(half / 1e12),
        _short(peaks["fp8"] / 1e12) if "fp8" in peaks else None,
        device.link,
        _short(device.link_bandwidth_bytes_per_s / 1e9),
        _short(device.network_bandwidth_bytes_per_s / 1e9),
        None if device.price_usd_per_h is None else round(device.price_usd_per_h, 2),
    )


def _short(value: float) -> float | int:
    """A whole number where nothing is lost by it."""
    return round(value) if value >= 1000 or value == round(value) else round(value, 2)


def _group_row(group: NodeGroup) -> tuple[Cell, ...]:
    peaks = group.device.peak_flops_per_s
    half = peaks.get("bf16", peaks.get("fp16"))
    return (
        group.zone,
        group.count,
        group.device.name,
        group.devices,
        group.num_devices,
        format_bytes(group.num_devices * group.device.memory_bytes),
        "" if half is None else format_flops_rate(group.num_devices * half),
    )


def _link_rows(group: NodeGroup) -> list[tuple[Cell, ...]]:
    name = group.device.name
    inner = "node" if group.domain == group.devices else "domain"
    rows = []
    if group.domain > 1:
        rows.append(_link_row(inner, name, min(group.domain, group.num_devices), group.node_link))
    if group.host_link is not None:
        rows.append(_link_row("node", name, group.devices, group.host_link))
    if group.num_devices > max(group.domain, group.devices):
        rows.append(_link_row("network", name, group.num_devices, group.network))
    return rows


def _zone_row(cluster: Cluster, link: Link) -> tuple[Cell, ...]:
    return _link_row("zones", f"{len(cluster.zones)} zones", cluster.num_devices, link)


def _link_row(joins: str, of: str, devices: int, link: Link) -> tuple[Cell, ...]:
    kind = f"{link.kind}, {link.rails} rails" if link.rails else link.kind
    return (
        joins,
        of,
        devices,
        kind,
        format_rate(link.bandwidth_bytes_per_s, digits=1),
        format_seconds(link.latency_s, digits=1),
        f"{link.oversubscription:g}:1" if link.oversubscription > 1 else "",
    )


def _sums(cluster: Cluster) -> list[str]:
    facts = cluster_facts(cluster)
    price = facts["price_usd_per_h"]
    sums = [
        f"{facts['num_devices']:,} devices in {facts['num_nodes']:,} nodes, "
        f"{format_bytes(facts['memory_bytes'])} of device memory, "
        f"{facts['power_w'] / 1e3:,.1f} kW of devices"
        + ("." if price is None else f", {price:,.2f} USD/h at list price."),
        f"Bisection bandwidth {format_rate(facts['bisection_bandwidth_bytes_per_s'], digits=1)} "
        "per direction.",
    ]
    if not cluster.is_uniform:
        sums.append(f"Mixed ({cluster.mixture}): stages and replicas of its plans may differ.")
    return sums


def _label(figure: str) -> str:
    for ending in ("_bytes_per_s", "_flops_per_s", "_usd_per_h", "_bytes", "_w", "_s"):
        if figure.endswith(ending):
            return figure.removesuffix(ending).replace("_", " ")
    return figure.removeprefix("num_").replace("_", " ")


def _quantity(figure: str, value: float) -> str:
    if figure.endswith("_bytes_per_s"):
        return format_rate(value, digits=2)
    if figure.endswith("_bytes"):
        return format_bytes(value, digits=2)
    if figure.endswith("_usd_per_h"):
        return f"{value:.2f} USD/h"
    if figure.endswith("_w"):
        return f"{value:g} W"
    if figure.endswith("_s") and figure != "num_multiprocessors":
        return format_seconds(value, digits=1) if figure.endswith("latency_s") else f"{value:,}"
    return f"{value:,}"
