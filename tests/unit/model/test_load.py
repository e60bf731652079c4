"""optalloc.model.load: bundled names, files and folders."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

import optalloc
from optalloc.errors import InputError
from optalloc.model.huggingface import read_config
from optalloc.model.load import bundled_models, load_model
from optalloc.model.spec import LayerRun

COMPACT = """
format = "optalloc.model/1"
source = "made up"
date = "2026-01-01"
family = "llama"
hidden = 64
vocabulary = 100
final_norm = 64
layers = "1 decoder, 2 (2 decoder_window, 1 decoder), 3 decoder_window"

[types.decoder]
attention = { heads = 4, kv_heads = 2, head_dim = 16 }
mlp = { width = 128 }

[types.decoder_window]
attention = { heads = 4, kv_heads = 2, head_dim = 16, window = 8 }
mlp = { width = 128 }
"""


_CROWDED = "experts = { num_experts = 8, top_k = 9, width = 128 }"


def test_at_least_35_models_ship_each_with_source_and_date() -> None:
    """Every bundled file loads."""
    names = bundled_models()
    assert len(names) >= 35
    for name in names:
        model = load_model(name)
        assert model.name == name
        assert model.source
        assert len(model.date.split("-")) == 3


def test_a_bundled_model_is_that_of_its_published_file(shared_data: Path) -> None:
    """The compact form loses nothing: equal but for source and date."""
    published = [n for n in bundled_models() if (shared_data / "models" / n).is_dir()]
    assert len(published) >= 39  # the others' totals are tested in test_parameters.py
    for name in published:
        bundled = msgspec.structs.replace(load_model(name), source="", date="")
        assert bundled == read_config(shared_data / "models" / name / "config.json")


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("llama-3.1-70b", "llama-3.1-70b"),
        ("Llama-3.1-70B", "llama-3.1-70b"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("meta-llama/Meta-Llama-3-8B", "llama-3-8b"),
        ("llama3.1_8b", "llama-3.1-8b"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b"),
        ("google/gemma-3-27b-it", "gemma-3-27b"),
        ("gpt-oss:20b", "gpt-oss-20b"),
        ("deepseek-ai/DeepSeek-R1", "deepseek-v3"),
        ("moonshotai/Kimi-K2-Instruct-0905", "kimi-k2"),
        ("gpt3", "gpt3-175b"),
    ],
)
def test_a_bundled_name_is_found_in_any_spelling(written: str, name: str) -> None:
    """Vendor, case, separators and endings of fine-tuned releases do not matter."""
    assert load_model(written).name == name


def test_an_unknown_name_suggests_the_nearest() -> None:
    """There is no Llama 3.1 of 9B."""
    with pytest.raises(InputError, match=r"'llama-3.1-8b'"):
        load_model("llama-3.1-9b")


def test_a_name_too_long_for_a_file_is_unknown() -> None:
    """As any other; not an error of the file system."""
    with pytest.raises(InputError, match="no model of the name"):
        load_model("x" * 300)


def test_a_file_and_its_folder_are_the_same_model(tmp_path: Path) -> None:
    """The model is named after the folder."""
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "vocab_size": 100,
    }
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    assert load_model(folder) == load_model(str(folder / "config.json"))
    assert load_model(folder).name == "small"


def test_a_folder_without_config_and_a_missing_file_are_explained(tmp_path: Path) -> None:
    """Both errors name the path."""
    with pytest.raises(InputError, match=r"holds no config\.json"):
        load_model(tmp_path)
    with pytest.raises(InputError, match="cannot read the file") as caught:
        load_model(tmp_path / "config.json")
    assert caught.value.path == str(tmp_path / "config.json")


def test_a_compact_file_is_read(tmp_path: Path) -> None:
    """Runs are expanded in order; the layer's stack is the beginning of its name."""
    file = tmp_path / "mine.toml"
    file.write_text(COMPACT)
    model = load_model(file)
    assert model.name == "mine"
    assert model.layers == (
        LayerRun("decoder", 1),
        LayerRun("decoder_window", 2),
        LayerRun("decoder", 1),
        LayerRun("decoder_window", 2),
        LayerRun("decoder", 1),
        LayerRun("decoder_window", 3),
    )
    assert {layer.stack for layer in model.layer_types} == {"decoder"}


@pytest.mark.parametrize(
    ("old", "new", "pointer"),
    [
        ("3 decoder_window", "3 decodr", "$.layers"),
        ("1 decoder, 2 (2", "one decoder, 2 (2", "$.layers"),
        ("2 (2 decoder_window,", "2 (2 decodr,", "$.layers"),
        ("[types.decoder]", "[types.thing]", "$.types.thing"),
        ("mlp = { width = 128 }", "", "$.types.decoder"),
        ('format = "optalloc.model/1"', 'format = "optalloc.model/2"', "$.format"),
        ("hidden = 64", "hiden = 64", "$"),
        ("vocabulary = 100", "vocabulary = 0", "$.vocabulary"),
        ("width = 128", "width = -128", "$.types.decoder.mlp.width"),
        ("kv_heads = 2", "kv_heads = 3", "$.types.decoder.attention"),
        ("mlp = { width = 128 }", _CROWDED, "$.types.decoder.experts"),
        ("1 decoder, 2 (2 decoder_window, 1 decoder), 3", "0", "$.layers"),
    ],
)
def test_a_mistake_in_a_compact_file_has_its_pointer(
    tmp_path: Path, old: str, new: str, pointer: str
) -> None:
    """Unknown layer types and keys, what is missing, sizes that no model has."""
    assert old in COMPACT
    file = tmp_path / "mine.toml"
    file.write_text(COMPACT.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        load_model(file)
    assert caught.value.path == str(file)
    assert caught.value.pointer == pointer


def test_the_public_names_are_exported() -> None:
    """``import optalloc as oa; oa.load_model(...)``."""
    model = optalloc.load_model("gpt2")
    assert optalloc.total_parameters(model) == optalloc.active_parameters(model) == 124_439_808
    assert "gpt2" in optalloc.bundled_models()


@pytest.mark.parametrize("name", ["bert-base", "bart-base", "bert", "bart"])
def test_a_smaller_sibling_is_not_the_bundled_model(name: str) -> None:
    """Only the large ones are bundled."""
    with pytest.raises(InputError, match=f"no model of the name '{name}'.*{name[:4]}-large"):
        load_model(name)
