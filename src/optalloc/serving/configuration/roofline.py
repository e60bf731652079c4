"""Roofline: what no deployment of the space beats, known before any load is timed.

A request takes at least the time of its prompt alone and of its answer with one sequence alone,
P + A; an engine that holds at most h sequences answers at most h / A a second (h / P without
further tokens), for each place is taken for A at least. So with r_e those of engine e,

    throughput  <= O min( sum over groups of max n_e r_e,  Q / (P + A) )     latency  >= P + A
    price       >= USD_e / r_e,  devices  >= d_e, and for a rate R  >= R d_e / r_e,  R USD_e / r_e

each the best over the engines of any role that answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from optalloc.serving.configuration.columns import Floats, Ints
from optalloc.serving.configuration.problem import Problem
from optalloc.serving.configuration.space import batches, chunks
from optalloc.serving.configuration.table import EngineTable

_SAFE = 1.0 - 1e-9


class Alone(NamedTuple):
    """Engines of one role with one sequence: seconds of its prompt and of its answer, and the
    requests a second of one engine at most; those alone that hold a sequence."""

    table: EngineTable
    engine: Ints
    prompt_s: Floats
    answer_s: Floats
    per_s: Floats


def roofline(problem: Problem, tables: Mapping[str, EngineTable]) -> float | None:
    """What no deployment beats, in the unit of the objective; None where no engine holds a request.

    ``tables`` are those of the roles "serve", "prefill" and "decode" that the space has.

    Complexity: O(engines).
    """
    work = problem.workload
    roles = {role: _alone(problem, role, table) for role, table in tables.items() if len(table)}
    reads = [float(one.prompt_s.min()) for one in roles.values() if len(one.engine)]
    alone = [one for role, one in roles.items() if role != "prefill" and len(one.engine)]
    if not alone:
        return None
    least_s = min(reads) + min(float(one.answer_s.min()) for one in alone)
    if problem.objective == "latency":
        return least_s * _SAFE
    if problem.objective == "throughput":
        rate = _most_per_s(problem, alone)
        if work.concurrency is not None:
            rate = min(rate, work.concurrency / least_s)
        return rate * work.output_len / _SAFE
    spent = [
        one.table.devices[one.engine].astype(np.float64)
        if problem.objective == "devices"
        else one.table.usd_per_h[one.engine]
        for one in alone
    ]
    one_engine = min(float(cost.min()) for cost in spent)
    each = min(float((c / one.per_s).min()) for c, one in zip(spent, alone, strict=True))
    needed = max(one_engine, problem.asked_per_s * each)
    if problem.objective == "devices":
        return float(np.ceil(needed * _SAFE))
    paid = each if work.rate_per_s is None else needed / work.rate_per_s
    return paid / 3600.0 / work.output_len * 1e6 * _SAFE


def _alone(problem: Problem, role: str, table: EngineTable) -> Alone:
    work, engine = problem.workload, np.arange(len(table))
    widths = chunks(problem.limits, role)
    steps = [table.step(engine, np.full(len(table), c), np.full(len(table), 2**31)) for c in widths]
    tokens = work.input_len + (0 if role == "prefill" else work.output_len)
    room = np.max([np.asarray(step.sequences_that_fit(tokens)) for step in steps], axis=0)
    new = work.input_len - work.prefix_len
    prompt_s = np.min([np.asarray(step.prefill_s(new)) for step in steps], axis=0)
    one_s = np.asarray(steps[0].decode_s(1.0, work.input_len + work.output_len / 2.0))
    most = float(max(batches(problem.limits, role), default=0))
    if role == "serve" and work.concurrency is not None:
        most = float(max(most, work.concurrency))
    answer_s = (work.output_len - 1.0) * one_s / steps[0].tokens_per_step
    held = np.minimum(room, most) * table.groups
    held = held if work.concurrency is None else np.minimum(held, work.concurrency)
    fits = np.flatnonzero(room >= 1.0)
    slow = answer_s if work.output_len > 1 else prompt_s
    return Alone(table, fits, prompt_s[fits], answer_s[fits], (held / slow)[fits])


def _most_per_s(problem: Problem, alone: Sequence[Alone]) -> float:
    """Requests a second of all groups at most."""
    best = np.zeros(len(problem.cluster.nodes))
    for one in alone:
        rate = one.table.most[one.engine] * one.per_s
        np.maximum.at(best, one.table.group[one.engine], rate)
    return float(best.sum())
