"""units.py: quantities in, quantities out."""

from __future__ import annotations

import pytest

from optalloc.errors import InputError
from optalloc.units import (
    dimension_of,
    format_amount,
    format_bytes,
    format_count,
    format_flops_rate,
    format_rate,
    format_seconds,
    parse_duration,
    parse_quantity,
)


@pytest.mark.parametrize(
    ("text", "ending", "expected"),
    [
        ("80 GiB", "_bytes", 85_899_345_920.0),  # 80 * 1024^3
        ("80 GB", "_bytes", 80e9),
        ("81559 MiB", "_bytes", 85_520_809_984.0),  # 81559 * 1048576
        ("450 GB/s", "_bytes_per_s", 450e9),
        ("400 Gb/s", "_bytes_per_s", 50e9),  # bits: an eighth
        ("400Gbps", "_bytes_per_s", 50e9),
        ("989.4 TFLOP/s", "_flops_per_s", 989.4e12),
        ("1.9 us", "_s", 1.9e-6),  # exact: no second rounding
        ("3 µs", "_s", 3e-6),
        ("5 min", "_s", 300.0),
        ("2 h", "_s", 7200.0),
        ("36 USD/h", "_usd_per_h", 36.0),
        ("0.01 USD/s", "_usd_per_h", 36.0),
        ("1 kWh", "_j", 3.6e6),
        ("0.7 kW", "_w", 700.0),
        ("15 Ttokens", "_tokens", 15e12),
        ("1_000", "_s", 1000.0),
        ("2.5e3", "_bytes", 2500.0),
    ],
)
def test_a_quantity_is_read_in_the_unit_of_its_key(text: str, ending: str, expected: float) -> None:
    """Hand-worked values, equal to the last bit."""
    assert parse_quantity(text, ending) == expected


@pytest.mark.parametrize(
    ("text", "ending"), [("fast", "_s"), ("", "_s"), ("3 GB", "_s"), ("80 gib", "_bytes")]
)
def test_a_wrong_unit_or_no_number_is_an_input_error(text: str, ending: str) -> None:
    """Units are those of the dimension, in their usual spelling."""
    with pytest.raises(InputError) as caught:
        parse_quantity(text, ending, path="cluster.toml", pointer="$.a")
    assert "cluster.toml at $.a" in str(caught.value)


def test_the_longest_ending_names_the_dimension() -> None:
    """``_bytes_per_s`` is a rate, not a time; ``_flops_per_s`` likewise."""
    assert dimension_of("bandwidth_bytes_per_s") == "_bytes_per_s"
    assert dimension_of("peak_flops_per_s") == "_flops_per_s"
    assert dimension_of("latency_s") == "_s"
    assert dimension_of("memory_bytes") == "_bytes"
    assert dimension_of("count") is None


def test_a_duration_without_unit_is_in_seconds() -> None:
    """A plain number and its forms with a unit."""
    assert parse_duration("30") == parse_duration("30s") == parse_duration("0.5 min") == 30.0


def test_printed_quantities_choose_their_prefix() -> None:
    """1.5 GiB, 70.6 billion, and times from nanoseconds up."""
    assert format_bytes(1.5 * 2**30) == "1.5 GiB"
    assert format_bytes(12) == "12.0 B"
    assert format_rate(450e9) == "450 GB/s"
    assert format_flops_rate(989.4e12) == "989.4 TFLOP/s"
    assert format_count(70_553_706_496) == "70.6B"
    assert format_count(12) == "12"
    assert [format_amount(v, digits=2) for v in (66_666.7, 99.6, 42.4, 4.66, 0.1, 0.0)] == [
        "66,667",
        "100",
        "42",
        "4.7",
        "0.1",
        "0",
    ]
    assert [format_seconds(t) for t in (7.42, 0.0131, 1.9e-6, 0.0)] == [
        "7.42 s",
        "13.10 ms",
        "1.90 us",
        "0.00 s",
    ]
