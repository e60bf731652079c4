"""Plans on mixed clusters: valid, proven, no worse than what each group can do alone."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.unit.simulate.trace_format import check_trace

import optalloc as oa
from optalloc.cli.__main__ import main
from optalloc.errors import CertificateError, InputError
from optalloc.plan.explain_mixed import explain_mixed
from optalloc.plan.mixed import certify_mixed
from optalloc.plan.plan import load_mixed_plan
from optalloc.simulate.mixed import simulate_mixed
from optalloc.training.mixed.estimate import estimate_mixed
from optalloc.training.mixed.plan import MixedPlan
from optalloc.training.mixed.solve import plan_mixed
from optalloc.training.mixed.strategy import MixedStrategy, ReplicaChoice, StageChoice

CLUSTER = "8xh100-sxm+8xa100-sxm-80g"
WORK = oa.Training(global_batch=32, sequence_length=2048)


@pytest.fixture(scope="module")
def plan() -> MixedPlan:
    """The best plan of a small model on two kinds of device."""
    return plan_mixed(oa.load_model("llama-3-8b"), oa.load_cluster(CLUSTER), WORK).plan


def written(*stages: StageChoice, micro: int = 16, micro_batch: int = 2) -> MixedStrategy:
    """One replica."""
    replica = ReplicaChoice(stages=stages, num_microbatches=micro)
    return MixedStrategy(micro_batch=micro_batch, replicas=(replica,))


def test_the_plan_is_proven_and_certified(plan: MixedPlan) -> None:
    """Gap 0, and other code agrees with every figure."""
    claim = certify_mixed(plan)
    assert claim.is_optimal
    assert plan.fits


def test_faster_devices_take_more_micro_batches(plan: MixedPlan) -> None:
    """An H100 is faster than an A100, so its replicas take more of the step's micro-batches."""
    share = {use.device: use.work_share for use in explain_mixed(plan).groups}
    assert share["h100-sxm"] > share["a100-sxm-80g"] > 0.0


def test_both_groups_together_beat_each_alone(plan: MixedPlan) -> None:
    """Idle devices are a choice, so the mixture is never slower than a part of it."""
    model = oa.load_model("llama-3-8b")
    for part in CLUSTER.split("+"):
        alone = plan_mixed(model, oa.load_cluster(part), WORK).plan
        assert plan.step_time_s <= alone.step_time_s * (1.0 + 1e-9)


def test_a_changed_figure_is_not_certified(plan: MixedPlan) -> None:
    """A micro-batch moved from one replica to another changes their times."""
    first, *rest = plan.replicas
    changed = msgspec.structs.replace(first, num_microbatches=first.num_microbatches + 1)
    broken = msgspec.structs.replace(plan, replicas=(changed, *rest))
    with pytest.raises(CertificateError, match="not sum to the micro-batches"):
        certify_mixed(broken)
    stage, *others = first.stages
    stretched = msgspec.structs.replace(stage, devices=((0, 10**12),))
    changed = msgspec.structs.replace(first, stages=(stretched, *others))
    with pytest.raises(CertificateError, match="devices of another group"):
        certify_mixed(msgspec.structs.replace(plan, replicas=(changed, *rest)))
    slower = msgspec.structs.replace(plan, step_time_s=plan.step_time_s * 1.01)
    with pytest.raises(CertificateError, match="the step time"):
        certify_mixed(slower)


def test_a_bound_holds_for_the_limits_it_was_proved_under() -> None:
    """With tp = 8 on every stage there is nothing better; without that limit there is."""
    cluster = oa.load_cluster("8xh100-sxm+8xa100-sxm-80g")
    pinned = plan_mixed(oa.load_model("llama-3-8b"), cluster, WORK, pin=["tp=8"]).plan
    claim = certify_mixed(pinned)
    assert claim.is_optimal
    assert claim.space.endswith("; with tp 8")
    assert pinned.proof is not None
    freed = msgspec.structs.replace(pinned.proof, pin={})
    with pytest.raises(CertificateError, match="micro-batches"):
        certify_mixed(msgspec.structs.replace(pinned, proof=freed))


def test_a_plan_survives_saving(plan: MixedPlan, tmp_path: Path) -> None:
    """Saving and loading is the identity."""
    plan.save(tmp_path / "plan.json")
    assert load_mixed_plan(tmp_path / "plan.json") == plan


def test_the_written_strategy_predicts_the_same_plan(plan: MixedPlan) -> None:
    """Estimating what the search found gives its step time."""
    again = estimate_mixed(plan.model, plan.cluster, plan.workload, plan.strategy)
    assert again.step_time_s == plan.step_time_s
    assert again.replicas == plan.replicas


def test_no_device_is_taken_twice(plan: MixedPlan) -> None:
    """Every stage lies on devices of its own group."""
    seen: set[int] = set()
    for stage in plan.stages:
        own = {d for first, end in stage.devices for d in range(first, end)}
        assert len(own) == stage.num_devices
        assert not own & seen
        seen |= own


def test_unequal_stages_simulate_within_the_closed_form() -> None:
    """Event time of an uneven mixed pipeline: no longer than the closed form, nor far below."""
    strategy = written(
        StageChoice(group=0, num_layers=22, tp=4, dp=2),
        StageChoice(group=1, num_layers=10, tp=8),
    )
    made = estimate_mixed(oa.load_model("llama-3-8b"), oa.load_cluster(CLUSTER), WORK, strategy)
    certify_mixed(made)
    simulation = simulate_mixed(made)
    assert 0.6 * made.step_time_s <= simulation.step_time_s <= made.step_time_s * (1.0 + 1e-9)
    assert {e["pid"] for e in simulation.trace.events} == {1, 2, 3}
    assert check_trace(simulation.trace.events)["s"] > 0


def test_replicas_have_arrows_of_their_own() -> None:
    """Two pipelines of two stages: one arrow for each transfer, told apart by whole numbers."""
    stages = (StageChoice(group=0, num_layers=20, tp=4), StageChoice(group=1, num_layers=12, tp=4))
    replica = ReplicaChoice(stages=stages, num_microbatches=8)
    strategy = MixedStrategy(micro_batch=2, replicas=(replica, replica))
    made = estimate_mixed(oa.load_model("llama-3-8b"), oa.load_cluster(CLUSTER), WORK, strategy)
    events = simulate_mixed(made).trace.events
    assert check_trace(events)["s"] == 2 * 2 * 8
    assert len({event["id"] for event in events if event["ph"] == "s"}) == 2 * 2 * 8


def test_memory_of_the_simulation_is_that_of_the_plan() -> None:
    """With enough micro-batches a stage holds as many as the plan counts."""
    strategy = written(
        StageChoice(group=0, num_layers=20, tp=8),
        StageChoice(group=1, num_layers=12, tp=8),
    )
    made = estimate_mixed(oa.load_model("llama-3-8b"), oa.load_cluster(CLUSTER), WORK, strategy)
    for use, stage in zip(simulate_mixed(made).stages, made.stages, strict=True):
        assert abs(use.peak_memory_bytes - stage.memory_bytes["total"]) <= 16


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        (written(StageChoice(group=2, num_layers=32)), "no node group 2"),
        (written(StageChoice(group=0, num_layers=31)), "hold 31 layers"),
        (written(StageChoice(group=0, num_layers=32, tp=3)), "tp 3 does not divide"),
        (written(StageChoice(group=0, num_layers=32, dp=3)), "dp 3 does not divide"),
        (written(StageChoice(group=0, num_layers=32), micro=15), "make up 30 sequences"),
        (
            written(
                StageChoice(group=0, num_layers=16, tp=8),
                StageChoice(group=0, num_layers=16, tp=8),
            ),
            "take 16 devices, it has 8",
        ),
    ],
)
def test_a_broken_rule_is_named(strategy: MixedStrategy, words: str) -> None:
    """Each rule has its own message with a pointer."""
    with pytest.raises(InputError, match=words):
        estimate_mixed(oa.load_model("llama-3-8b"), oa.load_cluster(CLUSTER), WORK, strategy)


def test_slow_devices_are_left_idle() -> None:
    """Two T4 beside eight H100 would only hold them up."""
    result = plan_mixed(oa.load_model("llama-3-8b"), oa.load_cluster("8xh100-sxm+2xt4"), WORK)
    assert {s.device for s in result.plan.stages} == {"h100-sxm"}
    assert result.plan.idle_devices == 2


def test_zones_joined_by_a_slow_link(tmp_path: Path) -> None:
    """Replicas exchange gradients over the zone link, so a slower one lengthens the step."""
    steps = []
    for rate in ("50 GB/s", "0.5 GB/s"):
        path = tmp_path / "cluster.toml"
        path.write_text(
            '[[nodes]]\ndevice = "h100-sxm"\nzone = "a"\n[[nodes]]\ndevice = "h100-sxm"\n'
            f'zone = "b"\n[links.zone]\nbandwidth_bytes_per_s = "{rate}"\nlatency_s = "1 ms"\n'
        )
        plan = plan_mixed(oa.load_model("llama-3-8b"), oa.load_cluster(path), WORK).plan
        steps.append(plan.step_time_s)
    certify_mixed(plan)
    assert steps[0] < steps[1]


def test_what_does_not_fit_is_infeasible() -> None:
    """405B on four small devices: proven, with what would help."""
    cluster = oa.load_cluster("2xl4+2xt4")
    result = plan_mixed(oa.load_model("llama-3.1-405b"), cluster, WORK)
    assert result.termination is oa.Termination.INFEASIBLE
    assert result.conflict
    with pytest.raises(oa.NoPlan):
        _ = result.plan


def test_the_verbs_take_mixed_plans(
    plan: MixedPlan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """train, certify, simulate and explain work on mixed clusters and plans."""
    path = str(tmp_path / "plan.json")
    words = ["llama-3-8b", "--cluster", CLUSTER, "--global-batch", "32", "--seq-len", "2048"]
    assert main(["train", *words, "-o", path]) == 0
    assert "proven optimal" in capsys.readouterr().out
    for verb in ("certify", "simulate", "explain"):
        assert main([verb, path]) == 0
        assert capsys.readouterr().out
    strategy = tmp_path / "strategy.toml"
    strategy.write_text(
        "micro_batch = 2\n[[replicas]]\nnum_microbatches = 16\n"
        "stages = [{group = 0, num_layers = 20, tp = 8}, {group = 1, num_layers = 12, tp = 8}]\n"
    )
    assert main(["estimate", *words, "--strategy", str(strategy)]) == 0
    assert "as written" in capsys.readouterr().out
    assert main(["estimate", *words, "--set", "tp=8"]) == 2
    assert main(["train", *words, "--objective", "price"]) == 2
    assert main(["train", *words, "--for", "megatron", "-o", path]) == 0
    assert main(["export", path, "--to", "megatron", "-o", str(tmp_path / "launch")]) == 0
    assert load_mixed_plan(path).step_time_s >= plan.step_time_s * (1.0 - 1e-9)


def test_other_plans_near_the_best_are_listed_and_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each within the share asked for, with what it does otherwise; the file keeps them; a share
    below 0, and plans whose stages are all alike, are refused."""
    words = ["train", "gpt2", "--cluster", "2xh100-sxm+2xa100-sxm-80g", "--global-batch", "8"]
    words += ["--seq-len", "512", "--alternatives"]
    assert main([*words, "20%", "--robust", "-o", str(tmp_path / "plan.json")]) == 0
    shown = capsys.readouterr().out
    assert "within 20.0% of the best" in shown
    assert "at worst" in shown
    saved = load_mixed_plan(tmp_path / "plan.json")
    assert saved.alternatives
    for rival in saved.alternatives:
        assert rival.differences
        again = estimate_mixed(saved.model, saved.cluster, saved.workload, rival.strategy)
        assert again.step_time_s == pytest.approx(rival.value, rel=1e-12)
        assert again.step_time_s <= 1.21 * saved.step_time_s
    certify_mixed(saved)
    assert main([*words, "3%", "--for", "megatron"]) == 2
    assert "no alternatives are listed of plans for megatron" in capsys.readouterr().err
    with pytest.raises(InputError, match="no share"):
        plan_mixed(saved.model, saved.cluster, saved.workload, margin=-0.1)
