"""Pinned: what a pin that leaves no plan asks too much of, and the values nearest to it."""

from __future__ import annotations

import math

import numpy as np

from optalloc.serving.configuration.limits import NUMBERS, WORDS
from optalloc.serving.configuration.problem import Problem
from optalloc.serving.configuration.space import BATCHES, CHUNKS, batches
from optalloc.serving.configuration.table import EngineTable
from optalloc.units import format_bytes

_MOST = 96


def why_none(problem: Problem, table: EngineTable, role: str) -> str:
    """Why the engines of a role can hold no batch of the space; empty where one can, or it is not
    known."""
    if not len(table):
        return "no engine of the space has it"
    least = batches(problem.limits, role)[:1]
    if not least:
        return ""
    work = problem.workload
    index, ones = np.arange(len(table)), np.ones(len(table), np.int64)
    step = table.step(index, ones * CHUNKS[0], ones * least[0])
    tokens = work.input_len + work.output_len
    missing = np.asarray(least[0] * step.sequence_bytes(tokens) - step.free_bytes)
    best = int(np.argmin(missing))
    if missing[best] <= 0.0:
        return ""
    fit = float(np.asarray(step.free_bytes / step.sequence_bytes(tokens)).max())
    return (
        f"{least[0]} sequences of {tokens} tokens need {format_bytes(round(missing[best]))} more "
        f"on each device; at most {max(0, math.floor(fit))} fit"
    )


def nearest(name: str, values: tuple[str, ...], problem: Problem) -> list[str]:
    """Other values of a decision, those nearest to the pinned ones first."""
    rest = name.rpartition(".")[2]
    if rest in WORDS:
        return [word for word in WORDS[rest][0] if word not in values]
    if rest not in NUMBERS:
        return []
    known = {"batch": BATCHES, "chunk": CHUNKS}
    tried = known.get(rest, tuple(range(1, problem.cluster.num_devices + 1)))
    pinned = [int(value) for value in values]
    apart = {v: min(abs(math.log(v / p)) for p in pinned) for v in tried if v not in pinned}
    return [str(v) for v in sorted(apart, key=lambda v: (apart[v], v))[:_MOST]]
