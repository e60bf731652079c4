"""A small serving plan made by hand: engines of an 8-billion model on H100s."""

from __future__ import annotations

import optalloc as oa
from optalloc.cost.engine.constants import DEFAULT, read_engine_constants
from optalloc.cost.engine.load import closed_loop
from optalloc.cost.engine.setup import Engine
from optalloc.cost.engine.step import step_model
from optalloc.serving.configuration.plan import Predicted, Role, ServingPlan, Worker
from optalloc.workload import Serving

MODEL = oa.load_model("llama-3.1-8b")
CLUSTER = oa.load_cluster("8xh100-sxm")
LOAD = Serving(input_len=500, output_len=100, concurrency=32, ttft_s=0.5, tpot_s=0.02)


def serving_plan(
    workload: Serving = LOAD, *, split: bool = False, max_batch: int = 64, replicas: int = 2
) -> ServingPlan:
    """Two engines that do both phases, or one for prompts and two for answers."""
    workers = [_worker("decode" if split else "serve", replicas, max_batch, workload)]
    if split:
        workers.insert(0, _worker("prefill", 1, 8, workload))
    worker, used = workers[-1], sum(worker.count for worker in workers)
    handover_s = read_engine_constants().constants["handover_s"].value
    return ServingPlan(
        tool_version="test",
        model=MODEL,
        cluster=CLUSTER,
        workload=workload,
        digests={},
        cost_model=DEFAULT,
        mode="disaggregated" if split else "aggregated",
        workers=tuple(workers),
        num_devices=used,
        idle_devices=8 - used,
        predicted=Predicted(
            ttft_s=worker.ttft_s,
            tpot_s=worker.tpot_s,
            request_s=worker.ttft_s + 99 * worker.tpot_s,
            request_rate_per_s=worker.count * worker.request_rate_per_s,
            capacity_per_s=worker.count * worker.request_rate_per_s,
            output_tokens_per_s=100 * worker.count * worker.request_rate_per_s,
            tokens_per_s_per_user=1.0 / worker.tpot_s,
            tokens_per_s_per_device=1.0,
            usd_per_h=None,
            usd_per_mtoken=None,
            transfer_s=handover_s + 0.001 if split else 0.0,
        ),
    )


def _worker(role: Role, count: int, max_batch: int, workload: Serving) -> Worker:
    engine = Engine(chunk_tokens=2048, max_batch=max_batch)
    step = step_model(MODEL, CLUSTER.nodes[0].device, engine, group=CLUSTER.nodes[0])
    found = closed_loop(step, workload.input_len, workload.output_len, 16, workload.prefix_len)
    return Worker(
        role=role,
        group=0,
        device=CLUSTER.nodes[0].device.name,
        count=count,
        engine=engine,
        concurrency=16.0,
        memory_bytes={},
        capacity_bytes=CLUSTER.nodes[0].device.memory_bytes,
        kv_capacity_tokens=int(float(step.kv_capacity_tokens)),
        kv_use=found.kv_use,
        mean_batch=found.mean_batch,
        ttft_s=found.ttft_s,
        tpot_s=found.tpot_s,
        request_rate_per_s=found.request_rate_per_s,
        binds=found.binds,
    )
