"""Split phases: leaving sizes of workers out changes no answer, and the bound holds at any time."""

from __future__ import annotations

import random

import msgspec
import numpy as np
import pytest

import optalloc as oa
from optalloc.serving.configuration.problem import OBJECTIVES, Problem
from optalloc.serving.configuration.search import Search
from optalloc.serving.configuration.split import (
    Pairs,
    Sides,
    Workers,
    joined,
    pairs_of_kinds,
    sides_of,
    values,
)
from optalloc.serving.configuration.split_search import best_pairs, front_pairs
from optalloc.workload import Serving

LOADS: tuple[dict[str, float], ...] = ({}, {"rate_per_s": 3.0}, {"concurrency": 40})


def _problem(seed: int) -> Problem:
    r = random.Random(seed)
    targets = {"ttft_s": r.choice((0.2, 1.0)), "tpot_s": 0.05} if seed % 2 else {}
    work = {"input_len": r.choice((200, 3000)), "output_len": r.choice((2, 60, 700))}
    return Problem(
        model=oa.load_model(r.choice(("llama-3.1-8b", "qwen3-30b-a3b"))),
        cluster=oa.load_cluster(r.choice(("8xh100-sxm", "4xh100-sxm+4xl40s"))),
        workload=msgspec.convert(
            {"kind": "serving", **work, **targets, **LOADS[seed % 3]}, Serving
        ),
        objective=tuple(OBJECTIVES)[seed % 4],
    )


def _all(problem: Problem, sides: Sides, goal: str) -> Pairs:
    return joined(
        [
            pairs_of_kinds(problem, sides, one, other, decode, goal)
            for one in sides.prefill
            for other, decode in sides.decode.items()
            if one.alike(other)
        ]
    )


@pytest.mark.parametrize("seed", range(12))
def test_sizes_that_a_bound_leaves_out_hold_nothing_better(seed: int) -> None:
    p = _problem(seed)
    table = Search(p).table("serve")
    sign = 1.0 if OBJECTIVES[p.objective][1] else -1.0
    asked: list[float | None] = []

    def ask(value: float | None, bound: float | None) -> bool:  # noqa: ARG001
        asked.append(bound)
        return False

    found = best_pairs(p, Workers.of(p, table, table), ask)
    keys = sign * values(p, _all(p, sides_of(p, Workers.of(p, table, table)), p.objective))
    assert len(keys) > 10
    assert (sign * values(p, found.pairs)).min() == keys.min()
    assert found.bound == sign * keys.min()
    for bound in asked:
        assert bound is not None
        assert sign * bound <= keys.min()


@pytest.mark.parametrize("seed", [0, 3, 6, 9])
def test_the_front_is_that_of_all_deployments(seed: int) -> None:
    p = msgspec.structs.replace(_problem(seed), objective="throughput")
    table = Search(p).table("serve")
    sides = sides_of(p, Workers.of(p, table, table, (1, 4, 16, 64, 256)))
    front, every = front_pairs(p, sides), _all(p, sides, "price")
    device = every.rate_per_s / every.devices
    best, kept = 0.0, []
    for i in np.lexsort((-device, every.tpot_s)):
        if device[i] > best:
            best = device[i]
            kept.append(i)
    assert len(kept) > 3
    assert np.array_equal(front.tpot_s, every.tpot_s[kept])
    assert np.array_equal(front.rate_per_s / front.devices, device[kept])
