"""Requests a second of CPU that the simulator of requests serves, by workload.

One row a workload, all on one engine with the same times of an iteration unless said otherwise:
what is drawn and what is simulated, with the CPU seconds of both.

    in system    requests in the mean
    iterations   of all engines; those that are alike are taken together
    found        part of the tokens of prompts that was cached
    requests/s   of CPU: simulated requests by CPU seconds, drawing included; the ids of
                 conversations stand for a trace and are drawn before, their tree counts
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import msgspec
import numpy as np

from optalloc.simulate.requests.arrivals import Arrivals, AtOnce, Bursts, ClosedLoop, Poisson
from optalloc.simulate.requests.deployment import Deployment, Engines
from optalloc.simulate.requests.lengths import Lengths, Lognormal, Uniform
from optalloc.simulate.requests.load import Load, Requests, make_requests
from optalloc.simulate.requests.prefixes import hashes_of
from optalloc.simulate.requests.simulate import simulate_requests
from optalloc.simulate.requests.step_times import StepTimes, step_times

#: name -> (arrivals, prompt tokens, answer tokens); lengths spread by half around their mean
LOADS: dict[str, tuple[Arrivals, int, int]] = {
    "512/128, low load": (Poisson(4.0), 512, 128),
    "512/128, high load": (Poisson(40.0), 512, 128),
    "512/128, overload": (Poisson(100.0), 512, 128),
    "512/128, bursts": (Bursts(30.0), 512, 128),
    "512/128, 256 clients": (ClosedLoop(256), 512, 128),
    "512/2048, high load": (Poisson(4.0), 512, 2048),
    "512/2048, at once": (AtOnce(), 512, 2048),
    "8192/256, high load": (Poisson(4.0), 8192, 256),
    "512/8, high load": (Poisson(60.0), 512, 8),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the study."""
    parser.add_argument(
        "--requests", type=int, default=100_000, metavar="N", help="of a workload (100000)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="of what is drawn (0)")
    parser.add_argument("--record", action="store_true", help="keep the iterations, as for a trace")
    parser.add_argument("--out", type=Path, metavar="CSV", help="also write the rows to a file")


def run(arguments: argparse.Namespace) -> int:
    """Print a row a workload."""
    rows = []
    print(f"{'workload':32} {'in system':>10} {'iterations':>11} {'preempted':>9} {'found':>6}"
          f" {'ttft p90':>10} {'cpu_s':>7} {'requests/s':>11}")  # fmt: skip
    for name, deployment, load in studies(arguments.requests, arguments.seed):
        begin = time.process_time()
        simulation = simulate_requests(
            deployment,
            load,
            num_requests=arguments.requests,
            seed=arguments.seed,
            record=arguments.record,
        )
        cpu_s = time.process_time() - begin
        told = simulation.summary
        row = {
            "workload": name,
            "mean_in_system": told.mean_in_system,
            "iterations": told.iterations,
            "preemptions": told.preemptions,
            "prefix_hit_share": told.prefix_hit_share,
            "ttft_p90_s": told.ttft.p90_s,
            "cpu_s": cpu_s,
            "requests_per_cpu_s": arguments.requests / cpu_s,
        }
        rows.append(row)
        print(f"{name:32} {told.mean_in_system:10,.1f} {told.iterations:11,} {told.preemptions:9,}"
              f" {told.prefix_hit_share:6.1%} {told.ttft.p90_s:10.3f} {cpu_s:7.3f}"
              f" {row['requests_per_cpu_s']:11,.0f}", flush=True)  # fmt: skip
    if arguments.out is not None:
        with arguments.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return 0


def studies(num_requests: int, seed: int) -> list[tuple[str, Deployment, Load | Requests]]:
    """Name, engines and load of each workload."""
    pool = Engines(times=example_times(), kv_tokens=400_000)
    one = Deployment(engines=(pool,))
    listed = [(name, one, _load(*load)) for name, load in LOADS.items()]
    spread = _load(Poisson(30.0), 512, 128)
    tight = msgspec.structs.replace(pool, kv_tokens=60_000)
    eight = msgspec.structs.replace(pool, replicas=8)
    ranks = msgspec.structs.replace(pool, ranks=8)
    shared = msgspec.structs.replace(spread, prefix_tokens=192, prefix_groups=500)
    varied = Load(arrivals=Poisson(30.0), input=Lognormal(512.0, 1.0), output=Lognormal(128.0, 1.0))
    turns = conversations(num_requests, 30.0, seed)
    caches = Deployment(engines=(msgspec.structs.replace(eight, kv_tokens=100_000),))
    return [
        *listed,
        ("log-normal 512/128", one, varied),
        ("shared prefixes, 500 groups", one, shared),
        ("conversations, 8 small caches", caches, turns),
        (
            "conversations, sent by prefix",
            msgspec.structs.replace(caches, routing="prefix"),
            turns,
        ),
        ("a full cache, preemptions", Deployment(engines=(tight,)), _load(Poisson(40.0), 512, 512)),
        ("8 replicas", Deployment(engines=(eight,)), _load(Poisson(240.0), 512, 128)),
        ("8 ranks of one engine", Deployment(engines=(ranks,)), _load(Poisson(200.0), 512, 128)),
        (
            "4 prefill and 8 decode engines",
            Deployment(
                engines=(eight,),
                prefill=(msgspec.structs.replace(pool, replicas=4),),
                transfer_s=0.001,
                transfer_s_per_token=2e-6,
            ),
            _load(Poisson(200.0), 512, 128),
        ),
    ]


def conversations(num_requests: int, rate_per_s: float, seed: int) -> Requests:
    """Turns of conversations that all begin with the same block of 512 tokens, each with what was
    said before and some blocks more; the ids of their blocks tell what they share."""
    random = np.random.default_rng(seed)
    arrival_s = np.cumsum(random.exponential(1.0 / rate_per_s, num_requests))
    grown, last = random.integers(1, 8, num_requests), random.integers(1, 513, num_requests)
    follows, whose = random.random(num_requests) < 0.75, random.random(num_requests)
    current: list[list[int]] = [[0]]  # conversations that may go on
    lists: list[list[int]] = []
    for k in range(num_requests):
        at = int(whose[k] * len(current)) if follows[k] else len(current)
        before = current[at] if follows[k] else [0]
        lists.append([*before, *range(1 + 8 * k, 1 + 8 * k + int(grown[k]))])
        current[at : at + 1] = [lists[-1]] if len(lists[-1]) < 40 else [[0]]
        if len(current) > 500:
            current.pop(0)
    lengths = np.array([len(ids) for ids in lists])
    return make_requests(
        arrival_s,
        (lengths - 1) * 512 + last,
        random.integers(64, 193, num_requests),
        hashes=hashes_of(lists),
    )


def _load(arrivals: Arrivals, input_tokens: int, output_tokens: int) -> Load:
    lengths: list[Lengths] = [Uniform.around(n, 0.5) for n in (input_tokens, output_tokens)]
    return Load(arrivals=arrivals, input=lengths[0], output=lengths[1])


def example_times() -> StepTimes:
    """About those of a model of 70 billion parameters in 8 bits on four large GPUs: 70 GB of
    weights read in 8 ms, 20 us a token where products bind."""
    return step_times(
        lambda prompt, sequences: np.maximum(0.008, 2e-5 * (prompt + sequences)) + 0.001,
        chunk_tokens=2048,
        max_batch=256,
        kv_s_per_token=1.5e-8,
        pair_s=4e-10,
    )
