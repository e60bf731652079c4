"""The exact search at full size: what was counted, what each bound excluded, and the time it took.

Each case is one process of ``optalloc train``, from its start to its last byte; CPU seconds are
those of the whole process on one thread of Python and one of the kernels. The plan it writes is
then certified by code that the search does not share.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from optalloc import _native
from optalloc.cost.model import CostModel
from optalloc.errors import InputError, OptallocError
from optalloc.plan.certify import certify
from optalloc.plan.plan import load_plan
from optalloc.training.estimate import meshes_of
from optalloc.training.plan import TrainingPlan

BOUNDS = (
    "shape work bound",
    "memory",
    "schedule path bound",
    "mesh work bound",
    "stage path bound",
    "cut search",
)
COLUMNS = (
    "model",
    "cluster",
    "global_batch",
    "sequence_length",
    "options",
    "configurations",
    *(name.replace(" ", "_") for name in BOUNDS),
    "nodes",
    "cpu_s",
    "wall_s",
    "search_cpu_s",
    "value",
    "gap",
    "certificate",
    "decided_per_s",
    "event_times_per_s",
)


class Case(msgspec.Struct, frozen=True):
    """One search: what to plan, and further options of ``optalloc train``."""

    model: str
    cluster: str
    batch: int
    length: int
    options: tuple[str, ...] = ()


CASES = (
    Case("llama-3.1-70b", "64xh100-sxm", 1024, 8192),
    Case("gpt3-175b", "128xa100-sxm-80g", 1024, 2048),
    Case("llama-3.1-405b", "1024xh100-sxm", 1024, 8192),
    Case("llama-3.1-405b", "1024xh100-sxm", 128, 131072),
    Case("deepseek-v3", "2048xh100-sxm", 15360, 4096),
    Case("llama-3.1-405b", "16384xh100-sxm", 2048, 8192),
    Case("deepseek-v3", "16384xh100-sxm", 15360, 4096),
    Case("glm-4.5", "512xl40s", 1024, 4096, ("--for", "megatron")),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the study."""
    parser.add_argument(
        "cases",
        nargs="*",
        metavar="MODEL,CLUSTER,BATCH,LENGTH",
        help="for example llama-3.1-70b,64xh100-sxm,1024,8192; default: eight of 64 to 16,384 GPUs",
    )
    parser.add_argument("--out", metavar="CSV", help="write one row a case")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="least CPU time of N")


def run(arguments: argparse.Namespace) -> int:
    """Print one block a case; 1 if one has no proven and certified plan."""
    cases = [parse_case(word) for word in arguments.cases] or list(CASES)
    rows = []
    for case in cases:
        attempts = [measure(case) for _ in range(max(1, arguments.repeat))]
        rows.append(min(attempts, key=lambda row: float(row["cpu_s"])))
        print(block(rows[-1]), flush=True)
    if arguments.out is not None:
        with Path(arguments.out).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return 0 if all(row["certificate"] == "checked" and row["gap"] == 0.0 for row in rows) else 1


def parse_case(word: str) -> Case:
    """A case from ``MODEL,CLUSTER,BATCH,LENGTH``."""
    parts = word.split(",")
    if len(parts) != 4 or not (parts[2].isdigit() and parts[3].isdigit()):
        raise InputError(
            f"{word!r} is no case",
            path="training-search",
            fix="write MODEL,CLUSTER,BATCH,LENGTH, such as llama-3.1-70b,64xh100-sxm,1024,8192",
        )
    return Case(parts[0], parts[1], int(parts[2]), int(parts[3]))


def measure(case: Case) -> dict[str, Any]:
    """Run one case in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.json"
        words = ["train", case.model, "--cluster", case.cluster, "--global-batch", str(case.batch)]
        words += ["--seq-len", str(case.length), *case.options, "--format", "json", "-o", str(path)]
        before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "optalloc.cli", *words], capture_output=True, check=False
        )
        wall_s, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode not in (0, 3, 4):
            raise InputError(done.stderr.decode().strip(), path=case.model)
        facts = json.loads(done.stdout)
        cpu_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        plan = load_plan(path) if path.exists() else None
    stats = facts["stats"]
    total = stats["configurations"]
    row: dict[str, Any] = {
        "model": case.model,
        "cluster": case.cluster,
        "global_batch": case.batch,
        "sequence_length": case.length,
        "options": " ".join(case.options),
        "configurations": total,
        "nodes": stats["nodes"],
        "cpu_s": round(cpu_s, 3),
        "wall_s": round(wall_s, 3),
        "value": facts["bounds"]["primal"],
        "gap": facts["bounds"]["gap"],
        "certificate": "none" if plan is None else _checked(plan),
        "search_cpu_s": round(stats["search_cpu_s"], 3),
        "decided_per_s": round(total / stats["search_cpu_s"]),
        "event_times_per_s": None if plan is None else round(event_times_per_s(plan)),
    }
    for name in BOUNDS:
        row[name.replace(" ", "_")] = stats["pruned"].get(name, 0) / max(1, total)
    return row


def _checked(plan: TrainingPlan) -> str:
    try:
        certify(plan)
    except OptallocError as error:
        return f"refused: {error}"
    return "checked"


def event_times_per_s(plan: TrainingPlan, count: int = 20_000) -> float:
    """Complete plans per CPU second: memory and times of every stage, and the event time.

    They are the plan with two neighbouring chunks' layers moved; nothing is shared between two.
    """
    cost = CostModel(plan.model, plan.cluster, plan.workload, name=plan.cost_model)
    strategy = plan.strategy
    tables = cost.tables(meshes_of(strategy))
    cuts = np.tile(np.array(strategy.layers_per_chunk, np.int32), (count, 1))
    for k in range(1, count if cuts.shape[1] > 2 else 1):
        c = k % (cuts.shape[1] - 2)
        if cuts[k, c] > 1:
            cuts[k, c] -= 1
            cuts[k, c + 1] += 1
    rules = [
        np.array([getattr(r, n) for r in strategy.recompute], np.int32)
        for n in ("full", "selective")
    ]
    full, selective = (np.tile(rule, (count, 1)) for rule in rules)
    begin = time.process_time()
    _native.evaluate_cuts(
        tables.ints,
        tables.reals,
        tables.layers,
        cost.sequence,
        cost.boundary,
        cuts,
        full,
        selective,
    )
    return count / (time.process_time() - begin)


def block(row: dict[str, Any]) -> str:
    """One case for people."""
    shares = sorted(((row[n.replace(" ", "_")], n) for n in BOUNDS), reverse=True)
    options = f" {row['options']}" if row["options"] else ""
    value = "no plan" if row["value"] is None else f"{row['value']:.6g} s a step"
    return "\n".join(
        (
            f"{row['model']} on {row['cluster']}, batch {row['global_batch']} of "
            f"{row['sequence_length']}{options}",
            f"  {value}, gap {row['gap']}, certificate {row['certificate']}; "
            f"{row['cpu_s']:.2f} CPU s, {row['wall_s']:.2f} s wall",
            f"  {row['configurations']:,} configurations: "
            + ", ".join(f"{share:.4%} {name}" for share, name in shares if share),
            f"  {row['decided_per_s']:,} decided a CPU second of the search; "
            f"{row['event_times_per_s'] or 0:,} event times of such plans a CPU second",
        )
    )
