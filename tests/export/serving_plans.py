"""Serving plans made by hand, for exports: engines of a dense and of an expert model."""

from __future__ import annotations

import optalloc as oa
from optalloc.cost.engine.setup import Engine
from optalloc.serving.configuration.plan import Predicted, Role, ServingPlan, Worker
from optalloc.workload import Serving


def worker(engine: Engine, *, role: Role = "serve", count: int = 1, group: int = 0) -> Worker:
    """Engines whose memory and rates are round numbers."""
    return Worker(
        role=role,
        group=group,
        device="",
        count=count,
        engine=engine,
        concurrency=16.0,
        memory_bytes={"weights": 30 * 2**30, "kv": 36 * 2**30, "workspace": 4 * 2**30},
        capacity_bytes=80 * 2**30,
        kv_capacity_tokens=200_000,
        kv_use=0.5,
        mean_batch=16.0,
        ttft_s=0.1,
        tpot_s=0.02,
        request_rate_per_s=4.0,
        binds="bandwidth",
    )


def plan_of(
    *workers: Worker, model: str = "llama-3.1-70b", cluster: str = "16xh100-sxm"
) -> ServingPlan:
    """A plan of these workers; each gets the device of its group, and its memory."""
    import msgspec

    nodes = oa.load_cluster(cluster)
    named = tuple(
        msgspec.structs.replace(
            w,
            device=nodes.nodes[w.group].device.name,
            capacity_bytes=nodes.nodes[w.group].device.memory_bytes,
        )
        for w in workers
    )
    used = sum(w.num_devices for w in workers)
    return ServingPlan(
        tool_version="test",
        model=oa.load_model(model),
        cluster=nodes,
        workload=Serving(input_len=3000, output_len=300, concurrency=32),
        digests={},
        cost_model="test",
        mode="aggregated" if workers[0].role == "serve" else "disaggregated",
        workers=named,
        num_devices=used,
        idle_devices=nodes.num_devices - used,
        predicted=Predicted(
            ttft_s=0.1,
            tpot_s=0.02,
            request_s=6.0,
            request_rate_per_s=4.0,
            capacity_per_s=4.0,
            output_tokens_per_s=1200.0,
            tokens_per_s_per_user=50.0,
            tokens_per_s_per_device=300.0,
            usd_per_h=None,
            usd_per_mtoken=None,
        ),
    )


def split(software: str = "vllm") -> ServingPlan:
    """Two prefill engines of two devices, and one that decodes on four."""
    return plan_of(
        worker(Engine(software=software, tp=2), role="prefill", count=2),  # type: ignore[arg-type]
        worker(Engine(software=software, tp=4), role="decode"),  # type: ignore[arg-type]
    )
