"""workload.py: what is to be computed, by API and by file."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from optalloc.errors import FormatVersionError, InputError
from optalloc.workload import Serving, Training, load_workload


def _file(folder: Path, text: str) -> Path:
    path = folder / "workload.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_workload_file_becomes_a_training(tmp_path: Path) -> None:
    """The example of the reference."""
    path = _file(
        tmp_path,
        'format = "optalloc.workload/1"\nkind = "training"\nglobal_batch = 1024\n'
        'sequence_length = 8192\ndtype = "bf16"\noptimizer = "adamw"\n',
    )
    assert load_workload(path) == Training(global_batch=1024, sequence_length=8192)


def test_a_misspelt_key_is_refused_with_the_right_one(tmp_path: Path) -> None:
    """Nothing is ignored in silence."""
    path = _file(tmp_path, 'kind = "training"\nglobal_batch = 1\nsequence_lenght = 1\n')
    with pytest.raises(InputError, match="sequence_length"):
        load_workload(path)


def test_a_batch_of_zero_names_file_and_key(tmp_path: Path) -> None:
    """The value's own check is reported at its place."""
    path = _file(tmp_path, 'kind = "training"\nglobal_batch = 0\nsequence_length = 8\n')
    with pytest.raises(InputError) as caught:
        load_workload(path)
    assert (caught.value.path, caught.value.pointer) == (str(path), "$.global_batch")


@pytest.mark.parametrize("field", ["global_batch", "sequence_length", "decoder_sequence_length"])
@pytest.mark.parametrize("size", [0, 10**26])
def test_sizes_beyond_any_step_are_refused(field: str, size: int) -> None:
    """By the API as well."""
    good = Training(global_batch=8, sequence_length=8)
    with pytest.raises(InputError, match=f"{field} is .* a whole number from 1 to"):
        msgspec.structs.replace(good, **{field: size})


@pytest.mark.parametrize(
    ("line", "pointer"),
    [('dtype = "int3"', "$.dtype"), ('optimizer = "muon"', "$.optimizer"), ("extra = 1", "$")],
)
def test_an_unknown_choice_names_its_key(tmp_path: Path, line: str, pointer: str) -> None:
    """The pointer leads to it."""
    path = _file(tmp_path, f'kind = "training"\nglobal_batch = 1\nsequence_length = 8\n{line}\n')
    with pytest.raises(InputError) as caught:
        load_workload(path)
    assert caught.value.pointer == pointer


def test_another_kind_or_format_is_refused(tmp_path: Path) -> None:
    """An unknown kind is bad input, another format version an error of its own."""
    rest = "global_batch = 1\nsequence_length = 8\n"
    with pytest.raises(InputError) as caught:
        load_workload(_file(tmp_path, f'kind = "baking"\n{rest}'))
    assert caught.value.pointer == "$.kind"
    with pytest.raises(FormatVersionError, match=r"optalloc\.workload/1"):
        load_workload(_file(tmp_path, f'format = "optalloc.workload/9"\nkind = "training"\n{rest}'))


def test_a_workload_of_serving_is_told_by_its_kind(tmp_path: Path) -> None:
    """The same file format holds both kinds."""
    path = _file(
        tmp_path, 'kind = "serving"\ninput_len = 1024\noutput_len = 256\nttft_s = "300 ms"\n'
    )
    assert load_workload(path) == Serving(input_len=1024, output_len=256, ttft_s=0.3)


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"input_len": 0}, "input_len"),
        ({"rate_per_s": 2.0, "concurrency": 4}, "rate_per_s"),
        ({"tpot_s": 0.0}, "tpot_s"),
        ({"percentile": 100.0}, "percentile"),
        ({"percentile": 0.95}, "percentile"),
        ({"prefix_len": 1024}, "prefix_len"),
    ],
)
def test_a_workload_of_serving_that_makes_no_sense_names_its_field(
    fields: dict[str, float], pointer: str
) -> None:
    """Rate and concurrency exclude each other; a prefix leaves a token of the prompt."""
    with pytest.raises(InputError) as caught:
        msgspec.convert({"input_len": 1024, "output_len": 256, "kind": "serving"} | fields, Serving)
    assert caught.value.pointer == f"$.{pointer}"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("global_batch = 4\nsequence_length = 8\n", Training),
        ("input_len = 4\noutput_len = 8\n", Serving),
    ],
)
def test_the_keys_tell_the_kind_where_it_is_left_out(
    text: str, kind: type[Training | Serving], tmp_path: Path
) -> None:
    assert isinstance(load_workload(_file(tmp_path, text)), kind)
