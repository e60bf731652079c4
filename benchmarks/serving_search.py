"""The search for serving plans at full size: what was counted, what each rule excluded, the time.

A case is planned in this process, with the modules already imported; CPU seconds are those of the
search, its plan, front and check. The plan is then proven once more by code that the search does
not share.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import Any

import msgspec

import optalloc as oa
from optalloc.errors import InputError, OptallocError

RULES = (
    "memory",
    "tpot floor",
    "ttft floor",
    "objective bound",
    "slower than another",
    "dominated workers",
)
COLUMNS = (
    "model",
    "cluster",
    "objective",
    "workload",
    "configurations",
    *(name.replace(" ", "_") for name in RULES),
    "cpu_s",
    "value",
    "gap",
    "proof",
    "proof_cpu_s",
)


class Case(msgspec.Struct, frozen=True):
    """One search."""

    model: str
    cluster: str
    work: oa.Serving
    objective: str = "throughput"
    pin: tuple[str, ...] = ()


_FP8 = ("weights=fp8", "kv=bf16,fp8")
_CHAT = oa.Serving(input_len=4000, output_len=500, prefix_len=500, ttft_s=0.3, tpot_s=0.01)
_LONG = oa.Serving(input_len=8192, output_len=1024, ttft_s=2.0, tpot_s=0.05)
_RATE = oa.Serving(input_len=2000, output_len=500, ttft_s=2.0, tpot_s=0.05, rate_per_s=10.0)
_FLIGHT = oa.Serving(input_len=2000, output_len=500, ttft_s=2.0, tpot_s=0.05, concurrency=256)
CASES = (
    Case("qwen3-32b", "32xh200-sxm", _CHAT, pin=_FP8),
    Case("deepseek-v3", "32xh200-sxm", _LONG, pin=_FP8),
    Case("deepseek-v3", "32xh200-sxm", _LONG, "price", _FP8),
    Case("llama-3.1-70b", "16xh100-sxm+16xa100-sxm-80g", _RATE, "price"),
    Case("llama-3.1-70b", "16xh100-sxm+16xa100-sxm-80g", _FLIGHT),
    Case("llama-3.1-70b", "32xh100-sxm", _RATE, "devices"),
    Case("llama-3.1-70b", "32xh100-sxm", _RATE, "latency"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the study."""
    parser.add_argument(
        "cases",
        nargs="*",
        metavar="MODEL,CLUSTER,INPUT,OUTPUT",
        help="for example qwen3-8b,8xh100-sxm,2000,500; default: seven of 32 GPUs",
    )
    parser.add_argument("--out", metavar="CSV", help="write one row a case")
    parser.add_argument("--no-proof", action="store_true", help="leave the second proof out")


def run(arguments: argparse.Namespace) -> int:
    """Print a line a case; 1 if one has no plan that is proven twice."""
    rows = []
    for case in [parse_case(word) for word in arguments.cases] or list(CASES):
        row = measure(case, proof=not arguments.no_proof)
        rows.append(row)
        print(
            f"{case.model} on {case.cluster}, {case.objective}: {row['value']:,.6g} of "
            f"{row['configurations']:,} configurations in {row['cpu_s']} s of CPU; proof "
            f"{row['proof']} ({row['proof_cpu_s']} s)",
            flush=True,
        )
    if arguments.out is not None:
        with Path(arguments.out).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return 0 if all(row["gap"] == 0.0 and row["proof"] != "refused" for row in rows) else 1


def parse_case(word: str) -> Case:
    """A case from ``MODEL,CLUSTER,INPUT,OUTPUT``."""
    parts = word.split(",")
    if len(parts) != 4 or not (parts[2].isdigit() and parts[3].isdigit()):
        raise InputError(
            f"{word!r} is no case",
            path="serving-search",
            fix="write MODEL,CLUSTER,INPUT,OUTPUT, such as qwen3-8b,8xh100-sxm,2000,500",
        )
    return Case(parts[0], parts[1], oa.Serving(input_len=int(parts[2]), output_len=int(parts[3])))


def measure(case: Case, *, proof: bool) -> dict[str, Any]:
    """Plan one case, and prove it once more."""
    model, cluster = oa.load_model(case.model), oa.load_cluster(case.cluster)
    begin = time.process_time()
    result = oa.plan_serving(model, cluster, case.work, objective=case.objective, pin=case.pin)
    cpu_s = time.process_time() - begin
    if result.best is None:
        raise InputError(
            f"{case.model} on {case.cluster} has no plan: {'; '.join(result.conflict)}",
            path="serving-search",
            fix="choose a larger cluster",
        )
    plan, begin = result.plan, time.process_time()
    verdict = "left out"
    if proof:
        try:
            verdict = "agrees" if oa.certify_serving(plan).is_optimal else "refused"
        except OptallocError:
            verdict = "refused"
    work = {k: v for k, v in msgspec.to_builtins(case.work).items() if v and k != "format"}
    row: dict[str, Any] = {
        "model": case.model,
        "cluster": case.cluster,
        "objective": case.objective,
        "workload": " ".join(f"{k}={v}" for k, v in work.items()),
        "configurations": result.stats.configurations,
        "cpu_s": round(cpu_s, 3),
        "value": result.bounds.primal,
        "gap": result.bounds.gap,
        "proof": verdict,
        "proof_cpu_s": round(time.process_time() - begin, 2),
    }
    for name in RULES:
        share = result.stats.pruned.get(name, 0) / result.stats.configurations
        row[name.replace(" ", "_")] = round(share, 4)
    return row
