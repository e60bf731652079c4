"""Tiny fleets and their optimum by trying all counts, with a feasibility test of its own."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import highspy
import numpy as np

from optalloc.serving.mix.problem import Bucket, FleetProblem, Limit, Offer, Redundancy

RULES: tuple[Redundancy, ...] = ("none", "replica", "replica-of-each", "region")


def tiny_fleet(seed: int, redundancy: Redundancy = "none") -> FleetProblem:
    """1 to 4 buckets and offers; caps, limits, spot and headroom bind often."""
    draw = random.Random(seed)
    count, num_offers = draw.randint(1, 4), draw.randint(1, 4)
    rates = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0]
    tables = [
        tuple(draw.choice(rates) for _ in range(count)) for _ in range(draw.randint(1, num_offers))
    ]
    offers = []
    for g in range(num_offers):
        least = draw.choice([0, 0, 0, 1])
        most = draw.choice([None, 1, 2, 4])
        offers.append(
            Offer(
                name=f"o{g}",
                device=draw.choice("ab"),
                devices=draw.choice([1, 1, 2]),
                region=draw.choice("xy"),
                price_usd_per_h=draw.choice([0.0, 0.5, 1.0, 1.01, 1.5, 2.3, 3.67]),
                interruption=draw.choice([0.0, 0.0, 0.1]),
                at_least=least,
                at_most=most,
                requests_per_s=draw.choice(tables),
            )
        )
    return FleetProblem(
        buckets=tuple(
            Bucket(
                input_len=j,
                output_len=1,
                rate_per_s=draw.choice([0.5, 1.0, 2.0, 3.0, 0.0][: 4 + (j > 0)]),
            )
            for j in range(count)
        ),
        offers=tuple(offers),
        limits=tuple(
            Limit(
                devices=draw.randint(1, 12),
                device=draw.choice([None, "a"]),
                region=draw.choice([None, "x"]),
            )
            for _ in range(draw.choice([0, 0, 1, 2]))
        ),
        utilization=draw.choice([1.0, 0.8, 0.5]),
        redundancy=redundancy,
        utilization_after_failure=draw.choice([None, 1.0]),
    )


def cheapest(problem: FleetProblem, most: int) -> float | None:
    """The least price over all counts up to ``most`` of each offer, None where none serves."""
    ranges = [
        range(o.at_least, (most if o.at_most is None else min(o.at_most, most)) + 1)
        for o in problem.offers
    ]
    price = [offer.price_usd_per_h for offer in problem.offers]
    for counts in sorted(itertools.product(*ranges), key=lambda c: float(np.dot(c, price))):
        devices = [n * o.devices for n, o in zip(counts, problem.offers, strict=True)]
        if all(
            sum(d for d, o in zip(devices, problem.offers, strict=True) if p.covers(o)) <= p.devices
            for p in problem.limits
        ) and all(_served(problem, left, share) for left, share in _futures(problem, counts)):
            return float(np.dot(counts, price))
    return None


def _futures(problem: FleetProblem, counts: Sequence[int]) -> list[tuple[list[int], float]]:
    """Counts left and utilization, in normal operation and after each failure."""
    share = problem.utilization_after_failure or problem.utilization
    found = [(list(counts), problem.utilization)]
    everyone = range(len(counts))
    if problem.redundancy == "replica":
        found += [
            ([n - (h == g) for h, n in enumerate(counts)], share) for g in everyone if counts[g]
        ]
    if problem.redundancy == "replica-of-each":
        found.append(([max(0, n - 1) for n in counts], share))
    if problem.redundancy == "region":
        for region in {offer.region for offer in problem.offers}:
            here = [offer.region == region for offer in problem.offers]
            found.append(([0 if gone else n for gone, n in zip(here, counts, strict=True)], share))
    return found


def _served(problem: FleetProblem, counts: Sequence[int], utilization: float) -> bool:
    """Whether all requests fit: the most requests/s that flow, by linear programming."""
    solver = highspy.Highs()
    for option, value in (("output_flag", False), ("threads", 1)):
        solver.setOptionValue(option, value)
    time = [
        utilization * (1.0 - o.interruption) * n
        for o, n in zip(problem.offers, counts, strict=True)
    ]
    num_buckets = len(problem.buckets)
    none = np.array([], dtype=np.int32)
    for bucket in problem.buckets:
        solver.addRow(-highspy.kHighsInf, bucket.rate_per_s, 0, none, np.array([]))
    for left in time:
        solver.addRow(-highspy.kHighsInf, left, 0, none, np.array([]))
    for j in range(num_buckets):
        for g, offer in enumerate(problem.offers):
            if offer.requests_per_s[j] > 0.0:
                rows = np.array([j, num_buckets + g], dtype=np.int32)
                used = np.array([1.0, 1.0 / offer.requests_per_s[j]])
                solver.addCol(-1.0, 0.0, highspy.kHighsInf, 2, rows, used)
    solver.run()
    wanted = sum(bucket.rate_per_s for bucket in problem.buckets)
    return wanted + float(solver.getInfo().objective_function_value) <= 1e-7
