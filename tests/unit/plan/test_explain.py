"""explain.py: shares that add up, memory that binds, and gains that come from evaluating again."""

from __future__ import annotations

import msgspec
import pytest

from optalloc.cluster.load import load_cluster
from optalloc.cluster.topology import Cluster
from optalloc.cost.constants import read_constants, values
from optalloc.model.load import load_model
from optalloc.plan.explain import explain
from optalloc.plan.explanation import Explanation
from optalloc.training.estimate import estimate
from optalloc.training.plan import TrainingPlan
from optalloc.training.solve import plan_training
from optalloc.training.strategy import Recompute, Strategy
from optalloc.units import GIB
from optalloc.workload import Training

MODEL = load_model("gpt2")
WORKLOAD = Training(global_batch=16, sequence_length=1024)


def cluster(memory_gib: float = 80, text: str = "4xh100-sxm") -> Cluster:
    """Devices of a given memory."""
    made = load_cluster(text)
    group = made.nodes[0]
    device = msgspec.structs.replace(group.device, memory_bytes=int(memory_gib * GIB))
    return msgspec.structs.replace(made, nodes=(msgspec.structs.replace(group, device=device),))


def written(strategy: Strategy, *, memory_gib: float = 80) -> TrainingPlan:
    return estimate(MODEL, cluster(memory_gib), WORKLOAD, strategy)


def gain(explanation: Explanation, words: str) -> float:
    """Seconds that one change brings."""
    (marginal,) = [m for m in explanation.marginals if words in m.change]
    assert marginal.gain_s is not None
    return marginal.gain_s


def test_causes_and_limits_sum_to_the_step() -> None:
    """Two views of the same seconds."""
    plan = written(Strategy(tp=2, pp=2, micro_batch=2, sequence_parallel=True))
    e = explain(plan)
    assert sum(c.time_s for c in e.causes) == pytest.approx(plan.step_time_s, rel=1e-12)
    assert sum(c.time_s for c in e.limits) == pytest.approx(plan.step_time_s, rel=1e-12)
    assert sum(c.share for c in e.limits) == pytest.approx(1.0, rel=1e-12)
    assert sum(c.time_s for c in e.parts) == pytest.approx(plan.step_time_s, rel=1e-12)
    assert [c.time_s for c in e.causes] == sorted((c.time_s for c in e.causes), reverse=True)
    assert [sum(m.kinds.values()) for m in e.memory] == [m.total_bytes for m in e.memory]


def test_a_faster_link_is_the_same_strategy_on_the_faster_cluster() -> None:
    """The gain is the difference of two estimates, and tensor parallelism has something to gain."""
    strategy = Strategy(tp=4, micro_batch=4, sequence_parallel=True)
    plan = written(strategy)
    group = cluster().nodes[0]
    link = msgspec.structs.replace(
        group.node_link, bandwidth_bytes_per_s=1.1 * group.node_link.bandwidth_bytes_per_s
    )
    faster = msgspec.structs.replace(
        cluster(), nodes=(msgspec.structs.replace(group, node_link=link),)
    )
    by_hand = plan.step_time_s - estimate(MODEL, faster, WORKLOAD, strategy).step_time_s
    assert gain(explain(plan), "node-link") == pytest.approx(by_hand, rel=1e-9)
    assert by_hand > 0


def test_gains_are_told_by_the_unit() -> None:
    """A tenth of 450 GB/s is 45 GB/s; one node more is four devices."""
    plan = plan_training(MODEL, cluster(), WORKLOAD).plan
    found = {m.unit: m for m in explain(plan, replan=True).marginals}
    assert found["device"].amount == 4
    assert found["GiB"].amount == 1
    assert (found["GiB"].kept, found["device"].kept) == ("mesh", "strategy")
    link = next(m for m in explain(plan).marginals if "node-link" in m.change)
    assert link.amount == pytest.approx(cluster().nodes[0].node_link.bandwidth_bytes_per_s / 1e10)
    for m in found.values():
        assert m.gain_s is not None
        assert m.replanned_gain_s is not None
        assert m.gain_per_unit_s == m.gain_s / m.amount
        assert m.replanned_gain_per_unit_s == m.replanned_gain_s / m.amount


def test_rivals_are_those_of_a_new_search() -> None:
    """The best plans of other degrees, slower than the plan, with the reason."""
    plan = plan_training(MODEL, cluster(), WORKLOAD).plan
    e = explain(plan, replan=True)
    assert e.rivals
    assert all(r.step_time_s >= plan.step_time_s and r.reason for r in e.rivals)
    assert explain(plan).rivals == ()


def test_pins_hold_in_the_searches_of_an_explanation() -> None:
    """A plan pinned to tp = 4 is the best of its space; without the pin a better one is found."""
    plan = plan_training(MODEL, cluster(), WORKLOAD, pin=["tp=4"]).plan
    pinned = explain(plan, replan=True, pin=["tp=4"])
    assert pinned.replanned_step_time_s == pytest.approx(plan.step_time_s, rel=1e-9)
    free = explain(plan, replan=True, sensitivity=True)
    assert free.replanned_step_time_s is not None
    assert free.replanned_step_time_s < plan.step_time_s
    assert free.turns == ()
    assert "Another mesh is better" in free.summary


def test_one_device_gains_nothing_from_links() -> None:
    """It sends nothing."""
    assert gain(explain(written(Strategy(micro_batch=4))), "node-link") == 0.0


def test_one_more_node_is_idle_until_planned_again() -> None:
    """The same strategy gains nothing; a new search uses twice as many devices and does."""
    plan = plan_training(MODEL, cluster(), WORKLOAD, pin=["pp=1"]).plan
    made = explain(plan, replan=True, pin=["pp=1"])
    (more,) = [m for m in made.marginals if "node" in m.change.split()]
    assert more.gain_s == 0.0
    assert more.replanned_gain_s is not None
    assert more.replanned_gain_s > 0


def test_replanning_an_optimum_finds_it_again() -> None:
    """Nothing is found that the plan missed, and no line says so."""
    plan = plan_training(MODEL, cluster(), WORKLOAD).plan
    e = explain(plan, replan=True)
    assert e.replanned_step_time_s == pytest.approx(plan.step_time_s, rel=1e-9)
    assert "whole space" not in e.summary


def test_memory_binds_where_storing_one_layer_more_does_not_fit() -> None:
    """A device 0.01 GiB larger than the plan needs cannot store another layer (0.2 GiB)."""
    strategy = Strategy(micro_batch=8, recompute=(Recompute(full=12),))
    needs = written(strategy).stages[0].memory_bytes["total"] / GIB
    (tight,) = explain(written(strategy, memory_gib=needs + 0.01)).memory
    (loose,) = explain(written(strategy, memory_gib=needs + 20)).memory
    assert tight.binds
    assert tight.next_layer_bytes is not None
    assert tight.next_layer_bytes > tight.free_bytes > 0
    assert not loose.binds


def test_memory_binds_the_choice_where_more_of_it_brings_another_plan() -> None:
    """Of 7 GiB nothing is recomputed, yet with 8 another mesh is faster; 16 are plenty."""
    tight = explain(plan_training(MODEL, cluster(7), WORKLOAD).plan, replan=True)
    (gib,) = [m for m in tight.marginals if m.unit == "GiB"]
    eight = plan_training(MODEL, cluster(8), WORKLOAD).plan.step_time_s
    assert gib.replanned_gain_s is not None
    assert gib.replanned_gain_s == pytest.approx(tight.step_time_s - eight, rel=1e-6)
    assert ("Memory binds" in tight.summary) == (gib.replanned_gain_s > 1e-4 * tight.step_time_s)
    plenty = explain(plan_training(MODEL, cluster(16), WORKLOAD).plan, replan=True)
    assert "Memory does not bind" in plenty.summary


def test_more_memory_saves_recomputation() -> None:
    """One GiB more where memory binds lets layers be stored: faster by re-evaluation."""
    strategy = Strategy(micro_batch=8, recompute=(Recompute(full=12),))
    needs = written(strategy).stages[0].memory_bytes["total"] / GIB
    margin = values(read_constants()).memory_margin
    e = explain(written(strategy, memory_gib=needs / (1.0 - margin) + 0.01))
    assert gain(e, "GiB") > 0


def test_needless_recomputation_is_pointed_out() -> None:
    """80 GiB hold every activation of GPT-2: the same degrees are faster without."""
    plan = written(Strategy(micro_batch=4, recompute=(Recompute(full=12),)))
    without = written(Strategy(micro_batch=4))
    e = explain(plan)
    assert e.degrees_step_time_s == pytest.approx(without.step_time_s, rel=1e-9)
    assert "Other cuts or recomputation at the same degrees" in e.summary


def test_a_plan_that_does_not_fit_says_by_how_much() -> None:
    """GPT-2 with everything stored on 4 GiB."""
    e = explain(written(Strategy(micro_batch=16), memory_gib=4))
    assert not e.fits
    assert "It does not fit: stage 0 lacks" in str(e)


def test_text_names_the_stage_that_ends_last() -> None:
    """Ten layers and the head against two: stage 1."""
    e = explain(written(Strategy(pp=2, layers_per_chunk=(2, 10))))
    assert e.last_stage == 1 or e.last_stage == 0
    assert f"stage {e.last_stage} ends last" in str(e)


def test_uneven_stages_say_how_long_they_wait_in_the_mean() -> None:
    """Stage 0 waits for stage 1 with every micro-batch, the two in the mean half of that."""
    plan = written(Strategy(pp=2, layers_per_chunk=(2, 10)))
    e = explain(plan)
    short, long = (stage.forward_s + stage.backward_s for stage in plan.stages)
    assert e.slowest_stage == 1
    (waits,) = (part.mean_s for part in e.parts if part.name == "imbalance")
    assert waits == pytest.approx(plan.num_microbatches * (long - short) / 2)
    assert sum(part.mean_s for part in e.parts) == pytest.approx(e.step_time_s)
    assert "for the slowest, stage 1" in e.summary
