"""Place a model over two unequal GPUs and CPU memory, and ask what one more GiB brings."""

from __future__ import annotations

import optalloc as oa
from optalloc.serving.offload.machine import Cpu, Gpu


def main() -> None:
    """Plan, explain."""
    card = Gpu(
        name="24 GB",
        memory_bytes=23 * 2**30,
        memory_bandwidth_bytes_per_s=800e9,
        flops_per_s=80e12,
        link_bandwidth_bytes_per_s=20e9,
        link_latency_s=10e-6,
    )
    small = Gpu(
        name="12 GB",
        memory_bytes=11 * 2**30,
        memory_bandwidth_bytes_per_s=300e9,
        flops_per_s=30e12,
        link_bandwidth_bytes_per_s=12e9,
        link_latency_s=10e-6,
    )
    machine = oa.Machine(
        gpus=(small, card),
        cpu=Cpu(memory_bytes=64 * 2**30, memory_bandwidth_bytes_per_s=60e9, flops_per_s=1e12),
    )
    asked = oa.Generation(prompt_tokens=512, output_tokens=128, dtype="q4_k")
    result = oa.plan_offload(oa.load_model("llama-3.1-70b"), machine, asked)
    plan = result.plan
    print(f"{result.termination.value}, gap {result.bounds.gap:g}")
    for use in plan.memory:
        print(f"{use.device}: {use.parts_bytes / 2**30:.1f} GiB of parts")
    print(f"{plan.output_tokens_per_s:.2f} tokens/s")
    best = oa.explain_offload(plan).changes[0]
    print(f"best single change: {best.what}, {best.speedup:.2f} times as fast")


if __name__ == "__main__":
    main()
