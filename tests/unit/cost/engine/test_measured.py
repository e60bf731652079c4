"""engine/measured.py: lines of published tables as setups."""

from __future__ import annotations

from pathlib import Path

import pytest

from optalloc.cost.engine.measured import Row, read_serving_rows, serving_problem
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


def test_what_is_no_number_or_scenario_is_named() -> None:
    """The row and the column."""
    with pytest.raises(InputError) as caught:
        serving_problem(LATENCY | {"isl": "long"})
    assert (caught.value.path, caught.value.pointer) == ("a", "isl")
    with pytest.raises(InputError, match="scenario"):
        serving_problem(RATE | {"scenario": "online"})


def test_a_table_of_another_kind_is_refused(tmp_path: Path) -> None:
    """Neither form."""
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(InputError, match="neither form"):
        read_serving_rows(str(path))
