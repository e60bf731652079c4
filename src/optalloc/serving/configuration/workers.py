"""Workers of one phase: what prefill and decode workers can do, and which are no use.

Dominance of workers of equal devices on one group of nodes: a prefill worker that is no slower for
one prompt, in prompts a second, and sends no more, serves any partner no worse, for the time to the
first token grows with each; a decode worker with no larger ``tpot`` and no smaller rate (compared
at both ends of the range of the transfer: the difference is linear in it) too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from optalloc.cluster.topology import Cluster
from optalloc.serving.configuration.columns import Columns, Floats, Ints
from optalloc.serving.configuration.problem import Problem
from optalloc.serving.configuration.space import batches, chunks
from optalloc.serving.configuration.table import EngineTable


class Kind(NamedTuple):
    """Workers of equal devices on one group of nodes, with the same software and type of cache."""

    group: int
    devices: int
    software: str
    kv_dtype: str

    def alike(self, other: Kind) -> bool:
        """True if prefill workers of this kind may send to decode workers of the other."""
        return self[2:] == other[2:]


class Prefill(Columns, frozen=True, kw_only=True):
    """Prefill workers: ``prompt_s`` of one prompt, ``per_s`` prompts of one worker at most,
    ``bytes`` of a prompt's cache that one device sends, ``handover_s`` beside it; ``lag``,
    ``queue`` and ``burst`` of the cost model."""

    engine: Ints
    chunk: Ints
    prompt_s: Floats
    per_s: Floats
    bytes: Floats
    handover_s: Floats
    queue: Floats
    burst: Floats
    lag: Floats


class Decode(Columns, frozen=True, kw_only=True):
    """Decode workers: ``places`` sequences of one worker at ``tpot_s``."""

    engine: Ints
    batch: Ints
    places: Floats
    tpot_s: Floats


def prefill_workers(problem: Problem, table: EngineTable) -> Prefill:
    """Every prefill worker of the space that holds a prompt beside its weights."""
    work = problem.workload
    widths = np.array(chunks(problem.limits, "prefill"), np.int64)
    engine = np.repeat(np.arange(len(table)), len(widths))
    chunk = np.tile(widths, len(table))
    step = table.step(engine, chunk, np.ones(len(engine), np.int64))
    new = work.input_len - work.prefix_len
    fits = np.asarray(step.sequences_that_fit(work.input_len)) >= 1.0
    found = Prefill(
        engine=engine,
        chunk=chunk,
        prompt_s=np.asarray(step.prefill_s(new)),
        per_s=table.groups[engine] / np.asarray(step.prompt_interval_s(new)),
        bytes=np.asarray(step.work.kv_bytes * work.input_len + step.work.fixed_kv_bytes),
        handover_s=np.asarray(step.constants.handover_s),
        queue=np.asarray(step.constants.split_queue),
        burst=np.asarray(step.constants.split_burst),
        lag=np.asarray(step.constants.split_lag),
    )
    return found.take(fits)


def decode_workers(problem: Problem, table: EngineTable, sizes: tuple[int, ...] = ()) -> Decode:
    """Every decode worker of the space whose sequences fit.

    Only workspace depends on its chunk, so the smallest is taken.
    """
    work = problem.workload
    tried = np.array(sizes or batches(problem.limits, "decode"), np.int64)
    engine = np.repeat(np.arange(len(table)), len(tried))
    batch = np.tile(tried, len(table))
    step = table.step(engine, np.full(len(engine), decode_chunk(problem)), batch)
    fits = np.asarray(step.sequences_that_fit(work.input_len + work.output_len)) >= batch
    context = work.input_len + work.output_len / 2.0
    each = np.maximum(1.0, batch / step.work.pp)
    tpot = np.asarray(step.decode_s(each, context)) / step.tokens_per_step
    places = (batch * table.groups[engine]).astype(np.float64)
    found = Decode(engine=engine, batch=batch, places=places, tpot_s=tpot)
    return found.take(fits)


def decode_chunk(problem: Problem) -> int:
    """The chunk of decode workers: the smallest, which leaves most for the cache."""
    return chunks(problem.limits, "decode")[0]


def link_bytes_per_s(cluster: Cluster, first: int, second: int) -> float:
    """Bytes per second and device between workers of two groups: the slower of their networks, the
    link inside a node where that is all there is, and the link of zones where they differ."""
    a, b = cluster.nodes[first], cluster.nodes[second]
    if first == second:
        return a.outer_link.shared_bandwidth_bytes_per_s
    links = [a.network, b.network]
    if a.zone != b.zone and cluster.zone_link is not None:
        links.append(cluster.zone_link)
    return min(link.shared_bandwidth_bytes_per_s for link in links)


def undominated_prefill(workers: Prefill) -> Prefill:
    """Workers of equal devices and group less those that another is no worse than in everything.

    Complexity: O(n^2).
    """
    w = workers
    order = np.lexsort((w.bytes, -w.per_s, w.prompt_s))
    figures = np.stack([-w.per_s, w.bytes, w.handover_s, w.queue, w.burst, w.lag])[:, order]
    kept = [
        not (figures[:, :i] <= figures[:, i : i + 1]).all(axis=0).any() for i in range(len(order))
    ]
    return workers.take(order[np.array(kept, np.bool_)])


def undominated_decode(workers: Decode, output_len: int, most_move_s: float) -> Decode:
    """Workers of equal devices and group less those with no smaller tpot and no larger rate than
    another, at no transfer and at the longest one.

    Of those before in order of tpot, the one of the largest rate tells of most workers by itself.

    Complexity: O(n log n + n k) for k that it does not tell of.
    """
    busy = (output_len - 1.0) * workers.tpot_s
    rates = [workers.places / np.maximum(busy + move, 1e-12) for move in (0.0, most_move_s)]
    order = np.lexsort((-rates[1], -rates[0], workers.tpot_s))
    if not len(order):
        return workers
    one, other = (rate[order] for rate in rates)
    tops = [np.concatenate([[-np.inf], np.maximum.accumulate(r)[:-1]]) for r in (one, other)]
    kept = (one > tops[0]) | (other > tops[1])
    largest = np.maximum.accumulate(np.where(one > tops[0], np.arange(len(one)), 0))[:-1]
    beaten = np.zeros(len(one), np.bool_)
    beaten[1:] = (one[largest] >= one[1:]) & (other[largest] >= other[1:])
    for i in np.flatnonzero(~kept & ~beaten):
        kept[i] = not ((one[:i] >= one[i]) & (other[:i] >= other[i])).any()
    return workers.take(order[kept])


def kinds(table: EngineTable, engine: Ints) -> dict[Kind, Ints]:
    """The workers of each kind, by number."""
    found: dict[Kind, int] = {}
    which = np.zeros(len(table), np.int64)
    for number in np.unique(engine).tolist():
        one = table.engines[number]
        kind = Kind(
            int(table.group[number]), int(table.devices[number]), one.software, one.kv_dtype
        )
        which[number] = found.setdefault(kind, len(found))
    order = np.argsort(which[engine], kind="stable")
    ends = np.cumsum(np.bincount(which[engine], minlength=len(found)))
    return dict(zip(found, np.split(order, ends[:-1]), strict=True)) if found else {}
