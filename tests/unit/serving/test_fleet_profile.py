"""Throughputs of replicas from the engine model, and buckets of a trace."""

from __future__ import annotations

import pytest

from optalloc.cluster import catalog
from optalloc.cost.engine.load import closed_loop
from optalloc.cost.engine.setup import Engine
from optalloc.cost.engine.step import step_model
from optalloc.errors import InputError
from optalloc.model.load import load_model
from optalloc.serving.mix.buckets import buckets_of
from optalloc.serving.mix.problem import Bucket
from optalloc.serving.mix.profile import fleet_of_model, requests_per_s

LLAMA = load_model("llama-3.1-8b")
SIZES = (
    Bucket(input_len=500, output_len=100, rate_per_s=1.0),
    Bucket(input_len=4000, output_len=500, rate_per_s=1.0),
)


def test_throughput_is_the_best_closed_loop_within_the_targets() -> None:
    """A load of the reported rate exists, meets the targets, and more in flight would not."""
    step = step_model(LLAMA, catalog.device("h100-sxm"), Engine())
    for bucket, rate in zip(SIZES, requests_per_s(step, SIZES, tpot_s=0.02), strict=True):
        met = [
            found.request_rate_per_s
            for q in range(1, 1025)
            if (found := closed_loop(step, bucket.input_len, bucket.output_len, q)).tpot_s <= 0.02
            and q <= step.sequences_that_fit(bucket.input_len + bucket.output_len)
        ]
        assert 0.93 * max(met) <= rate <= max(met) * (1.0 + 1e-9)


def test_tighter_targets_never_serve_more() -> None:
    """By bucket; a target that nothing meets serves none."""
    step = step_model(LLAMA, catalog.device("a100-sxm-80g"), Engine())
    loose, tight, none = (requests_per_s(step, SIZES, tpot_s=s) for s in (0.1, 0.02, 1e-4))
    assert all(a >= b for a, b in zip(loose, tight, strict=True))
    assert none == (0.0, 0.0)


def test_offers_leave_out_widths_that_do_not_fit() -> None:
    """70 billion parameters of 16 bits take 141 GB: one device of 80 GB does not hold them."""
    profile = fleet_of_model(load_model("llama-3.1-70b"), ["h100-sxm"], SIZES)
    assert [o.devices for o in profile.problem.offers] == [2, 4, 8]
    assert [r.engine.tp for r in profile.replicas] == [2, 4, 8]
    assert profile.problem.offers[0].price_usd_per_h == pytest.approx(2 * 6.88)


def test_device_without_a_price_is_refused() -> None:
    """The catalogue gives a price only where one is public."""
    with pytest.raises(InputError, match="no public price"):
        fleet_of_model(LLAMA, ["h100-nvl"], SIZES)


def test_buckets_keep_rate_and_tokens() -> None:
    """1000 to 1023 are one bucket, 1024 begins the next; rates are shares of the whole."""
    found = buckets_of([1000, 1020, 1024, 9], [10, 12, 10, 10], rate_per_s=8.0)
    assert [(b.input_len, b.output_len, b.rate_per_s) for b in found] == [
        (9, 10, 2.0),
        (1010, 11, 4.0),
        (1024, 10, 2.0),
    ]
    with pytest.raises(InputError, match="no requests, or no rate"):
        buckets_of([], [], rate_per_s=1.0)
