"""Shares of the load after a failure, for the check of a fleet: what is not served is minimised."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import highspy
import numpy as np

from optalloc.assignment.milp import LinearRow, QuietHighs, set_rows
from optalloc.serving.mix.problem import FleetProblem
from optalloc.serving.mix.route import Share


def least_busy_shares(
    problem: FleetProblem,
    counts: Sequence[int],
    share: Fraction,
    one: frozenset[int],
    whole: frozenset[int],
) -> list[Share]:
    """Shares that leave the least share of any bucket undone, scaled to serve all of it.

    ``share`` of the time of what is left may be used: one replica of each offer of ``one`` and all
    of those of ``whole`` are gone.
    """
    time = []
    for g, count in enumerate(counts):
        gone = count if g in whole else int(g in one and count > 0)
        stays = float(share * (1 - Fraction(repr(problem.offers[g].interruption))))
        time.append(stays * (count - gone))
    alike: dict[tuple[float, ...], list[int]] = {}  # one column a bucket; shared by their time
    for g, offer in enumerate(problem.offers):
        if time[g] > 0.0:
            alike.setdefault(offer.requests_per_s, []).append(g)
    tables = list(alike)
    columns = [
        (j, k)
        for j, bucket in enumerate(problem.buckets)
        for k, table in enumerate(tables)
        if bucket.rate_per_s > 0.0 and table[j] > 0.0
    ]
    whole_time = [sum(time[g] for g in alike[table]) for table in tables]
    parts = _least_undone(problem, tables, whole_time, columns)
    return [
        Share(j, g, part * time[g] / whole_time[k])
        for (j, k), part in zip(columns, parts, strict=True)
        if part > 0.0
        for g in alike[tables[k]]
    ]


def _least_undone(
    problem: FleetProblem,
    tables: list[tuple[float, ...]],
    time: list[float],
    columns: list[tuple[int, int]],
) -> list[float]:
    """Parts of buckets that go to tables, by column."""
    count = len(columns)
    by_bucket: dict[int, list[int]] = {}
    by_table: dict[int, list[int]] = {}
    for c, (j, k) in enumerate(columns):
        by_bucket.setdefault(j, []).append(c)
        by_table.setdefault(k, []).append(c)
    undone = count  # one column: the share of every bucket that nothing serves
    rows: list[LinearRow] = [
        (np.array([*found, undone]), np.ones(len(found) + 1), 1.0, highspy.kHighsInf)
        for found in by_bucket.values()
    ]
    for k, found in by_table.items():
        loads = [
            problem.buckets[columns[c][0]].rate_per_s / tables[k][columns[c][0]] / time[k]
            for c in found
        ]
        rows.append((np.array(found), np.array(loads), -highspy.kHighsInf, 1.0))
    if not rows:
        return []
    lp = highspy.HighsLp()
    lp.num_col_ = count + 1
    lp.col_cost_ = np.append(np.zeros(count), 1.0)
    lp.col_lower_, lp.col_upper_ = np.zeros(count + 1), np.full(count + 1, highspy.kHighsInf)
    set_rows(lp, rows)
    solver = QuietHighs()
    solver.passModel(lp)
    solver.setOptionValue("primal_feasibility_tolerance", 1e-10)
    solver.run()
    values = np.asarray(solver.getSolution().col_value, dtype=np.float64)[:count]
    values = np.clip(values, 0.0, None)
    total = {j: float(values[found].sum()) for j, found in by_bucket.items()}
    return [float(x) / total[j] for (j, _), x in zip(columns, values, strict=True)]
