"""Why there is no plan: what conflicts, and fixes that hold exactly as they are printed."""

from __future__ import annotations

import msgspec

from optalloc.cluster.load import load_cluster
from optalloc.model.load import load_model
from optalloc.result import Termination
from optalloc.stop import Progress
from optalloc.training.infeasible import _rounded_up
from optalloc.training.solve import TrainingResult, plan_training
from optalloc.workload import Training

MODEL = load_model("llama-3-8b")
WORKLOAD = Training(global_batch=8, sequence_length=2048)


def _fix(result: TrainingResult, word: str) -> str:
    assert result.termination is Termination.INFEASIBLE
    return next(fix.what for fix in result.fixes if word in fix.what)


def test_the_printed_target_can_be_reached() -> None:
    """The best step is rounded up, never down to what is out of reach."""
    cluster = load_cluster("8xh100-sxm")
    result = plan_training(MODEL, cluster, WORKLOAD, target_step_time_s=0.01)
    target = float(_fix(result, "a target of ").split()[3])
    again = plan_training(MODEL, cluster, WORKLOAD, target_step_time_s=target)
    assert again.termination is Termination.OPTIMAL
    assert _rounded_up(117.348) == 117.4
    assert _rounded_up(0.0393431) == 0.03935
    assert _rounded_up(5.0) == 5.0


def test_the_printed_memory_is_enough() -> None:
    """The same holds for memory."""
    cluster = load_cluster("1xh100-sxm")
    result = plan_training(MODEL, cluster, WORKLOAD)
    gib = float(_fix(result, "GiB per device").split()[0])
    group = cluster.nodes[0]
    device = msgspec.structs.replace(group.device, memory_bytes=int(gib * 2**30))
    larger = msgspec.structs.replace(
        cluster, nodes=(msgspec.structs.replace(group, device=device),)
    )
    again = plan_training(MODEL, larger, WORKLOAD)
    assert again.termination is Termination.OPTIMAL


def test_two_reasons_at_once_have_a_fix_of_two_parts() -> None:
    """tp=3 divides nothing and the memory is too small: neither change helps alone."""
    cluster = load_cluster("1xh100-sxm")
    result = plan_training(MODEL, cluster, WORKLOAD, pin=["tp=3", "zero_stage=1"])
    assert _fix(result, "GiB per device").endswith("GiB per device, without --pin tp=3")
    devices = _fix(result, " devices")
    assert devices.endswith(" devices, without --pin tp=3")
    many = load_cluster(f"{devices.split()[0]}xh100-sxm")
    group = msgspec.structs.replace(many.nodes[0], devices=1, count=many.num_devices, domain=1)
    many = msgspec.structs.replace(many, nodes=(group,))
    assert plan_training(MODEL, many, WORKLOAD, pin=["zero_stage=1"]).best is not None


def test_the_stop_rule_ends_the_explanation_too() -> None:
    """Infeasible stays proven; what conflicts is left open rather than searched past the limit."""
    calls = 0

    def stop(progress: Progress) -> bool:  # noqa: ARG001
        nonlocal calls
        calls += 1
        return calls > 3

    result = plan_training(MODEL, load_cluster("1xh100-sxm"), WORKLOAD, stop=stop)
    assert result.termination is Termination.INFEASIBLE
    assert result.conflict == ("one part or another: which was not found within the limit",)
    assert calls == 4
