"""catalog.py: devices by name, with figures that can be traced."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from optalloc.cluster import catalog
from optalloc.cluster.catalog import FIGURES, device, device_names, is_device
from optalloc.errors import InputError

NAMES = [
    "a100-sxm-40g",
    "a100-sxm-80g",
    "a100-pcie-40g",
    "a100-pcie-80g",
    "h100-sxm",
    "h100-pcie",
    "h100-nvl",
    "h100-sxm-96g",
    "h200-sxm",
    "gh200",
    "b200",
    "b300",
    "gb200",
    "gb300",
    "l4",
    "l40s",
    "a10g",
    "a40",
    "t4",
    "v100-sxm-16g",
    "v100-sxm-32g",
    "rtx-2080",
    "titan-rtx",
    "rtx-3090",
    "rtx-4090",
    "rtx-5090",
    "rtx-pro-6000",
    "mi250x",
    "mi300x",
    "mi325x",
    "tpu-v4",
    "tpu-v5e",
    "tpu-v5p",
    "tpu-v6e",
    "trainium2",
    "cpu-desktop",
    "cpu-server",
]


def test_the_catalogue_has_every_device_once() -> None:
    """37 kinds, no two of one name."""
    assert sorted(device_names()) == sorted(NAMES)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("h100", "h100-sxm"),
        ("H100", "h100-sxm"),
        ("H100_SXM", "h100-sxm"),
        ("nvidia-h100-sxm5-80gb", "h100-sxm"),
        ("a100", "a100-sxm-80g"),
        ("a100-40gb", "a100-sxm-40g"),
        ("h200", "h200-sxm"),
        ("NVIDIA RTX 4090", "rtx-4090"),
        ("v100", "v100-sxm-32g"),
        ("trn2", "trainium2"),
        ("v5e", "tpu-v5e"),
    ],
)
def test_common_names_lead_to_the_catalogue_name(alias: str, name: str) -> None:
    """Case, underscores, blanks and the vendor do not matter."""
    assert is_device(alias)
    assert device(alias).name == name


def test_no_alias_has_two_meanings() -> None:
    """An alias belongs to one device and is no device's own name."""
    aliases = [alias for name in device_names() for alias in device(name).aliases]
    assert len(aliases) == len(set(aliases))
    assert not set(aliases) & set(device_names())


def test_an_unknown_device_suggests_the_nearest() -> None:
    """A typing error finds its way."""
    with pytest.raises(InputError, match=r"unknown device 'h100-sxn'.*h100-sxm"):
        device("h100-sxn")
    assert not is_device("h100-sxn")


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_has_a_source_and_a_date(name: str) -> None:
    """A title of some length and a year and month."""
    found = device(name)
    given = {figure for figure in FIGURES if getattr(found, figure) not in (None, 0)}
    assert set(found.sources) == given
    for source in found.sources.values():
        assert len(source.title) >= 15
        assert re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", source.date)


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_positive_and_of_the_right_size(name: str) -> None:
    """A slip of a factor of a thousand, or bits for bytes, would fall outside these ranges."""
    found = device(name)
    assert 8e9 <= found.memory_bytes <= 2e12
    assert 50e9 <= found.memory_bandwidth_bytes_per_s <= 10e12
    assert all(1e12 <= peak <= 20e15 for peak in found.peak_flops_per_s.values())
    assert 0.3e9 <= found.link_bandwidth_bytes_per_s <= 1e12
    assert 1e-6 <= found.link_latency_s <= found.network_latency_s <= 50e-6
    assert 0.3e9 <= found.network_bandwidth_bytes_per_s <= 100e9
    assert found.devices_per_node in (1, 4, 8, 16)
    assert 50 <= found.power_w <= 1500
    assert found.price_usd_per_h is None or 0.1 <= found.price_usd_per_h <= 20


@pytest.mark.parametrize("name", NAMES)
def test_narrower_types_are_never_slower(name: str) -> None:
    """fp32 <= tf32 <= bf16 <= fp8 <= fp4 wherever a device has them."""
    peaks = device(name).peak_flops_per_s
    ordered = [peaks[t] for t in ("fp32", "tf32", "bf16", "fp8", "fp4") if t in peaks]
    assert ordered == sorted(ordered)
    assert set(peaks) <= {"fp32", "tf32", "bf16", "fp16", "fp8", "fp4", "int8"}


def test_the_figures_of_an_h100_are_those_of_its_data_sheet() -> None:
    """Dense bf16 is half of 1,978.9 sparse; NVLink is 450 GB/s a direction; 81559 MiB."""
    h100 = device("h100-sxm")
    assert h100.peak_flops_per_s["bf16"] == 989.4e12
    assert h100.peak_flops_per_s["fp8"] == 1978.9e12
    assert h100.memory_bytes == 81_559 * 1_048_576 == 85_520_809_984
    assert h100.memory_bandwidth_bytes_per_s == 3.35e12
    assert h100.link_bandwidth_bytes_per_s == 450e9
    assert h100.network_bandwidth_bytes_per_s == 50e9
    assert h100.link_latency_s == 1.9e-6
    assert (h100.num_multiprocessors, h100.devices_per_node, h100.power_w) == (132, 8, 700)


def test_volta_has_no_bf16_and_ampere_no_fp8() -> None:
    """A dtype the device cannot compute in is absent, not zero."""
    assert "bf16" not in device("v100").peak_flops_per_s
    assert "fp8" not in device("a100").peak_flops_per_s
    assert "fp4" not in device("h100").peak_flops_per_s


def test_rack_scale_devices_have_a_domain_of_72() -> None:
    """Four devices a node, 18 nodes a domain; bridged pairs have a domain of two."""
    for name in ("gb200", "gb300"):
        assert (device(name).domain_devices, device(name).devices_per_node) == (72, 4)
    assert device("h100-nvl").domain_devices == 2
    assert device("h100-sxm").domain_devices == 0


def test_the_data_files_are_packaged_beside_the_module() -> None:
    """They are found from the module's own place."""
    folder = Path(catalog.__file__).with_name("catalog")
    assert len(list(folder.glob("*.toml"))) == 9
