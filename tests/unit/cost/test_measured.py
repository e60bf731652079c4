"""measured/: rows with odd or missing cells still become problems, and say what was assumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from optalloc.cost.measured.cells import Row
from optalloc.cost.measured.devices import named_device
from optalloc.cost.measured.problem import Unsupported, problem_of, split
from optalloc.cost.measured.rows import read_rows
from optalloc.cost.predict import predict
from optalloc.errors import InputError
from optalloc.model.spec import Experts

BARE: Row = {"row_id": "1", "layers": "32", "hidden": "4096", "gpu": "H100", "n_gpus": "8"}
MIXED = BARE | {
    "layers": "24",
    "hidden": "1024",
    "heads": "16",
    "gpu": "RTX3090+TitanRTX",
    "n_gpus": "4",
    "tp": "2",
    "pp": "2",
    "gbs": "16",
    "mbs": "2",
    "precision": "FP32",
    "notes": "stage gpu types ['RTX-3090', 'Titan-RTX']; stage tp [2, 2]; layers/stage [12, 14]",
}


def test_a_row_without_dimensions_says_so() -> None:
    """The only reason to predict nothing."""
    with pytest.raises(Unsupported, match="no model dimensions"):
        problem_of({"row_id": "1", "gpu": "H100"})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gpu": "H800"},
        {"gpu": "MysteryChip-9", "gpu_mem_gb": "48"},
        {"gpu": ""},
        {"precision": "INT3"},
        {"precision": "NVFP4", "gpu": "A100-80GB"},
        {"precision": "MXFP8", "gpu": "V100-32GB"},
        {"framework": "JAX/MaxText"},
        {"gbs": "13", "dp": "4", "mbs": "3"},
        {"gbs": "7", "n_gpus": "6", "tp": "4"},
        {"n_gpus": "100", "tp": "8", "pp": "3"},
        {"pp": "4", "vpp": "9", "schedule": "interleaved", "gbs": "64"},
        {"pp": "64", "tp": "2", "n_gpus": "128"},
        {"seq_len": "", "vocab": "nan", "ffn": "x"},
        {"recompute": "sometimes", "zero_stage": "7"},
        {"n_experts": "64", "topk": "6", "moe_ffn": "1408", "ep": "8", "tp": "2"},
        {"n_experts": "160", "topk": "6", "ep": "7", "arch": "moe_mla", "n_dense_layers": "1"},
        {"task": "lora", "precision": "FP8"},
        {"task": "sft"},
        {"task": "single_layer", "layers": "1"},
        {"fsdp": "5", "zero_stage": "3", "framework": "torchtitan"},
        {"gpu": "H100+A100", "pp": "2"},
        {"heads": "30", "kv_heads": "7", "tp": "8"},
        {"pp": "1e9", "gbs": "1e308"},
        {"tp": "1e6", "cp": "1e6", "dp": "1e7"},
        {"gbs": "1e8", "release": "inf"},
        {"gpu": "+", "pp": "2"},
        {"gpu": "TPU v5p", "precision": "FP32"},
        {"gpu": "H100+TPU-v4", "precision": "NVFP4", "pp": "2"},
    ],
)
def test_odd_rows_are_predicted(changes: dict[str, str]) -> None:
    """A positive time and a positive memory, whatever a cell holds."""
    found = predict(problem_of(BARE | changes))
    assert 0.0 < found.step_time_s < 1e6
    assert found.memory_bytes > 0.0


@pytest.mark.parametrize(
    ("plain", "spelled"),
    [
        ({"seq_len": "4096"}, {"seq_len": "4k tokens"}),
        ({"layers": "32"}, {"layers": "32 layers"}),
        ({"gbs": "1024", "mbs": "1"}, {"gbs": "1,024", "mbs": "1.0"}),
        ({"internode_gbps_per_gpu": "200"}, {"internode_gbps_per_gpu": "25 GB/s"}),
        ({"internode_gbps_per_gpu": "400"}, {"internode_gbps_per_gpu": "400 Gb/s"}),
        ({"gated_mlp": "0"}, {"gated_mlp": "False"}),
        ({"gated_mlp": "0", "ffn": "16384"}, {"gated_mlp": "", "ffn": "16384"}),
        ({"tp": "2", "sp": "1"}, {"tp": "2", "sp": "yes"}),
        ({"zero_stage": "3"}, {"zero_stage": "ZeRO-3"}),
        ({"zero_stage": "0"}, {"zero_stage": "0.0"}),
        ({"precision": "FP8"}, {"precision": "float8_e4m3fn"}),
        ({"precision": "FP16"}, {"precision": "float16"}),
        ({"precision": "BF16"}, {"precision": "bfloat16 (mixed)"}),
        ({"recompute": "full"}, {"recompute": "True"}),
        ({"recompute": "none"}, {"recompute": "off"}),
        ({"hidden": "4096", "heads": "32"}, {"hidden": "", "heads": "32", "head_dim": "128"}),
    ],
)
def test_cells_are_read_as_people_write_them(
    plain: dict[str, str], spelled: dict[str, str]
) -> None:
    """The same prediction for both spellings."""
    row = BARE | {"gbs": "64", "n_gpus": "16"}
    assert predict(problem_of(row | spelled)) == predict(problem_of(row | plain))


def test_a_missing_dimension_comes_from_the_number_of_parameters() -> None:
    """6.65 billion parameters in 32 layers of a width: 4096 of 12 h^2 each, and the embedding."""
    wide = problem_of(BARE | {"hidden": "", "n_params_b": "6.65"})
    deep = problem_of(BARE | {"layers": "", "n_params_b": "6.65"})
    assert (wide.model.hidden, sum(run.count for run in deep.model.layers)) == (4096, 32)
    assert any("hidden not given" in remark for remark in wide.remarks)


def test_chunks_that_the_notes_do_not_split_are_split_evenly() -> None:
    """Layers by stage, but two chunks a stage: the notes say nothing of the chunks."""
    row = BARE | {"pp": "2", "vpp": "2", "gbs": "32", "mbs": "1", "notes": "layers/stage [15, 17]"}
    assert predict(problem_of(row)).choice.layers == (8, 8, 8, 8)


def test_assumptions_are_said() -> None:
    """An unknown device, its relative; a batch that does not divide, the one predicted."""
    problem = problem_of(BARE | {"gpu": "H100-XXL", "gbs": "13", "dp": "4", "mbs": "2"})
    assert "device H100-XXL taken as h100" in problem.remarks
    assert "a batch of 13 taken as 16" in problem.remarks
    assert problem.share == 13 / 16


def test_stages_of_mixed_devices_come_from_the_notes() -> None:
    """Two devices, and the layers a stage without embedding and head."""
    problem = problem_of(MIXED)
    devices = [cluster.nodes[0].device.name for cluster in problem.clusters]
    assert devices == ["rtx-3090", "titan-rtx"]
    assert problem.layers == (11, 13)


def test_mixed_devices_without_notes_are_taken_in_order() -> None:
    """Half of the stages each."""
    problem = problem_of(MIXED | {"notes": ""})
    assert [c.nodes[0].device.name for c in problem.clusters] == ["rtx-3090", "titan-rtx"]


def test_a_step_waits_for_devices_that_the_notes_do_not_place() -> None:
    """Kinds without a stage are in other replicas; with one replica every kind has its stage."""
    gpu = {"gpu": "RTX2080+RTX3090+TitanRTX", "pp": "1", "tp": "4", "dp": "6"}
    notes = {"notes": "stage gpu types ['RTX-3090']"}
    slow, alone = (problem_of(MIXED | gpu | notes | {"dp": dp}) for dp in ("6", "1"))
    assert [c.nodes[0].device.name for c in slow.clusters] == ["rtx-2080"]
    assert [c.nodes[0].device.name for c in alone.clusters] == ["rtx-3090"]
    assert any("other replicas" in remark for remark in slow.remarks)


def test_a_batch_that_is_not_predicted_whole_scales_the_step() -> None:
    """13 of 16 sequences take 13/16 of the time of 16."""
    part = predict(problem_of(BARE | {"gbs": "13", "dp": "4", "mbs": "2", "tp": "2"}))
    whole = predict(problem_of(BARE | {"gbs": "16", "dp": "4", "mbs": "2", "tp": "2"}))
    assert part.step_time_s == pytest.approx(whole.step_time_s * 13 / 16)


def test_low_rank_adapters_are_faster_than_full_training() -> None:
    """No gradient of the frozen weights."""
    row = BARE | {"gbs": "32", "mbs": "1", "seq_len": "4096", "precision": "BF16"}
    full, lora = (predict(problem_of(row | {"task": task})) for task in ("sft", "lora"))
    assert lora.step_time_s < 0.85 * full.step_time_s


def test_rows_tell_what_their_software_is_known_to_do() -> None:
    """NVIDIA's recipes adapt queries, keys and values; the experts of GPT-OSS have biases; sums
    inside a node of Sailor's runs go at the rate of an adapter."""
    assert problem_of(BARE | {"task": "lora"}).workload.lora_modules == "qkv"
    assert problem_of(BARE | {"framework": "torchtitan"}).workload.lora_modules == "all"
    experts = {"n_experts": "8", "topk": "2", "moe_ffn": "1024"}
    for name, biased in (("GPT_OSS_120B", True), ("Qwen3_30B_a3B", False)):
        (layer,) = problem_of(BARE | experts | {"model": name}).model.layer_types
        assert isinstance(layer.feed_forward, Experts)
        assert layer.feed_forward.bias is biased
    fork = BARE | {"framework": "Sailor/Megatron-DeepSpeed", "internode_gbps_per_gpu": "200"}
    (cluster,) = problem_of(fork).clusters
    assert cluster.nodes[0].node_link.bandwidth_bytes_per_s == 25e9


def test_a_table_is_read_however_it_was_saved(tmp_path: Path) -> None:
    """Byte order mark, CRLF, capitals and blanks in the names, quoted commas, short and long lines,
    columns beyond those known; a line without group is its own."""
    path = tmp_path / "rows.csv"
    head = '\ufeff"Row_ID", Layers,hidden,GPU,n_gpus,seq_len,gbs,more\r\n'
    lines = '1,32,4096,H100,8,2048,"1,024",x,y\r\n\r\n2,32,4096,H100\r\n'
    path.write_bytes((head + lines).encode())
    first, second = read_rows(path)
    assert problem_of(first).workload.global_batch == 1024
    assert (first["row_id"], second["n_gpus"]) == ("1", "")
    assert first["group"] != second["group"]


def test_a_table_without_the_columns_is_refused(tmp_path: Path) -> None:
    """The missing names are listed."""
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="has no column layers, hidden"):
        read_rows(path)


@pytest.mark.parametrize(
    ("layers", "chunks", "sizes"),
    [(126, 16, [7, *([8] * 14), 7]), (5, 1, [5]), (3, 4, [1, 1, 1, 0])],
)
def test_layers_are_split_over_chunks(layers: int, chunks: int, sizes: list[int]) -> None:
    """The ends are short first."""
    assert split(layers, chunks) == sizes


def test_a_row_says_where_and_by_what_it_ran(tmp_path: Path) -> None:
    """The site by its notes, a release by the paper's number, a fork by its name; and what a source
    says of all of its runs holds over its cells."""
    lm = BARE | {"gpu": "A100-80GB", "framework": "Megatron-LM", "source_ref": "arXiv:2104.04473 T"}
    assert problem_of(lm).workload.release == "21.04"
    assert (
        problem_of(BARE | {"framework": "Sailor/Megatron-DeepSpeed"}).workload.release == "sailor"
    )
    assert problem_of(BARE | {"notes": "Jean Zay 8xA100 NVLink"}).site == "jean-zay"
    assert problem_of(BARE).site == ""
    table = tmp_path / "rows.csv"
    table.write_text(
        "source,layers,hidden,gpu,n_gpus,seq_len,zero_stage,recompute\n"
        "bigscience,4,64,V100,8,9,0,full\nvtrain_single,4,64,A100,8,9,0,full\n"
    )
    site, node = map(problem_of, read_rows(table))
    assert site.meshes.zero_stage.tolist() == [1]
    assert (site.recompute, node.recompute) == ("full", "none")


def test_chips_of_other_markets_are_slower() -> None:
    """An H800 has NVLink of 400 GB/s in both directions together, an H20 148 TFLOP/s."""
    exported, small = named_device("H800", 0.0)[0], named_device("NVIDIA H20-96GB", 0.0)[0]
    assert exported.link_bandwidth_bytes_per_s == pytest.approx(200e9)
    assert small.peak_flops_per_s["bf16"] == pytest.approx(148e12, rel=0.01)


@pytest.mark.parametrize(
    ("gpu", "name"),
    [
        ("AMD Instinct MI300X", "mi300x"),  # the catalogue's name is within
        ("Tesla V100-SXM2-16GB", "v100-sxm-16g"),
        ("A800", "a100-sxm-80g"),  # the same chip
        ("RTX A6000", "a40"),
        ("B100", "b200"),  # the same series
        ("MI355X", "mi325x"),
        ("L40", "l40s"),
        ("RTX-4080", "rtx-4090"),
        ("TPU v3", "tpu-v4"),
        ("P100", "v100-sxm-32g"),  # spelt alike
        ("Gaudi2", "h100-sxm"),  # none of these
    ],
)
def test_a_device_that_is_not_in_the_catalogue_is_taken_as_its_nearest_relative(
    gpu: str, name: str
) -> None:
    """By a name within its name, the chip, the series, or the spelling; and the row says so."""
    found, remark = named_device(gpu, 0.0)
    assert found.name == name
    assert remark.startswith(f"device {gpu} taken as ")
