"""The published schemas are those of the types, and they accept and refuse what the loaders do."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import optalloc
from optalloc import files
from optalloc.cli import schema
from optalloc.cli.__main__ import main
from optalloc.errors import InputError

FOLDER = Path(__file__).resolve().parents[2] / "schemas"


@pytest.mark.parametrize("name", sorted(schema.FORMATS))
def test_published_schema_is_that_of_the_type(name: str) -> None:
    """After a change of a format run ``python3 dev.py schemas`` and review the difference."""
    published = (FOLDER / f"{name}.schema.json").read_text(encoding="utf-8")
    assert published == files.canonical_json(schema.schema(name))


def test_folder_holds_a_schema_for_each_format_and_nothing_else() -> None:
    """A format that was removed leaves no schema behind."""
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(
        f"{name}.schema.json" for name in schema.FORMATS
    )


@pytest.mark.parametrize("name", sorted(schema.FORMATS))
def test_schema_is_itself_valid(name: str) -> None:
    """It follows the JSON Schema draft that it names."""
    jsonschema.Draft202012Validator.check_schema(schema.schema(name))


def _accepts(name: str, value: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(schema.schema(name)).is_valid(value))


def test_cluster_schema_takes_numbers_and_strings_with_units() -> None:
    """450e9 and "450 GB/s" are the same bandwidth; a list is none."""
    for bandwidth, valid in ((450e9, True), ("450 GB/s", True), ([450], False)):
        links = {"node": {"bandwidth_bytes_per_s": bandwidth}}
        cluster = {"nodes": [{"device": "h100-sxm"}], "links": links}
        assert _accepts("cluster", cluster) is valid


def test_cluster_schema_refuses_an_unknown_key() -> None:
    """A misspelt key is an error, not a silent default."""
    assert not _accepts("cluster", {"nodes": [{"device": "h100-sxm", "devicse": 8}]})


def test_bundled_models_follow_the_model_schema() -> None:
    """The compact files of the package are examples of the published format."""
    bundled = sorted((Path(optalloc.__file__).parent / "model" / "configs").glob("*.toml"))
    assert len(bundled) > 30
    refused = [f.name for f in bundled if not _accepts("model", tomllib.loads(f.read_text()))]
    assert refused == []


def test_workload_schema_requires_the_batch() -> None:
    """global_batch and sequence_length have no default."""
    whole = {"kind": "training", "global_batch": 8, "sequence_length": 1024}
    assert _accepts("workload", whole)
    assert not _accepts("workload", {"kind": "training", "sequence_length": 1024})


def test_verb_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    """``optalloc schema plan`` prints what ``schemas/plan.schema.json`` holds."""
    assert main(["schema", "plan"]) == 0
    assert capsys.readouterr().out == files.canonical_json(schema.schema("plan"))


def test_verb_writes_every_schema(tmp_path: Path) -> None:
    """``--write`` fills a folder."""
    assert main(["schema", "--write", str(tmp_path)]) == 0
    assert len(list(tmp_path.iterdir())) == len(schema.FORMATS)


def test_unknown_name_suggests_the_near_one() -> None:
    """``plam`` is answered with ``plan``."""
    with pytest.raises(InputError, match="did you mean 'plan'"):
        schema.schema("plam")


def test_no_name_lists_the_formats(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2, and the names to choose from."""
    assert main(["schema"]) == 2
    assert ", ".join(schema.FORMATS) in capsys.readouterr().err
