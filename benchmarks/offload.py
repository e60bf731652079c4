"""Plan offload on random machines, beside accelerate's map, llama.cpp's filling and HiGHS.

Every row is a machine (0 to 3 unequal GPUs, CPU memory, often a disk) and a model in some type:

    optimum_s     seconds of a request with the best placement, and its gap
    accelerate_s  with the map that accelerate makes; planned_a_s with the best that it can run
    llama_cpp_s   with the layers and experts that llama.cpp puts on GPUs; planned_l_s as above
    flexgen_s     of FlexGen's linear programme: layers alone, all overlapped, shares not whole;
                  dense models on one GPU
    milp_s        of HiGHS on the same problem (with --check, on models cut to --layers)
    holes_s       of HiGHS where a GPU may run any number of ranges (with --holes, likewise)

A dash: the tool has no placement that fits. The summary counts machines on which a plan is slower
than a peer and faster by more than 0.1 %. No optimum may be slower than a peer; a plan for
accelerate may, where its own map runs two ranges on the first GPU, which plans do not.
"""

from __future__ import annotations

import argparse
import csv
import math
import random
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.offload_milp import least_seconds_by_milp
from benchmarks.offload_peers import filled_s, first_fit_s
from optalloc.model.load import load_model
from optalloc.model.spec import Experts, LayerRun, ModelSpec
from optalloc.serving.offload.flexgen import flexgen_policy
from optalloc.serving.offload.generation import Generation
from optalloc.serving.offload.machine import Cpu, Disk, Gpu, Machine
from optalloc.serving.offload.parts import chain_of
from optalloc.serving.offload.problem import OffloadProblem
from optalloc.serving.offload.solve import plan_offload
from optalloc.stop import TimeLimit

MODELS = ("llama-3.1-8b", "llama-3.1-70b", "qwen2.5-32b", "qwen3-30b-a3b", "mixtral-8x7b",
          "gpt-oss-20b")  # fmt: skip
_COLUMNS = (
    "machine", "model", "dtype", "gpus", "disk", "optimum_s", "gap", "accelerate_s", "planned_a_s",
    "llama_cpp_s", "planned_l_s", "flexgen_s", "milp_s", "holes_s",
    "cpu_s",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the study."""
    parser.add_argument("--machines", type=int, default=50, help="how many (50)")
    parser.add_argument("--seed", type=int, default=0, help="of the machines (0)")
    parser.add_argument("--model", action="append", choices=MODELS, help="only these")
    parser.add_argument("--layers", type=int, help="cut the models to so many layers")
    parser.add_argument("--check", action="store_true", help="solve by HiGHS too")
    parser.add_argument(
        "--holes", action="store_true", help="also let GPUs run several ranges, by HiGHS"
    )
    parser.add_argument(
        "--time-limit", type=float, default=60.0, metavar="S", help="wall seconds a search (60)"
    )
    parser.add_argument("--out", type=Path, metavar="CSV", help="also write the rows")


def run(arguments: argparse.Namespace) -> int:
    """Print a row a machine and the summary; 1 where a plan is not proven or a peer is faster."""
    rows = []
    print(" ".join(f"{name:>13}" for name in _COLUMNS))
    for number in range(arguments.machines):
        row = _row(number, arguments)
        rows.append(row)
        print(" ".join(f"{_text(row[name]):>13}" for name in _COLUMNS), flush=True)
    if arguments.out is not None:
        with arguments.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, _COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    return _summary(rows)


def random_case(
    number: int, seed: int, models: tuple[str, ...], layers: int | None
) -> tuple[ModelSpec, Machine, Generation]:
    """A model, a machine whose memory together holds it, and a request."""
    r = random.Random(f"{seed}/{number}")
    model = load_model(r.choice(models))
    if layers is not None:
        model = _cut(model, layers)
    asked = Generation(
        prompt_tokens=r.choice([64, 512, 2048]),
        output_tokens=r.choice([64, 256]),
        batch=r.choice([1, 1, 4]),
        dtype=r.choice(["bf16", "fp8", "q4_k"]),
    )
    chain = chain_of(model, asked)
    total = sum(part.size_bytes for parts in chain.places for part in parts)
    gpus = tuple(
        Gpu(
            name=f"gpu{k}",
            memory_bytes=int(total * r.uniform(0.05, 0.6)) + chain.workspace_bytes,
            memory_bandwidth_bytes_per_s=r.choice([250e9, 450e9, 800e9, 1600e9]),
            flops_per_s=r.choice([10e12, 40e12, 120e12]),
            link_bandwidth_bytes_per_s=r.choice([6e9, 12e9, 25e9]),
            link_latency_s=1e-5,
        )
        for k in range(r.choice([0, 1, 1, 2, 2, 3]))
    )
    on_gpus = sum(gpu.memory_bytes - chain.workspace_bytes for gpu in gpus)
    disk = r.random() < 0.5 or (not gpus and r.random() < 0.5)
    missing = max(0, total - on_gpus)
    share = r.uniform(0.4, 0.95) if disk else r.uniform(1.15, 2.0)
    largest = max(sum(part.size_bytes for part in parts) for parts in chain.places)
    memory = int(missing * share) + 2 * largest + chain.workspace_bytes
    machine = Machine(
        gpus=gpus,
        cpu=Cpu(
            memory_bytes=memory,
            memory_bandwidth_bytes_per_s=r.choice([40e9, 80e9, 200e9]),
            flops_per_s=r.choice([0.5e12, 2e12]),
        ),
        disk=Disk(size_bytes=2 * total, bandwidth_bytes_per_s=r.choice([2e9, 6e9]))
        if disk
        else None,
    )
    return model, machine, asked


def _cut(model: ModelSpec, layers: int) -> ModelSpec:
    """The first layers of a model."""
    runs, left = [], layers
    for run_ in model.layers:
        if left:
            runs.append(LayerRun(run_.layer, min(left, run_.count)))
            left -= runs[-1].count
    return msgspec.structs.replace(model, layers=tuple(runs))


def _row(number: int, arguments: argparse.Namespace) -> dict[str, Any]:
    models = tuple(arguments.model or MODELS)
    model, machine, asked = random_case(number, arguments.seed, models, arguments.layers)
    chain = chain_of(model, asked)
    stop = TimeLimit(arguments.time_limit)
    begin = time.process_time()
    result = plan_offload(model, machine, asked, stop=stop)
    cpu_s = time.process_time() - begin
    planned = {
        tool: plan_offload(model, machine, asked, runtime=tool, stop=stop).bounds.primal
        for tool in ("accelerate", "llama.cpp")
    }
    problem, limit_s = OffloadProblem(machine=machine, chain=chain), arguments.time_limit
    milp = holes = None
    if arguments.check:
        milp = least_seconds_by_milp(problem, time_limit_s=limit_s)
    if arguments.holes:
        holes = least_seconds_by_milp(problem, time_limit_s=limit_s, holes=True)
    return {
        "machine": number,
        "model": model.name,
        "dtype": asked.dtype,
        "gpus": len(machine.gpus),
        "disk": "yes" if machine.disk is not None else "no",
        "optimum_s": result.bounds.primal,
        "gap": result.bounds.gap,
        "accelerate_s": _finite(first_fit_s(machine, chain)),
        "planned_a_s": planned["accelerate"],
        "llama_cpp_s": _finite(filled_s(machine, chain)),
        "planned_l_s": planned["llama.cpp"],
        "flexgen_s": _flexgen_s(model, machine, asked),
        "milp_s": milp,
        "holes_s": holes,
        "cpu_s": cpu_s,
    }


def _flexgen_s(model: ModelSpec, machine: Machine, asked: Generation) -> float | None:
    if len(machine.gpus) != 1 or any(
        isinstance(layer.feed_forward, Experts) for layer in model.layer_types
    ):
        return None
    policy = flexgen_policy(model, machine, asked)
    return None if policy is None else policy.request_s


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _summary(rows: list[dict[str, Any]]) -> int:
    proven = sum(row["gap"] == 0.0 for row in rows)
    print(f"\nproven optimal: {proven} of {len(rows)}")
    bad = len(rows) - proven
    for peer, ours in (
        ("accelerate_s", "optimum_s"),
        ("accelerate_s", "planned_a_s"),
        ("llama_cpp_s", "optimum_s"),
        ("llama_cpp_s", "planned_l_s"),
    ):
        ratios = [row[peer] / row[ours] for row in rows if row[peer] and row[ours]]
        slower = sum(ratio < 1.0 - 1e-9 for ratio in ratios)
        faster = sum(ratio > 1.001 for ratio in ratios)
        bad += slower if ours != "planned_a_s" else 0
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else math.nan
        print(
            f"{ours:11} against {peer:12}: slower on {slower}, faster on {faster} of "
            f"{len(ratios)}; {mean:.2f} times as fast (geometric mean)"
        )
    checked = [row for row in rows if row["milp_s"] is not None]
    if checked:
        ended = [row for row in checked if not math.isnan(row["milp_s"])]
        differ = sum(
            not math.isclose(row["milp_s"], row["optimum_s"], rel_tol=1e-6) for row in ended
        )
        bad += differ
        print(
            f"HiGHS ended on {len(ended)} of {len(checked)}, with another optimum on {differ}",
            file=sys.stdout,
        )
    lost = sorted(
        row["optimum_s"] / row["holes_s"] - 1.0
        for row in rows
        if row["holes_s"] is not None and not math.isnan(row["holes_s"]) and row["optimum_s"]
    )
    if lost:
        print(
            f"one range a GPU: as fast as any number of them on {sum(x <= 1e-6 for x in lost)} of "
            f"{len(lost)}, {lost[-1]:.2%} slower at most, {sum(lost) / len(lost):.3%} in the mean"
        )
    return 1 if bad else 0
