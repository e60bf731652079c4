"""vLLM: the flags of one engine.

An engine has ``tensor x pipeline x data`` parallel devices. Data parallelism inside an engine is
that of attention and exists for models with experts alone; over several nodes each of them starts
the ranks that it holds. Experts are cut over tensor times data
parallel devices, or spread over them with ``--enable-expert-parallel``: nothing between. A
quantised checkpoint says itself how; ``--quantization fp8`` also quantises 16-bit weights.
"""

from __future__ import annotations

import json

from optalloc.errors import ExportError
from optalloc.export.serving.devices import sixteen_bits
from optalloc.model.spec import Experts
from optalloc.serving.configuration.plan import ServingPlan, Worker

_RPC_PORT = 13345  # where the ranks of other nodes reach the first one
_ROLES = {"prefill": "kv_producer", "decode": "kv_consumer"}


def flags(plan: ServingPlan, worker: Worker) -> list[str]:
    """The flags of ``vllm serve``, one word an element; the model is its first argument.

    Raises
    ------
    ExportError
        For data-parallel attention without experts, or experts spread over some of the devices.
    """
    engine = worker.engine
    found = ["--tensor-parallel-size", str(engine.tp)]
    found += ["--pipeline-parallel-size", str(engine.pp)]
    found += parallel_flags(plan, worker)
    found += engine_flags(plan, worker)
    return found


def parallel_flags(plan: ServingPlan, worker: Worker) -> list[str]:
    """Flags of data and expert parallelism."""
    engine, experts = worker.engine, has_experts(plan)
    wide = engine.tp * engine.attention_dp
    if engine.attention_dp > 1 and not experts:
        raise ExportError(
            "vllm",
            "data-parallel attention in a model without experts",
            fix="plan with attention_dp = 1 and more replicas",
        )
    if engine.moe_ep not in (1, wide):
        raise ExportError(
            "vllm",
            f"experts spread over {engine.moe_ep} of {wide} devices",
            fix=f"plan with moe_ep = 1 or {wide}",
        )
    found = []
    if engine.attention_dp > 1:
        found += ["--data-parallel-size", str(engine.attention_dp)]
    if experts and engine.moe_ep > 1:
        found.append("--enable-expert-parallel")
    return found


def node_words(worker: Worker, per_node: int, rank: str, leader: str, headless: str) -> str:
    """What starts the part of an engine of several nodes that one of them holds, as shell words.

    ``rank``, ``leader`` and ``headless`` are the words for the number of the node, the address of
    node 0, and the flag of all others.

    Raises
    ------
    ExportError
        If a data-parallel rank lies on several nodes.
    """
    engine = worker.engine
    if engine.attention_dp == 1:
        nodes = engine.num_devices // per_node
        return f" --nnodes {nodes} --node-rank {rank} --master-addr {leader} {headless}"
    here, rest = divmod(per_node, engine.tp * engine.pp)
    if rest:
        raise ExportError(
            "vllm",
            "a rank of data-parallel attention over several nodes",
            fix="plan with --for vllm, where tp * pp divides a node",
        )
    return (
        f" --data-parallel-size-local {here} --data-parallel-start-rank $(({here} * {rank}))"
        f" --data-parallel-address {leader} --data-parallel-rpc-port {_RPC_PORT} {headless}"
    )


def engine_flags(plan: ServingPlan, worker: Worker) -> list[str]:
    """Flags of types, batch, memory and role."""
    engine = worker.engine
    found = [
        *("--max-num-seqs", str(engine.max_batch)),
        *("--max-num-batched-tokens", str(max(engine.chunk_tokens, engine.max_batch))),
        *("--gpu-memory-utilization", f"{engine.memory_fraction:g}"),
    ]
    room = worker.kv_capacity_tokens // engine.attention_dp
    if plan.model.max_positions is not None and room < plan.model.max_positions:
        found += ["--max-model-len", str(room // 16 * 16)]  # it refuses longer ones than fit
    if engine.weight_dtype == "bf16" and engine.expert_dtype in (None, "bf16"):
        found += ["--dtype", sixteen_bits(plan, worker)]
    elif engine.weight_dtype == "fp8" and engine.expert_dtype in (None, "fp8"):
        found += ["--quantization", "fp8"]
    if engine.kv_dtype == "fp8":
        found += ["--kv-cache-dtype", "fp8"]
    if worker.role != "serve":
        transfer = {"kv_connector": "NixlConnector", "kv_role": _ROLES[worker.role]}
        found += ["--kv-transfer-config", json.dumps(transfer, separators=(",", ":"))]
    return found


def pod_environment(worker: Worker) -> list[dict[str, object]]:
    """What a pod's container needs to be met by engines of the other phase."""
    if worker.role == "serve":
        return []
    address = {"fieldRef": {"fieldPath": "status.podIP"}}
    return [{"name": "VLLM_NIXL_SIDE_CHANNEL_HOST", "valueFrom": address}]


def has_experts(plan: ServingPlan) -> bool:
    """Whether some layer routes tokens to experts."""
    return any(isinstance(layer.feed_forward, Experts) for layer in plan.model.layer_types)
