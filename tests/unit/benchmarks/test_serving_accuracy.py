"""serving-accuracy: the study on small tables of both forms."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from benchmarks.__main__ import main
from benchmarks.accuracy_metrics import spearman

HEADER = (
    "id,measured,engine,engine_version,model,system,precision,mode,isl,osl,gemm_quant,moe_quant,"
    "concurrency,tp_size,pp_size,attention_dp_size,moe_tp_size,moe_ep_size,ttft_ms,tpot_ms"
)
LATENCY = [
    f"r{tp}{q},2026-04-01,vllm,0.19.0,openai/gpt-oss-120b,h200_sxm,fp4,agg,1024,1024,nvfp4,nvfp4,"
    f"{q},{tp},1,1,{tp},1,{30 + q},{4 + q / 8}"
    for tp in (1, 2, 4)
    for q in (4, 16)
]
RATES = [
    "id,engine,engine_version,model,gpu,tp,pp,precision,isl,osl,batch,scenario,metric,value",
    "a,tensorrt_llm,1.0,Qwen/Qwen3-30B-A3B,B200-180GB,1,1,fp4,128,2048,,offline_max_load,"
    "output_tokens_per_s_total,60000",
    "b,tensorrt_llm,0.9,mistralai/Mistral-7B-v0.1,L40S-48GB,1,1,fp8,2048,1,1,single_request,"
    "ttft_ms,180",
]


def _table(folder: Path, lines: list[str]) -> Path:
    path = folder / "rows.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_every_row_of_times_is_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Columns id, status, ttft_ms, tpot_ms in the order of the table; tables by engine and mode."""
    out, page = tmp_path / "p.csv", tmp_path / "page.md"
    rows = _table(tmp_path, [HEADER, *LATENCY])
    assert main(["serving-accuracy", str(rows), "--out", str(out), "--page", str(page)]) == 0
    with out.open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["id"] for line in lines] == ["r14", "r116", "r24", "r216", "r44", "r416"]
    assert {line["status"] for line in lines} == {"ok"}
    assert all(float(line["ttft_ms"]) > float(line["tpot_ms"]) > 0.0 for line in lines)
    printed = capsys.readouterr().out
    assert page.read_text(encoding="utf-8") == printed
    assert "| vllm | 6 |" in printed
    assert "| closed | 6 |" in printed
    assert "| at equal concurrency | 2 |" in printed


def test_no_throughput_follows_where_no_load_is_stated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The times of such a row are compared, and its rate is no configuration's."""
    lines = [line.replace("nvfp4,4,", "nvfp4,,") for line in LATENCY]
    assert main(["serving-accuracy", str(_table(tmp_path, [HEADER, *lines]))]) == 0
    printed = capsys.readouterr().out
    assert "| closed | 6 |" in printed
    assert "| at equal concurrency | 1 |" in printed


def test_every_rate_is_answered(tmp_path: Path) -> None:
    """Tokens per second or milliseconds, as the row's metric says."""
    out = tmp_path / "p.csv"
    assert main(["serving-accuracy", str(_table(tmp_path, RATES)), "--out", str(out)]) == 0
    with out.open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["status"] for line in lines] == ["ok", "ok"]
    assert 10_000 < float(lines[0]["value"]) < 300_000
    assert 50 < float(lines[1]["value"]) < 1000


def test_a_row_of_an_unknown_model_costs_its_own_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says why; the others are predicted, also one whose device is a guess."""
    odd = [
        LATENCY[0].replace("openai/gpt-oss-120b", "some/thing"),
        LATENCY[1].replace("h200", "h2"),
    ]
    out = tmp_path / "p.csv"
    rows = _table(tmp_path, [HEADER, *odd, LATENCY[2]])
    assert main(["serving-accuracy", str(rows), "--out", str(out)]) == 0
    with out.open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["id"] for line in lines] == ["r14", "r116", "r24"]
    assert lines[0] | {"id": ""} == {
        "id": "",
        "status": "no model of the name 'some/thing' is known",
        "ttft_ms": "",
        "tpot_ms": "",
    }
    assert [line["status"] for line in lines[1:]] == ["ok", "ok"]
    told = capsys.readouterr()
    assert "2 of 3 rows predicted." in told.out
    assert "device h2_sxm taken as" in told.err


def test_rows_of_an_engine_left_out_are_predicted_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With no other engine in the table the priors are left, so the errors differ."""
    rows = _table(tmp_path, [HEADER, *LATENCY])
    assert main(["serving-accuracy", str(rows), "--leave-out", "engine"]) == 0
    given, left_out = capsys.readouterr().out.split("## Every engine left out of the fit in turn")
    assert "6 of 6 rows predicted." in left_out
    lines = [line for line in left_out.splitlines() if line.startswith("| vllm | 6 |")]
    assert len(lines) == 1
    assert lines[0] not in given


def test_rank_correlation_of_equal_values() -> None:
    """A constant series has no rank to be wrong."""
    assert spearman([1.0, 1.0], [1.0, 2.0]) == 1.0
