"""replan: the changed cluster, what must move, and that moving is worth it."""

from __future__ import annotations

from pathlib import Path

import pytest

import optalloc as oa
from optalloc.cli.__main__ import main
from optalloc.plan.layout import holdings, missing, piece_bytes
from optalloc.plan.mixed import certify_mixed
from optalloc.plan.replan import changed_cluster, replan
from optalloc.training.mixed.plan import MixedPlan
from optalloc.training.mixed.solve import plan_mixed

WORK = oa.Training(global_batch=32, sequence_length=2048)
MIXED = "16xh100-sxm+8xa100-sxm-80g"


@pytest.fixture(scope="module")
def plan() -> oa.TrainingPlan:
    """A plan on four equal nodes."""
    cluster = oa.load_cluster("32xh100-sxm")
    pins = ["tp=4", "pp=2", "dp=4", "cp=1", "zero_stage=1", "micro_batch=1", "schedule=1f1b"]
    return oa.plan_training(oa.load_model("llama-3-8b"), cluster, WORK, pin=pins).plan


@pytest.fixture(scope="module")
def mixed() -> MixedPlan:
    """A plan on three nodes of two kinds."""
    return plan_mixed(oa.load_model("llama-3-8b"), oa.load_cluster(MIXED), WORK).plan


def test_all_replicas_together_hold_the_state(plan: oa.TrainingPlan) -> None:
    """Four copies of all weights and one of the optimizer: 8.03 B parameters of 2 and 12 bytes."""
    sizes = piece_bytes(plan.model, plan.workload, plan.cost_model)
    total = {"weights": 0.0, "optimizer": 0.0}
    for held in holdings(plan).values():
        for piece, (low, high) in held.items():
            total[piece[1]] += (high - low) * sizes[piece]
    parameters = oa.total_parameters(plan.model)
    assert total["weights"] == pytest.approx(4 * 2 * parameters, rel=1e-9)
    assert total["optimizer"] == pytest.approx(12 * parameters, rel=1e-9)


def test_what_is_missing_is_the_difference_of_intervals() -> None:
    """A device with the first half that needs the middle half lacks a quarter."""
    lacks = missing({(0, "weights"): (0.25, 0.75)}, {(0, "weights"): (0.0, 0.5)})
    assert lacks == {(0, "weights"): 0.25}
    assert missing({(0, "weights"): (0.0, 0.5)}, {(0, "weights"): (0.0, 0.5)}) == {}


def test_a_lost_node_shifts_the_devices_behind_it() -> None:
    """Without node 1 the devices 16.. become 8.., and the first eight stay."""
    cluster, origin = changed_cluster(oa.load_cluster(MIXED), ["n1"], [])
    assert [g.count for g in cluster.nodes] == [1, 1]
    assert origin[7] == 7
    assert origin[8] == 16


def test_added_nodes_join_their_group_or_make_one() -> None:
    """Eight more H100 make a third node of the first group; eight H200 a group of their own."""
    cluster, origin = changed_cluster(oa.load_cluster(MIXED), [], ["8xh100-sxm", "8xh200-sxm"])
    assert [(g.device.name, g.count) for g in cluster.nodes] == [
        ("h100-sxm", 3),
        ("a100-sxm-80g", 1),
        ("h200-sxm", 1),
    ]
    assert origin[24] == 16


@pytest.mark.parametrize(
    ("lost", "added", "words"),
    [(["n9"], [], "no node n9"), (["x"], [], "is no node"), ([], [], "nothing changes")],
)
def test_a_change_that_makes_no_sense_is_refused(
    mixed: MixedPlan, lost: list[str], added: list[str], words: str
) -> None:
    """Each mistake has its own message."""
    with pytest.raises(oa.InputError, match=words):
        replan(mixed, lost=lost, added=added)


def test_the_best_total_is_first_and_above_the_bound(plan: oa.TrainingPlan) -> None:
    """Candidates are sorted, and no total lies below steps times the proven bound."""
    answer = replan(plan, lost=["n3"], steps_left=100)
    totals = [c.total_s for c in answer.candidates]
    assert totals == sorted(totals)
    assert answer.bound_s <= totals[0]
    assert all(c.plan.num_devices <= 24 for c in answer.candidates)
    assert answer.best.moved_bytes == sum(m.received_bytes for m in answer.best.moves)


def test_few_steps_left_favour_what_moves_little(plan: oa.TrainingPlan) -> None:
    """With one step to run moving counts most; with many the fastest plan wins."""
    short, long = (replan(plan, lost=["n3"], steps_left=n) for n in (1, 1_000_000))
    assert short.best.move_s <= long.best.move_s
    assert long.best.step_time_s == min(c.step_time_s for c in long.candidates)


def test_a_mixed_plan_goes_on_without_a_node(mixed: MixedPlan) -> None:
    """The next plan is certified, and its new devices receive what they lack."""
    answer = replan(mixed, lost=["n0"], steps_left=1000)
    best = answer.best.plan
    assert isinstance(best, MixedPlan)
    certify_mixed(best)
    assert answer.best.step_time_s >= mixed.step_time_s


def test_more_nodes_never_make_it_slower(mixed: MixedPlan) -> None:
    """With eight more H100 the fastest step is no longer than before."""
    answer = replan(mixed, added=["8xh100-sxm"])
    assert min(c.step_time_s for c in answer.candidates) <= mixed.step_time_s * (1 + 1e-9)


def test_the_verb_prints_the_plan_and_saves_it(
    mixed: MixedPlan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What moves is shown, and the next plan is a plan."""
    mixed.save(tmp_path / "plan.json")
    words = [str(tmp_path / "plan.json"), "--lost", "n2", "-o", str(tmp_path / "next.json")]
    assert main(["replan", *words]) == 0
    assert "moving takes" in capsys.readouterr().out
    assert main(["certify", str(tmp_path / "next.json")]) == 0
