"""Edited serving plans: figures follow from what is written, and what cannot be is said."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.unit.serving.configuration.small import planned

from optalloc.errors import InputError
from optalloc.plan.explain_serving import explain_serving
from optalloc.serving.configuration.certify import check_serving_plan
from optalloc.serving.configuration.plan import ServingPlan
from optalloc.serving.configuration.written import serving_as_written

LOADS: tuple[dict[str, Any], ...] = (
    {},
    {"rate_per_s": 3.0},
    {"concurrency": 40, "cluster": "2xh100-sxm+2xl40s", "pin": ("mode=aggregated",)},
    {"concurrency": 40, "objective": "devices"},
    {"pin": ("mode=disaggregated",)},
    {"pin": ("mode=disaggregated",), "rate_per_s": 2.0, "ttft_s": 0.5, "objective": "price"},
    {"pin": ("mode=disaggregated",), "concurrency": 40, "cluster": "2xh100-sxm+2xl40s"},
)


def edited(plan: ServingPlan, number: int = 0, **changes: Any) -> ServingPlan:
    """One worker changed: its count or share, or fields of its engine."""
    worker = plan.workers[number]
    own = {name: changes.pop(name) for name in ("count", "share") if name in changes}
    engine = msgspec.structs.replace(worker.engine, **changes)
    worker = msgspec.structs.replace(worker, engine=engine, **own)
    workers = [*plan.workers[:number], worker, *plan.workers[number + 1 :]]
    return msgspec.structs.replace(plan, workers=tuple(workers))


@pytest.mark.parametrize("given", LOADS)
def test_what_is_computed_anew_is_what_the_search_predicted(given: dict[str, Any]) -> None:
    """Of a plan of each load and mode whose figures were changed, nothing else."""
    plan = planned(**given).plan
    assert serving_as_written(plan) == (plan, "")
    lies = msgspec.structs.replace(
        plan,
        num_devices=1,
        predicted=msgspec.structs.replace(plan.predicted, tpot_s=1.0),
        workers=tuple(msgspec.structs.replace(w, ttft_s=9.0, kv_use=0.0) for w in plan.workers),
    )
    true, reason = serving_as_written(lies)
    assert reason
    assert true.certificate is None
    check_serving_plan(true)
    for name in ("num_devices", "idle_devices", "digests"):
        assert getattr(true, name) == getattr(plan, name)
    for name, value in msgspec.structs.asdict(true.predicted).items():
        assert value == pytest.approx(getattr(plan.predicted, name), rel=1e-12), name
    for mine, theirs in zip(true.workers, plan.workers, strict=True):
        for name, value in msgspec.structs.asdict(mine).items():
            assert value == pytest.approx(getattr(theirs, name)), name


def test_fewer_engines_give_as_much_less() -> None:
    """Without a load each engine does the same, whatever the others do."""
    plan = planned().plan
    half, _ = serving_as_written(edited(plan, count=plan.workers[0].count // 2))
    assert half.predicted.capacity_per_s == pytest.approx(plan.predicted.capacity_per_s / 2.0)
    assert half.predicted.tpot_s == plan.predicted.tpot_s
    check_serving_plan(half)


def test_a_target_that_an_edited_plan_misses_is_told() -> None:
    """Fewer engines with the same requests in flight, then what they were asked for is far."""
    plan = planned(concurrency=64, ttft_s=0.5, pin=("mode=aggregated",)).plan
    fewer = edited(plan, count=1)
    explanation = explain_serving(fewer)
    assert explanation.edited
    assert explanation.best_value is not None
    assert explanation.value < explanation.best_value
    assert "As written it gives" in explanation.summary
    assert "Missed: time to the first token" in explanation.summary


@pytest.mark.parametrize(
    ("given", "changes", "message"),
    [
        ({}, {"count": 9}, "take 9 devices of group 0 and do not fit its 1 node of 4"),
        ({}, {"max_batch": 4000}, "beside the weights [0-9]+ sequences of 2200 tokens fit"),
        ({}, {"tp": 3, "moe_tp": 0, "count": 1}, "tp 3 does not divide 32 heads"),
        (LOADS[2], {"share": 0.1}, "sum to"),
        (LOADS[4], {"number": 1, "max_batch": 4000}, "max_batch is 4000"),
    ],
)
def test_what_cannot_be_is_refused(
    given: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    """Engines without a place, sequences without room, a rule of the space, shares."""
    with pytest.raises(InputError, match=message):
        serving_as_written(edited(planned(**given).plan, **changes))
