"""What rules rows out is proven from the cost model: floors below times, bounds beside values."""

from __future__ import annotations

import random

import msgspec
import numpy as np
import pytest

import optalloc as oa
from optalloc.serving.configuration import aggregated
from optalloc.serving.configuration.fastest import Fastest
from optalloc.serving.configuration.limits import parse_limits
from optalloc.serving.configuration.load_floors import LoadFloors
from optalloc.serving.configuration.problem import OBJECTIVES, Problem
from optalloc.serving.configuration.rows import Rows, all_rows, floors, timed
from optalloc.serving.configuration.search import Search
from optalloc.serving.configuration.space import BATCHES, CHUNKS
from optalloc.serving.configuration.workers import decode_workers, undominated_decode
from optalloc.workload import Serving

LOADS: tuple[dict[str, float], ...] = ({}, {"rate_per_s": 2.0}, {"concurrency": 50})


def problem(seed: int, **changes: object) -> Problem:
    """Eight devices, any model and lengths, every chunk and batch."""
    r = random.Random(seed)
    work = {
        "input_len": r.choice((100, 1000, 7000)),
        "output_len": r.choice((2, 100, 1000)),
        **LOADS[seed % 3],
    }
    made = Problem(
        model=oa.load_model(r.choice(("llama-3.1-8b", "qwen3-30b-a3b", "gpt-oss-20b"))),
        cluster=oa.load_cluster(r.choice(("8xh100-sxm", "8xl40s", "8xa100-sxm-80g"))),
        workload=msgspec.convert({"kind": "serving", **work}, Serving),
        objective=r.choice(tuple(OBJECTIVES)),
    )
    return msgspec.structs.replace(made, **changes)


@pytest.mark.parametrize("seed", range(12))
def test_floors_lie_below_times(seed: int) -> None:
    """For every row of the space: each time is at least its floor, the rate at most its bound."""
    p = problem(seed)
    table = Search(p).table("serve")
    rows = all_rows(p, table)
    least, keeps = floors(p, table, rows)
    rows, least = rows.take(keeps), least.take(keeps)
    times = timed(p, table, rows)
    assert len(rows) > 100
    assert np.all(least.ttft_s <= times.ttft_s)
    assert np.all(least.tpot_s <= times.tpot_s)
    assert np.all(least.request_s <= times.request_s)
    assert np.all(least.rate_per_s >= times.rate_per_s)


@pytest.mark.parametrize("objective", list(OBJECTIVES))
@pytest.mark.parametrize("load", [{}, {"rate_per_s": 0.5}, {"rate_per_s": 12.0}])
@pytest.mark.parametrize("limits", [{}, {"ttft_s": 1.5}, {"tpot_s": 0.03}])
def test_rows_left_out_change_nothing(
    objective: str,
    load: dict[str, float],
    limits: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over several groups and kinds of software, against every row timed and combined at once."""
    work = Serving(input_len=1500, output_len=300, **load, **limits)  # type: ignore[arg-type]
    p = Problem(
        model=oa.load_model("qwen3-8b"),
        cluster=oa.load_cluster("2xh100-sxm+4xl40s+1xa100-sxm-80g"),
        workload=work,
        objective=objective,
        limits=parse_limits(["software=vllm,sglang", "kv=bf16,fp8"], []),
    )
    table = Search(p).table("serve")
    rows = all_rows(p, table)
    least, keeps = floors(p, table, rows)
    rows, least = rows.take(keeps), least.take(keeps)
    with monkeypatch.context() as patch:
        patch.setattr(aggregated, "_FIRST", 3)
        patch.setattr(aggregated, "_BLOCK", 128)
        found = aggregated.search(p, table, rows, least, lambda *_: False)
        patch.setattr(aggregated, "bound_keys", lambda _p, _t, rows, _l: np.zeros(len(rows)))
        patch.setattr(aggregated, "_cells", lambda *_: None)
        patch.setattr(aggregated, "_BLOCK", len(rows))
        whole = aggregated.search(p, table, rows, least, lambda *_: False)
    assert whole.pruned == 0
    assert found.pruned > 0
    assert (found.best is None) == (whole.best is None)
    if found.best is not None and whole.best is not None:
        assert found.best.value == whole.best.value == found.bound
        assert found.best.devices == whole.best.devices
        assert found.best.rate_per_s == pytest.approx(whole.best.rate_per_s)


@pytest.mark.parametrize("objective", list(OBJECTIVES))
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_option_beats_the_bound_of_its_row(seed: int, objective: str) -> None:
    """Over every option of every row, without pruning."""
    p = problem(seed, objective=objective)
    table = Search(p).table("serve")
    rows = all_rows(p, table)
    least, keeps = floors(p, table, rows)
    rows, least = rows.take(keeps), least.take(keeps)
    keys = aggregated.bound_keys(p, table, rows, least)
    times = timed(p, table, rows)
    options = aggregated._options(p, table, rows, times, np.arange(len(rows)))
    assert len(options) > 10
    sign = 1.0 if OBJECTIVES[objective][1] else -1.0
    for i in range(0, len(options), 7):
        o = options.take(np.array([i]))
        rate = p.workload.rate_per_s if objective == "price" else None
        value = p.value(
            rate_per_s=float(o.rate_per_s[0]) if rate is None else rate,
            devices=int(o.devices[0]),
            request_s=float(o.request_s[0]),
            usd_per_h=float(o.usd_per_h[0]),
        )
        assert keys[o.row[0]] <= sign * value * (1.0 + sign * 1e-9)


def test_every_decode_worker_left_out_is_dominated_by_one_that_is_kept() -> None:
    """By tpot, and by the rate at any transfer up to the longest."""
    p = problem(4)
    workers = decode_workers(p, Search(p).table("decode"))
    most = 0.3
    kept = undominated_decode(workers, p.workload.output_len, most)
    assert 0 < len(kept.engine) < len(workers.engine)
    answer = (p.workload.output_len - 1.0) * workers.tpot_s
    answer_kept = (p.workload.output_len - 1.0) * kept.tpot_s
    for move in np.linspace(0.0, most, 5):
        mine = workers.places / (answer + move)
        theirs = kept.places / (answer_kept + move)
        better = (kept.tpot_s[None, :] <= workers.tpot_s[:, None]) & (
            theirs[None, :] >= mine[:, None] * (1.0 - 1e-12)
        )
        assert np.all(better.any(axis=1))


@pytest.mark.parametrize("seed", range(6))
def test_the_fastest_rows_are_those_of_the_whole_space(seed: int) -> None:
    """Of every engine and load, over every chunk and batch timed without a floor; no floor that was
    known before lies above, and sharp ones lie close below. In the last, prompts are nearly all."""
    r = random.Random(seed)
    work = Serving(
        input_len=r.choice((100, 3000, 9000)),
        output_len=r.choice((1, 60, 700)),
        prefix_len=96 if seed == 4 else 0,
        concurrency=r.choice((9, 25)),
        ttft_s=r.choice((None, 1.0, 4.0)),
        tpot_s=r.choice((None, 0.02, 0.04)),
    )
    if seed == 5:
        work = Serving(input_len=9000, output_len=4, concurrency=60, ttft_s=20.0)
    model = r.choice(("llama-3.1-8b", "qwen3-30b-a3b"))
    p = problem(seed, model=oa.load_model(model), workload=work)
    p = msgspec.structs.replace(p, cluster=oa.load_cluster("1xh100-sxm+2xl40s"))
    table = Search(p).table("serve")
    found = Fastest(p, table, LoadFloors(p, table))
    floor_s, wanted = found.floor_s.copy(), np.full(found.floor_s.shape, np.inf)
    load = np.arange(1, (work.concurrency or 0) + 1)
    full = -(-load // table.groups[:, None])[:, None, :]
    sizes = np.array(BATCHES)[:, None]
    engine, size, place = np.nonzero(np.concatenate([sizes < full, full > 0], axis=1))
    batch = np.where(size < len(BATCHES), np.array([*BATCHES, 0])[size], full[engine, 0, place])
    for chunk in CHUNKS:
        same = np.full(len(engine), chunk)
        rows = Rows(engine=engine, chunk=same, batch=batch, load=place + 1, count=same)
        keeps = floors(p, table, rows)[1]
        times = timed(p, table, rows)
        fine = keeps & (times.ttft_s <= p.ttft_s) & (times.tpot_s <= p.tpot_s)
        np.minimum.at(wanted, (engine[fine], place[fine]), times.request_s[fine])
    assert np.all(floor_s <= wanted)
    exists = np.isfinite(wanted)
    assert np.median(floor_s[exists] / wanted[exists]) > 0.8
    found.sharpen(*np.nonzero(~found.known))
    assert np.all(found.floor_s <= wanted)
    assert np.min(found.floor_s[exists] / wanted[exists]) > 0.9
    found.find(*np.nonzero(~found.known))
    np.testing.assert_allclose(found.request_s, wanted, rtol=1e-14)
