"""How a fleet shares the load: the split whose busiest offer is least busy (HiGHS)."""

from __future__ import annotations

import highspy
import msgspec
import numpy as np
import numpy.typing as npt

from optalloc.assignment.milp import QuietHighs
from optalloc.serving.mix.problem import FleetProblem, Scenario


class Share(msgspec.Struct, frozen=True):
    """What part of a bucket an offer serves."""

    bucket: int
    offer: int
    part: float


class Routes(msgspec.Struct, frozen=True):
    """``busy`` is how busy the busiest offer is: 1 where all planned time of it is used.

    ``prices`` are what one second of each offer's planned time is worth, in parts of ``busy``.
    """

    busy: float
    shares: tuple[Share, ...]
    busy_by_offer: tuple[float, ...]
    prices: tuple[float, ...]


def replicas_left(
    problem: FleetProblem, counts: tuple[int, ...], scenario: Scenario
) -> list[float]:
    """Replicas' worth of planned time by offer in a scenario."""
    left = []
    lost = {g for g in scenario.each if counts[g]}
    lost.update([g for g in scenario.any if counts[g]][:1])
    for g, (offer, count) in enumerate(zip(problem.offers, counts, strict=True)):
        stays = 0 if g in scenario.whole else count - (g in lost)
        left.append(scenario.utilization * (1.0 - offer.interruption) * stays)
    return left


def route(problem: FleetProblem, counts: tuple[int, ...], scenario: Scenario) -> Routes:
    """Share the load so that the busiest offer is least busy.

    Offers of equal throughputs count as one in the linear programme (buckets x kinds columns) and
    get shares in proportion to their time. ``busy`` is infinite where some bucket has no server.
    """
    left = replicas_left(problem, counts, scenario)
    kinds: dict[tuple[float, ...], list[int]] = {}
    for g, offer in enumerate(problem.offers):
        if left[g] > 0.0:
            kinds.setdefault(offer.requests_per_s, []).append(g)
    rows = list(kinds)
    time = [sum(left[g] for g in kinds[row]) for row in rows]
    nothing = Routes(float("inf"), (), (0.0,) * len(counts), (0.0,) * len(counts))
    demanded = [j for j, bucket in enumerate(problem.buckets) if bucket.rate_per_s > 0.0]
    pairs = [(j, k) for j in demanded for k, row in enumerate(rows) if row[j] > 0.0]
    if len({j for j, _ in pairs}) < len(demanded):
        return nothing
    if not pairs:
        return Routes(0.0, (), (0.0,) * len(counts), (0.0,) * len(counts))
    busy, part, prices = _solve(problem, rows, time, demanded, pairs)
    shares, used = [], [0.0] * len(counts)
    for (j, k), x in zip(pairs, part.tolist(), strict=True):
        for g in kinds[rows[k]] if x > 0.0 else ():
            mine = x * left[g] / time[k]
            shares.append(Share(j, g, mine))
            used[g] += mine * problem.buckets[j].rate_per_s / rows[k][j]
    by_offer = [u / c if c > 0.0 else 0.0 for u, c in zip(used, left, strict=True)]
    priced = [0.0] * len(counts)
    for k, row in enumerate(rows):
        for g in kinds[row]:
            priced[g] = prices[k]
    return Routes(max(busy, *by_offer), tuple(shares), tuple(by_offer), tuple(priced))


def _solve(
    problem: FleetProblem,
    rows: list[tuple[float, ...]],
    time: list[float],
    demanded: list[int],
    pairs: list[tuple[int, int]],
) -> tuple[float, npt.NDArray[np.float64], list[float]]:
    """Minimise ``t`` with ``sum_j load_jk x_jk <= time_k t`` and ``sum_k x_jk = 1``."""
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = len(pairs) + 1, len(rows) + len(demanded)
    lp.col_cost_ = np.append(np.zeros(len(pairs)), 1.0)
    lp.col_lower_ = np.zeros(len(pairs) + 1)
    lp.col_upper_ = np.full(len(pairs) + 1, highspy.kHighsInf)
    lp.row_lower_ = np.append(np.full(len(rows), -highspy.kHighsInf), np.ones(len(demanded)))
    lp.row_upper_ = np.append(np.zeros(len(rows)), np.ones(len(demanded)))
    row_of = {j: len(rows) + i for i, j in enumerate(demanded)}
    index = np.array([[k, row_of[j]] for j, k in pairs], dtype=np.int32).ravel()
    load = [problem.buckets[j].rate_per_s / rows[k][j] / time[k] for j, k in pairs]
    value = np.column_stack([load, np.ones(len(pairs))]).ravel()
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    starts = np.append(np.arange(0, 2 * len(pairs) + 1, 2), 2 * len(pairs) + len(rows))
    lp.a_matrix_.start_ = starts.astype(np.int32)
    lp.a_matrix_.index_ = np.append(index, np.arange(len(rows), dtype=np.int32))
    lp.a_matrix_.value_ = np.append(value, -np.ones(len(rows)))
    solver = QuietHighs()
    solver.passModel(lp)
    for name in ("primal_feasibility_tolerance", "dual_feasibility_tolerance"):
        solver.setOptionValue(name, 1e-10)
    solver.run()
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        raise RuntimeError(f"the routing programme ended {solver.getModelStatus()}")
    solution = solver.getSolution()
    found = np.asarray(solution.col_value, dtype=np.float64)
    dual: list[float] = np.asarray(solution.row_dual, dtype=np.float64).tolist()
    part = np.clip(found[:-1], 0.0, 1.0)
    served: dict[int, float] = dict.fromkeys(demanded, 0.0)
    for (j, _), x in zip(pairs, part.tolist(), strict=True):
        served[j] += x
    part /= np.array([served[j] for j, _ in pairs])
    worth = [max(0.0, -dual[k]) / time[k] for k in range(len(rows))]
    return float(found[-1]), part, worth
