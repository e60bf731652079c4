"""Rows by mixed-integer programming with HiGHS: the second opinion for every form.

Formulation
-----------
    minimise sum_bu c_bu x_bu, x binary                   one column an allowed pair
    sum_u x_bu = 1 for each block b                       :func:`_model`, rows of blocks
    sum_b w_rbu x_bu <= L_ru for each resource and unit   :func:`_model`, rows of resources
    sum_{b in G} x_bu <= 1 for each group G and unit u    :func:`_model`, rows of groups

HiGHS computes in floating point: a placement counts only if it keeps every row in integers, and a
bound is believed to a small tolerance and then rounded up to a whole cost.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import highspy
import numpy as np

from optalloc.assignment.cores import Answer, Watch, checked
from optalloc.assignment.integers import IntArray
from optalloc.assignment.milp import (
    LARGEST_CAPACITY,
    TOLERANCE,
    LinearRow,
    cost_unit,
    set_rows,
    solver_for,
    whole_bound,
)
from optalloc.assignment.rows import Rows


def solve_rows_milp(
    rows: Rows,
    watch: Watch,
    enough: int | None = None,
    start: tuple[int, ...] | None = None,  # noqa: ARG001
    *,
    seed: int = 0,
) -> Answer:
    """Minimise the costs with HiGHS, single-threaded; see :mod:`optalloc.assignment.cores`."""
    if not rows.allowed.any(axis=1).all():
        return Answer(is_complete=True)
    if len(rows.members) == 0:
        return Answer(placed=(), value=0, bound=0, is_complete=True)
    blocks, units = np.nonzero(rows.allowed)
    unit_cost = cost_unit(rows.costs)
    solver = solver_for(_model(rows, blocks, units, unit_cost), seed, unit_cost)
    best: tuple[int, ...] | None = None
    value: int | None = None
    bound: int | None = None
    nodes = 0

    def take(values: Any) -> None:
        nonlocal best, value
        chosen = np.asarray(values)[: len(blocks)] > 0.5
        placed = np.full(len(rows.members), -1, dtype=np.int64)
        placed[blocks[chosen]] = units[chosen]
        if int(chosen.sum()) != len(placed) or (placed < 0).any():
            return
        whole = checked(rows, placed.tolist())
        if whole is not None and (value is None or rows.value(whole) < value):
            best, value = whole, rows.value(whole)

    def believe(dual: float) -> None:
        nonlocal bound
        if math.isfinite(dual):
            known = whole_bound(dual, unit_cost)
            bound = known if bound is None else max(bound, known)

    def halt() -> bool:
        if enough is not None and value is not None and value <= enough:
            return True
        if enough is not None and bound is not None and bound > enough:
            return True
        return watch(nodes, value, bound)

    cancelled = threading.Event()

    def look(event: Any) -> None:
        nonlocal nodes
        nodes = max(nodes, int(event.data_out.mip_node_count))
        believe(event.data_out.mip_dual_bound)
        if cancelled.is_set():
            event.interrupt()

    def improving(event: Any) -> None:
        take(event.data_out.mip_solution)

    solver.cbMipImprovingSolution += improving
    solver.cbMipInterrupt += look
    # HiGHS holds the interpreter's main thread otherwise, and Ctrl-C would have to wait for it.
    worker = threading.Thread(target=solver.run, daemon=True)
    worker.start()
    try:
        worker.join(0.002)
        while worker.is_alive():
            if not cancelled.is_set() and halt():
                cancelled.set()
            worker.join(0.02)
    except KeyboardInterrupt:
        cancelled.set()
        worker.join()
        raise
    status = solver.getModelStatus()
    info = solver.getInfo()
    nodes = max(nodes, int(info.mip_node_count))
    if status == highspy.HighsModelStatus.kInfeasible:
        return Answer(is_complete=best is None, placed=best, value=value, nodes=nodes)
    if status == highspy.HighsModelStatus.kOptimal:
        take(solver.getSolution().col_value)
        believe(info.mip_dual_bound)
    done = False
    if value is not None and bound is not None:
        gap = max(0, value - bound)
        done = gap == 0 or (unit_cost > 1.0 and gap <= TOLERANCE * abs(value))
    if bound is not None and value is not None:
        bound = min(bound, value)
    return Answer(
        placed=best, value=value, bound=value if done else bound, is_complete=done, nodes=nodes
    )


def _model(rows: Rows, blocks: IntArray, units: IntArray, unit_cost: float) -> highspy.HighsLp:
    """Columns in the order of ``blocks`` and ``units`` of the allowed pairs; rows by row."""
    count, resources = len(blocks), rows.capacities.shape[0]
    column = np.full(rows.allowed.shape, -1, dtype=np.int64)
    column[blocks, units] = np.arange(count)
    parts: list[LinearRow] = []
    for block in range(len(rows.members)):
        mine = column[block][column[block] >= 0]
        parts.append((mine, np.ones(len(mine)), 1.0, 1.0))
    for resource in range(resources):
        for unit in range(rows.capacities.shape[1]):
            here = np.nonzero((column[:, unit] >= 0) & (rows.loads[resource, :, unit] > 0))[0]
            if len(here) == 0:
                continue
            capacity = int(rows.capacities[resource, unit])
            scale = max(1.0, capacity / LARGEST_CAPACITY)
            weights = rows.loads[resource, here, unit] / scale
            parts.append((column[here, unit], weights, -highspy.kHighsInf, capacity / scale))
    for group in rows.apart:
        for unit in range(rows.num_units):
            mine = column[list(group), unit]
            mine = mine[mine >= 0]
            if len(mine) > 1:
                parts.append((mine, np.ones(len(mine)), -highspy.kHighsInf, 1.0))
    lp = highspy.HighsLp()
    lp.num_col_ = count
    lp.col_cost_ = rows.costs[blocks, units] / unit_cost
    lp.col_lower_, lp.col_upper_ = np.zeros(count), np.ones(count)
    lp.integrality_ = [highspy.HighsVarType.kInteger] * count
    set_rows(lp, parts)
    return lp
