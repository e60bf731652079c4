"""engine/load.py: what a load makes of the step model."""

from __future__ import annotations

import msgspec
import pytest

from optalloc.cluster import catalog
from optalloc.cost.engine.load import (
    closed_loop,
    disaggregated,
    offline,
    static_batch,
)
from optalloc.cost.engine.setup import Engine
from optalloc.cost.engine.step import step_model
from optalloc.errors import InputError
from optalloc.model.load import load_model

H100 = catalog.device("h100-sxm")
STEP = step_model(load_model("llama-3.1-70b"), H100, Engine(tp=4, weight_dtype="fp8"))


def test_a_closed_loop_obeys_littles_law() -> None:
    """Requests in flight = rate times the time of one."""
    found = closed_loop(STEP, 1024, 512, 32)
    assert found.request_rate_per_s * found.request_s == pytest.approx(32)
    assert found.request_s == pytest.approx(found.ttft_s + 511 * found.tpot_s)
    assert found.output_tokens_per_s == pytest.approx(512 * found.request_rate_per_s)


@pytest.mark.parametrize("batch", [1, 2, 4, 16, 256])
@pytest.mark.parametrize("flight", [4, 40, 300])
@pytest.mark.parametrize(("tokens", "answer"), [(8000, 2), (8000, 50), (1100, 20)])
def test_no_more_requests_are_answered_than_prompts_are_read(
    batch: int, flight: int, tokens: int, answer: int
) -> None:
    """By eight ranks in chunks of 2,048 tokens, however few requests fit."""
    engine = Engine(attention_dp=8, moe_ep=8, chunk_tokens=2048, max_batch=batch)
    step = step_model(load_model("llama-4-scout"), catalog.device("a100-sxm-80g"), engine)
    found = closed_loop(step, tokens, answer, flight)
    most = 8.0 * 2048.0 / float(step.constants.prefill * step.base_s(2048.0, 0.0))
    assert tokens * found.request_rate_per_s < most
    assert found.request_rate_per_s * found.request_s == pytest.approx(flight)


def test_alone_a_request_meets_no_other() -> None:
    """tpot is the iteration of one sequence; ttft its prompt and what the client adds."""
    found = closed_loop(STEP, 1024, 512, 1)
    assert found.tpot_s == pytest.approx(float(STEP.decode_s(1, 1280)))
    first = float(STEP.prefill_s(1024) + STEP.constants.lag * STEP.decode_s(1, 1280))
    assert found.ttft_s == pytest.approx(first)


def test_a_prompt_waits_for_those_of_other_ranks() -> None:
    """Of eight ranks seven eighths of ``rank_wait`` iterations, beside those of any engine."""
    step = step_model(load_model("deepseek-v3"), H100, Engine(attention_dp=8, weight_dtype="fp8"))
    waited = step.constants.lag + 7 / 8 * step.constants.rank_wait
    assert step.lag_iterations == pytest.approx(waited)
    assert STEP.lag_iterations == STEP.constants.lag


def test_more_requests_in_flight_are_slower_each_and_faster_together() -> None:
    """Until the cache binds."""
    few, many = (closed_loop(STEP, 1024, 512, q) for q in (4, 64))
    assert many.tpot_s > few.tpot_s
    assert many.ttft_s > few.ttft_s
    assert many.output_tokens_per_s > few.output_tokens_per_s


def test_beyond_the_cache_requests_wait() -> None:
    """The batch stays at what fits, and the cache is what binds."""
    found = closed_loop(STEP, 8000, 2000, 2000)
    assert found.mean_batch <= STEP.sequences_that_fit(10000)
    assert found.binds == "kv"
    assert found.ttft_s > found.tpot_s * 2000


def test_a_request_larger_than_the_cache_says_what_is_missing() -> None:
    """141 GB of weights on one device."""
    step = step_model(load_model("llama-3.1-70b"), H100, Engine())
    with pytest.raises(InputError, match="GiB are missing"):
        closed_loop(step, 1000, 1000, 1)


def test_a_short_offline_run_is_slower_than_a_long_one() -> None:
    """Ramp-up and drain weigh less in a long run."""
    short, long = (offline(STEP, 1000, 1000, n) for n in (1000, 100_000))
    assert short.output_tokens_per_s < long.output_tokens_per_s


def test_a_static_batch_decodes_without_prompts_in_between() -> None:
    """Its iteration is that of the whole batch."""
    found = static_batch(STEP, 128, 2048, 32)
    assert found.tpot_s == pytest.approx(float(STEP.decode_s(32, 128 + 1024)))


def test_prefill_workers_take_the_prompts_off_the_decoders() -> None:
    """tpot falls below that of one engine with the same batch; with more prefill workers the first
    token comes sooner."""
    one = closed_loop(STEP, 8000, 500, 32)
    few, many = (disaggregated(STEP, n, STEP, 1, 8000, 500, 32) for n in (1, 4))
    assert few.tpot_s < one.tpot_s
    assert many.ttft_s < few.ttft_s


def test_prefill_workers_read_short_prompts_together() -> None:
    """Eight prompts of 1,000 tokens fit a chunk of 8,192; where many wait, a worker reads more of
    them in a second than one after another would take, and no more than all eight at a time."""
    found = disaggregated(STEP, 1, STEP, 8, 1000, 100, 2000)
    assert 1.0 / float(STEP.prefill_s(1000)) < found.request_rate_per_s
    assert found.request_rate_per_s < 1.01 * 8.0 / float(STEP.prefill_s(1000, 8.0))


def test_the_first_token_waits_for_the_handing_over() -> None:
    """Alone: the prompt, its cache of 1,000 tokens at 1 GB/s, the constant part, and the lag."""
    found = disaggregated(STEP, 1, STEP, 1, 1000, 2, 1, link_bytes_per_s=1e9)
    c = STEP.constants
    alone = float(STEP.prefill_s(1000) + 1000 * STEP.work.kv_bytes / 1e9 + c.handover_s)
    assert found.ttft_s == pytest.approx(alone + c.split_lag * found.tpot_s, rel=0.15)


@pytest.mark.parametrize("requests", [2, 8])
def test_a_long_prompt_waits_for_no_more_than_all_others(requests: int) -> None:
    """100,000 tokens with few to answer: the engine reads nearly all the time, and of q requests at
    most q - 1 prompts are ahead, and half of them once more at the start."""
    found = closed_loop(STEP, 100_000, 20, requests)
    prompt_s = float(STEP.prefill_s(100_000))
    others = (requests - 1) * prompt_s * (1.0 + STEP.constants.burst / 2.0)
    lag_s = float(STEP.lag_iterations) * found.tpot_s
    assert found.ttft_s <= (prompt_s + others + lag_s) * 1.05


def test_more_requests_than_places_do_not_slow_split_phases() -> None:
    """Places that are always taken and prompts that are always read give the slower of both rates,
    whatever waits."""
    step = msgspec.structs.replace(STEP, max_batch=16.0)
    few, many = (disaggregated(step, 1, step, 1, 1000, 200, q) for q in (200, 2000))
    assert many.request_rate_per_s == pytest.approx(few.request_rate_per_s, rel=1e-6)
