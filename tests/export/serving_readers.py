"""Readers of exported serving plans: flags of servers, YAML documents, scripts run dry."""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

from optalloc.export.serving.base import serving_artefacts
from optalloc.serving.configuration.plan import ServingPlan


class Reader(argparse.ArgumentParser):
    """Raises where a flag or a value is not known."""

    def error(self, message: str) -> Any:
        raise AssertionError(message)


def vllm_reader() -> Reader:
    """Flags of ``vllm serve`` with the types its documentation gives them."""
    reader = Reader(allow_abbrev=False)
    reader.add_argument("model", nargs="?")
    for name in ("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size"):
        reader.add_argument(f"--{name}", type=int, default=1)
    for name in ("max-num-seqs", "max-num-batched-tokens", "max-model-len", "port"):
        reader.add_argument(f"--{name}", type=int)
    for name in ("nnodes", "node-rank"):
        reader.add_argument(f"--{name}")
    for name in ("enable-expert-parallel", "headless"):
        reader.add_argument(f"--{name}", action="store_true")
    reader.add_argument("--master-addr")
    reader.add_argument("--gpu-memory-utilization", type=float)
    reader.add_argument("--dtype", choices=("auto", "bfloat16", "float16", "float32"))
    reader.add_argument("--quantization", choices=("fp8", "awq", "gptq", "modelopt"))
    reader.add_argument("--kv-cache-dtype", choices=("auto", "fp8", "fp8_e4m3", "fp8_e5m2"))
    reader.add_argument("--kv-transfer-config", type=json.loads)
    return reader


def sglang_reader() -> Reader:
    """Flags of ``sglang.launch_server`` with the types its documentation gives them."""
    reader = Reader(allow_abbrev=False)
    for name in ("tp-size", "pp-size", "dp-size", "ep-size"):
        reader.add_argument(f"--{name}", type=int, default=1)
    for name in ("max-running-requests", "chunked-prefill-size", "port", "nnodes"):
        reader.add_argument(f"--{name}", type=int)
    reader.add_argument("--model-path")
    reader.add_argument("--host")
    reader.add_argument("--enable-dp-attention", action="store_true")
    reader.add_argument("--mem-fraction-static", type=float)
    reader.add_argument("--dtype", choices=("auto", "half", "float16", "bfloat16", "float32"))
    reader.add_argument("--quantization", choices=("awq", "fp8", "gptq", "modelopt", "w8a8_fp8"))
    reader.add_argument("--kv-cache-dtype", choices=("auto", "bfloat16", "fp8_e5m2", "fp8_e4m3"))
    reader.add_argument("--disaggregation-mode", choices=("null", "prefill", "decode"))
    backends = ("mooncake", "nixl", "ascend", "fake", "mori", "mooncake_tcp")
    reader.add_argument("--disaggregation-transfer-backend", choices=backends)
    reader.add_argument("--disaggregation-bootstrap-port", type=int)
    return reader


def trtllm_reader() -> Reader:
    """Words of ``trtllm-serve`` as the public sources declare them (commands/serve.py)."""
    reader = Reader(allow_abbrev=False)
    verbs = reader.add_subparsers(dest="verb", required=True, parser_class=Reader)
    serve = verbs.add_parser("serve", allow_abbrev=False)
    serve.add_argument("model")
    serve.add_argument("--host")
    serve.add_argument("--port", type=int)
    serve.add_argument("--backend", choices=("pytorch", "tensorrt", "_autodeploy"))
    serve.add_argument("--extra_llm_api_options", type=Path)
    split = verbs.add_parser("disaggregated", allow_abbrev=False)
    split.add_argument("-c", "--config_file", type=Path)
    return reader


def files_of(plan: ServingPlan, target: str) -> dict[str, str]:
    """Path to text."""
    return {one.path: one.text for one in serving_artefacts(plan, target)}


def objects(text: str) -> list[dict[str, Any]]:
    """The YAML documents of a file."""
    return list(yaml.safe_load_all(text))


def started(folder: Path, name: str, program: str, index: int, **env: str) -> dict[str, Any]:
    """Run a script with a program of that name that prints its words and environment instead."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    fake = tools / program
    fake.write_text(
        '#!/bin/sh\necho "devices=$CUDA_VISIBLE_DEVICES"\n'
        'echo "side=$VLLM_NIXL_SIDE_CHANNEL_PORT"\n'
        'for word in "$@"; do echo "word=$word"; done\n'
    )
    fake.chmod(0o755)
    done = subprocess.run(
        [str(folder / name), "owner/model", str(index)],
        env={"PATH": f"{tools}:/usr/bin:/bin", **env},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.partition("=") for line in done.stdout.splitlines()]
    return {
        "devices": next(value for key, _, value in lines if key == "devices"),
        "side": next(value for key, _, value in lines if key == "side"),
        "words": [value for key, _, value in lines if key == "word"],
    }
