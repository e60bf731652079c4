"""A kind of compute unit and its figures."""

from __future__ import annotations

import msgspec


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a figure comes from: a short title of the document and its date."""

    title: str
    date: str


class DeviceSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of device.

    ``peak_flops_per_s`` maps a dtype (fp32, tf32, bf16, fp16, fp8, fp4, int8) to its dense peak.
    Link bandwidths are per direction and per device.
    """

    name: str
    title: str
    kind: str
    memory_bytes: int
    memory_bandwidth_bytes_per_s: float
    peak_flops_per_s: dict[str, float]
    num_multiprocessors: int
    link: str
    link_bandwidth_bytes_per_s: float
    link_latency_s: float
    devices_per_node: int
    host_bandwidth_bytes_per_s: float
    network_bandwidth_bytes_per_s: float
    network_latency_s: float
    power_w: float
    price_usd_per_h: float | None = None
    domain_devices: int = 0
    aliases: tuple[str, ...] = ()
    sources: dict[str, Source] = {}

    @property
    def is_amd(self) -> bool:
        """Whether it is one of AMD's, which run other builds of the software."""
        return self.title.startswith("AMD")
