"""Money and energy of one step on the devices a plan uses."""

from __future__ import annotations

from optalloc.cluster.topology import Cluster
from optalloc.cost.constants import Constants


def usd_per_device_s(cluster: Cluster) -> float | None:
    """Dollars for one device and one second; None where the catalogue has no public price."""
    price = cluster.nodes[0].device.price_usd_per_h
    return None if price is None else price / 3600.0


def watts_per_device(cluster: Cluster, constants: Constants) -> float:
    """Mean power of one device during a step, watts."""
    return cluster.nodes[0].device.power_w * constants.power_share
