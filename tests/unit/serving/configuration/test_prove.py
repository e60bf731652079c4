"""The proof of a bound in flight: floors below all times, and no bound that is too good."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

import optalloc as oa
from optalloc.cost.engine.load import closed_loop_times
from optalloc.cost.engine.mixed import mixed_s
from optalloc.errors import CertificateError
from optalloc.serving.configuration.plan import ServingPlan
from optalloc.serving.configuration.problem import Problem
from optalloc.serving.configuration.prove_floors import Floors
from optalloc.serving.configuration.prove_space import Engines, Space
from optalloc.serving.configuration.prove_split import prove_bound
from optalloc.serving.configuration.prove_tokens import tokens
from optalloc.serving.configuration.search import Search
from optalloc.serving.configuration.token_table import TokenTable

MIXED = "2xh100-sxm+1xl40s+1xa100-sxm-80g"


def planned(cluster: str, **given: Any) -> ServingPlan:
    """A plan for requests in flight over several types of device."""
    goal = given.pop("objective", "throughput")
    pins = given.pop("pin", ("mode=aggregated", "chunk=2048,8192"))
    work = {"input_len": 1500, "output_len": 200, "concurrency": 60} | given
    return oa.plan_serving(
        oa.load_model("qwen3-8b"),
        oa.load_cluster(cluster),
        oa.Serving(**work),
        objective=goal,
        pin=pins,
    ).plan


def space_of(plan: ServingPlan, flight: int) -> tuple[Space, Engines, Floors]:
    space = Space(plan)
    engines = space.engines("serve")
    assert engines is not None
    return space, engines, Floors(space, engines, flight)


@pytest.mark.parametrize(
    ("lengths", "batches", "tight"),
    [
        ((1500, 200), "1,4,7,16,40", 0.8),
        ((9000, 60), "2,16", 0.8),
        ((100, 1), "1,3,8,30", 0.8),
        ((9000, 4), "2,16", 0.8),
    ],
)
def test_no_row_is_faster_than_its_floor_and_the_fastest_is_found(
    lengths: tuple[int, int], batches: str, tight: float
) -> None:
    """Over every engine and load, each chunk and batch timed without a floor."""
    plan = planned(
        "1xh100-sxm+2xl40s",
        input_len=lengths[0],
        output_len=lengths[1],
        concurrency=30,
        pin=("mode=aggregated", "chunk=2048,8192", f"batch={batches}"),
    )
    space, engines, floors = space_of(plan, 30)
    e, load = (x.ravel() for x in np.indices((len(engines.engines), 30)))
    load = load + 1
    full, wanted = -(-load // engines.ranks[e]), np.full(len(e), np.inf)
    work = plan.workload
    for chunk in space.chunks("serve"):
        for size in space.batches("serve"):
            batch = np.minimum(full, size)
            step = engines.step(e, chunk, batch.astype(np.float64))
            found = closed_loop_times(
                step, work.input_len, work.output_len, load.astype(np.float64)
            )
            request = found.ttft_s + (work.output_len - 1.0) * found.tpot_s
            listed = np.array([space.allows("batch", int(b), "serve") for b in batch])
            fits = np.asarray(step.sequences_that_fit(sum(lengths))) >= np.where(
                full > size, size, 1
            )
            np.minimum(wanted, np.where(listed & fits, request, np.inf), out=wanted)
    least = floors.least_s(e, load)
    exists = np.isfinite(wanted)
    assert exists.sum() > 50
    assert np.all(least <= wanted)
    assert np.median(least[exists] / wanted[exists]) > tight
    sharper = floors.sharper_s(e, load)
    assert np.all(sharper <= wanted)
    assert np.median(sharper[exists] / wanted[exists]) > 0.95
    nearest = np.full(len(e), np.inf)
    np.testing.assert_allclose(floors.fastest_s(e, load, nearest), wanted, rtol=1e-14)
    half = np.where(exists, wanted, 0.0) * 1.01
    np.testing.assert_allclose(floors.fastest_s(e, load, half), wanted, rtol=1e-14)


def test_reading_all_prompts_is_a_floor_that_short_answers_take() -> None:
    """Of many loads of an engine, to the last roundings."""
    plan = planned("1xh100-sxm+2xl40s", input_len=9000, output_len=4, concurrency=120)
    _, engines, proof = space_of(plan, 120)
    e, load = (x.ravel() for x in np.indices((len(engines.engines), 120)))
    steps = engines.step(e, 8192.0, 2.0**31)
    read_s = (load + 1) / engines.ranks[e] * steps.least_prompt_s(9000.0) / steps.work.pp
    found = proof.fastest_s(e, load + 1, np.full(len(e), np.inf))
    exists = np.isfinite(found)
    bound = exists & np.isclose(found, read_s, rtol=1e-12)
    assert 0.1 < bound[exists].mean() < 1.0
    assert np.all(found[exists] >= read_s[exists] * (1.0 - 1e-14))
    np.testing.assert_allclose(proof.least_s(e, load + 1)[bound], read_s[bound], rtol=1e-13)


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("model", ["qwen3-8b", "mixtral-8x7b"])
def test_a_token_lies_between_its_fences_and_between_the_entries_of_the_table(
    model: str, scale: float
) -> None:
    """Beside any number of sequences, also where prompts slow decoding so much that they count more
    than once; and no more, or fewer, sequences take it out of them."""
    work = oa.Serving(input_len=3000, output_len=100, concurrency=4)
    p = Problem(model=oa.load_model(model), cluster=oa.load_cluster("2xh100-sxm"), workload=work)
    table = Search(p).table("serve")
    number = np.arange(len(table))[:, None]
    held = np.exp(np.random.default_rng(0).uniform(0.0, np.log(900.0), 300))
    for chunk in (2048, 8192):
        whole = np.full(number.shape, 2**31)
        step = table.step(number, np.full(number.shape, chunk), whole)
        slower = msgspec.structs.replace(
            step.constants, interference=step.constants.interference * scale
        )
        step = msgspec.structs.replace(step, constants=slower)
        true = np.asarray(mixed_s(step, held, held - 1.0, 3000, 100))
        fences, entries = tokens(step, 3000, 3000, 100, 900.0), TokenTable.of(step, work, 900.0)
        most = entries._replace(least_s=entries.most_s)
        for low, high in (
            (fences.at_least(number, held), fences.at_most(number, held)),
            (entries.least(number, held), most.least(number, held)),
        ):
            order = np.argsort(held)
            assert np.all(low <= true)
            assert np.all(true <= high)
            assert np.all(np.diff(low[:, order]) >= 0.0)
            assert np.all(np.diff(high[:, order]) >= 0.0)
            assert np.median(high / low) < 1.06


@pytest.mark.parametrize("objective", ["throughput", "price", "latency", "devices"])
def test_a_bound_that_something_in_flight_beats_is_refused(objective: str) -> None:
    """Worse than the truth by a hundred thousandth, and by a lot."""
    plan = planned(MIXED, objective=objective, tpot_s=0.03)
    assert plan.certificate is not None
    prove_bound(plan)
    for part in (1e-5, 0.2):
        worse = plan.certificate.bound * ((1.0 - part) if objective == "throughput" else 1.0 + part)
        claimed = msgspec.structs.replace(plan.certificate, bound=worse)
        with pytest.raises(CertificateError, match="better than the bound"):
            prove_bound(msgspec.structs.replace(plan, certificate=claimed))


def test_a_plan_in_flight_that_lies_is_refused() -> None:
    """Its split, its engines and their times, each changed a little."""
    plan = planned(MIXED)
    assert len(plan.workers) > 1
    oa.certify_serving(plan)
    first = plan.workers[0]
    for changes in (
        {"share": first.share * 1.01},
        {"concurrency": first.concurrency + 1.0},
        {"count": first.count + 1},
        {"tpot_s": first.tpot_s * 0.999},
        {"ttft_s": first.ttft_s * 0.999},
        {"engine": msgspec.structs.replace(first.engine, max_batch=1)},
        {"engine": msgspec.structs.replace(first.engine, kv_dtype="fp8")},
    ):
        worker = msgspec.structs.replace(first, **changes)
        with pytest.raises(CertificateError):
            oa.certify_serving(msgspec.structs.replace(plan, workers=(worker, *plan.workers[1:])))


def test_a_batch_that_memory_does_not_hold_is_no_row_of_the_proof() -> None:
    """88 sequences fit beside the weights and 384 do not; both are pinned."""
    plan = oa.plan_serving(
        oa.load_model("llama-3.1-70b"),
        oa.load_cluster("4xh100-sxm+1xl40s"),
        oa.Serving(input_len=4000, output_len=1000, concurrency=400),
        pin=("mode=aggregated", "batch=88,384"),
    ).plan
    assert plan.workers[0].engine.max_batch == 88
    assert oa.certify_serving(plan).is_optimal
