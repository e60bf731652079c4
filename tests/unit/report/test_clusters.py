"""report/clusters.py: devices and clusters as people read them."""

from __future__ import annotations

from pathlib import Path

from optalloc.cluster.catalog import device, device_names
from optalloc.cluster.load import load_cluster
from optalloc.report import clusters
from optalloc.report.table import render


def test_the_catalogue_has_one_row_a_device() -> None:
    """An H100: 79.6 GiB, 3,350 GB/s, 989.4 TFLOP/s."""
    table = clusters.devices_table()
    rows = {row[0]: row for row in table.rows}
    assert list(rows) == list(device_names())
    assert rows["h100-sxm"][1:4] == (79.6, 3350, 989.4)
    assert rows["v100-sxm-32g"][3:5] == (125, None)


def test_no_screen_is_wider_than_100_columns_or_breaks_a_name() -> None:
    """The catalogue and a mixed cluster."""
    shown = render([clusters.devices_table()], None, "table")
    shown += render(
        clusters.cluster_tables(load_cluster("32xh100-sxm+16xa100-pcie-80g")), None, "table"
    )
    assert max(len(line) for line in shown.splitlines()) <= 100
    assert all(name in shown for name in device_names())


def test_a_device_shows_the_source_of_each_figure() -> None:
    """Every row has a title and a date; dtypes have a row each."""
    table = clusters.device_table(device("h100-sxm"))
    assert all(row[2] and row[3] for row in table.rows)
    values = {row[0]: row[1] for row in table.rows}
    assert values["memory"] == "79.65 GiB"
    assert values["peak bf16"] == "989.4 TFLOP/s"
    assert values["link latency"] == "1.9 us"
    assert values["multiprocessors"] == "132"
    assert values["price"] == "6.88 USD/h"


def test_device_facts_have_all_fields() -> None:
    """For JSON: plain values, units in the names."""
    facts = clusters.device_facts(device("h100-sxm"))
    assert facts["memory_bytes"] == 85_520_809_984
    assert facts["sources"]["memory_bytes"]["date"]
    assert len(clusters.devices_facts()) == len(device_names())


def test_cluster_facts_add_up() -> None:
    """64 H100: 64 x 700 W, 64 x 6.88 USD, 64 x 85520809984 bytes."""
    facts = clusters.cluster_facts(load_cluster("64xh100-sxm"))
    assert facts["num_devices"] == 64
    assert facts["num_nodes"] == 8
    assert facts["power_w"] == 44_800
    assert facts["memory_bytes"] == 5_473_331_838_976
    assert abs(facts["price_usd_per_h"] - 440.32) < 1e-9
    assert facts["bisection_bandwidth_bytes_per_s"] == 1.6e12
    assert [level["num_devices"] for level in facts["levels"]] == [8, 64]


def test_a_price_that_is_not_public_leaves_the_cluster_without_one() -> None:
    """No sum over the known part."""
    assert clusters.cluster_facts(load_cluster("8xh100-sxm+8xb300"))["price_usd_per_h"] is None


def test_a_mixed_cluster_says_what_that_means_for_its_plans() -> None:
    """A uniform one does not."""
    mixed = clusters.cluster_tables(load_cluster("8xh100-sxm+8xa100"))
    plain = clusters.cluster_tables(load_cluster("8xh100-sxm"))
    assert any("may differ" in note for note in mixed[1].notes)
    assert not any("may differ" in note for note in plain[1].notes)


def test_links_show_rails_oversubscription_and_zones(tmp_path: Path) -> None:
    """Two zones of two nodes, four rails, 2:1."""
    path = tmp_path / "two.toml"
    path.write_text(
        '[[nodes]]\ncount = 2\ndevice = "h100-sxm"\nzone = "a"\n'
        '[[nodes]]\ncount = 2\ndevice = "h100-sxm"\nzone = "b"\n'
        '[links.network]\nrails = 4\nbandwidth_bytes_per_s = "400 Gb/s"\noversubscription = 2\n'
        '[links.zone]\nbandwidth_bytes_per_s = "1 GB/s"\nlatency_s = "30 ms"\n',
        encoding="utf-8",
    )
    nodes, links = clusters.cluster_tables(load_cluster(path))
    assert [row[0] for row in nodes.rows] == ["a", "b"]
    assert [row[0] for row in links.rows] == ["node", "network", "node", "network", "zones"]
    assert links.rows[1][3:] == ("network, 4 rails", "25.0 GB/s", "4.0 us", "2:1")
    assert links.rows[4][4:6] == ("1.0 GB/s", "30.0 ms")
