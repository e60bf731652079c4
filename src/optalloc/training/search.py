"""Exact search for training plans on a uniform cluster.

Formulation
-----------
Sets: meshes x in the space X (:mod:`optalloc.training.space`); stages i = 0..pp-1; layers e =
0..L-1. Variables: the mesh; cuts 0 = e_0 <= e_1 <= ... = L of the chain of layers; (a_i, b_i), the
layers of stage i recomputed whole and in their attention core.

    minimise   weight(x) * ( max_i ( end_i + tail_i ) + fixed )
    subject to end_i   the event time of the schedule with stage times F_i, B_i(a_i, b_i)
                       (native/training/waves.cpp)
               tail_i  gradient reduction and weight gathering that stay visible, optimizer
                       (stage.cpp, as the memory)
               states_i + max over time of held activations + max(logits, scratch) <= capacity

Why it is exact
---------------
1. Every shape has a bound of O(1) work; those it leaves are taken in its order and refined where
   further bounds leave something (bounds.py), until the next bound is not below the incumbent.
2. In a mesh, no operation that grows longer can end a longest path earlier, and the tail does not
   depend on recomputation. So with one chunk a stage the least extra time that fits is best and
   cuts alone are searched; with several, every choice that is not slower in each chunk than
   another.
3. Cuts are searched depth first under two path bounds of the fixed order of operations (`own_path`
   and `turn_path` in cuts.cpp) and an event simulation of the stages cut so far, behind which
   a micro-batch only takes the least time it can; tables over suffixes cut every branch that cannot
   end below a cap, and the cap rises until it admits a partition. What is left is evaluated by the
   event time itself.

Assumptions: the cost model is the truth, and ties within 1e-9 are equal. A mesh whose search is
long is put off and taken up again with more work; if that is stopped, the result says LIMIT and
gives the bound proven.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc import _native
from optalloc.cost.meshes import REAL_FIELDS, Meshes, MeshTables
from optalloc.cost.model import CostModel
from optalloc.interrupt import in_thread
from optalloc.result import Incumbent
from optalloc.stop import OnProgress, Progress, StopRule
from optalloc.training.bounds import (
    MeshFacts,
    ShapeFacts,
    StemFacts,
    memory_excludes,
    states_exclude,
)
from optalloc.training.found import Found, group_of, strategy_of
from optalloc.training.space import Space, joined
from optalloc.training.strategy import Strategy

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

SOLVED, MEMORY, STAGE_BOUND, SEARCH, LIMIT, MESH_BOUND = range(6)
PRUNED_NAMES = {
    MEMORY: "memory",
    STAGE_BOUND: "stage path bound",
    SEARCH: "cut search",
    MESH_BOUND: "mesh work bound",
}
# Operations of the event clock spent on one mesh before it is put off to a later round.
WORK_LIMITS = (100_000, 10_000_000, 1_000_000_000)
_BLOCKS = (32, 128, 512, 2048)  # shapes refined at once
_CALL = 256  # meshes handed over at once
# outcome, value, bound, leaves, layers of each chunk, recomputed whole, recomputed in their core
_Answer = tuple[int, float, float, int, list[int], list[int], list[int]]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a search knows when it ends.

    ``found`` holds the best plan of each of the leading combinations of degrees, best first;
    ``complete`` is True if every combination that reaches a value within the margin of the best is
    there with its best plan.
    ``bound`` is proven for the whole space. ``stopped`` is True if something below the best was
    left open.
    """

    found: tuple[Found, ...]
    bound: float | None
    configurations: int
    pruned: dict[str, int]
    nodes: int
    incumbents: tuple[Incumbent, ...]
    stopped: bool
    complete: bool = False


class Search:
    """One search over a space; ``run`` does it."""

    def __init__(
        self,
        cost: CostModel,
        space: Space,
        *,
        weight: Callable[[Ints], Array] | None = None,  # of one second, by number of devices
        leaders: int = 4,
        margin: float = 0.0,
        ceiling_s: float = np.inf,
    ) -> None:
        self.cost, self.space = cost, space
        self.weight = weight or (lambda num_devices: np.ones(num_devices.shape))
        self.num_leaders, self.margin, self.ceiling_s = leaders, margin, ceiling_s
        self.pruned: dict[str, int] = {}
        self.nodes = 0
        self.found: dict[int, Found] = {}
        self.incumbents: list[Incumbent] = []
        self.open: list[tuple[float, Meshes]] = []  # put off, with the bound proven so far
        self.floor = np.inf  # least bound of what was not looked at when the search was stopped
        self.cache = _native.ShapeCache()
        self.cancel = np.zeros(1, np.int32)
        self.begin = time.perf_counter()
        self.stop: StopRule | None = None
        self.on_progress: OnProgress | None = None

    def run(self, stop: StopRule | None = None, on_progress: OnProgress | None = None) -> Outcome:
        """Search the whole space, or until ``stop`` or the keyboard says so."""
        self.begin, self.stop, self.on_progress = time.perf_counter(), stop, on_progress
        weight = self.weight(np.arange(self.space.num_devices + 1))
        stems = StemFacts(self.cost, self.space, weight)
        self.floor = least = stems.floor
        try:
            self._seed(stems.seeds)
            self._sweep(*self._promising(stems))
            self.floor = np.inf
            for work_limit in WORK_LIMITS[1:]:
                self._take_up(work_limit)
        except _Stopped:
            pass
        except KeyboardInterrupt:  # between two calls: only the least bound is proven
            self.floor = least
        found = [self.found[group] for group, _ in self._leaders()]
        best = found[0].value if found else np.inf
        left = min([self.floor, *(b for b, _ in self.open)])
        bound = min(best, left)
        return Outcome(
            found=tuple(found),
            bound=bound if bound < np.inf else None,
            configurations=stems.configurations,
            pruned=dict(self.pruned),
            nodes=self.nodes,
            incumbents=tuple(self.incumbents),
            stopped=bound < best,
            complete=left > best * (1.0 + self.margin),
        )

    def _seed(self, shapes: Meshes) -> None:
        """A few promising meshes first: good incumbents let the bounds cut most of the rest."""
        sharded, _ = self.space.sharded(shapes)
        sharded = sharded.take(sharded.shard_group == 0)
        rules, fits = self._choices(sharded)
        which, rows = np.nonzero(fits & (np.array([v for _, v, _ in rules]) <= 2)[:, None])
        meshes = _scheduled(sharded, rules, which, rows)
        tables = self.cost.tables(meshes)
        kept = np.flatnonzero(~memory_excludes(self.cost, meshes, tables))
        known = MeshFacts(self.cost, sharded, self.cost.tables(sharded))
        bounds = known.bounds([rule[:2] for rule in rules])[which, rows]
        bounds *= self.weight(meshes.num_devices)
        kept = kept[np.argsort(bounds[kept], kind="stable")]
        counted, waiting = dict(self.pruned), self.open
        self._solve(meshes.take(kept), tables.take(kept), bounds[kept], WORK_LIMITS[0])
        self.pruned, self.open = counted, waiting  # the sweep meets these meshes again

    def _promising(self, stems: StemFacts) -> tuple[Meshes, Array, Ints]:
        """The shapes that bounds leave, in the order of their bounds, and their refinements."""
        shapes, bounds, counts, excluded = stems.promising(self._goal(), self.ceiling_s)
        for name, count in excluded.items():
            self._count(name, count)
        order = np.argsort(bounds, kind="stable")
        return shapes.take(order), bounds[order], counts[order]

    def _sweep(self, shapes: Meshes, bounds: Array, counts: Ints) -> None:
        """Every shape in the order of its bound, with little work for each mesh."""
        position, block = 0, 0
        weight = self.weight(shapes.num_devices)
        while position < len(shapes):
            self.floor = float(bounds[position])
            if self.floor >= self._goal():  # in ascending order
                self._count("schedule path bound", counts[position:].sum())
                return
            part = np.arange(position, min(position + _BLOCKS[block], len(shapes)))
            block = min(block + 1, len(_BLOCKS) - 1)
            inside = bounds[part] < self._goals(weight[part])
            self._count("schedule path bound", counts[part[~inside]].sum())
            self._refine(shapes.take(part[inside]), counts[part[inside]])
            position += len(part)
            self._report(float(bounds[position]) if position < len(shapes) else np.inf)

    def _refine(self, shapes: Meshes, counts: Ints) -> None:
        """All refinements of some shapes that bounds leave, in the order of their bounds."""
        weight = self.weight(shapes.num_devices)
        goals = self._goals(weight)
        rules, fits = self._choices(shapes)
        choices = sorted({(schedule, v) for schedule, v, _ in rules})
        same = [choices.index(rule[:2]) for rule in rules]  # recomputation has no bound of its own
        early = weight * ShapeFacts(self.cost, shapes).bounds(choices) < goals
        kept = fits & early[same]
        left = kept.sum(axis=0)  # schedules
        shardings = self.space.num_shardings(shapes)
        self._count("schedule path bound", (counts - left * shardings).sum())
        alive = np.flatnonzero(left)
        sharded, row = self.space.sharded(shapes.take(alive))
        row = alive[row]
        full = states_exclude(self.cost, sharded)
        self._count("memory", left[row[full]].sum())
        sharded, row = sharded.take(~full), row[~full]
        # Memory does not depend on the schedule: one table for all of them.
        tables = self.cost.tables(sharded)
        full = memory_excludes(self.cost, sharded, tables)
        self._count("memory", left[row[full]].sum())
        bounds = weight[row] * MeshFacts(self.cost, sharded, tables).bounds(choices)
        kept = kept[:, row] & ~full
        near = kept & (bounds < goals[row])[same]
        self._count("mesh work bound", kept.sum() - near.sum())
        which, rows = np.nonzero(near)
        meshes = _scheduled(sharded, rules, which, rows)
        bounds = bounds[np.array(same, np.intp)[which], rows]
        order = np.argsort(bounds, kind="stable")
        for k in range(0, len(order), _CALL):
            part = order[k : k + _CALL]
            some = meshes.take(part)
            own = tables.take(rows[part]).scheduled(some)
            self._solve(some, own, bounds[part], WORK_LIMITS[0])

    def _choices(self, shapes: Meshes) -> tuple[list[tuple[int, int, int]], NDArray[np.bool_]]:
        """Schedule, chunks and recomputation rule, and which shapes can have them, (rules, n)."""
        rules, rows = [], [np.zeros((0, len(shapes)), bool)]
        for schedule, v, rule, fits in self.space.schedules(shapes):
            if fits.any():
                rules.append((schedule, v, rule))
                rows.append(fits[None])
        return rules, np.concatenate(rows)

    def _take_up(self, work_limit: int) -> None:
        """Once more, with more work each, the meshes whose proof of not being best was put off."""
        waiting = sorted(self.open, key=lambda entry: entry[0])
        self.open = []
        for k, (bound, mesh) in enumerate(waiting):
            best = self._best()
            if best is not None and bound >= best * (1.0 + self.margin):
                self._count("cut search", len(waiting) - k)  # and so is every later one
                return
            if k % _CALL == 0:
                tables = self.cost.tables(joined([m for _, m in waiting[k : k + _CALL]]))
            try:
                own = tables.take(np.array([k % _CALL]))
                self._solve(mesh, own, np.array([bound]), work_limit)
                self._report(waiting[k + 1][0] if k + 1 < len(waiting) else np.inf)
            except _Stopped:
                self.open += waiting[k + 1 :]
                raise

    def _solve(self, meshes: Meshes, tables: MeshTables, bounds: Array, work_limit: int) -> None:
        """Hand meshes to the native search and keep what it finds."""
        groups = group_of(meshes)
        weights = self.weight(meshes.num_devices)
        leaders = self._leaders()
        tables.reals[:, REAL_FIELDS.index("bound")] = bounds
        tables.reals[:, REAL_FIELDS.index("weight")] = weights
        kernel = partial(
            _native.solve_meshes,
            tables.ints,
            tables.reals,
            tables.layers,
            groups,
            self.cost.sequence,
            self.cost.boundary,
            self.cache,
            [group for group, _ in leaders],
            [value for _, value in leaders],
            self.num_leaders,
            self.ceiling_s,
            self.margin,
            work_limit,
            self.cancel,
        )
        answers: list[_Answer] = in_thread(kernel, self.cancel, should_stop=self._should_stop)
        for k, (outcome, value, bound, leaves, layers, full, selective) in enumerate(answers):
            self.nodes += leaves
            if outcome in PRUNED_NAMES:
                self._count(PRUNED_NAMES[outcome], 1)
            if outcome == LIMIT:
                one = meshes.take(np.array([k]))
                self.open.append((max(bound, float(bounds[k])), one))
            if layers:
                self._keep(int(groups[k]), value, strategy_of(meshes, k, layers, full, selective))
        if self.cancel[0]:
            raise _Stopped

    def _keep(self, group: int, value: float, strategy: Strategy) -> None:
        if group in self.found and value >= self.found[group].value:
            return
        best = self._best()
        self.found[group] = Found(strategy=strategy, value=value)
        if best is None or value < best:
            elapsed = time.perf_counter() - self.begin
            self.incumbents.append(Incumbent(elapsed_s=elapsed, value=value))

    def _should_stop(self) -> bool:
        return self.stop is not None and self.stop(self._progress(None))

    def _progress(self, bound: float | None) -> Progress:
        return Progress(
            elapsed_s=time.perf_counter() - self.begin,
            incumbent=self._best(),
            bound=bound,
            nodes=self.nodes,
        )

    def _report(self, bound: float) -> None:
        """Tell the caller; raise if the search is to end."""
        best = self._best()
        bound = min([bound, *(b for b, _ in self.open), np.inf if best is None else best])
        progress = self._progress(bound if bound < np.inf else None)
        if self.on_progress is not None:
            self.on_progress(progress)
        if self.stop is not None and bound < np.inf and self.stop(progress):
            raise _Stopped

    def _best(self) -> float | None:
        return min((f.value for f in self.found.values()), default=None)

    def _leaders(self) -> list[tuple[int, float]]:
        """The best groups, and all that tie with the first: group and value."""
        ranked = sorted((f.value, group) for group, f in self.found.items())
        most = ranked[0][0] * (1.0 + self.margin) if ranked else 0.0
        num = self.num_leaders
        return [(group, v) for k, (v, group) in enumerate(ranked) if k < num or v <= most]

    def _goal(self) -> float:
        """Values at or above this are of no interest."""
        leaders, num = self._leaders(), self.num_leaders
        if len(leaders) < num:
            return np.inf
        return max(leaders[num - 1][1], leaders[0][1] * (1.0 + self.margin))

    def _goals(self, weight: Array) -> Array:
        """The same for each mesh, with the ceiling on the step time."""
        goals: Array = np.minimum(self._goal(), weight * self.ceiling_s)
        return goals

    def _count(self, name: str, count: int | np.integer) -> None:
        if count:
            self.pruned[name] = self.pruned.get(name, 0) + int(count)


def _scheduled(
    sharded: Meshes, rules: list[tuple[int, int, int]], which: Ints, rows: Ints
) -> Meshes:
    """The meshes of some rows with the rule (schedule, chunks, recomputation) of each."""
    columns = np.array(rules, np.int64).reshape(-1, 3)[which].T
    names = ("schedule", "virtual_stages", "recompute_rule")
    return msgspec.structs.replace(sharded.take(rows), **dict(zip(names, columns, strict=True)))


class _Stopped(Exception):
    """The stop rule or the keyboard ended the search."""
