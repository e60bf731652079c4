"""``optalloc simulate`` of a serving plan."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.unit.simulate.requests.serving import serving_plan

from optalloc.cli.__main__ import main
from optalloc.report.requests import request_table
from optalloc.simulate.requests.load import make_requests
from optalloc.simulate.requests.plans import deployment_of
from optalloc.simulate.requests.prefixes import hashes_of
from optalloc.simulate.requests.simulate import simulate_requests


@pytest.fixture
def plan(tmp_path: Path) -> str:
    path = tmp_path / "plan.json"
    serving_plan().save(path)
    return str(path)


def test_latencies_beside_plan_and_targets(
    plan: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table, what happened over time, and the trace."""
    trace = tmp_path / "requests.trace.json"
    assert main(["simulate", plan, "--requests", "200", "--trace", str(trace)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("180 requests at ")
    for word in ("first token", "P99", "500.00 ms", "Waiting", "Trace: "):
        assert word in out
    assert json.loads(trace.read_text())["traceEvents"]


def test_the_same_as_json_with_the_greatest_rate(
    plan: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Equal seeds, equal bytes; the greatest rate meets the means of the workload."""
    words = ["simulate", plan, "--rate", "5", "--requests", "300", "--format", "json"]
    texts = []
    for _ in range(2):
        assert main([*words, "--max-rate"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    data = json.loads(texts[0])
    assert data["summary"]["num_requests"] == 270
    assert data["max_rate"]["rate_per_s"] > 5.0
    assert len(data["over_time"]["waiting"]) == 100


def test_a_trace_gives_the_arrivals(
    plan: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"{i / 10},{100 + i},{10 + i}\n" for i in range(50))
    (tmp_path / "in.csv").write_text("arrival_s,input_tokens,output_tokens\n" + rows)
    words = ["--arrivals", str(tmp_path / "in.csv"), "--format", "csv", "--warm-up", "0"]
    assert main(["simulate", plan, *words]) == 0
    assert capsys.readouterr().out.startswith("latency,mean_s,p50_s,p90_s,p95_s,p99_s\nttft,")


def test_ids_of_blocks_make_prompts_shorter(
    plan: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four conversations of which each turn has one block more, of 128 tokens: of turn n, all but
    one of its n + 1 blocks are cached."""
    rows = [
        {
            "timestamp": 5000 * turn + chat,
            "input_length": 128 * (turn + 1),
            "output_length": 8,
            "hash_ids": [100 * chat + k for k in range(turn + 1)],
        }
        for turn in range(6)
        for chat in range(4)
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["--arrivals", str(tmp_path / "in.jsonl"), "--hash-block-tokens", "128"]
    words += ["--warm-up", "0", "--routing", "prefix"]
    assert main(["simulate", plan, *words]) == 0
    assert "71.4% of prompt tokens found cached" in " ".join(capsys.readouterr().out.split())
    assert main(["simulate", plan, *words, "--format", "json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["summary"]["prefix_hit_share"] == pytest.approx(15.0 / 21.0)
    shares = data["over_time"]["hit_share"]
    assert shares[0] == 0.0
    assert None in shares
    assert max(share for share in shares if share is not None) == pytest.approx(5.0 / 6.0)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--trace-all"], "no passes of a step. Where: --trace-all"),
        (["--hash-block-tokens", "16"], "only a trace has hash_ids. Where: --hash-block-tokens"),
        (["--arrivals", "bust"], "no kind of arrivals and no file"),
        (["--arrivals", "closed", "--rate", "3"], "closed arrivals have no rate"),
        (["--arrivals", "burst", "--clients", "3"], "burst arrivals have no clients"),
        (["--warm-up", "many"], "is no share"),
        (["--rate", "-1"], "rate is -1 requests/s. Where: --rate"),
        (["--rate", "0"], "rate is 0"),
        (["--clients", "0"], "closed loop of 0 clients"),
        (["--requests", "0"], "0 requests are to be drawn. Where: --requests"),
        (["--requests", "1000000000000"], "at most 50,000,000"),
        (["--seed", "-1"], "seed is -1"),
        (["--spread", "150%"], "cannot be spread by 150%"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(
    words: list[str], told: str, plan: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", plan, *words]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("how", ["poisson", "burst", "closed", "at-once"])
def test_every_kind_of_arrivals_runs(
    how: str, plan: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", plan, "--arrivals", how, "--requests", "50"]) == 0
    assert "45 requests" in capsys.readouterr().out


def test_serve_meets_a_percentile_and_simulate_agrees(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The saved plan keeps what was asked; its own simulation meets it, and its proof holds."""
    path = str(tmp_path / "plan.json")
    words = ["--cluster", "2xh100-sxm", "--input-len", "1000", "--output-len", "100"]
    words += ["--concurrency", "24", "--tpot", "12ms", "--percentile", "95", "-o", path]
    assert main(["serve", "llama-3.1-8b", *words]) == 0
    assert "P95 meets its targets" in capsys.readouterr().out
    assert main(["simulate", path, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"]["tpot"]["p95_s"] <= 0.012
    assert json.loads(Path(path).read_text())["asked"]["percentile"] == 95.0
    assert main(["certify", path]) == 0


@pytest.mark.parametrize("verb", ["simulate", "export"])
def test_a_plan_that_breaks_the_rules_is_neither_simulated_nor_exported(
    verb: str, plan: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is left of its engines breaks the rules."""
    edited = json.loads(Path(plan).read_text())
    edited["workers"] = []
    Path(plan).write_text(json.dumps(edited))
    folder = tmp_path / "launch"
    words = ["--to", "vllm", "-o", str(folder)] if verb == "export" else []
    assert main([verb, plan, *words]) == 2
    assert "make the plan again" in capsys.readouterr().err
    assert not folder.exists()


def test_prompts_that_the_model_cannot_read_are_refused(
    plan: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With how many they are, and the longest."""
    rows = "1,50,5\n2,2000000,5\n3,1000000,5\n"
    (tmp_path / "in.csv").write_text("arrival_s,input_tokens,output_tokens\n" + rows)
    assert main(["simulate", plan, "--arrivals", str(tmp_path / "in.csv")]) == 2
    told = capsys.readouterr().err
    assert "2 of 3 requests have more tokens than the" in told
    assert "up to 2,000,005" in told


def test_a_training_plan_takes_no_flags_of_requests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "gpt2", "--cluster", "2xa100-sxm-80g", "--global-batch", "8"]
    path = str(tmp_path / "plan.json")
    assert main([*words, "--seq-len", "128", "-o", path]) == 0
    assert main(["simulate", path]) == 0
    capsys.readouterr()
    for flag in (["--rate", "3"], ["--seed", "1"], ["--max-rate"]):
        assert main(["simulate", path, *flag]) == 2
        assert f"a training plan has no requests. Where: {flag[0]}" in capsys.readouterr().err


def test_a_file_of_another_kind_is_no_plan(
    plan: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "answer.json").write_text('{"counts": [1]}')
    for words in (["simulate"], ["explain"], ["compare", plan]):
        assert main([*words, str(tmp_path / "answer.json")]) == 2
        assert "the file holds no plan" in capsys.readouterr().err


def test_the_caches_of_a_pipeline_are_told_to_be_apart() -> None:
    """Where more would be found in one cache; routed by prefix, hardly."""
    plan = serving_plan()
    workers = tuple(
        msgspec.structs.replace(w, engine=msgspec.structs.replace(w.engine, pp=2))
        for w in plan.workers
    )
    plan = msgspec.structs.replace(plan, workers=workers)
    lengths = np.full(4, 600)
    requests = make_requests(np.arange(4.0), lengths, lengths, hashes=hashes_of([[1, 2]] * 4))
    for routing, told in (("least-loaded", True), ("prefix", False)):
        deployment = msgspec.structs.replace(deployment_of(plan), routing=routing)
        notes = request_table(simulate_requests(deployment, requests), plan, None).notes
        assert any("simulated as 2 caches" in note for note in notes) == told
