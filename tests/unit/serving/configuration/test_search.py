"""The search finds what brute force over every configuration finds."""

from __future__ import annotations

import random

import msgspec
import pytest
from tests.unit.serving.configuration import brute

import optalloc as oa
from optalloc.cluster.topology import Cluster
from optalloc.serving.configuration.limits import parse_limits
from optalloc.serving.configuration.problem import OBJECTIVES, Problem
from optalloc.serving.configuration.search import Search
from optalloc.serving.configuration.targets import TARGETS, for_target
from optalloc.workload import Serving

CLUSTERS = (
    "4xh100-sxm",
    "2xl40s",
    "2xh100-sxm+2xl40s",
    "3xa100-sxm-80g",
    "1xh200-sxm+2xa100-sxm-80g",
    "two-nodes",
)
MODELS = ("llama-3.1-8b", "qwen3-30b-a3b", "qwen3-8b")


def small_nodes(shorthand: str) -> Cluster:
    """A cluster of the catalogue; ``two-nodes`` is two nodes of two GPUs each."""
    if shorthand != "two-nodes":
        return oa.load_cluster(shorthand)
    whole = oa.load_cluster("4xh100-sxm")
    group = msgspec.structs.replace(whole.nodes[0], count=2, devices=2, domain=2)
    return msgspec.structs.replace(whole, nodes=(group,))


def random_problem(seed: int) -> Problem:
    """A small problem: two or three batches and chunks, at most four devices, any load and goal."""
    r = random.Random(seed)
    load: dict[str, float] = {}
    kind = r.choice(("none", "rate", "flight"))
    if kind == "rate":
        load["rate_per_s"] = r.choice((0.2, 1.0, 5.0))
    elif kind == "flight":
        load["concurrency"] = r.choice((1, 3, 20, 64))
    if r.random() < 0.6:
        load["ttft_s"] = r.choice((0.1, 0.5, 3.0))
    if r.random() < 0.6:
        load["tpot_s"] = r.choice((0.01, 0.03, 0.1))
    work = {"input_len": r.choice((200, 3000)), "output_len": r.choice((2, 60, 700)), **load}
    cluster = r.choice(CLUSTERS)
    target = r.choice((*TARGETS, "", "", "", ""))
    few = "+" in cluster
    sizes = r.sample((1, 2, 5, 16, 40, 128), 2 if few else 3)
    batches = ",".join(map(str, sizes))
    pins = [f"{role}.batch={batches}" for role in ("serve", "prefill", "decode")]
    if "concurrency" in load:
        full = {-(-load["concurrency"] * k // (8 * n)) for k in range(1, 9) for n in range(1, 5)}
        full = {int(-(-x // dp)) for x in full for dp in range(1, 5)}
        pins[0] = f"serve.batch={','.join(str(b) for b in sorted(full | set(sizes)))}"
    pins.append("chunk=2048" if few else "chunk=512,8192")
    if r.random() < 0.3 and not few:
        pins.append("kv=bf16,fp8")
    if r.random() < 0.3:
        pins.append(f"mode={r.choice(('aggregated', 'disaggregated'))}")
    if r.random() < 0.2:
        pins.append("software=vllm,sglang,trtllm" if target in ("", "dynamo") else "pp=1,2")
    limits = parse_limits(pins)
    return Problem(
        model=oa.load_model(r.choice(MODELS)),
        cluster=small_nodes(cluster),
        workload=msgspec.convert({"kind": "serving", **work}, Serving),
        objective=r.choice(tuple(OBJECTIVES)),
        limits=for_target(limits, target) if target else limits,
        headroom=r.choice((0.0, 0.1)),
    )


def agree(seed: int) -> None:
    """Search and brute force have the same value."""
    problem = random_problem(seed)
    outcome = Search(problem).run()
    wanted = brute.best(problem)
    found = None if outcome.best is None else outcome.best.value
    if wanted is None:
        assert found is None, (seed, found)
    else:
        assert found == pytest.approx(wanted, rel=1e-7), (seed, problem.workload, problem.objective)
        assert outcome.bound == found


@pytest.mark.parametrize("seed", range(24))
def test_search_equals_brute_force(seed: int) -> None:
    agree(seed)
