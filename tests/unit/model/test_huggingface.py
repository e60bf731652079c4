"""optalloc.model.huggingface: every family's totals, and what is said of files with mistakes."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from optalloc.errors import InputError, UnsupportedModel
from optalloc.model.huggingface import READERS, from_config, read_config
from optalloc.model.parameters import active_parameters, total_parameters, vision_parameters
from optalloc.model.spec import Attention, Experts, LatentAttention


class Published(msgspec.Struct):
    """A released model that does not ship with the package: its shape and its parameters."""

    total: int
    config: dict[str, object]


PUBLISHED = msgspec.json.decode(
    Path(__file__).with_name("published.json").read_bytes(), type=dict[str, Published]
)


def decoder(
    kind: str, hidden: int, layers: int, heads: int, kv: int, width: int, vocabulary: int
) -> dict[str, object]:
    """The keys every decoder has."""
    return {
        "model_type": kind,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": width,
        "vocab_size": vocabulary,
    }


LLAMA = decoder("llama", 4096, 32, 32, 8, 14336, 128256)


class Count(msgspec.Struct):
    """One entry of the table of counts."""

    total: int
    active: int
    vision: int
    tied: bool


def test_every_count_of_the_public_table_is_met_exactly(shared_data: Path) -> None:
    """Total, active and vision parameters of 39 models counted from the built modules."""
    text = (shared_data / "models" / "counts.json").read_bytes()
    counts = msgspec.json.decode(text, type=dict[str, Count])
    assert len(counts) >= 39
    for name, count in counts.items():
        model = read_config(shared_data / "models" / name / "config.json")
        assert total_parameters(model) == count.total, name
        assert active_parameters(model) == count.active, name
        assert vision_parameters(model) == count.vision, name
        assert model.tied_embeddings == count.tied, name
        assert model.name == name


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_totals_of_further_models_are_met(name: str) -> None:
    """Sizes of the same families that do not ship with the package."""
    model = PUBLISHED[name]
    assert total_parameters(from_config(model.config, name=name)) == model.total


def test_every_reader_exists() -> None:
    """The table of dotted names points at functions."""
    for target in READERS.values():
        module, function = target.split(".")
        found = importlib.import_module(f"optalloc.model.families.{module}")
        assert callable(getattr(found, function))


def test_windows_follow_the_pattern_of_the_family() -> None:
    """Gemma 3: layers 6, 12, ... attend to all; gpt-oss and Gemma 2: every second one."""
    gemma = from_config(PUBLISHED["gemma-3-4b"].config, name="gemma-3-4b")
    text = [run for run in gemma.layers if run.layer != "vision"]
    assert [(run.layer, run.count) for run in text[:3]] == [
        ("decoder_window", 5),
        ("decoder", 1),
        ("decoder_window", 5),
    ]
    assert sum(run.count for run in text if run.layer == "decoder") == 34 // 6


def test_listed_layer_types_decide_over_the_pattern() -> None:
    """``layer_types`` of newer files is read layer by layer."""
    config = PUBLISHED["gemma-2-2b"].config | {
        "num_hidden_layers": 3,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
    }
    model = from_config(config, name="g")
    assert [(run.layer, run.count) for run in model.layers] == [
        ("decoder", 1),
        ("decoder_window", 2),
    ]


def test_qwen2_windows_begin_at_max_window_layers() -> None:
    """28 layers with 21 full ones first; without use_sliding_window none slides."""
    config = decoder("qwen2", 3584, 28, 28, 4, 18944, 152064)
    config |= {"sliding_window": 32768, "max_window_layers": 21}
    plain = from_config(config, name="q")
    assert [(run.layer, run.count) for run in plain.layers] == [("decoder", 28)]
    sliding = from_config(config | {"use_sliding_window": True}, name="q")
    assert [(run.layer, run.count) for run in sliding.layers] == [
        ("decoder", 21),
        ("decoder_window", 7),
    ]


def test_qwen_moe_steps_and_listed_layers_are_dense() -> None:
    """Of layers 0..5 with a step of 2, layers 1, 3, 5 have experts, and 3 is listed as dense."""
    config = decoder("qwen3_moe", 2048, 6, 32, 4, 6144, 151936) | {
        "head_dim": 128,
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "decoder_sparse_step": 2,
        "mlp_only_layers": [3],
    }
    model = from_config(config, name="q")
    assert [(run.layer, run.count) for run in model.layers] == [
        ("decoder", 1),
        ("decoder_moe", 1),
        ("decoder", 3),
        ("decoder_moe", 1),
    ]


def test_layers_that_reuse_a_selection_own_no_indexer() -> None:
    """A shared layer lacks 1024*4*64 + 256*64 + 2*64 + 256*4 = 279,680 indexer parameters."""
    config = decoder("glm_moe_dsa", 256, 4, 4, 4, 512, 1000) | {
        "kv_lora_rank": 64,
        "q_lora_rank": 1024,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 32,
        "v_head_dim": 64,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "moe_intermediate_size": 128,
        "first_k_dense_replace": 4,
        "index_n_heads": 4,
        "index_head_dim": 64,
        "index_topk": 16,
    }
    full = from_config(config, name="g")
    shared = from_config(config | {"index_topk_pattern": "FSSF"}, name="g")
    listed = from_config(config | {"indexer_types": ["full", "shared", "shared", "full"]}, name="g")
    assert total_parameters(full) - total_parameters(shared) == 2 * 279_680
    assert listed == shared
    assert [(run.layer, run.count) for run in shared.layers] == [
        ("decoder", 1),
        ("decoder_shared", 2),
        ("decoder", 1),
    ]


def test_attention_of_a_text_model_is_read_whole() -> None:
    """Nemo's heads are 128 wide although 5120 / 32 is 160."""
    model = from_config(PUBLISHED["mistral-nemo"].config, name="nemo")
    assert model.layer_types[0].attention == Attention(heads=32, kv_heads=8, head_dim=128)


def test_latent_attention_without_query_compression_is_read() -> None:
    """DeepSeek-V2-Lite has a null q_lora_rank and two shared experts of 1408."""
    model = from_config(PUBLISHED["deepseek-v2-lite"].config, name="lite")
    dense, sparse = model.layer_types
    assert isinstance(dense.attention, LatentAttention)
    assert dense.attention.q_lora_rank is None
    assert isinstance(sparse.feed_forward, Experts)
    assert sparse.feed_forward.shared_width == 2816


@pytest.mark.parametrize(
    "key",
    ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"],
)
def test_a_missing_key_is_named_with_file_and_pointer(tmp_path: Path, key: str) -> None:
    """Never a KeyError and never a silent default for what every file states."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps({k: v for k, v in LLAMA.items() if k != key}))
    with pytest.raises(InputError, match=f"the key '{key}' is missing") as caught:
        read_config(file)
    assert caught.value.path == str(file)
    assert caught.value.pointer == f"$.{key}"


def test_a_required_key_that_is_null_is_not_called_missing() -> None:
    """The key is there: neither its own name nor another is a useful hint."""
    with pytest.raises(InputError, match="'hidden_size' is null") as caught:
        from_config(LLAMA | {"hidden_size": None}, name="x")
    assert caught.value.fix == "give it a value"


def test_a_misspelt_key_is_suggested() -> None:
    """hiden_size is near hidden_size."""
    config = {k: v for k, v in LLAMA.items() if k != "hidden_size"} | {"hiden_size": 4096}
    with pytest.raises(InputError, match="'hiden_size'"):
        from_config(config, name="x")


def test_another_key_is_not_taken_for_a_misspelling() -> None:
    """hidden_act is a key of its own."""
    config = {k: v for k, v in LLAMA.items() if k != "hidden_size"} | {"hidden_act": "silu"}
    with pytest.raises(InputError, match="add 'hidden_size'"):
        from_config(config, name="x")


def test_a_missing_key_of_a_nested_object_has_its_pointer() -> None:
    """The text part of Gemma 3 without its width."""
    text = {"num_hidden_layers": 34, "intermediate_size": 10240}
    with pytest.raises(InputError) as caught:
        from_config({"model_type": "gemma3", "text_config": text}, name="x")
    assert caught.value.pointer == "$.text_config.hidden_size"


@pytest.mark.parametrize("value", ["4096", 4096.5, 0, -1, True, [4096]])
def test_a_width_that_is_no_positive_whole_number_is_refused(value: object) -> None:
    """Text, fractions, zero, negative numbers, truth values and lists."""
    with pytest.raises(InputError) as caught:
        from_config(LLAMA | {"hidden_size": value}, name="x")
    assert caught.value.pointer == "$.hidden_size"


@pytest.mark.parametrize(("key", "most"), [("hidden_size", 2**40), ("num_hidden_layers", 10_000)])
def test_sizes_beyond_any_model_are_refused(key: str, most: int) -> None:
    """Before a list of as many layers is made."""
    with pytest.raises(InputError, match=f"<= {most:,}"):
        from_config(LLAMA | {key: 10**26}, name="x")


def test_heads_that_do_not_divide_are_refused() -> None:
    """4096 over 33 heads, and 32 heads over 5 groups."""
    with pytest.raises(InputError, match="no multiple"):
        from_config(
            LLAMA | {"num_attention_heads": 33, "num_key_value_heads": 33, "head_dim": None},
            name="x",
        )
    with pytest.raises(InputError, match="no divisor"):
        from_config(LLAMA | {"num_key_value_heads": 5}, name="x")


def test_more_experts_a_token_than_there_are_is_refused() -> None:
    """9 of 8."""
    config = decoder("mixtral", 4096, 2, 32, 8, 14336, 32000)
    with pytest.raises(InputError, match="9 experts a token are chosen of 8"):
        from_config(config | {"num_local_experts": 8, "num_experts_per_tok": 9}, name="x")


def test_a_list_of_layer_types_of_the_wrong_length_is_refused() -> None:
    """Two entries for 26 layers."""
    config = PUBLISHED["gemma-2-2b"].config | {"layer_types": ["full_attention"] * 2}
    with pytest.raises(InputError, match="2 entries for 26 layers"):
        from_config(config, name="x")


def test_an_unknown_model_type_names_near_ones(tmp_path: Path) -> None:
    """qwen4_moe is near qwen3_moe."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LLAMA | {"model_type": "qwen4_moe"}))
    with pytest.raises(UnsupportedModel, match="qwen3_moe") as caught:
        read_config(file)
    assert caught.value.pointer == "$.model_type"
    assert "'qwen4_moe'" in str(caught.value)


def test_broken_json_names_the_line(tmp_path: Path) -> None:
    """A file cut off after its second line."""
    file = tmp_path / "config.json"
    file.write_text('{\n "model_type": "llama",\n "hidden_size": ')
    with pytest.raises(InputError) as caught:
        read_config(file)
    assert "line 3" in caught.value.pointer
    assert caught.value.path == str(file)


def test_a_file_without_an_object_is_refused(tmp_path: Path) -> None:
    """A JSON list is no configuration."""
    file = tmp_path / "config.json"
    file.write_text("[]")
    with pytest.raises(InputError, match="no JSON object"):
        read_config(file)


def test_no_deep_learning_library_is_imported() -> None:
    """Reading a configuration imports neither torch nor transformers, nor runs its auto_map."""
    config = LLAMA | {"auto_map": {"AutoConfig": "evil.Config"}}
    code = (
        "import sys\n"
        "from optalloc.model.huggingface import from_config\n"
        f"from_config({config!r}, name='x')\n"
        "assert not {'torch', 'transformers', 'evil', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
