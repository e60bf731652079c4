"""How near the exact method and the best peer of each instance come, and how fast both prove.

The best peer of an instance has the smallest gap there. Proofs are compared where the exact method
and a peer prove: the time of the exact method as part of that of the fastest such peer.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple


class Pair(NamedTuple):
    """One instance that a peer ran on, too; None where a method has no plan or no common proof."""

    kind: str
    exact_gap_percent: float | None
    peer_gap_percent: float | None
    proof_ratio: float | None


def against_lines(pairs: Mapping[str, Pair]) -> list[str]:
    """The part of the page: means by kind and over all."""
    lines = [
        "## Against the best peer",
        "",
        "Instances that a peer ran on, too. Mean gaps of `exact` and of the best peer of each",
        "instance, in percent; where both prove, the geometric mean of the ratio of CPU seconds.",
        "",
        "| kind | instances | exact gap % | best peer's | ratio | both prove | times | worst |",
        "|" + " --- |" * 8,
    ]
    by_kind: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs.values():
        by_kind[pair.kind].append(pair)
        by_kind["all"].append(pair)
    for kind in [*sorted(set(by_kind) - {"all"}), "all"]:
        mine = by_kind[kind]
        gaps = [
            (pair.exact_gap_percent, pair.peer_gap_percent)
            for pair in mine
            if pair.exact_gap_percent is not None and pair.peer_gap_percent is not None
        ]
        exact = statistics.fmean(one for one, _ in gaps) if gaps else math.nan
        peer = statistics.fmean(other for _, other in gaps) if gaps else math.nan
        ratio = f"{exact / peer:.4f}" if peer > 0 else "-"
        times = [pair.proof_ratio for pair in mine if pair.proof_ratio is not None]
        mean, worst = "-", "-"
        if times:
            mean, worst = f"{statistics.geometric_mean(times):.4f}", f"{max(times):.4f}"
        words = [kind, str(len(mine)), f"{exact:.4f}", f"{peer:.4f}", ratio, str(len(times))]
        lines.append("| " + " | ".join([*words, mean, worst]) + " |")
    return lines
