"""Which meshes are in the space when decisions are pinned or forbidden."""

from __future__ import annotations

import pytest

from optalloc.cluster.load import load_cluster
from optalloc.errors import InputError
from optalloc.model.load import load_model
from optalloc.result import Termination
from optalloc.training.estimate import estimate
from optalloc.training.solve import plan_training
from optalloc.training.space import parse_limits
from optalloc.training.strategy import Strategy
from optalloc.workload import Training

WORKLOAD = Training(global_batch=4, sequence_length=512)


@pytest.mark.parametrize(
    ("pin", "strategy"),
    [
        ("zero_stage=1", Strategy(zero_stage=1, micro_batch=4)),
        ("zero_stage=2,3", Strategy(zero_stage=2, micro_batch=4)),
        ("schedule=gpipe", Strategy(schedule="gpipe", micro_batch=4)),
        ("schedule=zb-h1", Strategy(schedule="zb-h1", micro_batch=4)),
    ],
)
def test_one_device_can_have_any_zero_stage_and_schedule(pin: str, strategy: Strategy) -> None:
    """What is written with one device and one stage is in the space that the pin leaves."""
    model, cluster = load_model("gpt2"), load_cluster("1xh100-sxm")
    written = estimate(model, cluster, WORKLOAD, strategy)
    result = plan_training(model, cluster, WORKLOAD, pin=[pin])
    assert result.termination is Termination.OPTIMAL
    assert result.plan.step_time_s <= written.step_time_s * (1.0 + 1e-9)


def test_one_stage_is_left_when_its_usual_schedule_is_forbidden() -> None:
    """Forbidding 1f1b does not force a pipeline."""
    model, cluster = load_model("gpt2"), load_cluster("2xh100-sxm")
    free = plan_training(model, cluster, WORKLOAD, pin=["pp=1"])
    without = plan_training(model, cluster, WORKLOAD, pin=["pp=1"], forbid=["schedule=1f1b"])
    assert without.plan.schedule in ("gpipe", "zb-h1")
    assert without.plan.step_time_s == pytest.approx(free.plan.step_time_s)


def test_recomputation_can_only_be_pinned() -> None:
    """It is counted by layer, so no rule can be taken out of the space."""
    with pytest.raises(InputError, match="recompute cannot be forbidden"):
        parse_limits([], ["recompute=full"])
    assert parse_limits(["recompute=none"], []).pin == {"recompute": (1,)}
