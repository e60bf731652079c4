"""files.py: typed reading, canonical writing, digests, schemas."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from optalloc import files
from optalloc.assignment.formats import AssignmentFile
from optalloc.errors import FormatVersionError, InputError
from optalloc.workload import Workload


class Wire(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A link with units in its keys."""

    bandwidth_bytes_per_s: float
    latency_s: float = 0.0


class Box(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file with nested parts."""

    format: Literal["test.box/1"] = "test.box/1"
    memory_bytes: int = 0
    wires: tuple[Wire, ...] = ()
    by_name: dict[str, Wire] = {}
    extra: Wire | None = None


def _toml(folder: Path, text: str) -> Path:
    path = folder / "box.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_strings_with_units_and_plain_numbers_read_alike(tmp_path: Path) -> None:
    """One function for all keys, at every depth."""
    path = _toml(
        tmp_path,
        'memory_bytes = "80 GiB"\n[[wires]]\nbandwidth_bytes_per_s = "450 GB/s"\n'
        'latency_s = "3 us"\n[[wires]]\nbandwidth_bytes_per_s = 450e9\n'
        '[by_name.a]\nbandwidth_bytes_per_s = "1 Gb/s"\n',
    )
    box = files.read_toml(path, Box)
    assert box.memory_bytes == 80 * 2**30
    assert box.wires[0] == Wire(bandwidth_bytes_per_s=450e9, latency_s=3e-6)
    assert box.wires[1].bandwidth_bytes_per_s == 450e9
    assert box.by_name["a"].bandwidth_bytes_per_s == 125e6


@pytest.mark.parametrize("value", ['"79.6 GiB"', "85469849190.4", '"85469849190.4 B"'])
def test_bytes_are_rounded_to_a_whole_number(tmp_path: Path, value: str) -> None:
    """79.6 * 2^30 = 85469849190.4."""
    assert files.read_toml(_toml(tmp_path, f"memory_bytes = {value}"), Box).memory_bytes == (
        85_469_849_190
    )


def test_an_unknown_key_is_an_error_that_suggests_the_nearest(tmp_path: Path) -> None:
    """At the top, in a list, and in a table by name."""
    for text, word, near, pointer in (
        ("memroy_bytes = 1", "memroy_bytes", "memory_bytes", "$"),
        ("[[wires]]\nbandwidth_bytes_per_s = 1\nlatncy_s = 1", "latncy_s", "latency_s", "$.wires"),
        ("[by_name.a]\nbandwith_bytes_per_s = 1", "bandwith", "bandwidth_bytes_per_s", "$.by_name"),
        ("[extra]\nlatncy_s = 1", "latncy_s", "latency_s", "$.extra"),
    ):
        path = _toml(tmp_path, text)
        with pytest.raises(InputError) as caught:
            files.read_toml(path, Box)
        assert word in caught.value.what
        assert near in caught.value.fix
        assert caught.value.path == str(path)
        assert caught.value.pointer.startswith(pointer)


def test_a_missing_key_and_a_wrong_type_name_their_place(tmp_path: Path) -> None:
    """The pointer leads to the second element."""
    good = "[[wires]]\nbandwidth_bytes_per_s = 1\n"
    with pytest.raises(InputError, match="'bandwidth_bytes_per_s' is missing") as caught:
        files.read_toml(_toml(tmp_path, good + "[[wires]]\nlatency_s = 1\n"), Box)
    assert caught.value.pointer == "$.wires[1]"
    with pytest.raises(InputError) as caught:
        files.read_toml(_toml(tmp_path, "wires = 3"), Box)
    assert caught.value.pointer == "$.wires"
    named = "[by_name.a]\nbandwidth_bytes_per_s = 1\n[by_name.b]\nbandwidth_bytes_per_s = true"
    with pytest.raises(InputError) as caught:
        files.read_toml(_toml(tmp_path, named), Box)
    assert caught.value.pointer == "$.by_name.b.bandwidth_bytes_per_s"


def test_another_format_version_is_its_own_error(tmp_path: Path) -> None:
    """It names the version this release reads."""
    with pytest.raises(FormatVersionError, match=r"test\.box/1"):
        files.read_toml(_toml(tmp_path, 'format = "test.box/2"'), Box)


def test_broken_files_name_the_line(tmp_path: Path) -> None:
    """TOML, JSON, bytes that are not UTF-8, and a file that is not there."""
    with pytest.raises(InputError, match="line 2"):
        files.read_toml(_toml(tmp_path, "memory_bytes = 1\nwires = [1 2]\n"), Box)
    broken = tmp_path / "box.json"
    broken.write_text('{\n "memory_bytes": 1,\n}', encoding="utf-8")
    with pytest.raises(InputError, match="line 3, column 1"):
        files.read_json(broken, Box)
    broken.write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(InputError, match="nested too deeply"):
        files.read_json(broken, Box)
    broken.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        files.read_json(broken, Box)
    with pytest.raises(InputError, match="No such file"):
        files.read_json(tmp_path / "none.json", Box)
    with pytest.raises(InputError, match="cannot read"):
        files.read_json(tmp_path, Box)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("box.toml", f"wires = {'[' * 10_000}", "TOML is nested too deeply"),
        ("box.toml", f"memory_bytes = {'9' * 5_000}", "too many digits"),
        ("box.json", f'{{"memory_bytes": {"9" * 5_000}}}', "too many digits"),
        ("box.json", '{"memory_bytes": "\\ud800"}', "half of a surrogate pair"),
        ("box.toml", "memory_bytes = inf", r"the number is inf.*\$\.memory_bytes"),
        ("box.toml", 'memory_bytes = "1e400 GB"', r"the number is inf.*\$\.memory_bytes"),
        ("box.json", '{"wires": [{"bandwidth_bytes_per_s": NaN}]}', r"nan.*\$\.wires\[0\]"),
    ],
)
def test_what_the_standard_readers_do_not_refuse_is_an_input_error(
    tmp_path: Path, name: str, text: str, words: str
) -> None:
    """Too deep, too long, no text, no finite number."""
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    read = files.read_toml if name == "box.toml" else files.read_json
    with pytest.raises(InputError, match=words) as caught:
        read(path, Box)
    assert caught.value.path == str(path)
    assert caught.value.fix


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    """Some editors put one in front."""
    path = tmp_path / "box.toml"
    path.write_text("memory_bytes = 3", encoding="utf-8-sig")
    assert files.read_toml(path, Box).memory_bytes == 3


def test_canonical_json_is_what_the_standard_library_writes() -> None:
    """Numbers, words and empty parts at any depth, byte for byte."""
    value: dict[str, object] = {
        "z": [0, -3, 1e-06, 1e16, 1e300, -0.0, True, None, [], {}, "", '\u00e9"\\\n\u2028'],
        "a": {"deep": {"deeper": [[1.5], {"x": []}]}, "B": 10**15},
    }
    expected = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    assert files.canonical_json(value) == expected


def test_canonical_json_is_sorted_one_element_a_line_and_round_trips(tmp_path: Path) -> None:
    """Shortest floats, no escapes, a final newline; reading it back is the identity."""
    text = files.canonical_json({"b": 0.1, "a": [1, "µ"]})
    assert text == '{\n "a": [\n  1,\n  "µ"\n ],\n "b": 0.1\n}\n'
    box = Box(memory_bytes=3, wires=(Wire(bandwidth_bytes_per_s=1e9, latency_s=1.9e-6),))
    files.write_json(tmp_path / "box.json", box)
    assert files.read_json(tmp_path / "box.json", Box) == box


def test_infinity_is_not_written() -> None:
    """JSON has no such number; a caller must say null."""
    with pytest.raises(ValueError, match="JSON"):
        files.canonical_json({"gap": float("inf")})


def test_a_failed_write_leaves_the_old_file_whole_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write is a rename; when that fails, or an interrupt comes, nothing has changed."""
    target = tmp_path / "plan.json"
    files.write_text(target, "old")

    def refuse(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(KeyboardInterrupt):
        files.write_text(target, "new")
    assert target.read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


def test_a_text_that_cannot_be_encoded_leaves_nothing(tmp_path: Path) -> None:
    """The failure comes in the middle of writing; the target is not created."""
    with pytest.raises(UnicodeEncodeError):
        files.write_text(tmp_path / "a.txt", "fine so far \ud800")
    assert list(tmp_path.iterdir()) == []


def test_a_written_file_has_the_usual_permissions_and_folders_are_made(tmp_path: Path) -> None:
    """Not the private mode of temporary files."""
    target = tmp_path / "new" / "folder" / "a.txt"
    umask = os.umask(0o022)
    try:
        files.write_text(target, "text")
    finally:
        os.umask(umask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


def test_a_folder_in_place_of_a_file_is_an_input_error(tmp_path: Path) -> None:
    """Nothing is left in it or beside it."""
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(InputError) as caught:
        files.write_text(folder, "text")
    assert caught.value.fix == "name a file in it"
    assert list(tmp_path.iterdir()) == [folder]
    assert not list(folder.iterdir())


def test_a_folder_that_cannot_be_made_is_an_input_error(tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="cannot write"):
        files.write_text(tmp_path / "file" / "a.txt", "text")
    with pytest.raises(InputError, match="cannot write"):
        files.require_writable(tmp_path / "file" / "a.txt")


def test_to_ask_whether_a_file_can_be_written_changes_nothing(tmp_path: Path) -> None:
    """Neither one that is there nor the folder."""
    files.write_text(tmp_path / "a.txt", "old")
    for name in ("a.txt", "b.txt"):
        files.require_writable(tmp_path / name)
    assert [(p.name, p.read_text(encoding="utf-8")) for p in tmp_path.iterdir()] == [
        ("a.txt", "old")
    ]


def test_a_digest_is_that_of_the_value_read_back() -> None:
    """A whole number in a field of floats is a float in the file: a saved plan is no edited one."""
    given = Box(wires=(Wire(bandwidth_bytes_per_s=5),))
    read = msgspec.json.decode(files.canonical_json(given), type=Box)
    assert files.digest(given) == files.digest(read)
    assert files.digest(given) != files.digest(Box(wires=(Wire(bandwidth_bytes_per_s=6),)))


def test_a_digest_depends_on_the_value_alone() -> None:
    """Order of keys does not matter, values do."""
    assert files.digest({"a": 1, "b": 2}) == files.digest({"b": 2, "a": 1})
    assert files.digest({"a": 1}) != files.digest({"a": 2})
    assert files.digest({}).startswith("sha256:")


def test_a_schema_forbids_unknown_keys() -> None:
    """The schema is the type."""
    schema = files.json_schema(Wire)
    assert schema["$schema"].endswith("2020-12/schema")
    assert schema["$defs"]["Wire"]["additionalProperties"] is False
    assert schema["$defs"]["Wire"]["required"] == ["bandwidth_bytes_per_s"]


def test_a_wrong_value_names_the_command_that_prints_the_format(tmp_path: Path) -> None:
    """Where a file has a schema, the message says how to see it."""
    path = tmp_path / "workload.toml"
    path.write_text('kind = "training"\nglobal_batch = "eight"\nsequence_length = 8\n')
    with pytest.raises(InputError, match="'optalloc schema workload' prints"):
        files.read_toml(path, Workload)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("word", "fix"),
    [("botleneck", "did you mean 'bottleneck'?"), ("speed", "use one of 'sum', 'bottleneck', ")],
)
def test_a_wrong_word_names_those_that_may_stand_there(word: str, fix: str) -> None:
    """The nearest, or all of them."""
    data = {"costs": [[1]], "loads": [1], "capacities": [1], "objective": word}
    with pytest.raises(InputError) as caught:
        files.typed(data, AssignmentFile, path="a.json")
    assert caught.value.pointer == "$.objective"
    assert caught.value.fix.startswith(fix)
