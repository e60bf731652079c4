"""The process that is measured: read one instance, run one method, print JSON lines.

``{"plan": [...], "cpu_s": t}`` for each better plan (or its ``"value"`` until the plan is told),
``{"bound": b}`` for what is proven, and at the end ``{"termination": "optimal"}``. Only what a
method needs is imported.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from optalloc.assignment.formats import load_assignment
from optalloc.stop import Progress


def cpu_s() -> float:
    """CPU seconds of this process, its threads and the children it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def tell(**event: Any) -> None:
    """One event to the parent."""
    print(json.dumps(event), flush=True)


class Best:
    """A stop rule: ends at the limit of CPU time, and tells when each better plan came."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.value: float | None = None
        self.cpu_s: float | None = None

    def __call__(self, progress: Progress) -> bool:
        now_s = cpu_s()
        if progress.incumbent != self.value:
            self.value, self.cpu_s = progress.incumbent, now_s
            tell(value=self.value, cpu_s=now_s)
        return now_s >= self.limit_s


def main(words: list[str]) -> int:
    """``FILE METHOD CPU_SECONDS THREADS SEED [PROOF]``."""
    file, method = words[:2]
    proof = words[5] if len(words) > 5 else None
    limit_s, threads, seed = float(words[2]), int(words[3]), int(words[4])
    problem = load_assignment(file)
    if method in ("cpsat", "scip", "cbc"):
        from benchmarks import peers

        peers.PEERS[method](problem, limit_s, threads, seed)
        return 0
    from optalloc.assignment.solve import solve_assignment

    best = Best(limit_s)
    result = solve_assignment(problem, method, stop=best, seed=seed, threads=threads, proof=proof)
    if result.bounds.primal != best.value:
        best.cpu_s = cpu_s()
    plan = None if result.placed is None else list(result.placed)
    tell(
        plan=plan, cpu_s=best.cpu_s, bound=result.bounds.dual, termination=result.termination.value
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
