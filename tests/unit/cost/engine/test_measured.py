"""engine/measured.py: lines of published tables as setups."""

from __future__ import annotations

from pathlib import Path

import pytest

from optalloc.cost.engine.cells import Row
from optalloc.cost.engine.measured import read_serving_rows, serving_problem
from optalloc.errors import InputError

LATENCY: Row = {
    "id": "a",
    "measured": "2026-04-17",
    "engine": "vllm",
    "model": "deepseek-ai/DeepSeek-R1",
    "system": "b200_sxm",
    "precision": "fp4",
    "gemm_quant": "nvfp4",
    "moe_quant": "nvfp4",
    "mode": "agg",
    "isl": "1024",
    "osl": "512",
    "concurrency": "64",
    "ttft_ms": "250",
    "tpot_ms": "12.5",
}
RATE: Row = {
    "id": "b",
    "engine": "tensorrt_llm",
    "engine_version": "1.0",
    "model": "meta-llama/Llama-4-Scout-17B-16E-Instruct",
    "gpu": "H200-SXM-141GB",
    "tp": "4",
    "pp": "1",
    "precision": "fp8",
    "isl": "128",
    "osl": "2048",
    "scenario": "offline_max_load",
    "metric": "output_tokens_per_s_total",
    "value": "30354",
}


def _widths(*values: int) -> Row:
    names = ("tp_size", "pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")
    return {name: str(value) for name, value in zip(names, values, strict=True)}


@pytest.mark.parametrize(
    ("written", "tp", "dp", "ep", "devices"),
    [
        ((8, 1, 1, 8, 1), 8, 1, 1, 8),
        ((8, 1, 1, 1, 8), 8, 1, 8, 8),
        ((64, 1, 1, 8, 8), 8, 1, 8, 8),  # tp 8 with experts over the same eight
        ((1, 1, 64, 8, 8), 1, 8, 8, 8),  # the same with data-parallel attention
        ((4, 1, 4, 1, 16), 4, 1, 4, 4),  # the second note of a run with tp 4, experts spread
        ((1, 1, 1, 2, 1), 1, 2, 1, 2),  # one of two ranks, beside the experts of both
        ((1, 1, 8, 1, 8), 1, 8, 8, 8),
    ],
)
def test_widths_written_as_products_are_read(
    written: tuple[int, ...], tp: int, dp: int, ep: int, devices: int
) -> None:
    """The rules of docs/reference/serving-rows.md."""
    (worker,) = serving_problem(LATENCY | _widths(*written)).workers
    engine = worker.engine
    assert (engine.tp, engine.attention_dp, engine.moe_ep) == (tp, dp, ep)
    assert engine.num_devices == devices


def test_requests_of_one_rank_are_counted_for_all() -> None:
    """Four ranks of 64 requests each; a tensor-parallel engine has its 64."""
    assert serving_problem(LATENCY | _widths(1, 1, 1, 4, 1)).concurrency == 256.0
    assert serving_problem(LATENCY | _widths(4, 1, 1, 4, 1)).concurrency == 64.0


def test_a_width_of_a_whole_deployment_is_split_into_its_workers() -> None:
    """36 devices: one prefill worker of four, and 32 that decode by data-parallel attention, or in
    eights where there are few requests for each device."""
    for requests, count, tp, dp in (("64", 4, 8, 1), ("1024", 1, 1, 32)):
        row = LATENCY | _widths(36, 1, 1, 36, 1) | {"concurrency": requests}
        prefill, decode = serving_problem(row).workers
        assert (prefill.count, prefill.engine.num_devices) == (1, 4)
        assert (decode.count, decode.engine.tp, decode.engine.attention_dp) == (count, tp, dp)


def test_tensorrt_llm_admits_what_it_never_evicts() -> None:
    """A whole answer needs room there, half of one elsewhere; its share of memory is of what the
    weights leave, so nearly all."""
    trtllm, vllm = serving_problem(RATE), serving_problem(LATENCY)
    assert (trtllm.reserved, vllm.reserved) == (1.0, 0.5)
    assert trtllm.workers[0].engine.memory_fraction > vllm.workers[0].engine.memory_fraction


def test_a_line_of_times_becomes_a_closed_loop() -> None:
    """Milliseconds become seconds; 4-bit DeepSeek keeps 16-bit attention; no release is given, so
    the month stands for it."""
    problem = serving_problem(LATENCY)
    assert (problem.measured_ttft_s, problem.measured_tpot_s) == (0.25, 0.0125)
    assert (problem.scenario, problem.campaign) == ("closed", "public")
    engine = problem.workers[0].engine
    assert (engine.weight_dtype, engine.expert_dtype, engine.release) == (
        "bf16",
        "nvfp4",
        "2026-04",
    )


def test_disaggregated_workers_keep_their_numbers() -> None:
    """Two prefill workers of four devices, one of eight that decodes."""
    row = LATENCY | {
        "mode": "disagg",
        "prefill_num_workers": "2",
        "prefill_tp_size": "4",
        "decode_num_workers": "1",
        "decode_attention_dp_size": "8",
        "decode_moe_ep_size": "8",
    }
    prefill, decode = serving_problem(row).workers
    assert (prefill.count, prefill.engine.num_devices) == (2, 4)
    assert (decode.count, decode.engine.num_devices) == (1, 8)


def test_an_offline_line_queues_all_its_requests() -> None:
    """3,000 requests of 128 and 2,048 tokens; release 1.x serves experts by data parallelism."""
    problem = serving_problem(RATE)
    assert (problem.scenario, problem.concurrency) == ("offline", 3000.0)
    assert problem.workers[0].engine.attention_dp == 4
    assert problem.measured_rate == 30354.0


def test_a_missing_concurrency_is_what_the_batches_hold() -> None:
    """A batch of 16 in each of four data-parallel groups."""
    row = LATENCY | _widths(1, 1, 4, 1, 4) | {"concurrency": "", "batch_size": "16"}
    assert serving_problem(row).concurrency == 64.0


@pytest.mark.parametrize(
    ("given", "remark"),
    [
        ({"isl": "long"}, "isl taken as 1024"),
        ({"osl": ""}, "osl taken as 1024"),
        ({"tp_size": "1e9"}, "tp_size '1e9' left out"),
        ({"pp_size": "100"}, "100 stages of 61 layers taken as 61"),
        ({"gemm_quant": "q"}, "type 'q' taken as bf16"),
        ({"engine": "tgi"}, "engine 'tgi' taken as vllm"),
        ({"system": "h100-nvl-x"}, "device h100-nvl-x taken as"),
        ({"model": "unheard-13B"}, "model 'unheard-13B' taken as"),
    ],
)
def test_what_a_line_lacks_or_gets_wrong_is_replaced_and_noted(given: Row, remark: str) -> None:
    """By the rules of docs/reference/serving-rows.md; what is given well has no remark."""
    assert serving_problem(LATENCY).remarks == serving_problem(RATE).remarks == ()
    assert any(text.startswith(remark) for text in serving_problem(LATENCY | given).remarks)


def test_a_run_without_a_scenario_is_what_its_figures_imply() -> None:
    """A time to the first token is of one request, a batch of a static one."""
    implied = {
        serving_problem(RATE | {"scenario": "online"} | given).scenario
        for given in ({"metric": "ttft_ms"}, {"batch": "8"}, {})
    }
    assert implied == {"single", "static", "offline"}


@pytest.mark.parametrize(
    ("name", "kin"),
    [
        ("Qwen/Qwen2.5-14B-Instruct", "qwen3-8b"),  # of its series: not half of 32B, nor phi-4
        ("mistralai/Mixtral-8x7B-v9", "mixtral-8x7b"),
        ("unheard-30B-A3B", "qwen3-30b-a3b"),
        ("zai-org/GLM-4.6", "glm-4.5"),  # no number of parameters: the most similar name
    ],
)
def test_a_model_that_is_not_bundled_is_taken_as_its_nearest_kin(name: str, kin: str) -> None:
    """In parameters, of its series where it has one near."""
    assert serving_problem(LATENCY | {"model": name}).model.name == kin


def test_a_model_of_which_nothing_is_known_is_named() -> None:
    """The row and the column."""
    with pytest.raises(InputError, match="'some/thing'") as caught:
        serving_problem(LATENCY | {"model": "some/thing"})
    assert (caught.value.path, caught.value.pointer) == ("a", "model")


def test_columns_in_another_case_and_empty_lines_are_read(tmp_path: Path) -> None:
    """As spreadsheets write them; lines without a name are counted."""
    path = tmp_path / "rows.csv"
    path.write_text(
        "\ufeffModel, SYSTEM ,isl,osl\r\nllama-3.1-8b, h200_sxm ,8,9\r\n,,,\r\n", encoding="utf-8"
    )
    (row,) = read_serving_rows(str(path))
    problem = serving_problem(row)
    assert (problem.row_id, problem.device.name, problem.scenario) == ("1", "h200-sxm", "closed")


def test_a_table_of_another_kind_is_refused(tmp_path: Path) -> None:
    """Neither form."""
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(InputError, match="neither form"):
        read_serving_rows(str(path))
