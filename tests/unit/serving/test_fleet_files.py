"""Fleet problems read from files and written to them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.unit.serving.tiny_fleets import tiny_fleet

from optalloc.errors import InputError
from optalloc.serving.mix.instance import load_fleet, save_fleet


def test_saved_problem_is_read_back(tmp_path: Path) -> None:
    """Every offer, limit and rule."""
    problem = msgspec.structs.replace(tiny_fleet(5, "replica"), name="kept")
    save_fleet(problem, tmp_path / "fleet.json")
    assert load_fleet(tmp_path / "fleet.json") == problem


def test_table_gives_buckets_and_throughputs(tmp_path: Path) -> None:
    """Two buckets and one engine from a CSV file; the price is the catalogue's of two devices."""
    (tmp_path / "rates.csv").write_text(
        "input_len,output_len,rate_per_s,e\n100,10,4,2\n200,20,1.5,0.5\n"
    )
    (tmp_path / "fleet.toml").write_text(
        'table = "rates.csv"\n[[engines]]\nname = "e"\ndevice = "l4"\ndevices = 2\n'
        '[[offers]]\nengine = "e"\n'
    )
    problem = load_fleet(tmp_path / "fleet.toml")
    assert [b.rate_per_s for b in problem.buckets] == [4.0, 1.5]
    assert problem.offers[0].requests_per_s == (2.0, 0.5)
    assert problem.offers[0].price_usd_per_h == pytest.approx(2 * 1.6688)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[engines]]\nname = "e"\n[[offers]]\nengine = "f"\n', "there is no engine 'f'"),
        ('[[engines]]\nname = "e"\n[[offers]]\nengine = "e"\n', "has no throughputs"),
        (
            '[[engines]]\nname = "e"\nrequests_per_s = [1.0]\n[[offers]]\nengine = "e"\n',
            "no public price",
        ),
        (
            '[[engines]]\nname = "e"\nrequests_per_s = [1.0, 2.0]\n[[offers]]\nengine = "e"\n'
            "price_usd_per_h = 1.0\n",
            "2 throughputs are given for 1 buckets",
        ),
        ("utilisation = 0.5\nengines = []\noffers = []\n", "did you mean 'utilization'"),
        ("utilization = 1.5\nengines = []\noffers = []\n", "utilization is 1.5"),
    ],
)
def test_bad_file_says_what_where_and_how(tmp_path: Path, text: str, message: str) -> None:
    """The file is named in each."""
    path = tmp_path / "fleet.toml"
    bucket = "[[buckets]]\ninput_len = 1\noutput_len = 1\nrate_per_s = 1.0\n"
    path.write_text(text + bucket)
    with pytest.raises(InputError, match=message) as caught:
        load_fleet(path)
    assert str(path) in str(caught.value)
