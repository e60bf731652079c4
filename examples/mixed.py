"""Plan a model over two kinds of device, lose a node, and plan again."""

from __future__ import annotations

import optalloc as oa


def main() -> None:
    """Print each replica of the plan, then what the loss of a node changes."""
    model = oa.load_model("llama-3-8b")
    cluster = oa.load_cluster("8xh100-sxm+16xa100-sxm-80g")
    workload = oa.Training(global_batch=64, sequence_length=2048)
    result = oa.plan_mixed(model, cluster, workload)
    plan = result.plan
    print(f"{result.termination.value}, gap {result.bounds.gap:g}")
    for replica in plan.replicas:
        stages = ", ".join(
            f"{s.num_layers} layers on {s.num_devices} {s.device}" for s in replica.stages
        )
        print(f"replica {replica.index}: {replica.num_microbatches} micro-batches; {stages}")
    alike = oa.plan_mixed_for_target("megatron", model, cluster, workload).plan
    print(
        f"with equal degrees on all stages: {alike.step_time_s / plan.step_time_s:.2f} x the time"
    )
    robust = oa.plan_mixed_robust(model, cluster, workload).robustness
    if robust is not None:
        print(f"the best worst case costs {robust.price:.1%} where the model is right")
    answer = oa.replan(plan, lost=["n2"], steps_left=1000)
    slower = answer.best.step_time_s > plan.step_time_s
    print(f"without node 2: {'slower' if slower else 'as fast'}, gap {answer.gap:.1%}")


if __name__ == "__main__":
    main()
