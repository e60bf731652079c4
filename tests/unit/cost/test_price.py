"""price.py: dollars and watts of one device."""

from __future__ import annotations

import msgspec
import pytest

from optalloc.cluster.load import load_cluster
from optalloc.cost.constants import read_constants, values
from optalloc.cost.price import usd_per_device_s, watts_per_device


def test_a_device_second_costs_its_hourly_price_over_3600() -> None:
    """H100 SXM at 6.88 USD an hour."""
    assert usd_per_device_s(load_cluster("8xh100-sxm")) == pytest.approx(1.9111e-3, rel=1e-4)


def test_a_device_without_public_price_costs_nothing_known() -> None:
    """None, never zero."""
    cluster = load_cluster("8xh100-sxm")
    group = cluster.nodes[0]
    unpriced = msgspec.structs.replace(group.device, price_usd_per_h=None)
    bare = msgspec.structs.replace(
        cluster, nodes=(msgspec.structs.replace(group, device=unpriced),)
    )
    assert usd_per_device_s(bare) is None


def test_power_is_a_share_of_the_board() -> None:
    """0.9 of 700 W."""
    constants = msgspec.structs.replace(values(read_constants()), power_share=0.9)
    assert watts_per_device(load_cluster("8xh100-sxm"), constants) == pytest.approx(630.0)
