"""Ledger: what the chunks and stages of one mesh cost, summed layer by layer.

The definition of the cost of a written configuration in its plainest form, from one row of
:class:`optalloc.cost.meshes.MeshTables`. The certifier and the enumeration read it; the search and
its kernels do not, and share no code with it.

A chunk is a run of layers; the embedding comes with the first chunk of the model, the head with the
last. Its first ``full`` layers are recomputed whole, the next ``selective`` ones in their attention
core.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import cast

import numpy as np
from numpy.typing import NDArray

from optalloc.cost.meshes import INT_FIELDS, LAYER_FIELDS, REAL_FIELDS, SCHEDULES, MeshTables
from optalloc.training.strategy import Recompute, Schedule
from optalloc.training.waves import stage_ends

Array = NDArray[np.float64]
Run = tuple[int, int]
"""First layer and number of layers of a chunk."""

_TAIL_FIELDS = ("reduce_s", "gather_s", "update_s", "forward_s", "backward_s", "weight_s")


class Ledger:
    """One mesh: ``row`` of the tables, the layer types of the chain and what crosses its cuts."""

    def __init__(
        self, tables: MeshTables, row: int, sequence: NDArray[np.int32], boundary: Array
    ) -> None:
        numbers = dict(zip(INT_FIELDS, tables.ints[row].tolist(), strict=True))
        self.schedule = cast(Schedule, SCHEDULES[numbers["schedule"]])
        self.pp, self.v = int(numbers["pp"]), int(numbers["virtual_stages"])
        self.m = int(numbers["num_microbatches"])
        self.rule = int(numbers["recompute_rule"])
        self.stage_devices = int(numbers["stage_devices"])
        self.domain_devices = int(numbers["domain_devices"])
        self.real: dict[str, float] = dict(
            zip(REAL_FIELDS, tables.reals[row].tolist(), strict=True)
        )
        self.boundary: list[float] = boundary.tolist()
        self.num_layers, self.num_chunks = len(sequence), self.pp * self.v
        by_type = dict(zip(LAYER_FIELDS, tables.layers[row].T, strict=True))
        self.layer: dict[str, list[float]] = {k: c[sequence].tolist() for k, c in by_type.items()}
        self.embedding = {k: float(c[0]) for k, c in by_type.items()}
        self.head = {k: float(c[-1]) for k, c in by_type.items()}

    # -- chunks ----------------------------------------------------------------------------------

    def total(self, field: str, chunk: int, run: Run) -> float:
        """Sum of a field over a chunk with its embedding and head."""
        first, size = run
        value = sum(self.layer[field][first : first + size])
        if chunk == 0:
            value += self.embedding[field]
        if chunk == self.num_chunks - 1:
            value += self.head[field]
        return value

    def part(self, field: str, run: Run, begin: int, end: int) -> float:
        """Sum of a field over the layers ``begin`` to ``end - 1`` of a run, as far as it goes."""
        first, size = run
        return sum(self.layer[field][first + min(begin, size) : first + min(end, size)])

    def backward_s(self, chunk: int, run: Run, rule: Recompute) -> float:
        """Input gradient of one micro-batch with what is recomputed for it, seconds."""
        cut = rule.full + rule.selective
        again = self.part("extra_full_s", run, 0, rule.full)
        again += self.part("extra_selective_s", run, rule.full, cut)
        return self.total("backward_s", chunk, run) + again

    def waiting_bytes(self, chunk: int, run: Run, rule: Recompute) -> float:
        """Activations that one micro-batch keeps until its backward."""
        cut, size = rule.full + rule.selective, run[1]
        kept = self.part("held_full_bytes", run, 0, rule.full)
        kept += self.part("held_selective_bytes", run, rule.full, cut)
        kept += self.part("held_bytes", run, cut, size)
        return kept + self.total("held_bytes", chunk, (run[0], 0))

    def scratch_bytes(self, run: Run, rule: Recompute) -> float:
        """The largest working set of a layer while it is recomputed."""
        first, size = run
        full, cut = min(rule.full, size), min(rule.full + rule.selective, size)
        whole = self.layer["scratch_full_bytes"][first : first + full]
        core = self.layer["scratch_selective_bytes"][first + full : first + cut]
        return max([0.0, *whole, *core])

    def link_s(self, chunk: int, layers_done: int) -> float:
        """From a chunk to the next, seconds.

        Devices are numbered stage by stage; two stages are near where all their devices lie in one
        domain.
        """
        pair = (chunk % self.pp, (chunk + 1) % self.pp)
        first = min(pair) * self.stage_devices
        last = (max(pair) + 1) * self.stage_devices - 1
        near = first // self.domain_devices == last // self.domain_devices
        where = "near" if near else "far"
        sent = self.boundary[layers_done] * self.real[f"transfer_{where}_s"]
        return self.real[f"latency_{where}_s"] + sent

    # -- stages ----------------------------------------------------------------------------------

    def stage_chunks(self, stage: int) -> range:
        return range(stage, self.num_chunks, self.pp)

    def stage_bytes(self, stage: int, runs: Sequence[Run], rule: Recompute) -> float:
        """Memory of one device of a stage at its fullest moment, bytes; ``runs`` are its chunks."""
        numbers = self.stage_chunks(stage)
        pairs = list(zip(numbers, runs, strict=True))
        waiting = [self.waiting_bytes(c, run, rule) for c, run in pairs]
        split = [self.total("held_bytes", c, run) for c, run in pairs]
        held = moments(self.schedule, self.pp, self.v, self.m, stage) @ np.array(waiting + split)
        state = sum(self.total("state_bytes", c, run) for c, run in pairs)
        logits = self.real["logits_bytes"] if stage == self.pp - 1 else 0.0
        scratch = max(self.scratch_bytes(run, rule) for run in runs)
        # The logits are gone before the first layer is recomputed.
        return state + float(held.max()) + max(logits, scratch)

    def tail_s(self, stage: int, runs: Sequence[Run]) -> float:
        """What follows the last operation of a stage, seconds.

        One micro-batch's backwards, without what they recompute, hide gradient reduction, and its
        forwards hide weight gathering.
        """
        pairs = list(zip(self.stage_chunks(stage), runs, strict=True))
        sums = {name: sum(self.total(name, c, run) for c, run in pairs) for name in _TAIL_FIELDS}
        overlap = self.real["overlap"]
        hiding = overlap * (sums["backward_s"] + sums["weight_s"])
        tail = max(0.0, sums["reduce_s"] - hiding)
        tail += max(0.0, sums["gather_s"] - overlap * sums["forward_s"]) + sums["update_s"]
        ends = self.pp > 1 and stage in (0, self.pp - 1)
        return tail + (self.real["tied_s"] if ends else 0.0)

    # -- the whole mesh --------------------------------------------------------------------------

    def runs(self, layers_per_chunk: Sequence[int]) -> list[Run]:
        """Chunks one after another in model order."""
        ends = np.cumsum([0, *layers_per_chunk]).tolist()
        return [(first, size) for first, size in zip(ends, layers_per_chunk, strict=False)]

    def links_s(self, runs: Sequence[Run]) -> list[float]:
        return [self.link_s(c, first + size) for c, (first, size) in enumerate(runs[:-1])]

    def step_s(self, layers_per_chunk: Sequence[int], rules: Sequence[Recompute]) -> float:
        """Step time without the fixed part, seconds: the last stage to end with its tail."""
        runs = self.runs(layers_per_chunk)
        ends = self.ends_s(runs, rules)
        tails = [self.tail_s(i, runs[i :: self.pp]) for i in range(self.pp)]
        return max(end + tail for end, tail in zip(ends, tails, strict=True))

    def ends_s(self, runs: Sequence[Run], rules: Sequence[Recompute]) -> list[float]:
        """End of the last operation of each stage, seconds."""
        pairs = list(enumerate(runs))
        times = [
            [self.total("forward_s", c, run) for c, run in pairs],
            [self.backward_s(c, run, rules[c % self.pp]) for c, run in pairs],
            [self.total("weight_s", c, run) for c, run in pairs],
            self.links_s(runs),
        ]
        columns = [np.array(column, np.float64) for column in times]
        ends: list[float] = stage_ends(self.schedule, self.pp, self.m, *columns).tolist()
        return ends


@lru_cache(maxsize=4096)
def moments(
    schedule: Schedule, num_stages: int, chunks_per_stage: int, num_microbatches: int, stage: int
) -> NDArray[np.int64]:
    """How many micro-batches a stage holds of each of its chunks, shape (moments, 2 v).

    First those that wait for their backward, chunk by chunk, then those between the gradients of
    inputs and of weights. Every moment of the step is at most one of these in all columns, and each
    occurs. They follow from the depth that a stage keeps (see :mod:`optalloc.training.schedule`):
    GPipe holds all, 1F1B as many as it runs ahead.
    """
    p, v, m = num_stages, chunks_per_stage, num_microbatches
    if schedule == "interleaved":
        return _interleaved_moments(p, v, min(m, 4 * p), stage)
    if schedule != "zb-h1":
        return np.array([[m if schedule == "gpipe" else min(m, p - stage), 0]])
    # Behind e backwards: with forwards filled up and weight gradients done, and just before that.
    # Between the first p backwards and the last p nothing changes.
    m = min(m, 2 * p)
    e = np.arange(m + 1)
    after = np.stack([np.minimum(m - e, p - stage), np.minimum(e, stage)])
    before = np.stack([np.minimum(m - e, p - stage - 1), np.minimum(e, stage + 1)])[:, 1:]
    rows = np.concatenate([after, before], axis=1).T
    _, first = np.unique(rows[:, 0] * (m + 1) + rows[:, 1], return_index=True)
    return rows[first]


def _interleaved_moments(p: int, v: int, m: int, stage: int) -> NDArray[np.int64]:
    """Just before each backward; beyond four micro-batches a stage the moments repeat."""
    turns, total = np.arange(v), m * v

    def begun(count: NDArray[np.int64]) -> NDArray[np.int64]:
        """Micro-batches of each turn among the first operations of one kind."""
        groups, rest = np.divmod(count[:, None], p * v)
        return groups * p + np.clip(rest - turns * p, 0, p)

    ended = np.arange(total)
    ahead = 2 * (p - stage - 1) + (v - 1) * p + 1
    waiting = begun(np.minimum(total, ended + ahead)) - begun(ended)[:, ::-1]
    return _distinct(np.concatenate([waiting, np.zeros_like(waiting)], axis=1))


def _distinct(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each row once, in the order of the first of its kind."""
    data, size = rows.tobytes(), rows.itemsize * rows.shape[1]
    kept = dict.fromkeys(data[k : k + size] for k in range(0, len(data), size))
    return np.frombuffer(b"".join(kept), rows.dtype).reshape(-1, rows.shape[1])
