"""The devices and the cluster of a row."""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

from optalloc.cluster.catalog import device, device_names, is_device
from optalloc.cluster.device import DeviceSpec
from optalloc.cluster.topology import Cluster, Link, NodeGroup
from optalloc.cost.compute import peak_flops_per_s
from optalloc.cost.measured.cells import Row, real, whole
from optalloc.cost.measured.rows import noted
from optalloc.cost.measured.software import is_sailor
from optalloc.errors import nearest

# Names without a form factor, the newest first.
_KNOWN = ("gb300", "gb200", "b300", "b200", "gh200", "h200", "h100", "a100", "v100")

# Names of the same chip in other products: the device, and the share of its products and of its
# link that is left. Exports keep 400 of 600 or 900 GB/s of NVLink; an H20 has 148 of 989 TFLOP/s.
_SAME_CHIP = {
    "a800": ("a100", 1.0, 2 / 3),
    "h800": ("h100", 1.0, 4 / 9),
    "h20": ("h100", 0.15, 1.0),
    "a6000": ("a40", 1.0, 1.0),
    "6000-ada": ("l40s", 1.0, 1.0),
    "rtx-8000": ("titan-rtx", 1.0, 1.0),
}


@lru_cache(maxsize=256)
def named_device(gpu: str, memory_gb: float) -> tuple[DeviceSpec, str]:
    """The catalogue's device of a name, or its nearest relative and a remark that says so."""
    key = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    sized = f"{key}-{memory_gb:.0f}g"
    for name in (key, sized, key.replace("-", ""), re.sub(r"gb$", "g", key)):
        if is_device(name):
            return device(name), ""
    chip = next((chip for name, chip in _SAME_CHIP.items() if f"-{name}-" in f"-{key}-"), None)
    relatives = [chip[0]] if chip is not None else []
    relatives += [name for name in (_within(key),) if name]
    relatives += [name for name in _KNOWN if name in key]
    relatives += [name for name in (_generation(key),) if name]
    relatives += nearest(key, [*_KNOWN], count=1)
    name = (*relatives, "h100" if memory_gb > 64 or not memory_gb else "a100")[0]
    found = device(name)
    if chip is not None:
        _, products, link = chip
        found = msgspec.structs.replace(
            found,
            peak_flops_per_s={name: products * p for name, p in found.peak_flops_per_s.items()},
            link_bandwidth_bytes_per_s=link * found.link_bandwidth_bytes_per_s,
        )
    if memory_gb:
        found = msgspec.structs.replace(found, memory_bytes=int(memory_gb * 2**30))
    return found, f"device {gpu or '(none)'} taken as {name}"


def _within(key: str) -> str:
    """The longest run of the key's words that names a device; empty if there is none."""
    words = key.split("-")
    runs = ["-".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1)]
    return max((run for run in runs if is_device(run)), key=len, default="")


def _generation(key: str) -> str:
    """The device of the key's series with the nearest number (B100: B200); empty if none has."""
    series, number = _numbered(key)
    apart = {
        name: abs(other - number)
        for name in (*_KNOWN, *device_names())
        for start, other in [_numbered(name)]
        if series and start == series
    }
    return min(apart, key=lambda name: apart[name], default="")


def _numbered(key: str) -> tuple[str, int]:
    """The letters of a device's name and the number behind them."""
    found = re.match(r"([a-z]+)-?v?(\d+)", key)
    return (found[1], int(found[2])) if found else ("", 0)


def device_of(gpu: str, memory_gb: float, remarks: list[str]) -> DeviceSpec:
    first = gpu.strip("+ ").split("+")[0]
    found, remark = named_device(first, memory_gb)
    if remark or "+" in gpu:
        remarks.append(remark or f"mixed devices {gpu} taken as {first}")
    return found


def stage_devices(row: Row, degrees: dict[str, int], remarks: list[str]) -> list[DeviceSpec]:
    """One device a stage where the row mixes them and its notes say which; else none.

    The notes place one replica. Devices that it has none of are in the others, for which every
    step waits: a stage is then as slow as the slowest of these.
    """
    gpu, pp = row.get("gpu", ""), degrees["pp"]
    if "+" not in gpu:
        return []
    kinds = [kind for kind in gpu.split("+") if kind.strip()] or [""]
    names = [word.strip(" '\"") for word in noted(row, "stage gpu types").split(",")]
    if len(names) != pp or not all(names):
        names = [kinds[i * len(kinds) // pp] for i in range(pp)]
        remarks.append("stage devices not given, taken in the order named")
    found = []
    for name in names:
        spec, remark = named_device(name, 0.0)
        found.append(spec)
        if remark:
            remarks.append(remark)
    placed = {spec.name for spec in found}
    others = [
        spec for spec, _ in (named_device(kind, 0.0) for kind in kinds) if spec.name not in placed
    ]
    if others and degrees["dp"] > 1:
        remarks.append("devices without a stage in the notes taken to be in other replicas")
        found = [min((spec, *others), key=_speed) for spec in found]
    return found


def _speed(spec: DeviceSpec) -> tuple[float, float]:
    """What devices without NVLink differ by first: their link, then their products."""
    return spec.link_bandwidth_bytes_per_s, peak_flops_per_s(spec, "fp16")


def site_of(row: Row) -> str:
    """Where the row ran, if its notes name a place whose network or launches are of another kind.

    At Jean Zay the nodes exchange over Omni-Path, which leaves to the host what InfiniBand's
    adapters do by themselves, and kernels were launched one at a time (CUDA_LAUNCH_BLOCKING), lest
    runs hang: the device waits for the host after each, as the log of these runs says.
    """
    return "jean-zay" if "jean zay" in row.get("notes", "").lower() else ""


def cluster_of(row: Row, spec: DeviceSpec, degrees: dict[str, int]) -> Cluster:
    total = degrees["tp"] * degrees["cp"] * degrees["pp"] * degrees["dp"]
    per_node = min(total, whole(row, "gpus_per_node", spec.devices_per_node))
    count = -(-total // per_node)
    gbps = real(row, "internode_gbps_per_gpu")
    rail = gbps / 8 * 1e9 if gbps else spec.network_bandwidth_bytes_per_s
    inside = spec.link_bandwidth_bytes_per_s
    if gbps and is_sailor(row):
        # Sums of its tensor-parallel ranks take, at any size, what one adapter takes, not NVLink.
        inside = min(inside, rail)
    group = NodeGroup(
        device=spec,
        count=count,
        devices=per_node,
        domain=min(spec.domain_devices or per_node, count * per_node),
        node_link=Link(bandwidth_bytes_per_s=inside, latency_s=spec.link_latency_s),
        network=Link(bandwidth_bytes_per_s=rail, latency_s=spec.network_latency_s),
    )
    return Cluster(name=f"{total}x{spec.name}", nodes=(group,))
