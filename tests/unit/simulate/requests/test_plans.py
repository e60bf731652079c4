"""Serving plans as deployments: the analytic figures, and percentile targets."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from tests.unit.simulate.requests.serving import CLUSTER, LOAD, MODEL, serving_plan

from optalloc.cluster.load import load_cluster
from optalloc.cost.engine.constants import read_engine_constants
from optalloc.cost.engine.load import disaggregated
from optalloc.cost.engine.setup import Engine
from optalloc.cost.engine.step import step_model
from optalloc.errors import InputError
from optalloc.model.load import load_model
from optalloc.report.requests import percentile_line
from optalloc.result import Bounds, Stats, Termination
from optalloc.serving.configuration.solve import ServingResult
from optalloc.simulate.requests.arrivals import AtOnce, ClosedLoop, Poisson
from optalloc.simulate.requests.deployment import Deployment
from optalloc.simulate.requests.engines import engines_of
from optalloc.simulate.requests.load import fixed_load
from optalloc.simulate.requests.percentiles import missed, plan_for_percentile, simulate_plan
from optalloc.simulate.requests.plans import arrivals_of, deployment_of, load_of
from optalloc.simulate.requests.simulate import simulate_requests
from optalloc.workload import Serving

DEVICE = CLUSTER.nodes[0].device


def test_the_simulation_agrees_with_the_plan() -> None:
    """Rate and TPOT of the closed loop within 10 %."""
    plan = serving_plan()
    told = simulate_plan(plan, num_requests=1000).summary
    assert told.requests_per_s == pytest.approx(plan.predicted.request_rate_per_s, rel=0.1)
    assert told.tpot.mean_s == pytest.approx(plan.predicted.tpot_s, rel=0.1)


def test_the_simulation_of_split_phases_agrees_with_the_estimate() -> None:
    """One engine for prompts and two for answers, 32 requests in flight."""
    told = simulate_plan(serving_plan(split=True), num_requests=1000).summary
    engine = Engine(chunk_tokens=2048, max_batch=64)
    step = step_model(MODEL, DEVICE, engine, group=CLUSTER.nodes[0])
    found = disaggregated(step, 1, step, 2, 500, 100, 32)
    assert told.requests_per_s == pytest.approx(found.request_rate_per_s, rel=0.15)
    assert told.tpot.mean_s == pytest.approx(found.tpot_s, rel=0.1)


def test_one_request_takes_the_time_of_the_step_model() -> None:
    """A prompt of 1000 tokens alone, then 9 iterations with 1001 ... 1009 tokens of context."""
    engine = Engine(tp=2, chunk_tokens=4096, max_batch=8)
    step = step_model(MODEL, DEVICE, engine)
    deployment = Deployment(engines=(engines_of(engine, step),))
    found = simulate_requests(deployment, fixed_load(ClosedLoop(1), 1000, 10), num_requests=1)
    assert found.ttft_s[0] == pytest.approx(float(step.prefill_s(1000)), rel=0.01)
    decode = [float(step.decode_s(1.0, context)) for context in range(1001, 1010)]
    assert found.tpot_s[0] == pytest.approx(np.mean(decode), rel=1e-6)


def test_ranks_that_are_alike_take_the_time_of_the_step_model() -> None:
    """Own and shared part, of eight ranks with equal batches, and with equal prompts alone."""
    engine = Engine(attention_dp=8, moe_ep=8, weight_dtype="fp8", chunk_tokens=512, max_batch=16)
    model = load_model("deepseek-v3")
    step = step_model(model, load_cluster("8xh200-sxm").nodes[0].device, engine)
    engines = engines_of(engine, step)
    assert engines.shared is not None
    decode = engines.times.decode_s[16] + engines.shared.decode_s[8 * 16]
    assert decode == pytest.approx(float(step.latency_s(0.0, 16.0, 0.0)))
    prompt = engines.times.mixed_s[-1, 0] + engines.shared.mixed_s[-1, 0]
    assert engines.times.chunk_tokens == 512
    assert prompt == pytest.approx(float(step.constants.prefill * step.latency_s(512.0, 0.0, 0.0)))


def test_the_experts_of_one_rank_alone_take_less_than_those_of_all() -> None:
    """A prompt on one of eight ranks against one on each, that all step in one time."""
    engine = Engine(attention_dp=8, moe_ep=8, weight_dtype="fp8", chunk_tokens=8192, max_batch=16)
    model = load_model("deepseek-v3")
    step = step_model(model, load_cluster("8xh200-sxm").nodes[0].device, engine)
    deployment = Deployment(engines=(engines_of(engine, step),))
    load = fixed_load(AtOnce(), 8000, 1)
    one, all_ = (simulate_requests(deployment, load, num_requests=n).ttft_s for n in (1, 8))
    assert np.ptp(all_) == 0.0
    assert 0.2 * all_[0] < one[0] < 0.8 * all_[0]


def test_a_pipeline_is_as_many_engines_with_parts_of_batch_and_cache() -> None:
    """Two stages: two engines with half of each."""
    engine = Engine(pp=2, max_batch=64)
    step = step_model(MODEL, DEVICE, engine)
    engines = engines_of(engine, step, replicas=3)
    assert (engines.replicas, engines.times.max_batch) == (6, 32)
    assert engines.kv_tokens == int(float(step.kv_capacity_tokens) / 2)
    assert engines.times.decode_s[8] == pytest.approx(float(step.latency_s(0.0, 8.0, 0.0)))


def test_drafted_tokens_shorten_answers() -> None:
    """With 2 of 4 drafted tokens accepted, 30 further tokens take 10 iterations."""
    engine = Engine(draft_tokens=4, acceptance=0.5)
    deployment = Deployment(engines=(engines_of(engine, step_model(MODEL, DEVICE, engine)),))
    found = simulate_requests(deployment, fixed_load(ClosedLoop(1), 100, 31), num_requests=1)
    assert found.summary.iterations == 11
    assert found.tpot_s[0] == pytest.approx((found.e2e_s[0] - found.ttft_s[0]) / 30)


def test_an_edited_plan_whose_engines_serve_nothing_is_refused() -> None:
    """Requests cannot be shared out by rates of 0."""
    plan = serving_plan()
    idle = msgspec.structs.replace(plan.workers[0], request_rate_per_s=0.0)
    with pytest.raises(InputError, match="worker 0 serves 0 requests"):
        deployment_of(msgspec.structs.replace(plan, workers=(idle,)))


def test_weights_without_room_for_a_cache_are_refused() -> None:
    """140 GB on one device of 80."""
    engine = Engine()
    model = msgspec.structs.replace(MODEL, layers=MODEL.layers * 10)
    with pytest.raises(InputError, match="no room for a cache"):
        engines_of(engine, step_model(model, DEVICE, engine))


def test_the_load_of_a_plan_is_its_workload() -> None:
    """Lengths keep their mean and leave a token beside the prefix; a rate is Poisson."""
    plan = serving_plan(msgspec.structs.replace(LOAD, input_len=100, prefix_len=90))
    assert arrivals_of(plan) == ClosedLoop(32)
    load = load_of(plan)
    assert (load.input.low, load.input.high) == (91, 109)  # type: ignore[union-attr]
    assert load.prefix_tokens == 90
    open_plan = serving_plan(Serving(input_len=500, output_len=100, rate_per_s=3.0))
    assert arrivals_of(open_plan) == Poisson(3.0)
    free_plan = serving_plan(Serving(input_len=500, output_len=100))
    assert arrivals_of(free_plan) == ClosedLoop(32)


def test_a_split_plan_hands_over_to_its_decode_workers() -> None:
    deployment = deployment_of(serving_plan(split=True))
    assert [pool[0].replicas for pool in deployment.pools] == [1, 2]
    assert deployment.transfer_s == read_engine_constants().constants["handover_s"].value
    assert deployment.transfer_s_per_token * 500 == pytest.approx(0.001)


def _tightens(workload: Serving) -> ServingResult:
    """A planner in miniature: the largest batch of one engine whose mean TPOT meets the target."""
    plans = (serving_plan(workload, max_batch=batch, replicas=1) for batch in range(20, 0, -1))
    best = next(
        (
            plan
            for plan in plans
            if simulate_plan(plan, num_requests=500).summary.tpot.mean_s <= (workload.tpot_s or 1.0)
        ),
        None,
    )
    return ServingResult(
        termination=Termination.INFEASIBLE if best is None else Termination.OPTIMAL,
        bounds=Bounds(),
        stats=Stats(wall_s=0.0),
        objective="throughput",
        unit="",
        space="",
        best=best,
    )


def test_targets_are_tightened_until_the_percentile_meets_them() -> None:
    """P99 of the further tokens under 9.8 ms: the first plan meets it in the mean alone."""
    workload = Serving(
        input_len=500, output_len=100, concurrency=64, tpot_s=0.0098, percentile=99.0
    )
    first = simulate_plan(_tightens(workload).plan)
    assert missed(first, workload).keys() == {"tpot_s"}
    assert first.summary.tpot.mean_s < 1.01 * 0.0098  # of more requests than the planner tried
    found = plan_for_percentile(workload, _tightens)
    assert found.simulation is not None
    assert not found.missed
    assert found.simulation.percentile_s("tpot_s", 99.0) <= 0.0098
    assert found.result.plan.asked == workload
    assert (found.result.plan.workload.tpot_s or 1.0) < 0.0098
    assert found.result.plan.workload.percentile is None
    assert found.num_plans > 2
    assert "meets its targets" in percentile_line(found)


def test_targets_out_of_reach_give_the_result_that_says_so() -> None:
    """A microsecond a token: not even the mean."""
    workload = Serving(input_len=500, output_len=100, concurrency=4, tpot_s=1e-6, percentile=90.0)
    found = plan_for_percentile(workload, _tightens)
    assert found.result.termination is Termination.INFEASIBLE
    assert found.simulation is None


def test_where_a_tightened_target_leaves_no_plan_it_is_loosened_again() -> None:
    """The second targets that are tried have no plan: the third lie between them and the first."""
    workload = Serving(
        input_len=500, output_len=100, concurrency=64, tpot_s=0.0098, percentile=99.0
    )
    tried: list[float] = []

    def plan_of(asked: Serving) -> ServingResult:
        tried.append(asked.tpot_s or 0.0)
        result = _tightens(asked)
        if len(tried) == 2:
            return msgspec.structs.replace(result, best=None)
        return result

    found = plan_for_percentile(workload, plan_of)
    assert not found.missed
    assert found.simulation is not None
    assert tried[0] > tried[2] > tried[1]


def test_a_percentile_that_no_tightening_meets_gives_the_nearest() -> None:
    """The first token within 1 ms more than a prompt takes alone: some of 64 requests wait."""
    workload = Serving(input_len=500, output_len=100, concurrency=64, ttft_s=0.05, percentile=99.0)
    found = plan_for_percentile(workload, _tightens)
    assert found.missed.keys() == {"ttft_s"}
    assert found.simulation is not None
    assert "misses ttft by" in percentile_line(found)
