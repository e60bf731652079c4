"""Exports of serving plans: flags by readers written from the documentation, YAML by schema.

The readers know flags that vLLM 0.33.0 and SGLang 0.5.23 take; where vLLM, SGLang or a router of
theirs is installed its own parser reads them too.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from tests.export.serving_plans import plan_of, split, worker
from tests.export.serving_readers import (
    files_of,
    sglang_reader,
    started,
    trtllm_reader,
    vllm_reader,
)
from tests.export.serving_schemas import LLM_ARGS

import optalloc as oa
from optalloc.cli.__main__ import main
from optalloc.cost.engine.setup import Engine, Software
from optalloc.errors import ExportError, InputError
from optalloc.export.export import export
from optalloc.export.serving import sglang, vllm
from optalloc.export.serving.base import SERVING_TARGETS, serving_artefacts
from optalloc.serving.configuration.plan import ServingPlan

DEEPSEEK = "deepseek-v3"


@pytest.mark.parametrize(
    "engine",
    [
        Engine(tp=4),
        Engine(tp=4, pp=2, kv_dtype="fp8", weight_dtype="fp8"),
        Engine(tp=2, attention_dp=4, moe_ep=8, weight_dtype="fp8-block"),
        Engine(attention_dp=8, max_batch=512, chunk_tokens=256),
    ],
)
def test_vllm_flags_are_known_and_say_what_the_plan_does(engine: Engine) -> None:
    """Widths, batch, memory and types; the chunk holds at least a token a sequence."""
    plan = plan_of(worker(engine), model=DEEPSEEK)
    read = vllm_reader().parse_args(vllm.flags(plan, plan.workers[0]))
    assert (read.tensor_parallel_size, read.pipeline_parallel_size) == (engine.tp, engine.pp)
    assert read.data_parallel_size == engine.attention_dp
    assert read.enable_expert_parallel == (engine.moe_ep > 1)
    assert read.max_num_seqs == engine.max_batch
    assert read.max_num_batched_tokens == max(engine.chunk_tokens, engine.max_batch)
    assert (read.kv_cache_dtype == "fp8") == (engine.kv_dtype == "fp8")
    assert (read.quantization == "fp8") == (engine.weight_dtype == "fp8")


@pytest.mark.parametrize(
    ("cluster", "word"), [("8xt4", "float16"), ("8xv100-sxm-32g", "float16"), ("8xl4", "bfloat16")]
)
def test_gpus_before_ampere_compute_in_float16(cluster: str, word: str) -> None:
    """vLLM and SGLang refuse bfloat16 there."""
    for flags, software in ((vllm.flags, "vllm"), (sglang.flags, "sglang")):
        plan = plan_of(worker(Engine(software=software)), cluster=cluster)  # type: ignore[arg-type]
        words = flags(plan, plan.workers[0])
        assert words[words.index("--dtype") + 1] == word


def test_vllm_model_len_is_no_longer_than_the_cache() -> None:
    """Of 131,072 positions only what a rank's cache holds: vLLM does not start otherwise."""
    plan = plan_of(worker(Engine(tp=4)))
    words = vllm.flags(plan, plan.workers[0])
    assert "--max-model-len" not in words  # 200,000 tokens fit
    import msgspec

    small = msgspec.structs.replace(plan.workers[0], kv_capacity_tokens=50_001)
    read = vllm_reader().parse_args(vllm.flags(plan, small))
    assert read.max_model_len == 50_000


@pytest.mark.parametrize(
    "engine",
    [
        Engine(software="sglang", tp=4, kv_dtype="fp8", weight_dtype="fp8"),
        Engine(software="sglang", tp=2, attention_dp=4, moe_ep=8, weight_dtype="fp8-block"),
        Engine(software="sglang", tp=2, attention_dp=4, moe_ep=2, moe_tp=4, pp=2),
    ],
)
def test_sglang_flags_count_whole_stages(engine: Engine) -> None:
    """tp-size is of all devices of a stage, limits of the batch are of all ranks."""
    plan = plan_of(worker(engine), model=DEEPSEEK, cluster="32xh200-sxm")
    read = sglang_reader().parse_args(sglang.flags(plan, plan.workers[0]))
    assert read.tp_size == engine.tp * engine.attention_dp
    assert (read.pp_size, read.dp_size, read.ep_size) == (
        engine.pp,
        engine.attention_dp,
        engine.moe_ep,
    )
    assert read.enable_dp_attention == (engine.attention_dp > 1)
    assert read.max_running_requests == engine.max_batch * engine.attention_dp
    assert read.chunked_prefill_size == engine.chunk_tokens * engine.attention_dp
    # By hand: 0.9 of 140.40 GiB less 4 GiB of work space, of which 30 GiB are weights.
    assert read.mem_fraction_static == pytest.approx(0.871)


def test_sglang_has_room_for_the_weights_and_the_batch_of_a_plan() -> None:
    """A plan as it is made: few short requests in a large model, and a cache for the rest."""
    plan = oa.plan_serving(
        oa.load_model(DEEPSEEK),
        oa.load_cluster("16xh200-sxm"),
        oa.Serving(input_len=4000, output_len=500),
        pin=("weights=fp8", "mode=disaggregated"),
        target="sglang",
    ).plan
    for one in plan.workers:
        read = sglang_reader().parse_args(sglang.flags(plan, one))
        static = read.mem_fraction_static * one.capacity_bytes
        assert static > one.memory_bytes["weights"] + one.memory_bytes["kv"]
        assert static + one.memory_bytes["workspace"] <= 0.9 * one.capacity_bytes


def test_roles_are_in_the_flags_of_every_engine() -> None:
    """A worker without its role would do both phases."""
    plan = split()
    roles = [
        vllm_reader().parse_args(vllm.flags(plan, w)).kv_transfer_config["kv_role"]
        for w in plan.workers
    ]
    assert roles == ["kv_producer", "kv_consumer"]
    plan = split("sglang")
    modes = [
        sglang_reader().parse_args(sglang.flags(plan, w)).disaggregation_mode for w in plan.workers
    ]
    assert modes == ["prefill", "decode"]


def test_scripts_give_every_engine_its_devices_and_ports(tmp_path: Path) -> None:
    """The engine of four takes the first devices, those of two what follows; ports are apart."""
    export(split(), "vllm", tmp_path)
    found = [
        started(tmp_path, "decode.sh", "vllm", 0),
        started(tmp_path, "prefill.sh", "vllm", 0),
        started(tmp_path, "prefill.sh", "vllm", 1),
    ]
    assert [one["devices"] for one in found] == ["0,1,2,3", "4,5", "6,7"]
    assert len({one["side"] for one in found}) == 3
    read = [vllm_reader().parse_args(one["words"][1:]) for one in found]
    assert len({one.port for one in read}) == 3
    assert all(one["words"][:2] == ["serve", "owner/model"] for one in found)
    router = (tmp_path / "router.sh").read_text()
    assert all(f"http://localhost:{one.port}" in router for one in read)


def test_engine_over_two_nodes_is_started_on_each(tmp_path: Path) -> None:
    """The second node runs without a server of its own."""
    export(plan_of(worker(Engine(tp=8, pp=2))), "vllm", tmp_path)
    for rank, headless in (("0", False), ("1", True)):
        words = started(tmp_path, "worker.sh", "vllm", 0, NODE_RANK=rank, LEADER="a")["words"]
        read = vllm_reader().parse_args(words[1:])
        assert (read.nnodes, read.node_rank, read.master_addr) == ("2", rank, "a")
        assert read.headless is headless


def test_sglang_scripts_read_back(tmp_path: Path) -> None:
    """The port where caches are fetched is one for each prefill engine."""
    export(split("sglang"), "sglang", tmp_path)
    found = [started(tmp_path, "prefill.sh", "python3", i)["words"] for i in (0, 1)]
    assert all(words[:2] == ["-m", "sglang.launch_server"] for words in found)
    read = [sglang_reader().parse_args(words[2:]) for words in found]
    assert [one.disaggregation_bootstrap_port for one in read] == [8998, 8999]
    router = shlex.split((tmp_path / "router.sh").read_text().splitlines()[-1])
    first = router.index("--prefill")
    assert router[first + 2] == "8998"


def test_trtllm_options_follow_their_schema() -> None:
    """Experts 8 ways over 8 ranks; the buffer holds a prompt; the front end lists the engines."""
    engine = Engine(software="trtllm", attention_dp=8, moe_ep=8, kv_dtype="fp8")
    whole = yaml.safe_load(
        files_of(plan_of(worker(engine), model=DEEPSEEK), "trtllm")["worker.yaml"]
    )
    jsonschema.validate(whole, LLM_ARGS)
    assert (whole["tensor_parallel_size"], whole["enable_attention_dp"]) == (8, True)
    assert (whole["moe_expert_parallel_size"], whole["moe_tensor_parallel_size"]) == (8, 1)
    # By hand: of 79.65 - 30 GiB all but a tenth of 79.65 and 4 GiB of work space.
    assert whole["kv_cache_config"]["free_gpu_memory_fraction"] == pytest.approx(0.759)
    files = files_of(split("trtllm"), "trtllm")
    prompt, answer = (yaml.safe_load(files[f"{name}.yaml"]) for name in ("prefill", "decode"))
    for options in (prompt, answer):
        jsonschema.validate(options, LLM_ARGS)
        assert options["cache_transceiver_config"]["max_tokens_in_buffer"] >= 3000
    assert prompt["disable_overlap_scheduler"] is True
    assert "disable_overlap_scheduler" not in answer
    front = yaml.safe_load(files["front.yaml"])
    assert front["context_servers"] == {
        "num_instances": 2,
        "urls": ["localhost:8100", "localhost:8101"],
    }
    assert front["generation_servers"]["num_instances"] == 1


def test_trtllm_scripts_read_back(tmp_path: Path) -> None:
    """Each engine finds its options and has a port of its own; the front end finds its file."""
    export(split("trtllm"), "trtllm", tmp_path)
    read = [
        trtllm_reader().parse_args(started(tmp_path, "prefill.sh", "trtllm-serve", i)["words"])
        for i in (0, 1)
    ]
    assert [one.port for one in read] == [8100, 8101]
    assert all(one.extra_llm_api_options == tmp_path / "prefill.yaml" for one in read)
    line = (tmp_path / "router.sh").read_text().splitlines()[-1]
    front = trtllm_reader().parse_args([w for w in shlex.split(line)[2:] if w != "$@"])
    assert front.config_file.name == "front.yaml"


def test_vllm_itself_reads_its_flags() -> None:
    """Where it is installed; nothing is loaded."""
    utils = pytest.importorskip("vllm.engine.arg_utils", reason="vLLM is not installed")
    parsing = pytest.importorskip("vllm.utils.argparse_utils")
    parser = utils.AsyncEngineArgs.add_cli_args(parsing.FlexibleArgumentParser())
    plan = split()
    for one in plan.workers:
        read = parser.parse_args(vllm.flags(plan, one))
        assert read.tensor_parallel_size == one.engine.tp


@pytest.mark.skipif(importlib.util.find_spec("sglang") is None, reason="SGLang is not installed")
def test_sglang_itself_reads_its_flags() -> None:
    """Where it is installed, with or without what it needs to serve."""
    engine = Engine(software="sglang", tp=2, attention_dp=4, moe_ep=8, pp=2, kv_dtype="fp8")
    plans = (split("sglang"), plan_of(worker(engine), model=DEEPSEEK))
    for plan in plans:
        for one in plan.workers:
            words = ["--model-path", "owner/model", *sglang.flags(plan, one)]
            done = subprocess.run(
                [sys.executable, str(Path(__file__).with_name("sglang_flags.py")), *words],
                capture_output=True,
                text=True,
                check=True,
            )
            read = json.loads(done.stdout.splitlines()[-1])
            engine, dp = one.engine, one.engine.attention_dp
            assert (read["tp_size"], read["pp_size"]) == (engine.tp * dp, engine.pp)
            assert (read["dp_size"], read["enable_dp_attention"]) == (dp, dp > 1)
            assert read["ep_size"] == engine.moe_ep
            assert read["max_running_requests"] == engine.max_batch * dp
            role = "null" if one.role == "serve" else one.role
            assert read["disaggregation_mode"] == role


@pytest.mark.parametrize(
    ("target", "package"), [("vllm", "vllm_router"), ("sglang", "sglang_router")]
)
def test_routers_themselves_read_their_flags(target: Software, package: str) -> None:
    """Where they are installed: every engine is told of, by its role where phases are split."""
    args = pytest.importorskip(f"{package}.router_args", reason=f"{package} is not installed")
    parser = argparse.ArgumentParser()
    args.RouterArgs.add_cli_args(parser)

    def read(plan: ServingPlan) -> Any:
        words = shlex.split(files_of(plan, target)["router.sh"].splitlines()[-1])
        first = next(i for i, word in enumerate(words) if word.startswith("--"))
        found = args.RouterArgs.from_cli_args(parser.parse_args(words[first:-1]))
        assert (found.host, found.port) == ("0.0.0.0", 8000)
        return found

    both = read(split(target))
    assert len(both.prefill_urls) == 2
    assert len(both.decode_urls) == 1
    assert both.worker_urls == []
    assert [port for _, port in both.prefill_urls] == (
        [8998, 8999] if target == "sglang" else [None, None]
    )
    one = read(plan_of(worker(Engine(software=target, tp=4), count=3)))
    assert len(one.worker_urls) == 3


@pytest.mark.parametrize(
    ("plan", "target", "feature"),
    [
        (plan_of(worker(Engine(attention_dp=4))), "vllm", "without experts"),
        (plan_of(worker(Engine(tp=8, moe_ep=4)), model=DEEPSEEK), "vllm", "4 of 8 devices"),
        (
            plan_of(worker(Engine(software="trtllm", tp=2, attention_dp=4)), model=DEEPSEEK),
            "trtllm",
            "attention of tp 2",
        ),
        (plan_of(worker(Engine(software="trtllm", tp=8, pp=2))), "trtllm", "over several nodes"),
        (plan_of(worker(Engine(software="trtllm", tp=8))), "lws", "MPI starts"),
        (plan_of(worker(Engine(tp=4))), "sglang", "planned for vLLM"),
        (plan_of(worker(Engine(software="sglang", tp=4))), "llm-d", "engines of SGLang"),
        (plan_of(worker(Engine(tp=4, pp=2))), "llm-d", "a pipeline of 2"),
        (plan_of(worker(Engine(tp=4)), worker(Engine(tp=2))), "llm-d", "two kinds of engine"),
        (plan_of(worker(Engine(tp=12))), "lws", "12 devices on nodes of 8"),
        (plan_of(worker(Engine(tp=4)), cluster="8xtpu-v5e"), "vllm", "tpu-v5e, no GPU"),
        (
            plan_of(worker(Engine(software="trtllm", tp=4)), cluster="8xmi300x"),
            "trtllm",
            "TensorRT-LLM on mi300x",
        ),
        (
            plan_of(
                worker(Engine(tp=4), role="prefill", group=1),
                worker(Engine(tp=4), role="decode"),
                cluster="8xh100-sxm+8xmi300x",
            ),
            "lws",
            "GPUs of two makes",
        ),
        (
            plan_of(worker(Engine(tp=4)), worker(Engine(software="sglang", tp=4))),
            "dynamo",
            "workers of SGLang and vLLM",
        ),
        (
            plan_of(worker(Engine(tp=4, draft_tokens=2, acceptance=0.5))),
            "vllm",
            "draft model",
        ),
    ],
)
def test_what_a_target_cannot_express_is_refused(
    plan: ServingPlan, target: str, feature: str
) -> None:
    """With the feature and what to do."""
    with pytest.raises(ExportError, match=feature) as caught:
        serving_artefacts(plan, target)
    assert "To fix:" in str(caught.value)


def test_unknown_target_suggests_the_near_one() -> None:
    """``vlm`` is answered with ``vllm``."""
    with pytest.raises(InputError, match="did you mean 'vllm'"):
        serving_artefacts(split(), "vlm")


@pytest.mark.parametrize("target", sorted(SERVING_TARGETS))
def test_command_writes_every_target(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a saved plan; every script is one that a shell reads."""
    software = target if target in ("sglang", "trtllm") else "vllm"
    plan = tmp_path / "plan.json"
    split(software).save(plan)
    assert main(["export", str(plan), "--to", target, "-o", str(tmp_path / "out")]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert written
    for path in written:
        if path.suffix == ".sh":
            subprocess.run(["sh", "-n", str(path)], check=True)
            assert path.stat().st_mode & 0o111
