"""Account: where each second of a step goes, down to the kind of operation and of exchange.

The causes are those of ``plan.breakdown_s``; each is split into parts by leaving things out of the
cost model one after another and taking the difference, so that the parts of a cause sum to it:

    compute          host floor, then each class of operations (see ``LayerGraph.op_class``)
    recompute        layers recomputed whole, attention cores
    data_parallel    what every pass waits for (ZeRO 2, 3), reduction, gathering, tied embedding
    pipeline_idle    transfers: the step less the step with links that take no time
                     imbalance: m (tau_max - tau) for stage times tau of one micro-batch, as far as
                     the stage waits; bubble: the rest (fill and drain)

All describe the stage that ends last; beside it stands the mean over the stages, each of which
has its own work, tail and waiting and the same step. Beside what an exchange adds to the step
(exposed) stands what computation hides of it: its whole length, from a cost model in which nothing
overlaps, less the exposed part.
"""

from __future__ import annotations

import copy
from collections import Counter
from functools import cached_property

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cost.meshes import LAYER_FIELDS, MeshTables
from optalloc.cost.model import CostModel
from optalloc.training.estimate import BREAKDOWN, last_stage, meshes_of
from optalloc.training.ledger import Ledger, Run
from optalloc.training.plan import TrainingPlan
from optalloc.training.strategy import Strategy

Array = NDArray[np.float64]
Free = tuple[str, ...]

_AXES = {"tp": "tensor_parallel", "cp": "context_parallel", "ep": "expert_parallel"}
# Class of operations -> part, in the order they are left out.
_CLASSES = {
    "projections": "attention_projections",
    "attention": "attention_core",
    "mlp": "mlp",
    "experts": "experts",
    "norms": "norms_and_sums",
    "embedding": "embedding",
    "head": "head_and_loss",
}
_UNNAMED = 1e-9  # of the step: a larger rest is shown as a part of its own
_LEAST = 1e-12  # of the step: less is the rounding of a difference


# Parts whose name alone would not be understood.
_WORDS = {
    "mlp": "MLP",
    "tensor_parallel": "tensor-parallel exchange",
    "context_parallel": "context-parallel exchange",
    "expert_parallel": "expert exchange",
    "sharding_in_passes": "sharding in every pass (ZeRO 2, 3)",
    "fixed": "input and fixed overhead",
    "host": "host (launch-bound)",
}


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One part of a cause: what it adds to the step, and what is hidden behind computation.

    ``time_s`` is that of the stage that ends last, ``mean_s`` the mean over the stages, of which
    each has the same step. ``hidden_s`` is None for what is no exchange.
    """

    name: str
    cause: str
    time_s: float
    share: float
    mean_s: float
    hidden_s: float | None = None


def account(cost: CostModel, plan: TrainingPlan) -> tuple[Part, ...]:
    """The parts of a plan's step; their times, and their means, sum to ``plan.step_time_s``.

    Parameters
    ----------
    cost : CostModel
        That of the plan's inputs.
    plan : TrainingPlan
        A plan whose figures are true (see :func:`optalloc.plan.edited.as_written`).

    Complexity: about twenty evaluations of one mesh, two of its schedule, O(pp) sums of layers.
    """
    book, plain = _Book(cost, plan.strategy), _Book(_without_overlap(cost), plan.strategy)
    rows: dict[str, Rows] = {
        "compute": [(name, s, None) for name, s in book.compute().items()],
        "recompute": [(name, s, None) for name, s in book.recompute().items()],
        "data_parallel": _hidden(book.data_parallel(), plain.data_parallel()),
        "pipeline_idle": book.idle(plan.breakdown_s.get("pipeline_idle", 0.0)),
    }
    whole, seen = plain.exchanges(("host",)), book.exchanges(())
    for name, seconds in seen.items():
        rows[name] = [(name, seconds, max(0.0, whole[name] - seconds))]
    means = book.means(plan.step_time_s - plan.breakdown_s.get("fixed", 0.0))
    parts = []
    causes = [name for name in BREAKDOWN if name in plan.breakdown_s]
    for cause in [*causes, *(name for name in plan.breakdown_s if name not in causes)]:
        seconds = plan.breakdown_s[cause]
        named = rows.get(cause, [(cause, seconds, None)])
        rest = seconds - sum(s for _, s, _ in named)
        if abs(rest) > _UNNAMED * plan.step_time_s:
            named = [*named, (f"other_{cause}", rest, None)]
        for name, time_s, hidden_s in named:
            mean_s = means.get(name, time_s)
            if max(time_s, mean_s, hidden_s or 0.0) > _LEAST * plan.step_time_s:
                parts.append(
                    Part(
                        name=name,
                        cause=cause,
                        time_s=time_s,
                        share=time_s / plan.step_time_s,
                        mean_s=mean_s,
                        hidden_s=hidden_s,
                    )
                )
    return tuple(parts)


Rows = list[tuple[str, float, float | None]]


def part_words(name: str) -> str:
    """A part of the account as people say it."""
    return _WORDS.get(name, name.replace("_", " "))


def _hidden(seen: dict[str, float], whole: dict[str, float]) -> Rows:
    return [(name, s, max(0.0, whole[name] - s)) for name, s in seen.items()]


def _without_overlap(cost: CostModel) -> CostModel:
    """The same cost model, but nothing runs behind anything else."""
    names = [name for name in cost.constants.__struct_fields__ if name.endswith("_overlap")]
    constants = msgspec.structs.replace(cost.constants, **dict.fromkeys(names, 0.0))
    return CostModel(cost.model, cost.cluster, cost.workload, constants=constants, name=cost.name)


class _Book:
    """One stage, at first the one that ends last, and the costs of its layers."""

    def __init__(self, cost: CostModel, strategy: Strategy) -> None:
        self.cost, self.strategy = cost, strategy
        self.meshes = meshes_of(strategy)
        self.tables: MeshTables = cost.tables(self.meshes)
        self.ledger = self._ledger(self.tables)
        self.runs = self.ledger.runs(strategy.layers_per_chunk)
        self.m = self.ledger.m
        self._open(last_stage(cost, strategy))

    def _open(self, stage: int) -> None:
        self.stage = stage
        self.mine: list[Run] = self.runs[stage :: self.strategy.pp]
        self.counts = self._counts()

    def means(self, ends_s: float) -> dict[str, float]:
        """Mean over the stages of each part, seconds; all wait until ``ends_s``."""
        total: Counter[str] = Counter()
        for stage in range(self.strategy.pp):
            book = copy.copy(self)
            book._open(stage)
            total.update(book.whole(ends_s))
        return {name: seconds / self.strategy.pp for name, seconds in total.items()}

    def whole(self, ends_s: float) -> dict[str, float]:
        """Every part of the stage but what is fixed, seconds; the rest up to ``ends_s`` is idle."""
        update_s = sum(
            self.ledger.total("update_s", number, run)
            for number, run in zip(self.ledger.stage_chunks(self.stage), self.mine, strict=True)
        )
        busy_s = self.m * self.busy_s[self.stage]
        idle_s = ends_s - busy_s - self.ledger.tail_s(self.stage, self.mine)
        return {
            **self.compute(),
            **self.exchanges(()),
            **self.recompute(),
            **self.data_parallel(),
            "optimizer": update_s,
            **{name: seconds for name, seconds, _ in self.idle(idle_s)},
        }

    def _ledger(self, tables: MeshTables) -> Ledger:
        return Ledger(tables, 0, self.cost.sequence, self.cost.boundary)

    def _counts(self) -> Array:
        """How often each layer type occurs in the stage, embedding and head among them."""
        counts = np.zeros(len(self.cost.graph.types))
        for number, (first, size) in zip(
            self.ledger.stage_chunks(self.stage), self.mine, strict=True
        ):
            counts += np.bincount(self.cost.sequence[first : first + size], minlength=len(counts))
            counts[0] += number == 0
            counts[-1] += number == self.ledger.num_chunks - 1
        return counts

    def work_s(self, free: Free) -> float:
        """Passes of all micro-batches through the stage, less what is free, seconds."""
        table, row = self.cost.layer_costs(self.meshes, free)
        k = int(row[0])
        each = table.forward_s[k] + table.backward_s[k] + table.weight_s[k]
        return self.m * float(self.counts @ each)

    def compute(self) -> dict[str, float]:
        """Computation by class of operation; what the host's floor adds comes last."""
        free: Free = tuple(_AXES)
        floored = self.work_s(free)
        free = (*free, "host")
        before = whole = self.work_s(free)
        parts = {}
        for name, part in _CLASSES.items():
            free = (*free, name)
            after = self.work_s(free)
            parts[part] = before - after
            before = after
        return parts | {"host": floored - whole}

    def exchanges(self, free: Free) -> dict[str, float]:
        """Exchanges inside the passes, by axis."""
        before, parts = self.work_s(free), {}
        for axis, name in _AXES.items():
            free = (*free, axis)
            after = self.work_s(free)
            parts[name] = before - after
            before = after
        return parts

    def recompute(self) -> dict[str, float]:
        rule = self.strategy.recompute[self.stage]
        whole = core = 0.0
        for run in self.mine:
            whole += self.ledger.part("extra_full_s", run, 0, rule.full)
            end = rule.full + rule.selective
            core += self.ledger.part("extra_selective_s", run, rule.full, end)
        return {"recomputed_layers": self.m * whole, "recomputed_attention": self.m * core}

    def data_parallel(self) -> dict[str, float]:
        """Replicas' exchanges: inside the passes, and behind the last one by kind."""
        passes = sum(
            self.ledger.total(field, number, run)
            for number, run in zip(self.ledger.stage_chunks(self.stage), self.mine, strict=True)
            for field in ("forward_s", "backward_s", "weight_s")
        )
        parts = {"sharding_in_passes": self.m * passes - self.work_s(())}
        tables, before = self.tables, self.ledger.tail_s(self.stage, self.mine)
        for name, field in (("gradient_reduction", "reduce_s"), ("weight_gathering", "gather_s")):
            layers = tables.layers.copy()
            layers[:, :, LAYER_FIELDS.index(field)] = 0.0
            tables = msgspec.structs.replace(tables, layers=layers)
            after = self._ledger(tables).tail_s(self.stage, self.mine)
            parts[name] = before - after
            before = after
        ledger = self._ledger(tables)
        ledger.real["tied_s"] = 0.0
        return parts | {"tied_embedding": before - ledger.tail_s(self.stage, self.mine)}

    def idle(self, idle_s: float) -> Rows:
        """Waiting of the stage: for transfers, for a slower stage, and for fill and drain."""
        if self.strategy.pp == 1:
            return [("bubble", idle_s, None)]
        ledger, mine = self.ledger, self.stage
        sent = min(max(0.0, self.late_s[mine]), max(0.0, idle_s))
        busy = self.busy_s
        slower = min(self.m * (max(busy) - busy[mine]), max(0.0, idle_s - sent))
        links = ledger.links_s(self.runs)
        own = ledger.stage_chunks(mine)
        length = sum(links[c] for c in own if c < len(links)) + sum(links[c - 1] for c in own if c)
        return [
            ("bubble", idle_s - sent - slower, None),
            ("imbalance", slower, None),
            ("pipeline_transfers", sent, max(0.0, self.m * length - sent)),
        ]

    @cached_property
    def late_s(self) -> list[float]:
        """How much later each stage ends because links take time, seconds."""
        still, rules = self._ledger(self.tables), self.strategy.recompute
        for name in ("latency_near_s", "latency_far_s", "transfer_near_s", "transfer_far_s"):
            still.real[name] = 0.0
        ends = self.ledger.ends_s(self.runs, rules), still.ends_s(self.runs, rules)
        return [late - early for late, early in zip(*ends, strict=True)]

    @cached_property
    def busy_s(self) -> list[float]:
        """One micro-batch on each stage, seconds."""
        return [self._busy_s(i) for i in range(self.strategy.pp)]

    def _busy_s(self, stage: int) -> float:
        """One micro-batch on a stage, seconds."""
        rule, mine = self.strategy.recompute[stage], self.runs[stage :: self.strategy.pp]
        total = 0.0
        for number, run in zip(self.ledger.stage_chunks(stage), mine, strict=True):
            total += self.ledger.total("forward_s", number, run)
            total += self.ledger.backward_s(number, run, rule)
            total += self.ledger.total("weight_s", number, run)
        return total
