"""cli/inspect.py: the right answer for each kind of name, in each format."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

import optalloc.model
from optalloc.cli.__main__ import main
from optalloc.cluster.catalog import device_names


def test_devices_in_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    """A table, a list of all fields, a row a device."""
    assert main(["inspect", "devices"]) == 0
    assert "h100-sxm" in capsys.readouterr().out
    assert main(["inspect", "devices", "--format", "json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [fact["name"] for fact in facts] == list(device_names())
    assert facts[0]["memory_bytes"] > 0
    assert main(["inspect", "devices", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["name"] for row in rows] == list(device_names())


def test_a_device_by_alias(capsys: pytest.CaptureFixture[str]) -> None:
    """The catalogue name is shown."""
    assert main(["inspect", "H100", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "h100-sxm"


def test_a_cluster_by_shorthand_and_by_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both show the bisection: 32 x 50 GB/s."""
    path = tmp_path / "lab.toml"
    path.write_text('[[nodes]]\ncount = 8\ndevice = "h100-sxm"\n', encoding="utf-8")
    for what in ("64xh100-sxm", str(path)):
        assert main(["inspect", what]) == 0
        assert "Bisection bandwidth 1.6 TB/s" in capsys.readouterr().out
        assert main(["inspect", what, "--format", "json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["num_devices"] == 64
        assert facts["bisection_bandwidth_bytes_per_s"] == 1.6e12


def test_models_and_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    """Llama-3.1-8B has 8,030,261,248 parameters."""
    assert main(["inspect", "models"]) == 0
    assert "llama-3.1-8b" in capsys.readouterr().out
    assert main(["inspect", "llama-3.1-8b", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["total_parameters"] == 8_030_261_248


def test_a_toml_file_is_what_it_says_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model in the compact form; without a format it is a cluster."""
    path = tmp_path / "mine.toml"
    shutil.copy(Path(optalloc.model.__file__).parent / "configs" / "gpt2.toml", path)
    assert main(["inspect", str(path)]) == 0
    assert "124.4M parameters" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["h100-sxn", "llama-3.1-8x", "lama-3.1-8b"])
def test_an_unknown_name_suggests_models_and_devices(
    what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, one line on stderr, nothing on stdout."""
    assert main(["inspect", what]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("optalloc: ")
    assert "did you mean" in shown.err


def test_a_missing_cluster_file_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    """Not a model, not a traceback."""
    assert main(["inspect", "none.toml"]) == 2
    assert "No such file" in capsys.readouterr().err
