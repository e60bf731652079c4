"""SGLang: the flags of one engine.

``--tp-size`` counts all devices of a stage: with ``--enable-dp-attention`` the data-parallel ranks
of attention lie inside it. Limits of the batch are of the engine there, of a rank in a plan. The
static share of memory is that of the weights and of all that is left for the cache, without the
workspace.
"""

from __future__ import annotations

import math

from optalloc.export.serving.devices import sixteen_bits
from optalloc.serving.configuration.plan import ServingPlan, Worker

#: Where a prefill engine tells decoding ones how to fetch its cache.
BOOTSTRAP_PORT = 8998


def flags(plan: ServingPlan, worker: Worker) -> list[str]:
    """The flags of ``sglang.launch_server`` but for the model, one word an element."""
    engine, dp = worker.engine, worker.engine.attention_dp
    static = engine.memory_fraction - worker.memory_bytes["workspace"] / worker.capacity_bytes
    found = ["--tp-size", str(engine.tp * dp), "--pp-size", str(engine.pp)]
    if dp > 1:
        found += ["--dp-size", str(dp), "--enable-dp-attention"]
    if engine.moe_ep > 1:
        found += ["--ep-size", str(engine.moe_ep)]
    found += [
        *("--max-running-requests", str(engine.max_batch * dp)),
        *("--chunked-prefill-size", str(engine.chunk_tokens * dp)),
        *("--mem-fraction-static", f"{math.floor(1000 * static) / 1000:g}"),
    ]
    if engine.weight_dtype == "bf16" and engine.expert_dtype in (None, "bf16"):
        found += ["--dtype", sixteen_bits(plan, worker)]
    elif engine.weight_dtype == "fp8" and engine.expert_dtype in (None, "fp8"):
        found += ["--quantization", "fp8"]
    if engine.kv_dtype == "fp8":
        found += ["--kv-cache-dtype", "fp8_e4m3"]
    if worker.role != "serve":
        found += ["--disaggregation-mode", worker.role]
        found += ["--disaggregation-transfer-backend", "nixl"]
    return found
