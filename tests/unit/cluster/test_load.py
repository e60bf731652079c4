"""load.py and custom.py: shorthands and cluster files."""

from __future__ import annotations

from pathlib import Path

import pytest

from optalloc import files
from optalloc.cluster.load import is_shorthand, load_cluster
from optalloc.cluster.topology import Cluster
from optalloc.errors import FormatVersionError, InputError

ZONE_LINK = '[links.zone]\nbandwidth_bytes_per_s = "1 GB/s"\nlatency_s = "30 ms"\n'


def _load(folder: Path, text: str) -> Cluster:
    path = folder / "cluster.toml"
    path.write_text(text, encoding="utf-8")
    return load_cluster(path)


def _refused(folder: Path, text: str) -> InputError:
    with pytest.raises(InputError) as caught:
        _load(folder, text)
    assert caught.value.path == str(folder / "cluster.toml")
    return caught.value


def test_a_shorthand_fills_nodes_of_the_usual_size() -> None:
    """64 H100 are eight nodes of eight."""
    cluster = load_cluster("64xh100-sxm")
    (group,) = cluster.nodes
    assert (group.count, group.devices, group.domain) == (8, 8, 8)
    assert (cluster.name, cluster.num_devices) == ("64xh100-sxm", 64)


def test_parts_of_a_shorthand_are_groups_in_order() -> None:
    """Names are made canonical."""
    cluster = load_cluster("32xH100 + 16xa100")
    assert cluster.name == "32xh100-sxm+16xa100-sxm-80g"
    assert [(g.device.name, g.count) for g in cluster.nodes] == [
        ("h100-sxm", 4),
        ("a100-sxm-80g", 2),
    ]
    assert cluster.device_names == ("h100-sxm", "a100-sxm-80g")


def test_equal_neighbours_become_one_group() -> None:
    """16 and 16 are 32."""
    (group,) = load_cluster("16xh100-sxm+16xh100-sxm").nodes
    assert group.count == 4


def test_fewer_devices_than_a_node_are_one_smaller_node() -> None:
    """Three devices on NVLink."""
    (group,) = load_cluster("3xh100-sxm").nodes
    assert (group.count, group.devices, group.domain) == (1, 3, 3)


def test_a_remainder_is_refused_with_the_ways_out() -> None:
    """12 do not fill nodes of 8."""
    with pytest.raises(InputError, match=r"use 8 or 16.*8xh100-sxm\+4xh100-sxm"):
        load_cluster("12xh100-sxm")
    fixed = load_cluster("8xh100-sxm+4xh100-sxm")
    assert [g.devices for g in fixed.nodes] == [8, 4]


@pytest.mark.parametrize("text", ["", "h100-sxm", "0xh100-sxm", "-8xh100", "8xh100+", "eightxh100"])
def test_what_is_no_shorthand_is_refused(text: str) -> None:
    """With an example of one."""
    with pytest.raises(InputError):
        load_cluster(text)


def test_an_unknown_device_in_a_shorthand_is_named() -> None:
    """The nearest is suggested."""
    with pytest.raises(InputError, match="unknown device 'h100-sxn'"):
        load_cluster("8xh100-sxn")


def test_names_of_models_are_no_shorthands() -> None:
    """``mixtral-8x7b`` and its like stay models."""
    assert is_shorthand("64xh100-sxm")
    assert not is_shorthand("mixtral-8x7b")
    assert not is_shorthand("llama-3.1-70b")


def test_the_shortest_file_takes_everything_from_the_device(tmp_path: Path) -> None:
    """It equals the shorthand but for its name."""
    cluster = _load(tmp_path, '[[nodes]]\ncount = 8\ndevice = "h100-sxm"\n')
    assert cluster.nodes == load_cluster("64xh100-sxm").nodes
    assert cluster.name == "cluster"


def test_links_of_the_file_replace_those_of_the_device(tmp_path: Path) -> None:
    """What a link leaves out stays the device's."""
    cluster = _load(
        tmp_path,
        'format = "optalloc.cluster/1"\nname = "lab"\n'
        '[[nodes]]\ncount = 4\ndevice = "h100-sxm"\ndevices = 8\n'
        '[links.node]\nbandwidth_bytes_per_s = "400 GB/s"\nlatency_s = "3 us"\n'
        "[links.network]\noversubscription = 2\n",
    )
    (group,) = cluster.nodes
    assert (group.node_link.bandwidth_bytes_per_s, group.node_link.latency_s) == (400e9, 3e-6)
    assert group.network.bandwidth_bytes_per_s == 50e9
    assert group.network.shared_bandwidth_bytes_per_s == 25e9
    assert cluster.name == "lab"


def test_rails_are_shared_by_the_devices_of_a_node(tmp_path: Path) -> None:
    """Four rails of 200 Gb/s for eight devices: 4 x 25 / 8 = 12.5 GB/s each."""
    cluster = _load(
        tmp_path,
        '[[nodes]]\ndevice = "h100-sxm"\n'
        '[links.network]\nrails = 4\nbandwidth_bytes_per_s = "200 Gb/s"\n',
    )
    network = cluster.nodes[0].network
    assert (network.bandwidth_bytes_per_s, network.rails) == (12.5e9, 4)


def test_a_group_may_have_links_of_its_own(tmp_path: Path) -> None:
    """The other group keeps its device's."""
    cluster = _load(
        tmp_path,
        '[[nodes]]\ndevice = "h100-sxm"\n'
        '[nodes.links.network]\nbandwidth_bytes_per_s = "10 GB/s"\n'
        '[[nodes]]\ndevice = "a100-sxm-80g"\n',
    )
    assert [g.network.bandwidth_bytes_per_s for g in cluster.nodes] == [10e9, 25e9]


def test_zones_need_a_link_between_them(tmp_path: Path) -> None:
    """And it then bounds the bisection: 8 devices x 1 GB/s."""
    nodes = "".join(f'[[nodes]]\ndevice = "h100-sxm"\nzone = "{z}"\n' for z in ("eu", "us"))
    assert _refused(tmp_path, nodes).pointer == "$.links.zone"
    cluster = _load(tmp_path, nodes + ZONE_LINK)
    assert cluster.zones == ("eu", "us")
    assert cluster.bisection_bandwidth_bytes_per_s == 8e9
    assert cluster.zone_link is not None
    assert cluster.zone_link.latency_s == 0.03


def test_a_zone_link_must_be_complete(tmp_path: Path) -> None:
    """No device knows how zones are joined."""
    text = '[[nodes]]\ndevice = "h100-sxm"\n[links.zone]\nlatency_s = "1 ms"\n'
    assert "bandwidth_bytes_per_s is missing" in _refused(tmp_path, text).what


def test_a_domain_may_span_nodes(tmp_path: Path) -> None:
    """Four nodes of eight as domains of sixteen."""
    cluster = _load(tmp_path, '[[nodes]]\ncount = 4\ndevice = "h100-sxm"\ndomain = 16\n')
    assert [level.num_devices for level in cluster.levels()] == [16, 32]


@pytest.mark.parametrize("domain", [0, -8, 3, 12, 64])
def test_a_domain_that_does_not_fit_is_refused(tmp_path: Path, domain: int) -> None:
    """Neither divisor nor multiple of 8, or more than the 32 devices there are."""
    text = f'[[nodes]]\ncount = 4\ndevice = "h100-sxm"\ndomain = {domain}\n'
    assert _refused(tmp_path, text).pointer == "$.nodes[0].domain"


def test_a_device_may_be_a_catalogue_device_with_other_figures(tmp_path: Path) -> None:
    """In the node itself; sources of replaced figures are dropped, other dtypes kept."""
    cluster = _load(
        tmp_path,
        '[[nodes]]\n[nodes.device]\nbase = "h100-sxm"\nmemory_bytes = "96 GB"\n'
        'power_w = "500 W"\n[nodes.device.peak_flops_per_s]\nbf16 = 800e12\n',
    )
    device = cluster.nodes[0].device
    assert device.name == "h100-sxm-custom"
    assert (device.memory_bytes, device.power_w) == (96_000_000_000, 500.0)
    assert device.peak_flops_per_s["bf16"] == 800e12
    assert device.peak_flops_per_s["fp8"] == 1978.9e12
    assert "memory_bytes" not in device.sources
    assert "link_bandwidth_bytes_per_s" in device.sources


def test_a_file_may_name_its_devices(tmp_path: Path) -> None:
    """Defined once, used by two groups."""
    cluster = _load(
        tmp_path,
        '[devices.h20]\nbase = "h100-sxm"\nmemory_bytes = "96 GiB"\n'
        '[[nodes]]\ndevice = "h20"\n[[nodes]]\ndevice = "h20"\ndevices = 4\n',
    )
    assert cluster.device_names == ("h20",)
    assert cluster.nodes[1].device.memory_bytes == 96 * 2**30


def test_a_device_without_base_must_be_complete(tmp_path: Path) -> None:
    """The missing figures are listed."""
    text = '[devices.mine]\nmemory_bytes = "96 GiB"\n[[nodes]]\ndevice = "mine"\n'
    error = _refused(tmp_path, text)
    assert error.pointer == "$.devices.mine"
    assert "memory_bandwidth_bytes_per_s" in error.what
    assert "memory_bytes," not in error.what


@pytest.mark.parametrize(
    ("text", "pointer"),
    [
        ('[[nodes]]\ndevice = "h100-sxm"\ncount = 0\n', "$.nodes[0].count"),
        ('[[nodes]]\ndevice = "h100-sxm"\ndevices = 0\n', "$.nodes[0].devices"),
        ('[[nodes]]\ndevice = "h100-sxn"\n', "$.nodes[0].device"),
        ('[[nodes]]\ndevice = "l4"\n[[nodes]]\n', "$.nodes[1]"),
        ('[devices.a]\nbase = "h1"\n[[nodes]]\ndevice = "a"\n', "$.devices.a.base"),
        ('[[nodes]]\n[nodes.device]\nbase = "l4"\nmemory_bytes = 0\n', "$.nodes[0].device"),
        ('[[nodes]]\ndevice = "l4"\n[links.network]\noversubscription = 0.5\n', "$.links.network"),
        ('[[nodes]]\ndevice = "l4"\n[links.node]\nbandwidth_bytes_per_s = 0\n', "$.links.node"),
        ('[[nodes]]\ndevice = "l4"\n[links.node]\nlatency_s = "-1 us"\n', "$.links.node"),
        ('[[nodes]]\ndevice = "l4"\n[links.network]\nrails = 2\n', "$.links.network.rails"),
        ('[[nodes]]\ndevice = "l4"\n[links.network]\nlatency_s = "3 GB"\n', "$.links.network"),
        ("nodes = []\n", ""),
    ],
)
def test_a_wrong_figure_is_refused_at_its_place(tmp_path: Path, text: str, pointer: str) -> None:
    """The pointer leads to it."""
    assert _refused(tmp_path, text).pointer.startswith(pointer)


def test_a_misspelt_key_suggests_the_right_one(tmp_path: Path) -> None:
    """Two levels down."""
    text = '[[nodes]]\ndevice = "l4"\n[links.network]\noversubscribtion = 2\n'
    assert "oversubscription" in _refused(tmp_path, text).fix


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    """With the one this release reads."""
    with pytest.raises(FormatVersionError, match=r"optalloc\.cluster/1"):
        _load(tmp_path, 'format = "optalloc.cluster/2"\n[[nodes]]\ndevice = "l4"\n')


@pytest.mark.parametrize("text", ["64xh100-sxm", "144xgb200", "16xh100-nvl", "8xl4+4xt4"])
def test_a_cluster_survives_saving(tmp_path: Path, text: str) -> None:
    """Written as JSON and read back, it is equal."""
    cluster = load_cluster(text)
    files.write_json(tmp_path / "cluster.json", cluster)
    assert files.read_json(tmp_path / "cluster.json", Cluster) == cluster
