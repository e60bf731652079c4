"""Place layers on the nodes of instance files and write each answer with its bound.

For every file the folder gets a JSON of the same name with

    objective   tokens/s of the placement, routed again here
    bound       tokens/s: proven, no placement passes more
    gap         (bound - objective) / objective; null where nothing flows
    cpu_s       CPU seconds, reading the file included
    placement   node index -> [first layer, end layer], the end exclusive; unused nodes are left out
    termination optimal, feasible, infeasible or limit
    reference   the best objective the file itself names; null where it names none

and the terminal a row. A file that cannot be read costs its own row alone; the status is then 1.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

from optalloc import files
from optalloc.errors import OptallocError
from optalloc.serving.flow.instance import load_flow
from optalloc.serving.flow.network import flow_tokens_per_s
from optalloc.serving.flow.solve import place_layers
from optalloc.stop import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the study."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument(
        "--time-limit", type=float, default=60.0, metavar="S", help="CPU seconds an instance (60)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="of the search (0)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="answers go here")


def run(arguments: argparse.Namespace) -> int:
    """Write an answer a file; 1 when one could not be done."""
    failed = 0
    print(f"{'instance':32} {'nodes':>5} {'objective':>12} {'bound':>12} {'gap':>8} {'cpu_s':>7}"
          f" {'reference':>12}")  # fmt: skip
    for path in arguments.files:
        try:
            answer, nodes = solve_file(path, arguments.time_limit, arguments.seed)
        except OptallocError as error:
            print(f"{path.stem:32} {error}")
            failed = 1
            continue
        files.write_json(arguments.out / f"{path.stem}.json", answer)
        gap, reference = answer["gap"], answer["reference"]
        print(
            f"{path.stem:32} {nodes:5} {answer['objective']:12.3f} {answer['bound']:12.3f}"
            f" {'-' if gap is None else f'{gap:.3%}':>8} {answer['cpu_s']:7.2f}"
            f" {'-' if reference is None else f'{reference:.3f}':>12}",
            flush=True,
        )
    return failed


def solve_file(path: Path, limit_s: float, seed: int) -> tuple[dict[str, Any], int]:
    """The answer of one file under a limit of CPU time, and the number of its nodes."""
    begin = time.process_time()

    def out_of_time(progress: Progress) -> bool:  # noqa: ARG001
        return time.process_time() - begin >= limit_s

    problem = load_flow(path)
    result = place_layers(problem, stop=out_of_time, seed=seed)
    cpu_s = time.process_time() - begin
    placement = result.placed or {}
    objective = flow_tokens_per_s(problem, placement) if placement else 0.0
    bound = result.bounds.dual if result.bounds.dual is not None else 0.0
    answer = {
        "instance": path.stem,
        "objective": objective,
        "bound": bound,
        "gap": (bound - objective) / objective if objective > 0.0 else None,
        "cpu_s": cpu_s,
        "placement": {str(node): list(held) for node, held in placement.items()},
        "termination": result.termination.value,
        "reference": best_reference(path),
    }
    return answer, len(problem.nodes)


def best_reference(path: Path) -> float | None:
    """The largest objective among the references of a file, None where there is none."""
    listed = json.loads(path.read_text(encoding="utf-8")).get("reference") or []
    values = [
        entry["objective"]
        for entry in listed
        if isinstance(entry, dict) and isinstance(entry.get("objective"), int | float)
    ]
    return max((value for value in values if math.isfinite(value)), default=None)
