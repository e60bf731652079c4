"""When the exact method reached what the best peer ended with, from the rows and traces of ``gap``.

The best peer of an instance has the best final plan, and of equal ones the earliest. Of several
seeds of the exact method the median counts; a run that never got there counts as infinitely long.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import gap

#: Other people's solvers among the methods of ``gap``; ``milp`` is HiGHS.
PEERS = ("milp", *gap.PEERS)

#: (method, instance) -> seed -> (CPU seconds, objective) of each better plan
Traces = Mapping[tuple[str, str], Mapping[str, Sequence[tuple[float, float]]]]


class Final(NamedTuple):
    """What a method ended with: the plan's objective, when it came, and when the run ended."""

    objective: float
    best_s: float
    cpu_s: float


class Reach(NamedTuple):
    """One instance: the best peer, what it ended with, and when the exact method was there."""

    peer: str
    final: Final
    exact_s: float

    @property
    def of_plan(self) -> float:
        """The exact method's time as part of the peer's time to its plan."""
        return self.exact_s / self.final.best_s

    @property
    def of_run(self) -> float:
        """The exact method's time as part of the peer's whole run."""
        return self.exact_s / self.final.cpu_s


def read_traces(paths: Sequence[Path]) -> Traces:
    """The traces of all files."""
    traces: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    for path in paths:
        with path.open(encoding="utf-8") as text:
            for row in csv.DictReader(text):
                seeds = traces.setdefault((row["method"], row["instance"]), defaultdict(list))
                seeds[row["seed"]].append((float(row["cpu_s"]), float(row["objective"])))
    return traces


def reach(finals: Mapping[str, Final], seeds: Mapping[str, Sequence[tuple[float, float]]]) -> Reach:
    """One instance, of which at least one peer has a plan; costs are minimised."""
    peer = min(finals, key=lambda name: (finals[name].objective, finals[name].best_s))
    goal = finals[peer].objective
    times = [
        min((spent_s for spent_s, value in trace if value <= goal), default=math.inf)
        for trace in seeds.values()
    ]
    return Reach(peer, finals[peer], statistics.median_high(times))


def reach_lines(reaches: Mapping[str, Reach], kinds: Mapping[str, str]) -> list[str]:
    """The part of the page: geometric means by kind and over all, then one row an instance."""
    lines = [
        "## Time to what the best peer ended with",
        "",
        "CPU seconds of `exact` to a plan as good as the final one of the best peer, and the ratio",
        "to the peer's time to that plan and to the peer's whole run; geometric means.",
        "",
        "| kind | instances | reached | ratio to the plan | worst | ratio to the run | worst |",
        "|" + " --- |" * 7,
    ]
    by_kind: dict[str, list[Reach]] = defaultdict(list)
    for name, found in reaches.items():
        by_kind[kinds[name]].append(found)
        by_kind["all"].append(found)
    for kind in [*sorted(set(by_kind) - {"all"}), "all"]:
        mine = by_kind[kind]
        words = [kind, str(len(mine)), str(sum(math.isfinite(one.exact_s) for one in mine))]
        for ratios in ([one.of_plan for one in mine], [one.of_run for one in mine]):
            words += [f"{_geometric_mean(ratios):.4f}", f"{max(ratios):.4f}"]
        lines.append("| " + " | ".join(words) + " |")
    lines += [
        "",
        "| instance | best peer | its value | at CPU s | of CPU s | exact at CPU s | ratio |",
        "|" + " --- |" * 7,
    ]
    for name, (peer, final, exact_s) in reaches.items():
        lines.append(
            f"| {name} | {peer} | {final.objective:.12g} | {final.best_s:.2f} | {final.cpu_s:.2f} "
            f"| {exact_s:.2f} | {exact_s / final.best_s:.4f} |"
        )
    return lines


def _geometric_mean(values: list[float]) -> float:
    return math.exp(statistics.fmean(math.log(value) for value in values))
