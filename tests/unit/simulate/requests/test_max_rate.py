"""The greatest rate that meets percentile targets."""

from __future__ import annotations

import numpy as np
import pytest

from optalloc.errors import InputError
from optalloc.simulate.requests.arrivals import Bursts, ClosedLoop, Poisson
from optalloc.simulate.requests.deployment import Deployment, Engines
from optalloc.simulate.requests.load import fixed_load, make_requests
from optalloc.simulate.requests.max_rate import max_rate
from optalloc.simulate.requests.simulate import simulate_requests
from optalloc.simulate.requests.step_times import step_times


def deployment(max_batch: int = 1, replicas: int = 1) -> Deployment:
    """A millisecond a token of the prompt, 10 ms a decoding iteration."""
    table = step_times(
        lambda p, s: np.maximum(0.001 * p, 0.01 * np.minimum(s, 1)),
        chunk_tokens=4096,
        max_batch=max_batch,
    )
    return Deployment(engines=(Engines(times=table, kv_tokens=4096, replicas=replicas),))


def test_a_mean_target_is_met_at_the_rate_of_m_d_1() -> None:
    """Service S = 0.1 s and a mean TTFT of 0.15 s: a wait of 0.05 s, so rho = 1/2 and 5/s."""
    found = max_rate(
        deployment(),
        fixed_load(Poisson(1.0), 100, 1),
        percentile=None,
        ttft_s=0.15,
        num_requests=50_000,
    )
    assert found.rate_per_s == pytest.approx(5.0, rel=0.05)
    assert found.binds == "ttft"


@pytest.mark.parametrize("percentile", [90.0, 99.0])
def test_the_rate_meets_the_targets_and_one_just_above_fails(percentile: float) -> None:
    """Checked by simulating both again from the load."""
    load = fixed_load(Bursts(1.0), 100, 20)
    found = max_rate(deployment(8), load, percentile=percentile, ttft_s=0.4, num_requests=500)
    assert found.rate_per_s < found.failing_rate_per_s <= 1.01 * found.rate_per_s
    for rate, meets in ((found.rate_per_s, True), (found.failing_rate_per_s, False)):
        again = simulate_requests(
            deployment(8), fixed_load(Bursts(rate), 100, 20), num_requests=500
        )
        assert (np.percentile(again.ttft_s, percentile) <= 0.4) is np.bool_(meets)


def test_a_stricter_percentile_and_fewer_replicas_allow_less() -> None:
    load = fixed_load(Poisson(1.0), 100, 20)
    rates = [
        max_rate(
            deployment(8, replicas), load, percentile=p, ttft_s=0.4, num_requests=500
        ).rate_per_s
        for replicas, p in ((1, 99.0), (1, 90.0), (2, 90.0))
    ]
    assert rates == sorted(rates)
    assert rates[2] > 1.8 * rates[1]


def test_without_a_target_the_queue_must_not_grow() -> None:
    """A slot serves 10 requests of 0.1 s a second; the sample lets pass about 5 % more."""
    found = max_rate(deployment(), fixed_load(Poisson(1.0), 100, 1), num_requests=5000)
    assert found.rate_per_s == pytest.approx(10.3, rel=0.05)
    assert found.binds == "throughput"


def test_a_target_that_one_request_alone_misses_has_no_rate() -> None:
    """A prompt takes 0.1 s."""
    found = max_rate(deployment(), fixed_load(Poisson(1.0), 100, 1), ttft_s=0.09)
    assert (found.rate_per_s, found.binds) == (0.0, "ttft")
    assert found.simulation.ttft_s.max() == pytest.approx(0.1)


def test_a_trace_is_played_faster() -> None:
    """Requests every 10 s, of 0.1 s each: faster until they touch."""
    lengths = np.array([100] * 50)
    trace = make_requests(np.arange(0.0, 500.0, 10.0), lengths, np.ones(50, np.int64))
    found = max_rate(deployment(), trace, percentile=99.0, ttft_s=0.1001)
    assert found.rate_per_s == pytest.approx(10.0, rel=0.01)


def test_fewer_requests_than_engines_bind_nothing() -> None:
    """Four requests, eight engines: at any rate none waits."""
    found = max_rate(deployment(1, 8), fixed_load(Poisson(1.0), 100, 5), num_requests=4)
    assert (found.binds, found.failing_rate_per_s) == ("nothing", float("inf"))


def test_a_closed_loop_is_refused() -> None:
    with pytest.raises(InputError, match="no rate that could be raised"):
        max_rate(deployment(), fixed_load(ClosedLoop(4), 10, 5))
