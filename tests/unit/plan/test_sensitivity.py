"""sensitivity.py: each turn is checked by searches of the whole space on both of its sides."""

from __future__ import annotations

import msgspec
import pytest

from optalloc.cluster.load import load_cluster
from optalloc.cost.model import CostModel
from optalloc.model.load import load_model
from optalloc.plan.marginals import with_link
from optalloc.plan.resolve import mesh_pins
from optalloc.plan.sensitivity import turns
from optalloc.plan.turns import FURTHEST, WORTH, Turn
from optalloc.stop import TimeLimit
from optalloc.training.plan import TrainingPlan
from optalloc.training.solve import plan_training
from optalloc.workload import Training


def planned() -> TrainingPlan:
    """GPT-2 on four devices."""
    workload = Training(global_batch=32, sequence_length=1024)
    return plan_training(load_model("gpt2"), load_cluster("4xa100-sxm-80g"), workload).plan


def turns_of(plan: TrainingPlan) -> tuple[Turn, ...]:
    cost = CostModel(plan.model, plan.cluster, plan.workload)
    return turns(cost, plan, spaces=[[]], forbid=[], stop=None)


def best_of_both(plan: TrainingPlan, turn: Turn, value: float) -> tuple[float | None, float]:
    """Best step of the plan's mesh and of the whole space where the input has that value."""
    cluster, work = plan.cluster, plan.workload
    if turn.quantity == "node-link bandwidth":
        cluster = with_link(cluster, "node_link", value / turn.now)
    elif turn.quantity == "global batch":
        work = msgspec.structs.replace(work, global_batch=int(value))
    else:
        work = msgspec.structs.replace(work, sequence_length=int(value))
    mesh = plan_training(plan.model, cluster, work, pin=mesh_pins(plan)).best
    best = plan_training(plan.model, cluster, work).plan.step_time_s
    return None if mesh is None else mesh.step_time_s, best


def test_a_turn_is_where_another_plan_becomes_better() -> None:
    """The mesh is the best to within WORTH where it holds, and is beaten where it changes."""
    plan = planned()
    found = turns_of(plan)
    assert [t.quantity for t in found[::2]] == [
        "node-link bandwidth",
        "global batch",
        "sequence length",
    ]
    assert any(t.changes_at is not None for t in found)
    for turn in found:
        own, best = best_of_both(plan, turn, turn.holds_at)
        assert own is not None
        assert own * (1 - WORTH) <= best
        if turn.changes_at is None:
            assert max(turn.now / turn.holds_at, turn.holds_at / turn.now) <= FURTHEST
            continue
        assert (turn.changes_at < turn.holds_at) == (turn.direction == "less")
        own, best = best_of_both(plan, turn, turn.changes_at)
        if own is None:
            assert turn.gain is None
            assert turn.why == "it does not fit"
        else:
            assert best < own * (1 - WORTH)
            assert turn.gain == pytest.approx(1 - best / own, rel=1e-9)


@pytest.mark.parametrize("objective", ["price", "devices"])
def test_a_turn_is_of_the_objective_that_the_plan_was_found_for(objective: str) -> None:
    """The cheapest step, or the fewest devices: both leave devices idle and hold as they are."""
    workload = Training(global_batch=32, sequence_length=1024)
    model, cluster = load_model("gpt2"), load_cluster("4xa100-sxm-80g")
    plan = plan_training(model, cluster, workload, objective=objective).plan
    assert plan.idle_devices > 0
    found = turns_of(plan)
    assert len(found) == 6
    for turn in found:
        assert all(d.name != "dp" for d in turn.decisions) or objective == "price"


def test_a_search_that_is_stopped_claims_nothing() -> None:
    """Without time nothing is proven: no turn at all."""
    plan = planned()
    cost = CostModel(plan.model, plan.cluster, plan.workload)
    assert turns(cost, plan, spaces=[[]], forbid=[], stop=TimeLimit(0.0)) == ()
