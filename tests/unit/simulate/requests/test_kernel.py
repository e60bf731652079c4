"""The native simulation of requests against the plain one, number for number."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.simulate.requests.instances import random_instance, times

from optalloc.errors import InputError
from optalloc.simulate.requests.arrivals import Poisson
from optalloc.simulate.requests.deployment import Deployment, Engines
from optalloc.simulate.requests.kernel import TICKS_PER_S, Run, instance_of, run_native
from optalloc.simulate.requests.load import draw_requests, fixed_load, make_requests
from optalloc.simulate.requests.reference import run_reference


def native(seed: int) -> Run:
    run = run_native(random_instance(seed), record=True)
    assert run is not None
    return run


@pytest.mark.parametrize("first", range(0, 300, 50))
def test_native_equals_the_plain_simulation(first: int) -> None:
    """Every time of every request, every count, and what each stretch began with."""
    for seed in range(first, first + 50):
        run, plain = native(seed), run_reference(random_instance(seed))
        for name in run.__struct_fields__[:-1]:
            assert np.array_equal(getattr(run, name), getattr(plain, name)), (seed, name)
        begun = {(row[0], row[1]): row[4:] for row in plain.stretches.tolist()}
        for row in run.stretches.tolist():
            assert begun[row[0], row[1]] == row[4:], seed
        assert run.iterations.sum() == len(plain.stretches), seed


def test_random_instances_reach_every_rule() -> None:
    """Otherwise the comparison says little."""
    runs = [native(seed) for seed in range(100)]
    assert sum(int(run.preemptions.sum()) for run in runs) > 20
    assert sum(int((run.hits > 0).sum()) for run in runs) > 100
    assert sum(bool((run.handed >= 0).any()) for run in runs) > 10
    assert sum(len(run.stretches) for run in runs) < 0.7 * sum(
        int(run.iterations.sum()) for run in runs
    )


def test_equal_seeds_give_equal_bytes() -> None:
    """Twice the same instance."""
    for seed in range(20):
        first, second = native(seed), native(seed)
        for name in first.__struct_fields__:
            assert getattr(first, name).tobytes() == getattr(second, name).tobytes()


def test_a_request_larger_than_a_cache_is_refused() -> None:
    """100 + 30 - 1 = 129 tokens need 9 blocks of 16; the cache has 8."""
    deployment = Deployment(engines=(Engines(times=times(), kv_tokens=128),))
    requests = draw_requests(fixed_load(Poisson(1.0), 100, 30), 3)
    with pytest.raises(InputError, match="cache of 129 tokens, and a rank holds 128"):
        instance_of(deployment, requests, TICKS_PER_S[0])


def test_a_run_that_does_not_fit_in_fine_ticks_says_so() -> None:
    """2^62 ticks are 18 hours; three requests six hours after one another take longer."""
    deployment = Deployment(engines=(Engines(times=times(), kv_tokens=128),))
    lengths, pauses = np.full(4, 10), np.array([0.0, *[6.0 * 3600.0] * 3])
    requests = make_requests(pauses, lengths, lengths, clients=1)
    assert run_native(instance_of(deployment, requests, TICKS_PER_S[0]), record=False) is None
    assert run_native(instance_of(deployment, requests, TICKS_PER_S[1]), record=False) is not None
