"""Serve a model on eight GPUs within two latency targets, for three goals."""

from __future__ import annotations

import optalloc as oa


def main() -> None:
    """Print the best deployment for each goal, then what stops a load that is too much."""
    model = oa.load_model("llama-3.1-70b")
    cluster = oa.load_cluster("8xh100-sxm")
    workload = oa.Serving(input_len=1000, output_len=300, rate_per_s=1.0, ttft_s=1.0, tpot_s=0.05)
    for goal in ("devices", "price", "latency"):
        result = oa.plan_serving(model, cluster, workload, objective=goal)
        plan = result.plan
        engines = " + ".join(f"{w.count} x tp{w.engine.tp} ({w.role})" for w in plan.workers)
        print(f"{goal}: {engines}, {plan.num_devices} devices, {result.termination.value}")
    much = oa.Serving(input_len=1000, output_len=300, rate_per_s=500.0, ttft_s=1.0, tpot_s=0.05)
    print(oa.plan_serving(model, cluster, much).conflict[0])


if __name__ == "__main__":
    main()
