"""What holds for any simulation of requests, and cases worked out by hand."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.unit.simulate.requests.instances import times
from tests.unit.simulate.trace_format import check_trace

from optalloc.errors import InputError
from optalloc.simulate.requests.arrivals import AtOnce, Bursts, ClosedLoop, Poisson
from optalloc.simulate.requests.deployment import Deployment, Engines
from optalloc.simulate.requests.lengths import Fixed, Lognormal, Uniform
from optalloc.simulate.requests.load import Load, Requests, fixed_load, make_requests
from optalloc.simulate.requests.outcome import RequestSimulation
from optalloc.simulate.requests.simulate import simulate_requests
from optalloc.simulate.requests.step_times import step_times

CONSTANT = step_times(
    lambda prompt, sequences: 0.1 + 0.0 * (prompt + sequences), chunk_tokens=64, max_batch=4
)
"""Every iteration takes 0.1 s."""

ONE_SLOT = step_times(
    lambda prompt, sequences: 0.001 * np.maximum(prompt, sequences), chunk_tokens=4096, max_batch=1
)
"""A millisecond a token of the prompt, one request at a time."""


def one(**changes: object) -> Deployment:
    engines = Engines(times=CONSTANT, kv_tokens=10_000)
    return Deployment(engines=(msgspec.structs.replace(engines, **changes),))


def at(arrivals: list[float], inputs: list[int], outputs: list[int]) -> Requests:
    return make_requests(
        np.array(arrivals), np.array(inputs, np.int64), np.array(outputs, np.int64)
    )


def busy_load(arrivals: object = None) -> Load:
    return Load(
        arrivals=arrivals or Poisson(40.0),  # type: ignore[arg-type]
        input=Uniform.around(100, 0.5),
        output=Lognormal(20.0, 1.0),
        prefix_tokens=32,
        prefix_groups=5,
    )


def crowded() -> Deployment:
    return Deployment(
        engines=(Engines(times=times(max_batch=16), kv_tokens=640, replicas=2, ranks=2),)
    )


def test_two_requests_by_hand() -> None:
    """Iterations of 0.1 s with 64 tokens. Request 0 (100 prompt tokens, 3 answer tokens) reads 64
    from 0.0 and 36 from 0.1, so its tokens leave at 0.2, 0.3 and 0.4. Request 1 (10, 2), come at
    0.05, is read beside the 36 from 0.1: tokens at 0.2 and 0.3."""
    simulation = simulate_requests(one(), at([0.0, 0.05], [100, 10], [3, 2]))
    assert simulation.ttft_s == pytest.approx([0.2, 0.15])
    assert simulation.finish_s == pytest.approx([0.4, 0.3])
    assert simulation.tpot_s == pytest.approx([0.1, 0.1])
    assert simulation.queue_s == pytest.approx([0.0, 0.05])


def test_the_last_to_arrive_is_sent_back_when_blocks_run_out() -> None:
    """Four blocks of 16: two prompts of 31 take two each, and their 32nd token fills them. For the
    33rd, at 0.2, request 1 goes: it has given 2 tokens, waits until request 0 ends (4 tokens, at
    0.4), reads 33 tokens, gives the third at 0.5 and the fourth at 0.6."""
    simulation = simulate_requests(one(kv_tokens=64), at([0.0, 0.0], [31, 31], [4, 4]))
    assert simulation.run.preemptions.tolist() == [0, 1]
    assert simulation.finish_s == pytest.approx([0.4, 0.6])
    assert simulation.summary.kv_peak_share == 1.0


def test_a_shared_prefix_is_read_once_and_kept_until_its_blocks_are_needed() -> None:
    """Prefixes of two blocks, prompts of three, a cache of four. The second request of group 0
    finds 32 tokens; group 1 then needs three blocks and takes one cached one from the end; group 0
    later finds 16 tokens, what was left of its prefix before group 1 had ended."""
    requests = make_requests(
        np.array([0.0, 1.0, 2.0, 3.0]),
        np.full(4, 40, np.int64),
        np.ones(4, np.int64),
        group=np.array([0, 0, 1, 0]),
        prefix_tokens=np.array([32, 32]),
    )
    hits = simulate_requests(one(kv_tokens=64), requests).run.hits.tolist()
    assert hits == [0, 32, 0, 16]


def test_answers_are_made_where_the_cache_is_handed_to() -> None:
    """A prompt of 10 takes 0.1 s and the way 0.05 s + 10 x 0.01 s, where the first token is sent
    from; two more tokens follow in 0.1 s each."""
    pool = Engines(times=CONSTANT, kv_tokens=1000)
    deployment = Deployment(
        engines=(pool,), prefill=(pool,), transfer_s=0.05, transfer_s_per_token=0.01
    )
    simulation = simulate_requests(deployment, at([0.0], [10], [3]))
    assert simulation.ttft_s == pytest.approx([0.1 + 0.15])
    assert simulation.tpot_s == pytest.approx([0.1])
    assert simulation.finish_s == pytest.approx([0.1 + 0.15 + 0.2])
    assert (simulation.run.rank[0], simulation.run.second_rank[0]) == (0, 1)


def test_what_ranks_share_is_of_all_their_tokens() -> None:
    """As below, and 0.1 ms for each of the 30 tokens together."""
    shared = step_times(
        lambda prompt, sequences: 1e-4 * np.maximum(prompt + sequences, 1.0),
        chunk_tokens=2 * 4096,
        max_batch=2,
    )
    pool = Engines(times=ONE_SLOT, kv_tokens=1000, ranks=2, shared=shared)
    simulation = simulate_requests(
        Deployment(engines=(pool,), routing="round-robin"), at([0.0, 0.0], [10, 20], [1, 1])
    )
    assert simulation.ttft_s == pytest.approx([0.023, 0.023])
    with pytest.raises(InputError, match="shared times end before 12288 tokens"):
        Engines(times=ONE_SLOT, kv_tokens=1000, ranks=3, shared=shared)


def test_ranks_step_in_the_time_of_the_slowest() -> None:
    """Prompts of 10 and 20 tokens on two ranks at 1 ms a token: both end at 20 ms."""
    pool = Engines(times=ONE_SLOT, kv_tokens=1000, ranks=2)
    simulation = simulate_requests(
        Deployment(engines=(pool,), routing="round-robin"), at([0.0, 0.0], [10, 20], [1, 1])
    )
    assert simulation.finish_s == pytest.approx([0.02, 0.02])


@pytest.mark.parametrize("arrivals", [Poisson(40.0), Bursts(20.0), ClosedLoop(40), AtOnce()])
def test_every_request_is_served_once_and_in_order(arrivals: object) -> None:
    """Each gets its times in order, blocks never exceed the cache, and every rank schedules first
    come, first served."""
    simulation = simulate_requests(crowded(), busy_load(arrivals), num_requests=500)
    run = simulation.run
    assert run.preemptions.sum() > 0
    for before, after in zip(
        (run.arrival, run.start, run.first), (run.start, run.first, run.finish), strict=True
    ):
        assert (before <= after).all()
    assert run.arrival.min() >= 0
    assert run.peak_blocks.max() <= 40
    for rank in range(4):
        mine = np.flatnonzero(run.rank == rank)
        mine = mine[np.argsort(run.arrival[mine], kind="stable")]
        assert (np.diff(run.start[mine]) >= 0).all()


def test_blocks_are_all_given_back() -> None:
    """A second wave long after the first finds the cache as empty as the first did."""
    wave = at([0.0] * 40, [50] * 40, [20] * 40)
    both = at([0.0] * 40 + [1e3] * 40, [50] * 80, [20] * 80)
    first = simulate_requests(one(kv_tokens=272), wave)
    again = simulate_requests(one(kv_tokens=272), both)
    assert first.run.preemptions.sum() > 0
    assert again.e2e_s[40:] == pytest.approx(first.e2e_s)


def test_little_s_law_holds() -> None:
    """The mean number in the system, counted at many times, is rate x mean time in it."""
    simulation = simulate_requests(crowded(), busy_load(), num_requests=2000)
    when = np.linspace(0.0, simulation.summary.duration_s, 20_001)
    when += simulation.arrival_s[0]
    inside = np.searchsorted(simulation.arrival_s, when, side="right")
    inside -= np.searchsorted(np.sort(simulation.finish_s), when, side="right")
    summary = simulation.summary
    assert inside.mean() == pytest.approx(summary.mean_in_system, rel=1e-2)
    assert summary.mean_in_system == pytest.approx(summary.requests_per_s * summary.e2e.mean_s)


def test_one_slot_waits_as_m_d_1() -> None:
    """Service of 0.1 s at 5 requests/s: rho = 1/2, so a wait of rho S / (2 (1 - rho)) = 0.05 s."""
    deployment = Deployment(engines=(Engines(times=ONE_SLOT, kv_tokens=128),))
    load = fixed_load(Poisson(5.0), 100, 1)
    summary = simulate_requests(deployment, load, num_requests=200_000, record=False).summary
    assert summary.queue.mean_s == pytest.approx(0.05, rel=0.03)
    assert summary.busy_share == pytest.approx(0.5, rel=0.02)


def test_twice_the_replicas_in_turn_make_no_request_wait_longer() -> None:
    """With one slot each and round robin over R or 2 R, a request has a subset of the same requests
    before it (Lindley's recursion is monotone): none waits longer, whatever the lengths."""
    for seed in range(20):
        load = Load(arrivals=Poisson(30.0), input=Lognormal(100.0, 1.5), output=Fixed(1))
        waits = []
        for replicas in (2, 4):
            pool = Engines(times=ONE_SLOT, kv_tokens=8192, replicas=replicas)
            simulation = simulate_requests(
                Deployment(engines=(pool,), routing="round-robin"),
                load,
                num_requests=200,
                seed=seed,
            )
            waits.append(simulation.queue_s)
        assert (waits[1] <= waits[0]).all()
        assert waits[1].mean() < waits[0].mean()


def test_a_closed_loop_keeps_its_clients_in_flight() -> None:
    """Each answer is followed at once by the next request, as long as there are any."""
    simulation = simulate_requests(one(), fixed_load(ClosedLoop(3), 10, 5), num_requests=30)
    later = simulation.arrival_s[3:]
    assert set(later) <= set(simulation.finish_s)
    assert simulation.summary.mean_in_system == pytest.approx(3.0, rel=0.1)


def test_targets_and_warm_up() -> None:
    """Of requests at 0.0, 0.5 and 0.55 s the last waits 0.05 s for the iteration under way."""
    requests = at([0.0, 0.5, 0.55], [10, 10, 10], [2, 2, 1])
    simulation = simulate_requests(one(), requests, ttft_s=0.12, tpot_s=0.15, warm_up=0.4)
    assert simulation.met.tolist() == [True, True, False]
    summary = simulation.summary
    assert (summary.num_requests, summary.met_share) == (2, 0.5)
    assert summary.duration_s == pytest.approx(0.2)
    assert summary.goodput_per_s == pytest.approx(5.0)
    assert np.isnan(simulation.tpot_s[2])


def test_figures_over_time_add_up_to_the_record() -> None:
    """Five requests at once in a batch of four: one waits for 0.5 s, then decodes alone."""
    simulation = simulate_requests(one(), at([0.0] * 5, [10] * 5, [5] * 5))
    over = simulation.over_time(101)
    assert set(over.waiting[over.time_s < 0.49]) == {1.0}
    assert over.waiting[over.time_s > 0.51].max() == 0.0
    assert over.decoding.max() == 4.0
    assert over.kv_share.max() == pytest.approx(4 / 625)


def test_a_trace_shows_iterations_and_requests(tmp_path: Path) -> None:
    """Slices of an engine do not overlap and spend its busy time; each request has its spans."""
    simulation = simulate_requests(one(), at([0.0, 0.05], [100, 10], [3, 20]))
    simulation.trace.write(tmp_path / "requests.trace.json")
    events = json.loads((tmp_path / "requests.trace.json").read_text())["traceEvents"]
    found = check_trace(events)
    assert found["b"] == found["e"] == 2 * 4
    slices = [e for e in events if e["ph"] == "X"]
    assert all(a["ts"] + a["dur"] <= b["ts"] for a, b in itertools.pairwise(slices))
    assert sum(e["args"]["iterations"] for e in slices) == simulation.summary.iterations
    assert sum(e["dur"] for e in slices) == pytest.approx(2.1e6)
    begun = [e["name"] for e in events if e["ph"] == "b"]
    ended = [e["name"] for e in events if e["ph"] == "e"]
    assert sorted(begun) == sorted(ended)
    assert begun.count("read the prompt") == 2


def test_a_trace_of_split_phases_and_preemptions_is_well_formed() -> None:
    """Two pools, a crowded cache: spans of the way between pools, and five of a request."""
    pool = Engines(times=CONSTANT, kv_tokens=480, replicas=2)
    deployment = Deployment(engines=(pool,), prefill=(pool,), transfer_s=0.01)
    requests = at([0.1 * k for k in range(12)], [100] * 12, [60] * 12)
    simulation = simulate_requests(deployment, requests)
    assert simulation.summary.preemptions > 0
    assert check_trace(simulation.trace.events)["b"] == 12 * 5


def test_without_a_record_there_is_no_trace() -> None:
    """The message says how to get one."""
    simulation = simulate_requests(one(), at([0.0], [10], [3]), record=False)
    with pytest.raises(InputError, match="record=True"):
        _ = simulation.trace


def test_a_long_run_takes_coarse_ticks() -> None:
    """A request a day: the answer is the same to the coarser tick."""
    requests = at([0.0, 86400.0, 172800.0], [10, 10, 10], [3, 3, 3])
    simulation: RequestSimulation = simulate_requests(one(), requests)
    assert simulation.ticks_per_s == 2**32
    assert simulation.e2e_s == pytest.approx([0.3] * 3, abs=1e-8)
