"""certify.py: true plans pass, and a change of any single claim is named."""

from __future__ import annotations

import msgspec
import pytest

from optalloc.cluster.load import load_cluster
from optalloc.errors import CertificateError
from optalloc.model.load import load_model
from optalloc.training.certify import check_plan
from optalloc.training.estimate import estimate
from optalloc.training.plan import Certificate, TrainingPlan
from optalloc.training.strategy import Recompute, Strategy
from optalloc.workload import Training


def _plan(strategy: Strategy) -> TrainingPlan:
    cluster = load_cluster("16xa100-sxm-80g")
    workload = Training(global_batch=64, sequence_length=512)
    plan = estimate(load_model("gpt2"), cluster, workload, strategy)
    certificate = Certificate(
        objective="step_time",
        value=plan.step_time_s,
        bound=plan.step_time_s,
        space="this plan alone",
        configurations=1,
        pruned={},
    )
    return msgspec.structs.replace(plan, certificate=certificate)


STRATEGIES = {
    "one device": Strategy(micro_batch=4, layers_per_chunk=(12,), recompute=(Recompute(2, 3),)),
    "uneven 1f1b": Strategy(
        tp=2,
        sequence_parallel=True,
        pp=4,
        dp=2,
        layers_per_chunk=(2, 4, 4, 2),
        recompute=(Recompute(1), Recompute(), Recompute(0, 2), Recompute(2)),
    ),
    "interleaved": Strategy(
        pp=2,
        virtual_stages=3,
        dp=4,
        cp=2,
        zero_stage=3,
        schedule="interleaved",
        layers_per_chunk=(1, 2, 3, 2, 3, 1),
        recompute=(Recompute(1, 1), Recompute(0, 2)),
    ),
    "zb-h1": Strategy(
        pp=4,
        dp=4,
        zero_stage=2,
        schedule="zb-h1",
        layers_per_chunk=(0, 6, 6, 0),
        recompute=(Recompute(),) * 4,
    ),
    "gpipe": Strategy(
        pp=3, dp=4, schedule="gpipe", layers_per_chunk=(4, 4, 4), recompute=(Recompute(4),) * 3
    ),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_true_plan_passes(name: str) -> None:
    """The figures of the estimate, which the native evaluation makes, are those found here."""
    check_plan(_plan(STRATEGIES[name]))


def _changed(plan: TrainingPlan, stage: int, **values: object) -> TrainingPlan:
    stages = list(plan.stages)
    stages[stage] = msgspec.structs.replace(stages[stage], **values)
    return msgspec.structs.replace(plan, stages=tuple(stages))


def _change(plan: TrainingPlan, what: str) -> TrainingPlan:
    replace = msgspec.structs.replace
    assert plan.certificate is not None
    match what:
        case "step":
            return replace(plan, step_time_s=plan.step_time_s * 1.000001)
        case "breakdown":
            return replace(plan, breakdown_s=plan.breakdown_s | {"fixed": 1.0})
        case "memory":
            memory = dict(plan.stages[1].memory_bytes)
            memory = {
                k: size - (1000 if k in ("total", "optimizer") else 0) for k, size in memory.items()
            }
            return _changed(plan, 1, memory_bytes=memory)
        case "kinds":
            memory = dict(plan.stages[1].memory_bytes)
            return _changed(plan, 1, memory_bytes=memory | {"logits": memory["logits"] + 1})
        case "forward":
            return _changed(plan, 2, forward_s=plan.stages[2].forward_s * 1.01)
        case "recompute":
            return _changed(plan, 2, recompute=Recompute(1, 1))
        case "bound":
            bound = plan.step_time_s * 1.01
            return replace(plan, certificate=replace(plan.certificate, bound=bound))
        case "value":
            return replace(plan, certificate=replace(plan.certificate, value=1.0, bound=1.0))
        case "mfu":
            return replace(plan, mfu=plan.mfu * 1.1)
        case "idle":
            return replace(plan, idle_devices=3)
        case "batch":
            return replace(plan, num_microbatches=plan.num_microbatches + 1)
        case "layers":
            chunk = replace(plan.stages[1].chunks[0], first_layer=1)
            return _changed(plan, 1, chunks=(chunk,))
        case "digest":
            return replace(plan, digests=plan.digests | {"model": "sha256:0"})
        case _:
            raise AssertionError(what)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("step", "the step time is"),
        ("breakdown", "the sum of the breakdown"),
        ("memory", "stage 1 needs"),
        ("kinds", "kinds of memory of stage 1"),
        ("forward", "the forward of stage 2"),
        ("recompute", "stage 2"),
        ("bound", "lies above the value"),
        ("value", "the objective step_time"),
        ("mfu", "the MFU"),
        ("idle", "it uses 16 of 16 devices"),
        ("batch", "not the global batch"),
        ("layers", "does not follow"),
        ("digest", "digest of the model"),
    ],
)
def test_one_false_claim_is_named(what: str, words: str) -> None:
    """The uneven plan with a single figure changed."""
    with pytest.raises(CertificateError, match=words):
        check_plan(_change(_plan(STRATEGIES["uneven 1f1b"]), what))


def test_a_plan_that_breaks_a_rule_is_named() -> None:
    """gpt2 has 12 heads, which 8 does not divide."""
    plan = _plan(STRATEGIES["one device"])
    degrees = msgspec.structs.replace(plan.degrees, tp=8)
    with pytest.raises(CertificateError, match="does not divide 12 heads"):
        check_plan(msgspec.structs.replace(plan, degrees=degrees))
