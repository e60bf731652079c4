"""TensorRT-LLM: the options of one engine, as ``trtllm-serve`` reads them from YAML.

``tensor_parallel_size`` counts all devices of a stage; with attention data parallelism every one of
them is a rank of its own. The share of memory for the cache is of what is free once the weights are
loaded: all of it but the workspace and the reserve.
"""

from __future__ import annotations

import math

import yaml

from optalloc.errors import ExportError
from optalloc.model.spec import Experts
from optalloc.serving.configuration.plan import ServingPlan, Worker

_BUFFER_TOKENS = 1024  # the transfer buffer holds whole multiples of this


def config(plan: ServingPlan, worker: Worker) -> str:
    """The YAML text of one engine's options.

    Raises
    ------
    ExportError
        For attention that is both tensor- and data-parallel.
    """
    engine = worker.engine
    wide = engine.tp * engine.attention_dp
    if engine.tp > 1 and engine.attention_dp > 1:
        raise ExportError(
            "trtllm",
            f"attention of tp {engine.tp} in {engine.attention_dp} data-parallel groups",
            fix="plan with tp = 1 or attention_dp = 1",
        )
    free = worker.capacity_bytes - worker.memory_bytes["weights"]
    used = (1.0 - engine.memory_fraction) * worker.capacity_bytes + worker.memory_bytes["workspace"]
    options: dict[str, object] = {
        "backend": "pytorch",
        "tensor_parallel_size": wide,
        "pipeline_parallel_size": engine.pp,
        "max_batch_size": engine.max_batch,
        "max_num_tokens": engine.chunk_tokens,
        "enable_chunked_prefill": True,
        "kv_cache_config": {
            "free_gpu_memory_fraction": math.floor(1000 * (1.0 - used / free)) / 1000,
            "dtype": "fp8" if engine.kv_dtype == "fp8" else "auto",
        },
    }
    if engine.attention_dp > 1:
        options["enable_attention_dp"] = True
    if any(isinstance(layer.feed_forward, Experts) for layer in plan.model.layer_types):
        options["moe_expert_parallel_size"] = engine.moe_ep
        options["moe_tensor_parallel_size"] = engine.expert_tp
    if worker.role != "serve":
        blocks = math.ceil(plan.workload.input_len / _BUFFER_TOKENS)
        options["cache_transceiver_config"] = {
            "backend": "NIXL",
            "max_tokens_in_buffer": 2 * blocks * _BUFFER_TOKENS,
        }
    if worker.role == "prefill":
        options["disable_overlap_scheduler"] = True
    return str(yaml.safe_dump(options, sort_keys=False))
