"""collective.py: collectives on one node, over nodes, and their limits, worked by hand."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from optalloc.cluster.load import load_cluster
from optalloc.cluster.topology import Level
from optalloc.cost.collective import (
    Network,
    all_reduce_s,
    all_to_all_s,
    effective,
    gather_s,
    send_s,
)
from optalloc.cost.constants import read_constants, values

# Eight devices a node at 100 GB/s and 1 us; nodes at 10 GB/s a device and 5 us.
NODE = Level(name="node", num_devices=8, bandwidth_bytes_per_s=100e9, latency_s=1e-6)
WIRE = Level(name="network", num_devices=64, bandwidth_bytes_per_s=10e9, latency_s=5e-6)
NETWORK = Network((NODE, WIRE))
BUFFER = np.array([800e6])  # bytes


def test_a_group_of_one_costs_nothing() -> None:
    """No peer, no time."""
    for collective in (gather_s, all_reduce_s, all_to_all_s):
        assert collective(NETWORK, 1, 1, BUFFER) == 0.0


@pytest.mark.parametrize(
    ("size", "stride", "parties"),
    [
        (8, 1, [8, 1]),  # one node
        (16, 1, [8, 2]),  # two whole nodes
        (8, 8, [1, 8]),  # one device of every node
        (4, 4, [2, 2]),  # devices 0, 4, 8, 12
        (64, 1, [8, 8]),
        (2, 64, [1, 2]),
        (3, 1, [1, 3]),  # the third group is devices 6, 7 and 8
        (12, 1, [4, 3]),  # eight and four
        (3, 2, [1, 3]),  # the second is devices 6, 8 and 10
    ],
)
def test_a_group_meets_its_node_first(size: int, stride: int, parties: list[int]) -> None:
    """Ranks of a group that share a node join there; the rest meet on the network."""
    spans = NETWORK.spans(size, stride)
    assert [int(span.ranks) for span in spans] == parties
    assert int(spans[1].joined) == parties[0]


def test_groups_fill_a_domain_of_nodes() -> None:
    """Of 72 devices in nodes of 4 a scheduler gives 64 to four groups of 16; of a node, all."""
    for cut, parties in ((False, [16, 1]), (True, [8, 2])):
        level = msgspec.structs.replace(NODE, num_devices=72, cuts_groups=cut)
        spans = Network((level, WIRE)).spans(16, 1)
        assert [int(span.ranks) for span in spans] == parties
    inner, _ = load_cluster("144xgb200").levels()
    assert (inner.name, inner.cuts_groups) == ("domain", False)


def test_a_gather_in_a_node_moves_all_but_its_own_share() -> None:
    """7/8 of 800 MB at 100 GB/s is 7 ms, and 7 hops are 7 us."""
    assert gather_s(NETWORK, 8, 1, BUFFER) == pytest.approx([7.007e-3])


def test_a_gather_over_the_network_uses_one_rail_for_one_rank_a_node() -> None:
    """7/8 of 800 MB at 10 GB/s is 70 ms, and 7 hops are 35 us."""
    assert gather_s(NETWORK, 8, 8, BUFFER) == pytest.approx([70.035e-3])


def test_rings_over_whole_nodes_use_every_rail() -> None:
    """15/16 of 800 MB at min(100, 8 x 10) GB/s is 9.375 ms; 14 hops inside and 1 between: 19 us."""
    assert gather_s(NETWORK, 16, 1, BUFFER) == pytest.approx([9.394e-3])


def test_a_small_gather_goes_level_by_level() -> None:
    """Of 64 ranks, 7 hops of 1 us and 7 of 5 us beat 56 of 1 us and 7 of 5 us."""
    assert gather_s(NETWORK, 64, 1, np.array([0.0])) == pytest.approx([42e-6])


def test_a_large_all_reduce_is_two_gathers() -> None:
    """Two times 7.007 ms in a node, better than a tree's 16 ms."""
    assert all_reduce_s(NETWORK, 8, 1, BUFFER) == pytest.approx([14.014e-3])


def test_a_small_all_reduce_is_a_tree() -> None:
    """8 kB in a node: 2 log2(8) = 6 us of latency and 2 x 8 kB / 100 GB/s = 0.16 us."""
    assert all_reduce_s(NETWORK, 8, 1, np.array([8e3])) == pytest.approx([6.16e-6])


def test_an_all_to_all_is_bound_by_its_slowest_level() -> None:
    """16 ranks on two nodes: half of 80 MB leaves the node, 4 ms at 10 GB/s; 7 x 1 + 1 x 5 us."""
    assert all_to_all_s(NETWORK, 16, 1, np.array([80e6])) == pytest.approx([4.012e-3])


def test_an_all_to_all_in_a_node_keeps_its_own_eighth() -> None:
    """7/8 of 80 MB at 100 GB/s is 0.7 ms, and seven peers are 7 us."""
    assert all_to_all_s(NETWORK, 8, 1, np.array([80e6])) == pytest.approx([0.707e-3])


def test_a_message_takes_latency_and_transfer() -> None:
    """5 us + 1 MB at 10 GB/s = 105 us."""
    assert send_s(WIRE, np.array([1e6])) == pytest.approx([105e-6])


@pytest.mark.parametrize("collective", [gather_s, all_reduce_s, all_to_all_s])
def test_arrays_equal_single_calls(collective: object) -> None:
    """Groups of many sizes and strides at once, and one by one."""
    assert callable(collective)
    size = np.array([1, 2, 4, 8, 16, 32, 64, 3, 6])
    stride = np.array([1, 1, 2, 8, 4, 2, 1, 2, 3])
    sent = np.linspace(1e3, 1e9, 9)
    together = collective(NETWORK, size, stride, sent)
    alone = [
        float(collective(NETWORK, int(q), int(d), np.array([n]))[0])
        for q, d, n in zip(size, stride, sent, strict=True)
    ]
    assert together.tolist() == alone


@pytest.mark.parametrize("collective", [gather_s, all_reduce_s, all_to_all_s])
@pytest.mark.parametrize("level", [0, 1])
def test_more_bandwidth_is_never_slower(collective: object, level: int) -> None:
    """One level twice as fast, over sizes and strides from 1 to 64."""
    assert callable(collective)
    size, stride = (g.ravel() for g in np.meshgrid(2 ** np.arange(7), 2 ** np.arange(7)))
    levels = list(NETWORK.levels)
    old = levels[level]
    levels[level] = Level(
        name=old.name,
        num_devices=old.num_devices,
        bandwidth_bytes_per_s=2 * old.bandwidth_bytes_per_s,
        latency_s=old.latency_s,
    )
    before = collective(NETWORK, size, stride, np.full(size.shape, 1e8))
    after = collective(Network(tuple(levels)), size, stride, np.full(size.shape, 1e8))
    assert np.all(after <= before)


def test_splitting_a_group_over_nodes_is_never_faster() -> None:
    """Eight ranks in one node, on two nodes (stride 2), on eight (stride 8)."""
    for collective in (gather_s, all_reduce_s, all_to_all_s):
        times = [float(collective(NETWORK, 8, stride, BUFFER)[0]) for stride in (1, 2, 8)]
        assert times == sorted(times)


@pytest.mark.parametrize(
    ("name", "share"),
    [("l40s", "node_link_efficiency"), ("rtx-4090", "host_link_efficiency")],
)
def test_cards_of_a_workstation_reach_each_other_and_those_of_a_game_copy_through_the_host(
    name: str, share: str
) -> None:
    """Both have 31.5 GB/s of PCIe."""
    constants = values(read_constants())
    cluster = load_cluster(f"8x{name}")
    network, _ = effective(cluster, cluster.nodes[0].device.link, constants)
    reached = network.levels[0].bandwidth_bytes_per_s
    assert reached == pytest.approx(31.5e9 * getattr(constants, share))
