"""Combine: which option of each group of nodes together carry the load, at the best value.

Formulation
-----------
An option is n equal engines of one row (:mod:`aggregated`) on its group g: rate n f, devices, money
and the time of a request. All engines run the same software; at most one option a group, and one in
all where the target has one kind of engine.

    no load          any groups                                                          (_used)
    rate R           sum of n f >= R / (1 - headroom); each carries a share by its rate  (_carried)
    requests Q       those of one group (_used); over several groups see :mod:`in_flight`

Why it is exact
---------------
*Rate.* The load is divisible, so only the sum of the rates counts. For devices and money the cost
of n engines is that of their devices, so of each size on a group the fastest row is enough; sums
over groups keep the pairs (cost, rate) that no other beats, which is enough for any further sum.
The least latency is the first, in order, up to which the fastest options together reach the rate;
the fewest devices are then chosen among options no slower.

*No load, one group.* For given groups the sums are smallest when each group takes its own best
option, the largest latency too; all sets of groups are tried. A ratio of sums (price) is found by
Dinkelbach's iteration: with price mu, the options that minimise ``cost - mu rate`` of each group;
mu falls to the optimum and the iteration is finite, for each step finds another of finitely many
combinations (W. Dinkelbach, Management Science 13, 1967).
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import msgspec
import numpy as np

from optalloc.serving.configuration.columns import Columns, Floats, Ints
from optalloc.serving.configuration.problem import OBJECTIVES, Problem
from optalloc.serving.configuration.rows import counts

_TIE = 1e-12


class Options(Columns, frozen=True, kw_only=True):
    """Rows with their number of engines and the requests in flight that these carry, where they are
    given; seconds, requests/s, USD/h."""

    row: Ints
    count: Ints
    flight: Ints
    group: Ints
    software: Ints
    devices: Ints
    rate_per_s: Floats
    ttft_s: Floats
    tpot_s: Floats
    request_s: Floats
    usd_per_h: Floats


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """The options that together carry the load, and what they do."""

    options: Options
    value: float
    devices: int
    rate_per_s: float

    def better(self, other: Deployment | None, less: bool) -> bool:
        """True if it is preferred: by value, then fewer devices, then more requests."""
        if other is None:
            return True
        sign = 1.0 if less else -1.0
        mine = (sign * self.value, self.devices, -self.rate_per_s)
        return mine < (sign * other.value, other.devices, -other.rate_per_s)


def choose(problem: Problem, options: Options) -> Deployment | None:
    """The best combination of options; None where none carries the load."""
    less = OBJECTIVES[problem.objective][1]
    several = len(problem.cluster.nodes) > 1
    combine = _carried if several and problem.workload.rate_per_s is not None else _used
    best: Deployment | None = None
    for software in np.unique(options.software):
        made = combine(problem, options.take(options.software == software))
        if made is not None and made.better(best, less):
            best = made
    return best


def deployment(problem: Problem, chosen: Options) -> Deployment:
    """These options together."""
    rate, devices = float(chosen.rate_per_s.sum()), int(chosen.devices.sum())
    served = problem.workload.rate_per_s if problem.objective == "price" else None
    return Deployment(
        options=chosen,
        value=problem.value(
            rate_per_s=rate if served is None else served,
            devices=devices,
            request_s=float(chosen.request_s.max()),
            usd_per_h=float(chosen.usd_per_h.sum()),
        ),
        devices=devices,
        rate_per_s=rate,
    )


def _used(problem: Problem, options: Options) -> Deployment | None:
    """The best over the groups that are used."""
    less = OBJECTIVES[problem.objective][1]
    cells = [np.flatnonzero(options.group == group) for group in np.unique(options.group)]
    best: Deployment | None = None
    mu = np.inf if problem.objective == "price" else 0.0
    while True:
        chosen = [_least(problem, options, found, mu) for found in cells]
        before = best
        for number in range(1, len(cells) + 1 if problem.several_kinds else 2):
            for used in itertools.combinations(chosen, number):
                made = deployment(problem, options.take(np.array(used)))
                if made.better(best, less):
                    best = made
        if problem.objective != "price" or best is None or best is before:
            return best
        mu = best.value


def _least(problem: Problem, options: Options, found: Ints, mu: float) -> int:
    """The option of one group with the least key; ties by devices, then requests."""
    o = options.take(found)
    work = problem.workload
    if problem.objective == "throughput":
        key = -o.rate_per_s
    elif problem.objective == "devices":
        key = o.devices.astype(np.float64)
    elif problem.objective == "latency":
        key = o.request_s
    elif work.rate_per_s is not None:
        key = o.usd_per_h
    elif np.isinf(mu):
        key = o.usd_per_h / o.rate_per_s
    else:
        key = o.usd_per_h - mu * o.rate_per_s * 3600.0 * work.output_len / 1e6
    return int(found[np.lexsort((-o.rate_per_s, o.devices, key))[0]])


# -- a rate over several groups


class _Sums(NamedTuple):
    """Combinations: the option of each group (-1: none), a row each, with cost and requests/s."""

    chosen: Ints
    cost: Floats
    rate: Floats


def _carried(problem: Problem, options: Options) -> Deployment | None:
    """The best combination whose rates add up to the one asked.

    Each option has the most engines of its row that the group holds.

    Complexity: O(m log m) for m options, and sorted products of the staircases of two groups, each
    no longer than the devices of its groups.
    """
    asked = problem.asked_per_s * (1.0 - _TIE)
    if problem.objective == "latency":
        options = options.take(options.request_s <= _least_latency(problem, options, asked))
    if problem.objective != "throughput":
        options = _numbers_of_fastest(problem, options)
    cost = {
        "throughput": -options.rate_per_s,
        "price": options.usd_per_h,
    }.get(problem.objective, options.devices.astype(np.float64))
    groups = len(problem.cluster.nodes)
    empty = _Sums(np.full((1, groups), -1, np.int64), np.zeros(1), np.zeros(1))
    sums = empty
    for group in range(groups):
        here = np.flatnonzero(options.group == group)
        before = sums if problem.several_kinds else empty
        i, j = (x.ravel() for x in np.indices((len(before.cost), len(here))))
        chosen = before.chosen[i]
        chosen[:, group] = here[j]
        added = _Sums(
            chosen, before.cost[i] + cost[here[j]], before.rate[i] + options.rate_per_s[here[j]]
        )
        sums = _undominated(
            _Sums(
                np.concatenate([sums.chosen, added.chosen]),
                np.concatenate([sums.cost, added.cost]),
                np.concatenate([sums.rate, added.rate]),
            )
        )
    fine = np.flatnonzero((sums.rate >= asked) & (sums.chosen >= 0).any(axis=1))
    if not len(fine):
        return None
    best = sums.chosen[fine[np.lexsort((-sums.rate[fine], sums.cost[fine]))[0]]]
    return deployment(problem, options.take(best[best >= 0]))


def _undominated(sums: _Sums) -> _Sums:
    """Those that no other is as cheap and as fast as, cheapest first."""
    order = np.lexsort((-sums.rate, sums.cost))
    rate = sums.rate[order]
    top = np.concatenate(([-np.inf], np.maximum.accumulate(rate)[:-1]))
    kept = order[rate > top]
    return _Sums(sums.chosen[kept], sums.cost[kept], sums.rate[kept])


def _least_latency(problem: Problem, options: Options, asked: float) -> float:
    """The least time of a request up to which the fastest options reach the rate; or infinite."""
    order = np.argsort(options.request_s, kind="stable")
    tops = [
        np.maximum.accumulate(np.where(options.group[order] == g, options.rate_per_s[order], 0.0))
        for g in range(len(problem.cluster.nodes))
    ]
    reach = np.sum(tops, axis=0) if problem.several_kinds else np.max(tops, axis=0)
    found = np.flatnonzero(reach >= asked)
    return float(options.request_s[order[found[0]]]) if len(found) else -np.inf


def _numbers_of_fastest(problem: Problem, options: Options) -> Options:
    """The fastest row of each size on each group, in every number that is allowed."""
    size = options.devices // np.maximum(1, options.count)
    order = np.lexsort((-options.rate_per_s / options.count, size, options.group))
    kinds = np.stack([options.group[order], size[order]])
    new = np.ones(len(order), np.bool_)
    new[1:] = (kinds[:, 1:] != kinds[:, :-1]).any(axis=0)
    best = order[new]
    numbers = [counts(problem, int(options.count[i])) for i in best]
    many = options.take(np.repeat(best, [len(n) for n in numbers]))
    count = np.array([n for one in numbers for n in one], np.int64)
    part = count / np.maximum(1, many.count)
    return msgspec.structs.replace(
        many,
        count=count,
        devices=many.devices // np.maximum(1, many.count) * count,
        rate_per_s=many.rate_per_s * part,
        usd_per_h=many.usd_per_h * part,
    )
