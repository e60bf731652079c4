"""topology.py: levels and the bisection."""

from __future__ import annotations

import msgspec

from optalloc.cluster.load import load_cluster
from optalloc.cluster.topology import Cluster, Link


def _levels(text: str) -> list[tuple[str, int, float]]:
    return [
        (level.name, level.num_devices, level.bandwidth_bytes_per_s)
        for level in load_cluster(text).levels()
    ]


def test_a_cluster_of_nodes_has_two_levels() -> None:
    """Eight devices on NVLink, 64 on the network."""
    assert _levels("64xh100-sxm") == [("node", 8, 450e9), ("network", 64, 50e9)]


def test_one_node_has_one_level() -> None:
    """Whole or smaller."""
    assert _levels("8xh100-sxm") == [("node", 8, 450e9)]
    assert _levels("2xh100-sxm") == [("node", 2, 450e9)]


def test_a_rack_scale_domain_spans_nodes() -> None:
    """72 of 144 devices; a part of a rack is one level."""
    assert _levels("144xgb200") == [("domain", 72, 900e9), ("network", 144, 50e9)]
    assert _levels("64xgb200") == [("domain", 64, 900e9)]


def test_bridged_pairs_add_a_level_inside_the_node() -> None:
    """Two on a bridge, eight over the host, the rest over the network."""
    assert _levels("16xh100-nvl") == [
        ("domain", 2, 300e9),
        ("node", 8, 63e9),
        ("network", 16, 25e9),
    ]
    assert _levels("8xh100-nvl") == [("domain", 2, 300e9), ("node", 8, 63e9)]


def test_oversubscription_divides_the_bandwidth_of_a_level() -> None:
    """4:1 leaves 12.5 of 50 GB/s."""
    cluster = load_cluster("64xh100-sxm")
    group = cluster.nodes[0]
    link = Link(bandwidth_bytes_per_s=50e9, latency_s=4e-6, oversubscription=4.0)
    thin = Cluster(name="thin", nodes=(msgspec.structs.replace(group, network=link),))
    assert thin.levels()[1].bandwidth_bytes_per_s == 12.5e9
    assert thin.bisection_bandwidth_bytes_per_s == 32 * 12.5e9


def test_the_bisection_is_half_the_devices_at_their_outer_link() -> None:
    """32 x 50 GB/s; inside one node 4 x 450 GB/s; one device has none."""
    assert load_cluster("64xh100-sxm").bisection_bandwidth_bytes_per_s == 1.6e12
    assert load_cluster("8xh100-sxm").bisection_bandwidth_bytes_per_s == 1.8e12
    assert load_cluster("1xh100-sxm").bisection_bandwidth_bytes_per_s == 0.0
    assert load_cluster("8xh100-nvl").bisection_bandwidth_bytes_per_s == 4 * 63e9
    assert load_cluster("72xgb200").bisection_bandwidth_bytes_per_s == 36 * 900e9


def test_the_bisection_of_a_mixed_cluster_takes_the_slowest_half() -> None:
    """48 devices: the 16 A100 at 25 GB/s and 8 H100 at 50 GB/s make 800 GB/s."""
    cluster = load_cluster("32xh100-sxm+16xa100-sxm-80g")
    assert cluster.bisection_bandwidth_bytes_per_s == 16 * 25e9 + 8 * 50e9 == 800e9


def test_uniform_means_equal_nodes_in_one_zone() -> None:
    """Other devices, other node sizes or another zone end it."""
    cluster = load_cluster("64xh100-sxm")
    assert cluster.is_uniform
    assert not load_cluster("8xh100-sxm+8xa100").is_uniform
    assert not load_cluster("8xh100-sxm+4xh100-sxm").is_uniform
    elsewhere = msgspec.structs.replace(cluster.nodes[0], zone="zone-1")
    assert not Cluster(name="two", nodes=(cluster.nodes[0], elsewhere)).is_uniform


def test_what_makes_a_cluster_mixed_is_said_in_words() -> None:
    """Kinds of device, else zones, else unequal nodes."""
    plain = load_cluster("16xh100-sxm")
    group = plain.nodes[0]
    smaller = msgspec.structs.replace(group, devices=4, count=1, domain=4)
    elsewhere = msgspec.structs.replace(group, zone="other")
    assert plain.mixture == ""
    assert load_cluster("8xh100-sxm+8xa100-sxm-80g").mixture == "h100-sxm, a100-sxm-80g"
    assert msgspec.structs.replace(plain, nodes=(group, smaller)).mixture == "unequal nodes"
    assert msgspec.structs.replace(plain, nodes=(group, elsewhere)).mixture == "2 zones"
