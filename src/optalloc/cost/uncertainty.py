"""How far a cost model is from hardware: its stated error, and a box of efficiencies.

The figures are data (``fitted/NAME.uncertainty.toml``) with their source and date. They come from
the residuals of the cost model on published measurements by ``python -m benchmarks
training-uncertainty``: every residual ln(measured / predicted) is taken as the sum of the errors of
three efficiencies, each times how strongly the predicted time depends on it, so that

    E[residual^2] = sum_k sensitivity_k^2 variance_k,       k in compute, node link, network

and the variances, none negative, are fitted by least squares. A side of the box is one standard
deviation: 0.25 says that an efficiency may be a factor 1.25 less or more than the model's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import lru_cache

import msgspec

from optalloc import files
from optalloc.cluster.topology import Cluster, Link
from optalloc.cost.constants import DEFAULT, FITTED
from optalloc.errors import InputError

#: The efficiencies of the box, in the order of a corner.
SIDES = ("compute", "node_link", "network")


class Uncertainty(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Relative errors, as shares.

    ``step_time`` is the stated error of a predicted step time. ``compute`` (matrix units and
    memory), ``node_link`` and ``network`` are the sides of the box: an efficiency lies between
    1 / (1 + side) and 1 + side times the model's.
    """

    step_time: float
    compute: float
    node_link: float
    network: float
    source: str
    date: str

    def __post_init__(self) -> None:
        for name in ("step_time", *SIDES):
            if not 0.0 <= getattr(self, name) <= 100.0:
                raise InputError(
                    f"an error of {getattr(self, name)} is no share",
                    path="uncertainty",
                    pointer=name,
                    fix="give shares, such as 0.1 for 10 %",
                )

    def corners(self) -> Iterator[tuple[float, ...]]:
        """Factors of the efficiencies at the eight corners of the box, the slowest first."""
        sides = [getattr(self, name) for name in SIDES]
        yield from itertools.product(*((1.0 / (1.0 + side), 1.0 + side) for side in sides))


@lru_cache(maxsize=8)
def stated_uncertainty(name: str = DEFAULT) -> Uncertainty:
    """The stated errors of a cost model; a calibration of one's own has those of the package."""
    name = DEFAULT if name.endswith(".toml") else name
    return files.read_toml(FITTED / f"{name}.uncertainty.toml", Uncertainty)


def scaled(cluster: Cluster, corner: tuple[float, ...]) -> Cluster:
    """The cluster with its speeds times the factors (compute, node link, network).

    A device's matrix and memory rates, and the bandwidth of the links inside a node or domain,
    between nodes and between zones. Latencies, memory and what the host adds stay.
    """
    compute, node_link, network = corner

    def faster(link: Link, factor: float) -> Link:
        return msgspec.structs.replace(
            link, bandwidth_bytes_per_s=link.bandwidth_bytes_per_s * factor
        )

    groups = []
    for group in cluster.nodes:
        device = group.device
        peaks = {dtype: peak * compute for dtype, peak in device.peak_flops_per_s.items()}
        bandwidth = device.memory_bandwidth_bytes_per_s * compute
        device = msgspec.structs.replace(
            device, peak_flops_per_s=peaks, memory_bandwidth_bytes_per_s=bandwidth
        )
        host = group.host_link
        groups.append(
            msgspec.structs.replace(
                group,
                device=device,
                node_link=faster(group.node_link, node_link),
                host_link=None if host is None else faster(host, node_link),
                network=faster(group.network, network),
            )
        )
    zone = None if cluster.zone_link is None else faster(cluster.zone_link, network)
    return msgspec.structs.replace(cluster, nodes=tuple(groups), zone_link=zone)
