"""Capacity: about how many requests in flight a cluster holds within the targets, without a search.

A guess, for searches to start from: equal engines on each group, their batches not limited, and
times that grow with the requests.
"""

from __future__ import annotations

import numpy as np

from optalloc.serving.configuration.problem import Problem
from optalloc.serving.configuration.rows import Rows, timed
from optalloc.serving.configuration.space import chunks
from optalloc.serving.configuration.table import EngineTable


def likely_in_flight(problem: Problem, table: EngineTable, most: int) -> int:
    """About the most requests in flight within the targets, up to ``most``.

    Complexity: O(log most) passes of the cost model over engines and chunks.
    """
    widths = np.array(chunks(problem.limits, "serve"), np.int64)
    engine = np.repeat(np.arange(len(table)), len(widths))
    chunk = np.tile(widths, len(table))
    low, high = np.zeros(len(engine), np.int64), np.full(len(engine), most + 1)
    while (high - low > 1).any():
        load = np.maximum(1, (low + high) // 2)
        rows = Rows(engine=engine, chunk=chunk, batch=load, load=load, count=np.ones_like(load))
        times = timed(problem, table, rows)
        fine = (times.ttft_s <= problem.ttft_s) & (times.tpot_s <= problem.tpot_s)
        low, high = np.where(fine, load, low), np.where(fine, high, load)
    held = table.most[engine] * low
    found = 0
    for software in np.unique(table.software):
        mine = table.software[engine] == software
        groups = [held[mine & (table.group[engine] == g)].max() for g in np.unique(table.group)]
        found = max(found, int(sum(groups) if problem.several_kinds else max(groups)))
    return min(most, found)
