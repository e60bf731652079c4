"""Serving plans say the truth, certify, explain themselves, and say why there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.serving.configuration.small import PINS, planned

import optalloc as oa
from optalloc.cost.engine.load import disaggregated
from optalloc.cost.engine.step import step_model
from optalloc.errors import CertificateError, InputError, NoPlan
from optalloc.result import Termination
from optalloc.serving.configuration.certify import _packs
from optalloc.serving.configuration.plan import ServingPlan
from optalloc.serving.configuration.space import BATCHES


@pytest.fixture(scope="module")
def split() -> ServingPlan:
    """A plan of split phases."""
    return planned(ttft_s=0.3, tpot_s=0.02, pin=("mode=disaggregated",)).plan


@pytest.fixture(scope="module")
def whole() -> ServingPlan:
    """A plan of engines that do both phases, for a rate on two kinds of device."""
    return planned(
        "2xh100-sxm+2xl40s", rate_per_s=4.0, objective="price", pin=("mode=aggregated",)
    ).plan


def test_saved_plans_read_back_equal(split: ServingPlan, tmp_path: Path) -> None:
    split.save(tmp_path / "plan.json")
    assert oa.load_serving_plan(tmp_path / "plan.json") == split


@pytest.mark.parametrize("objective", ["throughput", "price", "devices", "latency"])
@pytest.mark.parametrize("load", [{}, {"rate_per_s": 3.0}, {"concurrency": 30}])
def test_every_goal_and_load_is_proven_twice(objective: str, load: dict[str, Any]) -> None:
    """The search says optimal; other code finds nothing better, and would not take a better
    bound than the truth."""
    result = planned("2xh100-sxm+1xl40s", objective=objective, tpot_s=0.05, **load)
    assert result.termination is Termination.OPTIMAL
    plan = result.plan
    assert oa.certify_serving(plan).is_optimal
    assert plan.certificate is not None
    worse = plan.certificate.bound * (0.98 if objective == "throughput" else 1.02)
    claimed = msgspec.structs.replace(plan.certificate, value=worse, bound=worse)
    from optalloc.serving.configuration.prove_split import prove_bound

    with pytest.raises(CertificateError, match="better than the bound"):
        prove_bound(msgspec.structs.replace(plan, certificate=claimed))


def _edited(plan: ServingPlan, path: str, value: object) -> ServingPlan:
    """The plan with one figure changed; the path is dotted, numbers are places in lists."""
    data = msgspec.to_builtins(plan)
    *parts, last = path.split(".")
    here = data
    for part in parts:
        here = here[int(part)] if part.isdigit() else here[part]
    here[last] = value
    return msgspec.convert(data, ServingPlan)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("workers.0.count", 3, "devices"),
        ("workers.0.engine.software", "sglang", "run different software"),
        ("workers.1.engine.max_batch", 63, "."),
        ("predicted.ttft_s", 0.001, "ttft"),
        ("predicted.tpot_s", 0.001, "token"),
        ("predicted.capacity_per_s", 1e4, "keep up"),
        ("predicted.usd_per_h", 1.0, "price"),
        ("predicted.transfer_s", 1.0, "transfer"),
        ("workers.0.memory_bytes.weights", 5, "weights"),
        ("digests.model", "sha256:0", "digest"),
        ("certificate.value", 1.0, "objective"),
        ("certificate.bound", 1.0, "bound"),
        ("workload.ttft_s", 0.001, "."),
    ],
)
def test_a_plan_that_lies_is_refused(
    split: ServingPlan, path: str, value: object, said: str
) -> None:
    with pytest.raises(CertificateError, match=said):
        oa.certify_serving(_edited(split, path, value))


def test_an_aggregated_plan_that_lies_is_refused(whole: ServingPlan) -> None:
    for path, value in (
        ("workers.0.ttft_s", 0.5),
        ("workers.0.concurrency", 3.0),
        ("workers.0.share", 0.5),
        ("predicted.capacity_per_s", 99.0),
    ):
        with pytest.raises(CertificateError):
            oa.certify_serving(_edited(whole, path, value))


def test_prefill_and_decode_may_run_on_different_devices() -> None:
    """Cheap decoding on L40S beside prefill on an H100: both groups of the cluster are used."""
    plan = planned(
        "1xh100-sxm+2xl40s",
        pin=("mode=disaggregated", "prefill.device=h100-sxm", "decode.device=l40s"),
    ).plan
    assert [(w.role, w.device) for w in plan.workers] == [
        ("prefill", "h100-sxm"),
        ("decode", "l40s"),
    ]


def test_more_devices_bandwidth_and_memory_never_hurt() -> None:
    small, large = planned("2xh100-sxm"), planned("4xh100-sxm")
    better = planned("2xh200-sxm")
    assert small.bounds.primal is not None
    assert large.bounds.primal is not None
    assert better.bounds.primal is not None
    assert large.bounds.primal >= 2.0 * small.bounds.primal * (1.0 - 1e-9)
    assert better.bounds.primal >= small.bounds.primal


def test_a_model_that_does_not_fit_says_by_how_much_and_what_helps() -> None:
    """405B parameters in 16 bits on 8 H100 of 80 GB: some GiB are missing; fp8 weights fit."""
    result = planned("8xh100-sxm", "llama-3.1-405b")
    assert result.termination is Termination.INFEASIBLE
    assert "GiB more on each device" in result.conflict[0]
    assert [fix.what for fix in result.fixes] == ["--pin weights=fp8", "16 devices"]
    with pytest.raises(NoPlan, match="GiB more"):
        _ = result.plan


def test_an_unreachable_target_names_the_nearest_that_is_reached() -> None:
    """What the message offers is feasible, and a little less is not."""
    result = planned("1xh100-sxm", tpot_s=0.001, pin=("mode=aggregated",))
    assert result.termination is Termination.INFEASIBLE
    assert "time of a token is at most 1.00 ms" in result.conflict[0]
    what, near = result.fixes[0].what.split()
    assert what == "--tpot"
    reach = float(near.removesuffix("ms")) / 1e3
    assert planned("1xh100-sxm", tpot_s=reach, pin=("mode=aggregated",)).best is not None
    assert planned("1xh100-sxm", tpot_s=reach * 0.98, pin=("mode=aggregated",)).best is None


def test_two_targets_beyond_reach_are_both_named() -> None:
    """To drop one is not enough: what each reaches by itself, and that both are met at that."""
    result = planned("1xh100-sxm", ttft_s=1e-3, tpot_s=1e-4, pin=("mode=aggregated",))
    first, further = (line.split("the nearest within reach is ")[1] for line in result.conflict)
    assert [fix.what for fix in result.fixes] == ["all of these at once, at what is within reach"]
    reach = [float(words.split(" ms")[0]) / 1e3 for words in (first, further)]
    both = planned("1xh100-sxm", ttft_s=reach[0], tpot_s=reach[1], pin=("mode=aggregated",))
    assert both.best is not None


def test_a_rate_beyond_reach_names_the_one_within() -> None:
    result = planned("1xh100-sxm", rate_per_s=1e4, pin=("mode=aggregated",))
    rate = next(fix.what for fix in result.fixes if fix.what.startswith("--rate"))
    found = planned("1xh100-sxm", rate_per_s=float(rate.split()[1]), pin=("mode=aggregated",))
    assert found.best is not None


def test_the_front_falls(split: ServingPlan) -> None:
    """Along the front a device gives more where a user gets less."""
    users = [p.tokens_per_s_per_user for p in split.front]
    devices = [p.tokens_per_s_per_device for p in split.front]
    assert users == sorted(users, reverse=True)
    assert devices == sorted(devices)


def test_explanation_names_the_target_that_binds_and_what_relaxing_it_brings() -> None:
    """With 20 ms a token the batch is cut: dropping the target brings more than memory does."""
    plan = planned("1xh100-sxm", tpot_s=0.012, pin=("mode=aggregated",)).plan
    explanation = oa.explain_serving(plan)
    gains = {r.change: r.gain or 0.0 for r in explanation.relaxations}
    assert gains["no target of TPOT"] > gains["10 % more memory"]
    assert all(gain >= -1e-9 for gain in gains.values())
    assert explanation.engines[0].fixed_s > 0.0


def test_explanation_counts_engines_with_the_same_limit_together() -> None:
    """Three kinds of device: the two whose cache is full are named once."""
    plan = planned(
        "1xh100-sxm+1xa100-sxm-80g+1xl40s", concurrency=30, pin=("mode=aggregated",)
    ).plan
    assert [w.count for w in plan.workers] == [1, 1, 1]
    summary = oa.explain_serving(plan).summary
    assert sorted(w.binds for w in plan.workers) == ["bandwidth", "kv", "kv"]
    assert "room for the cache on 2 serve engines" in summary


def test_comparison_lists_what_is_decided_otherwise(split: ServingPlan) -> None:
    other = planned(ttft_s=0.3, tpot_s=0.02, pin=("mode=aggregated",)).plan
    found = oa.compare_serving(split, other)
    assert "mode" in found.changed
    assert found.different_inputs == ()
    assert oa.compare_serving(split, split).changed == ()


@pytest.mark.parametrize(
    ("tokens", "seconds", "words"),
    [
        (1.0, 1.0, "as many output tokens/s as the first|takes as long"),
        (29.545, 2.32, "29.5 times as many output tokens/s as the first|takes 2.32 times as long"),
        (1.2, 1.05, "20.0% more output tokens/s than the first|takes 5.0% longer"),
        (0.9, 0.3, "10.0% fewer output tokens/s than the first|takes 70.0% less time"),
    ],
)
def test_comparison_is_a_sentence(
    tokens: float, seconds: float, words: str, split: ServingPlan
) -> None:
    said = split.predicted
    changed = msgspec.structs.replace(
        said,
        output_tokens_per_s=tokens * said.output_tokens_per_s,
        request_s=seconds * said.request_s,
    )
    other = msgspec.structs.replace(split, predicted=changed)
    summary = oa.compare_serving(split, other).summary
    for part in words.split("|"):
        assert part in summary


def test_recommendation_leaves_out_what_has_no_price() -> None:
    """With its reason; where none has one, that is said."""
    asked = oa.Serving(input_len=1000, output_len=100, rate_per_s=1.0)
    model = oa.load_model("qwen3-8b")
    _, offers = oa.recommend(model, ["mi325x", "l40s"], asked, objective="price", max_devices=4)
    assert [offer.device for offer in offers] == ["l40s", "mi325x"]
    assert offers[1].words == "no public price"
    with pytest.raises(InputError, match="of mi325x no price is public"):
        oa.recommend(model, ["mi325x"], asked, objective="price")


def test_recommendation_prefers_the_fewest_devices() -> None:
    result, offers = oa.recommend(
        oa.load_model("qwen3-8b"),
        ["l40s", "h100-sxm"],
        oa.Serving(input_len=2000, output_len=200, rate_per_s=10.0),
        max_devices=8,
        pin=PINS,
    )
    numbers = [offer.num_devices for offer in offers]
    assert result.plan.num_devices == min(numbers) == numbers[0]
    with pytest.raises(InputError, match="needs a load"):
        oa.recommend(oa.load_model("qwen3-8b"), ["l40s"], oa.Serving(input_len=10, output_len=10))


def test_sweep_has_a_row_a_cell_and_says_what_went_wrong() -> None:
    cells = oa.serving_grid(
        oa.load_model("qwen3-8b"),
        ["h100-sxm", "no-such-device"],
        oa.Serving(input_len=2000, output_len=200),
        devices=[1, 2],
        pin=PINS,
    )
    rows = oa.sweep_serving(cells)
    assert [row.status for row in rows] == ["optimal", "optimal", "error", "error"]
    assert "unknown device" in rows[2].reason
    assert any(row.front for row in rows)


def test_a_cluster_too_large_for_one_search_is_refused() -> None:
    with pytest.raises(InputError, match=r"4,104 devices is more than the 4,096"):
        planned("4104xh100-sxm")


def test_engines_whose_sizes_divide_each_other_fill_nodes_by_their_sum() -> None:
    """On two nodes of 8: 3 of 4 and 2 of 2 fill them, one more of 2 does not fit; 2 of 3 and one of
    2 fit one node of 8, 3 of 3 do not."""
    assert _packs(8, 2, [(4, 3), (2, 2)])
    assert not _packs(8, 2, [(4, 3), (2, 3)])
    assert _packs(8, 1, [(3, 2), (2, 1)])
    assert not _packs(8, 1, [(3, 3)])


@pytest.mark.parametrize(("ttft_s", "tpot_s"), [(0.5, 0.02), (2.0, None)])
def test_split_plans_agree_with_the_cost_models_closed_loop(
    ttft_s: float, tpot_s: float | None
) -> None:
    """The deployment's rates and times are those of the closed loop of as many requests as it
    holds, found there by repetition, to 5 %."""
    plan = oa.plan_serving(
        oa.load_model("qwen3-8b"),
        oa.load_cluster("4xh100-sxm"),
        oa.Serving(input_len=2000, output_len=200, ttft_s=ttft_s, tpot_s=tpot_s),
        pin=("mode=disaggregated", "chunk=8192"),
    ).plan
    group, work, said = plan.cluster.nodes[0], plan.workload, plan.predicted
    one, other = (step_model(plan.model, group.device, w.engine, group=group) for w in plan.workers)
    found = disaggregated(
        one,
        plan.workers[0].count,
        msgspec.structs.replace(other, max_batch=4096.0),
        plan.workers[1].count,
        work.input_len,
        work.output_len,
        said.capacity_per_s * said.request_s,
        group.outer_link.shared_bandwidth_bytes_per_s,
    )
    assert said.capacity_per_s == pytest.approx(found.request_rate_per_s, rel=0.05)
    assert said.ttft_s == pytest.approx(found.ttft_s, rel=0.05)
    assert said.tpot_s == pytest.approx(found.tpot_s, rel=0.05)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"objective": "speed"}, "unknown objective"),
        ({"input_len": 100_000}, "longer than the 40960 positions"),
        ({"pin": ("device=b200",)}, "the cluster has no"),
    ],
)
def test_bad_input_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        planned(**given)


def test_a_pin_without_a_plan_says_by_how_much_and_what_is_nearest() -> None:
    """1,024 sequences are more than a device holds: so many bytes, and a batch that it holds."""
    work = oa.Serving(input_len=2000, output_len=500)
    pin = ["batch=2048", "mode=aggregated", "tp=1", "chunk=2048"]
    result = oa.plan_serving(
        oa.load_model("llama-3.1-8b"), oa.load_cluster("1xh100-sxm"), work, pin=pin
    )
    most = next(int(c.split("at most ")[1].split()[0]) for c in result.conflict if "at most" in c)
    named = next(f for f in result.fixes if f.what.startswith("--pin batch="))
    batch = int(named.what.partition("batch=")[2])
    assert "GiB more on each device" in result.conflict[0]
    assert batch == max(b for b in BATCHES if b <= most)
    assert named.cost == "in place of 2048"
