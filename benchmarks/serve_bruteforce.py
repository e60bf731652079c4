"""Serving plans of random small problems beside brute force, each bound proven once more.

Any load, objective, targets and limits, on one to three types of device; requests in flight are
split over the types in every whole number. A row a problem; the exit status is 1 if any differs.
"""

from __future__ import annotations

import argparse
import csv
import math
import random
import sys
import time

import msgspec

import optalloc as oa
from benchmarks import serving_brute
from optalloc.cluster.topology import Cluster
from optalloc.errors import CertificateError
from optalloc.serving.configuration.build import build_plan
from optalloc.serving.configuration.certify import check_serving_plan
from optalloc.serving.configuration.limits import parse_limits
from optalloc.serving.configuration.plan import Certificate
from optalloc.serving.configuration.problem import OBJECTIVES, Problem
from optalloc.serving.configuration.prove_split import prove_bound
from optalloc.serving.configuration.search import Search
from optalloc.serving.configuration.targets import TARGETS, for_target
from optalloc.workload import Serving

CLUSTERS = (
    "4xh100-sxm",
    "2xl40s",
    "2xh100-sxm+2xl40s",
    "3xa100-sxm-80g",
    "1xh200-sxm+2xa100-sxm-80g",
    "2xh100-sxm+1xl40s+1xa100-sxm-80g",
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


def random_problem(seed: int, *, in_flight: bool = False) -> Problem:
    """A small problem: two or three batches and chunks, at most four devices, any load and goal;
    ``in_flight``: requests in flight over several types of device."""
    r = random.Random(seed)
    cluster = r.choice([c for c in CLUSTERS if "+" in c] if in_flight else CLUSTERS)
    few = "+" in cluster
    load: dict[str, float] = {}
    kind = "flight" if in_flight else r.choice(("none", "rate", "flight"))
    if kind == "rate":
        load["rate_per_s"] = r.choice((0.2, 1.0, 5.0))
    elif kind == "flight":
        load["concurrency"] = r.choice((1, 3, 7, 20) if few else (1, 3, 20, 64))
    if r.random() < 0.6:
        load["ttft_s"] = r.choice((0.1, 0.5, 3.0))
    if r.random() < 0.6:
        load["tpot_s"] = r.choice((0.01, 0.03, 0.1))
    work = {"input_len": r.choice((200, 3000)), "output_len": r.choice((2, 60, 700)), **load}
    target = r.choice((*TARGETS, "", "", "", ""))
    sizes = r.sample((1, 2, 5, 16, 40, 128), 2 if few else 3)
    batches = ",".join(map(str, sizes))
    pins = [f"{role}.batch={batches}" for role in ("serve", "prefill", "decode")]
    if "concurrency" in load:
        flight = int(load["concurrency"])
        full = {-(-flight // n) for n in range(1, 17)} | set(range(1, flight + 1) if few else ())
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


class Compared(msgspec.Struct, frozen=True):
    """One problem: values of the search and of brute force (None: there is no plan), and what is
    wrong, empty where they agree."""

    seed: int
    problem: Problem
    found: float | None
    wanted: float | None
    wrong: str


def compared(seed: int, *, in_flight: bool = False) -> Compared:
    """The random problem of one seed, solved twice, and its bound proven twice."""
    problem = random_problem(seed, in_flight=in_flight)
    search = Search(problem)
    outcome = search.run()
    wanted = serving_brute.best(problem)
    found = None if outcome.best is None else outcome.best.value
    wrong = ""
    if found is None or wanted is None:
        wrong = "" if found is wanted else "only one of the two has a plan"
    elif not math.isclose(found, wanted, rel_tol=1e-7):
        wrong = "the values differ"
    elif outcome.bound != found:
        wrong = "the bound is not the value"
    if outcome.best is not None and outcome.bound is not None and not wrong:
        certificate = Certificate(
            objective=problem.objective,
            value=outcome.best.value,
            bound=outcome.bound,
            space="",
            configurations=outcome.configurations,
            pruned=outcome.pruned,
        )
        plan = build_plan(search, outcome.best, certificate)
        try:
            check_serving_plan(plan)
            prove_bound(plan)
        except CertificateError as error:
            wrong = str(error)
    return Compared(seed, problem, found, wanted, wrong)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the study."""
    parser.add_argument("--count", type=int, default=200, metavar="N", help="how many problems")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the first")
    parser.add_argument(
        "--in-flight", action="store_true", help="only requests in flight over several types"
    )
    parser.add_argument("--out", metavar="FILE.csv", help="write a line a problem")


def run(arguments: argparse.Namespace) -> int:
    """Compare; 0 if all agree."""
    begin = time.process_time()
    made = []
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        one = compared(seed, in_flight=arguments.in_flight)
        made.append(one)
        if one.wrong:
            print(f"seed {seed}: {one.found} and {one.wanted}: {one.wrong}", file=sys.stderr)
    if arguments.out is not None:
        with open(arguments.out, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("seed", "objective", "groups", "load", "found", "wanted", "wrong"))
            for one in made:
                work = one.problem.workload
                load = "flight" if work.concurrency else "rate" if work.rate_per_s else "none"
                groups = len(one.problem.cluster.nodes)
                writer.writerow(
                    (
                        one.seed,
                        one.problem.objective,
                        groups,
                        load,
                        one.found,
                        one.wanted,
                        one.wrong,
                    )
                )
    wrong = sum(1 for one in made if one.wrong)
    split = sum(
        1
        for one in made
        if one.problem.workload.concurrency is not None and len(one.problem.cluster.nodes) > 1
    )
    none = sum(1 for one in made if one.wanted is None)
    print(
        f"{len(made)} problems ({split} of requests in flight on several types, {none} without a "
        f"plan), {wrong} wrong; {time.process_time() - begin:.0f} s of CPU"
    )
    return 1 if wrong else 0
