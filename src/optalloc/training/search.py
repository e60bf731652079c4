"""Exact search for training plans on a uniform cluster.

Formulation
-----------
Sets: meshes x in the space X (:mod:`optalloc.training.space`); stages i = 0..pp-1; layers e = 0..L-1.
Variables: the mesh; cuts 0 = e_0 <= e_1 <= ... = L of the chain of layers; (a_i, b_i), the layers of stage i
recomputed whole and in their attention core.

    minimise   weight(x) * ( max_i ( end_i + tail_i ) + fixed )
    subject to end_i   the event time of the schedule with stage times F_i, B_i(a_i, b_i)     pipeline.cpp
               tail_i  gradient reduction and weight gathering that stay visible, optimizer   partition.cpp
               states_i + max over time of held activations + logits + scratch <= capacity    partition.cpp

Why it is exact
---------------
1. Meshes are sorted by a bound of O(1) work (`mesh_bounds`) and the search ends when the next bound is not
   below the incumbent.
2. In a mesh, the least extra time that fits is the best recomputation of a stage, because no operation that
   grows longer can end a longest path earlier. So cuts alone are searched.
3. Cuts are searched depth first under two path bounds of the fixed order of operations (`own_path` and
   `turn_path` in partition.cpp); tables over suffixes cut every branch that cannot end below the incumbent.
   What is left is evaluated by the event time itself.

Assumptions: the cost model is the truth, ties within 1e-9 are equal, and no mesh met its leaf limit (then the
result says LIMIT and gives the bound that was proven).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc import _native
from optalloc.cost.model import REAL_FIELDS, SCHEDULES, CostModel, Meshes, MeshTables
from optalloc.result import Incumbent
from optalloc.stop import OnProgress, Progress, StopRule
from optalloc.training.space import GPIPE, INTERLEAVED, ZB_H1, Space
from optalloc.training.strategy import Recompute, Strategy

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

SOLVED, MEMORY, STAGE_BOUND, SEARCH, LIMIT, MESH_BOUND = range(6)
PRUNED_NAMES = {
    MEMORY: "memory",
    STAGE_BOUND: "stage path bound",
    SEARCH: "cut search",
    MESH_BOUND: "mesh work bound",
}
# Operations of the event clock spent on one mesh before it is put off; later rounds take them up again.
WORK_LIMITS = (1_000_000, 30_000_000, 1_000_000_000)
_BLOCKS = (32, 128, 512, 2048)  # shapes refined at once
_CALL = 256  # meshes handed over at once
_POLL_S = 0.05
_SEEDS = 24
# outcome, value, bound, leaves, layers of each chunk, recomputed whole, recomputed in their core
_Answer = tuple[int, float, float, int, list[int], list[int], list[int]]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One solved mesh: the strategy and its value in the unit of the objective."""

    strategy: Strategy
    value: float


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a search knows when it ends.

    ``found`` holds the best plan of each of the leading combinations of degrees, best first. ``bound`` is
    proven for the whole space. ``stopped`` is True if a stop rule ended the search.
    """

    found: tuple[Found, ...]
    bound: float | None
    configurations: int
    pruned: dict[str, int]
    nodes: int
    incumbents: tuple[Incumbent, ...]
    stopped: bool


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """One micro-batch over all stages without recomputation, and the least of one layer; arrays, seconds.

    ``link_s`` is one crossing of the nearest kind of boundary.
    """

    forward_s: Array
    backward_s: Array
    weight_s: Array
    least_forward_s: Array
    least_backward_s: Array
    least_weight_s: Array
    link_s: Array

    @staticmethod
    def of(cost: CostModel, parts: tuple[Array, Array, Array], link_s: Array) -> Work:
        """From times by layer type, shape (n, types)."""
        total = [part @ cost.type_counts for part in parts]
        least = [part[:, 1:-1].min(axis=1) for part in parts]
        return Work(
            forward_s=total[0],
            backward_s=total[1],
            weight_s=total[2],
            least_forward_s=least[0],
            least_backward_s=least[1],
            least_weight_s=least[2],
            link_s=link_s,
        )

    @property
    def total_s(self) -> Array:
        return self.forward_s + self.backward_s + self.weight_s


def path_bounds(work: Work, schedule: Ints, v: Ints, pp: Ints, m: Ints, layers: int) -> Array:
    """A lower bound of the pipeline's time from paths every schedule has; seconds, O(1) each.

    Let S be the work of one micro-batch and R its way down and back over all links.

    - Stage i does m times its own work: T >= m S / pp, and T >= m n t for the stage with the most layers,
      n >= ceil(layers / pp), each at least t.
    - One chunk a stage, undivided backward: own work behind that of all earlier stages gives
      S <= T (1 - (1 - 1/m)^pp). The round trip with the stage's other work gives T >= R + c_i . work_i with
      c = m - w_i forwards, m - 1 input gradients and at least m - pp weight gradients, w_i <= min(m, pp);
      that holds for the mean stage and for the one with the most layers.
    - Several chunks: before stage i starts, the first chunks of the earlier stages ran, and after it their
      backwards; those but the first hold at least q layers, q = ceil(layers / (pp v)), or one where all cuts
      are tried. The mean over the stages and the last middle stage, which has v q layers, are bounds.
    """
    mf, stages = m.astype(np.float64), pp.astype(np.float64)
    least = work.least_forward_s + work.least_backward_s + work.least_weight_s
    fullest = np.ceil(layers / stages)
    bound = mf * np.maximum(work.total_s / stages, fullest * least)
    split = schedule == ZB_H1
    back = work.forward_s + work.backward_s + np.where(split, 0.0, work.weight_s)
    around = back + 2.0 * (stages - 1.0) * work.link_s
    warm = np.where(schedule == GPIPE, 1.0, np.minimum(mf, stages))
    late = np.where(split, np.minimum(mf, stages), 1.0)
    turns = [
        (mf - warm) * forward + (mf - 1.0) * backward + (mf - late) * weight
        for forward, backward, weight in (
            (work.forward_s / stages, work.backward_s / stages, work.weight_s / stages),
            (
                fullest * work.least_forward_s,
                fullest * work.least_backward_s,
                fullest * work.least_weight_s,
            ),
        )
    ]
    single = np.maximum(bound, around + np.maximum(turns[0], turns[1]))
    paths = work.total_s / (1.0 - (1.0 - 1.0 / mf) ** stages)
    single = np.where(split, single, np.maximum(single, paths))
    # Interleaved.
    chunks = stages * v
    every_cut = _few_cuts(layers, pp, v)
    q = np.where(every_cut, 1.0, np.ceil(layers / chunks))
    step = q * least + 2.0 * work.link_s
    sums = (stages - 1.0) * (stages - 2.0) / 2.0 * step
    several = np.maximum(bound, (mf * work.total_s + sums) / stages)
    middle = mf * v * q * least + np.maximum(0.0, stages - 3.0) * step
    several = np.where(stages >= 3, np.maximum(several, middle), several)
    result: Array = np.where(schedule == INTERLEAVED, several, single)
    return result


def _few_cuts(layers: int, pp: Ints, v: Ints) -> NDArray[np.bool_]:
    """Where the native search tries all interleaved cuts; may say True too often, never too rarely."""
    few: NDArray[np.bool_] = layers - pp * v + 2 <= 2
    small: NDArray[np.bool_] = (layers - 1.0) ** 3 / 6.0 <= 1001.0 + 0.0 * (pp * v)
    return few | small


def mesh_bounds(cost: CostModel, meshes: Meshes, tables: MeshTables) -> Array:
    """A lower bound of the step time of every mesh, seconds; O(types) each.

    The paths of :func:`path_bounds`, and the mean over the stages of work and tail,

        T >= ( m S + sum tails ) / pp,     sum tails >= updates + max(0, reductions - overlap * backward) + ...

    (a maximum of sums is at least the sum's maximum with zero). Recomputation only adds: each extra second
    adds m seconds of work and hides at most one second of reduction.
    """
    counts = cost.type_counts
    m = cost.num_microbatches(meshes)
    parts = (tables.field("forward_s"), tables.field("backward_s"), tables.field("weight_s"))
    work = Work.of(cost, parts, tables.real("latency_near_s") + tables.real("transfer_near_s"))
    overlap = tables.real("overlap")
    backward = work.backward_s + work.weight_s
    tails = tables.field("update_s") @ counts
    tails = tails + np.maximum(0.0, tables.field("reduce_s") @ counts - overlap * backward)
    tails = tails + np.maximum(0.0, tables.field("gather_s") @ counts - overlap * work.forward_s)
    bound = path_bounds(work, meshes.schedule, meshes.virtual_stages, meshes.pp, m, cost.num_layers)
    mean = (m * work.total_s + tails) / meshes.pp
    return np.maximum(bound, mean) + tables.real("fixed_s")


def memory_excludes(cost: CostModel, meshes: Meshes, tables: MeshTables) -> NDArray[np.bool_]:
    """Meshes whose states and smallest activations exceed the memory of all their stages together.

    Every stage holds at least one micro-batch of its layers, at best recomputed whole.
    """
    counts = cost.type_counts
    least = tables.field("state_bytes") @ counts
    least = least + np.minimum(tables.field("held_full_bytes"), tables.field("held_bytes")) @ counts
    excluded: NDArray[np.bool_] = least + tables.real("logits_bytes") > (
        meshes.pp * tables.real("capacity_bytes")
    )
    return excluded


class ShapeFacts:
    """What holds for every refinement of each shape: work, least memory, and a guess of the step time."""

    def __init__(self, cost: CostModel, shapes: Meshes) -> None:
        self.cost, self.shapes = cost, shapes
        self.m = cost.num_microbatches(shapes)
        self.table, self.row = cost.layer_costs(shapes)
        table = self.table
        near = np.full(len(table.forward_s), cost.network.levels[0].latency_s)
        self.by_key = Work.of(cost, (table.forward_s, table.backward_s, table.weight_s), near)

    def work(self, rows: Ints | slice = slice(None)) -> Work:
        """Times of some shapes."""
        index = self.row[rows]
        return Work(**{name: getattr(self.by_key, name)[index] for name in Work.__struct_fields__})

    def bounds(self, schedule: int, v: int, rows: Ints) -> Array:
        """A bound of the step time of some shapes with this schedule, seconds."""
        pp = self.shapes.pp[rows]
        full = np.ones_like(pp)
        paths = path_bounds(
            self.work(rows), schedule * full, v * full, pp, self.m[rows], self.cost.num_layers
        )
        return paths + self.cost.constants.fixed_s

    def least(self) -> Array:
        """A bound over all schedules, seconds."""
        key = self.by_key
        one = (key.least_forward_s + key.least_backward_s + key.least_weight_s)[self.row]
        layers = np.ceil(self.cost.num_layers / self.shapes.pp)
        most = np.maximum(key.total_s[self.row] / self.shapes.pp, layers * one)
        bound: Array = self.m * most + self.cost.constants.fixed_s
        return bound

    def memory(self) -> tuple[NDArray[np.bool_], Array]:
        """Which shapes fit in no refinement, and an estimate of the step time of the others, seconds.

        The estimate takes equal stages under 1F1B with sharded optimizer states, everything stored or
        everything recomputed, and is infinite where that does not fit. It orders the search and proves nothing.
        """
        cost, shapes, table, row = self.cost, self.shapes, self.table, self.row
        counts = cost.type_counts
        group = (shapes.dp * shapes.cp).astype(np.float64)
        spread = np.maximum(1.0, shapes.tp * group / shapes.ep)
        dense, expert = (
            (table.dense_parameters @ counts)[row],
            (table.expert_parameters @ counts)[row],
        )
        held = (table.held_bytes @ counts)[row]
        short = (np.minimum(table.input_bytes, table.held_bytes) @ counts)[row]
        again = (table.forward_s[:, 1:-1] @ counts[1:-1])[row]
        per = cost.states
        tied = cost.graph.tied_parameters / shapes.tp
        sharded = per.weights + per.gradients + per.optimizer
        least = (dense - tied) * sharded / group + expert * sharded / spread + short
        room = (cost.device.memory_bytes - cost.constants.workspace_bytes) * shapes.pp
        states = dense * (per.weights + per.gradients + per.optimizer / group)
        states += expert * (per.weights + per.gradients + per.optimizer / spread)
        flying = np.minimum(self.m, shapes.pp)
        steps = (self.m + shapes.pp - 1.0) / shapes.pp
        work = self.by_key.total_s[row]
        guess = np.where(
            states + flying * held <= room,
            steps * work,
            np.where(states + flying * short <= room, steps * (work + again), np.inf),
        )
        return least > room, guess


class Search:
    """One search over a space; ``run`` does it."""

    def __init__(
        self,
        cost: CostModel,
        space: Space,
        *,
        weight: Callable[[Meshes], Array] | None = None,
        leaders: int = 4,
        ceiling_s: float = np.inf,
    ) -> None:
        self.cost, self.space = cost, space
        self.weight = weight or (lambda meshes: np.ones(len(meshes)))
        self.num_leaders, self.ceiling_s = leaders, ceiling_s
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
        shapes = self.space.shapes()
        configurations = self.space.count(shapes)
        facts = ShapeFacts(self.cost, shapes)
        weight = self.weight(shapes)
        bounds = weight * facts.least()
        too_large, guess = facts.memory()
        self._count("memory", self.space.count(shapes.take(too_large)))
        try:
            self._seed(shapes, np.where(too_large, np.inf, weight * guess))
            late = ~too_large & (bounds >= self._goals(weight))
            self._count("shape work bound", self.space.count(shapes.take(late)))
            order = np.flatnonzero(~too_large & ~late)
            order = order[np.argsort(bounds[order], kind="stable")]
            self._sweep(shapes.take(order), bounds[order])
            for work_limit in WORK_LIMITS[1:]:
                self._take_up(work_limit)
        except _Stopped:
            pass
        found = sorted(self.found.values(), key=lambda f: f.value)[: self.num_leaders]
        best = found[0].value if found else np.inf
        bound = min([best, self.floor, *(b for b, _ in self.open)])
        return Outcome(
            found=tuple(found),
            bound=bound if bound < np.inf else None,
            configurations=configurations,
            pruned=dict(self.pruned),
            nodes=self.nodes,
            incumbents=tuple(self.incumbents),
            stopped=bound < best,
        )

    def _seed(self, shapes: Meshes, guess: Array) -> None:
        """A few promising meshes first: good incumbents let the bounds cut most of the rest."""
        if len(shapes) < _SEEDS:
            return
        best = np.sort(np.argpartition(guess, _SEEDS - 1)[:_SEEDS])
        meshes = self.space.refine(shapes.take(best[np.isfinite(guess[best])]))
        if len(meshes) == 0:
            return
        meshes = meshes.take((meshes.virtual_stages <= 2) & (meshes.shard_group == 0))
        tables = self.cost.tables(meshes)
        kept = np.flatnonzero(~memory_excludes(self.cost, meshes, tables))
        bounds = self.weight(meshes) * mesh_bounds(self.cost, meshes, tables)
        kept = kept[np.argsort(bounds[kept], kind="stable")]
        counted, waiting = dict(self.pruned), self.open
        self._solve(meshes.take(kept), tables.take(kept), bounds[kept], WORK_LIMITS[0])
        self.pruned, self.open = counted, waiting  # the sweep meets these meshes again

    def _sweep(self, shapes: Meshes, bounds: Array) -> None:
        """Every shape in the order of its bound, with little work for each mesh."""
        position, block = 0, 0
        weight = self.weight(shapes)
        while position < len(shapes):
            if bounds[position] >= self._goal():  # in ascending order
                rest = shapes.take(np.arange(position, len(shapes)))
                self._count("shape work bound", self.space.count(rest))
                return
            part = np.arange(position, min(position + _BLOCKS[block], len(shapes)))
            block = min(block + 1, len(_BLOCKS) - 1)
            inside = bounds[part] < self._goals(weight[part])
            if not inside.all():
                beyond = self.space.count(shapes.take(part[~inside]))
                self._count("shape work bound", beyond)
            try:
                self._refine(shapes.take(part[inside]))
            except _Stopped:
                self.floor = float(bounds[position])
                raise
            position += len(part)
            self._report(float(bounds[position]) if position < len(shapes) else np.inf)

    def _refine(self, shapes: Meshes) -> None:
        """All refinements of some shapes that bounds leave, in the order of their bounds."""
        facts, weight = ShapeFacts(self.cost, shapes), self.weight(shapes)
        goals = self._goals(weight)

        def promising(schedule: int, v: int, rows: Ints) -> NDArray[np.bool_]:
            kept: NDArray[np.bool_] = weight[rows] * facts.bounds(schedule, v, rows) < goals[rows]
            return kept

        before = self.space.count(shapes)
        meshes = self.space.refine(shapes, promising)
        self._count("schedule path bound", before - len(meshes))
        if not len(meshes):
            return
        tables = self.cost.tables(meshes)
        full = memory_excludes(self.cost, meshes, tables)
        self._count("memory", int(full.sum()))
        weight = self.weight(meshes)
        bounds = weight * mesh_bounds(self.cost, meshes, tables)
        late = ~full & (bounds >= self._goals(weight))
        self._count("mesh work bound", int(late.sum()))
        kept = np.flatnonzero(~full & ~late)
        kept = kept[np.argsort(bounds[kept], kind="stable")]
        for k in range(0, len(kept), _CALL):
            part = kept[k : k + _CALL]
            self._solve(meshes.take(part), tables.take(part), bounds[part], WORK_LIMITS[0])

    def _take_up(self, work_limit: int) -> None:
        """Once more, with more work each, the meshes whose proof of not being best was put off."""
        waiting = sorted(self.open, key=lambda entry: entry[0])
        self.open = []
        for k, (bound, mesh) in enumerate(waiting):
            best = self._best()
            if best is not None and bound >= best:
                self._count("cut search", 1)
                continue
            try:
                self._solve(mesh, self.cost.tables(mesh), np.array([bound]), work_limit)
                self._report(waiting[k + 1][0] if k + 1 < len(waiting) else np.inf)
            except _Stopped:
                self.open += waiting[k + 1 :]
                raise

    def _solve(self, meshes: Meshes, tables: MeshTables, bounds: Array, work_limit: int) -> None:
        """Hand meshes to the native search and keep what it finds."""
        groups = group_of(meshes)
        weights = self.weight(meshes)
        leaders = self._leaders()
        tables.reals[:, REAL_FIELDS.index("bound")] = bounds
        tables.reals[:, REAL_FIELDS.index("weight")] = weights
        answers = self._call(
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
            work_limit,
            self.cancel,
        )
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

    def _call(self, *arguments: object) -> list[_Answer]:
        """The native search in a thread, so that the stop rule and the keyboard can end it."""
        answers: list[_Answer] = []
        thread = threading.Thread(target=lambda: answers.extend(_native.solve_meshes(*arguments)))
        thread.start()
        try:
            while thread.is_alive():
                thread.join(_POLL_S)
                if self.stop is not None and thread.is_alive() and self.stop(self._progress(None)):
                    self.cancel[0] = 1
        except KeyboardInterrupt:
            self.cancel[0] = 1
            thread.join()
        return answers

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
        ranked = sorted((f.value, group) for group, f in self.found.items())
        return [(group, value) for value, group in ranked[: self.num_leaders]]

    def _goal(self) -> float:
        """Values at or above this are of no interest."""
        leaders = self._leaders()
        return leaders[-1][1] if len(leaders) == self.num_leaders else np.inf

    def _goals(self, weight: Array) -> Array:
        """The same for each mesh, with the ceiling on the step time."""
        goals: Array = np.minimum(self._goal(), weight * self.ceiling_s)
        return goals

    def _count(self, name: str, count: int) -> None:
        if count:
            self.pruned[name] = self.pruned.get(name, 0) + count


class _Stopped(Exception):
    """The stop rule or the keyboard ended the search."""


def group_of(meshes: Meshes) -> Ints:
    """A number for each combination of tp, pp, ep and cp x dp: alternatives differ in these.

    Context and data parallelism often trade places at no cost, so they count as one.
    """
    code = np.zeros(len(meshes), np.int64)
    for column, bits in (
        (meshes.tp, 12),
        (meshes.pp, 12),
        (meshes.cp * meshes.dp, 22),
        (meshes.ep, 14),
    ):
        code = (code << bits) + column
    return code


def strategy_of(
    meshes: Meshes, k: int, layers: list[int], full: list[int], selective: list[int]
) -> Strategy:
    """The strategy of one solved mesh."""
    schedule = int(meshes.schedule[k])
    shard = int(meshes.shard_group[k])
    group = int(meshes.dp[k] * meshes.cp[k])
    return Strategy(
        tp=int(meshes.tp[k]),
        sequence_parallel=bool(meshes.sequence[k]),
        cp=int(meshes.cp[k]),
        pp=int(meshes.pp[k]),
        virtual_stages=int(meshes.virtual_stages[k]) if schedule == INTERLEAVED else 1,
        dp=int(meshes.dp[k]),
        ep=int(meshes.ep[k]),
        zero_stage=int(meshes.zero_stage[k]),
        shard_group=shard if shard < group else 0,
        micro_batch=int(meshes.micro_batch[k]),
        schedule=SCHEDULES[schedule],
        layers_per_chunk=tuple(layers),
        recompute=tuple(Recompute(a, b) for a, b in zip(full, selective, strict=True)),
    )
