"""Lower bounds of the step time of whole families of configurations, O(1) work each.

Shapes (tp, sequence parallelism, cp, pp, dp, ep, micro-batch) come first: :class:`ShapeFacts`
bounds every
refinement of a shape, by its work, by its least memory, and by schedule. Meshes (a shape with ZeRO,
shard
group, schedule and chunks) follow: :class:`MeshFacts` adds what is paid behind the last
micro-batch.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cost.model import CostModel, Meshes, MeshTables
from optalloc.training.space import GPIPE, INTERLEAVED, ZB_H1

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

_ONE, _THREE = np.array(1.0), np.array(3.0)  # ZeRO stages


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """One micro-batch over all stages without recomputation, and the least of one layer; arrays,
    seconds.

    ``link_s`` is at most one crossing of any boundary.
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

    def take(self, rows: Ints | slice) -> Work:
        """The rows at these positions."""
        return Work(**{name: getattr(self, name)[rows] for name in self.__struct_fields__})

    @property
    def total_s(self) -> Array:
        return self.forward_s + self.backward_s + self.weight_s


def path_bounds(work: Work, schedule: Ints, v: Ints, pp: Ints, m: Ints, layers: int) -> Array:
    """A lower bound of the pipeline's time from paths every schedule has; seconds, O(1) each.

    Let S be the work of one micro-batch and R its way down and back over all links.

    - Stage i does m times its own work: T >= m S / pp, and T >= m n t for the stage with the most
      layers, n >= ceil(layers / pp), each at least t.
    - One chunk a stage, undivided backward: own work behind that of all earlier stages gives
      S <= T (1 - (1 - 1/m)^pp). The round trip with the stage's other work gives T >= R + c_i .
      work_i with c = m - w_i forwards, m - 1 input gradients and at least m - pp weight gradients,
      w_i <= min(m, pp); that holds for the mean stage and for the one with the most layers.
    - Several chunks: before stage i starts, the first chunks of the earlier stages ran, and after
      it their backwards; those but the first hold at least q layers, q = ceil(layers / (pp v)), or
      one where all cuts are tried. The mean over the stages and the last middle stage, which has v
      q layers, are bounds.
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
    """Where the native search tries all interleaved cuts; errs on the side of True."""
    few: NDArray[np.bool_] = layers - pp * v + 2 <= 2
    small: NDArray[np.bool_] = (layers - 1.0) ** 3 / 6.0 <= 1001.0 + 0.0 * (pp * v)
    return few | small


class MeshFacts:
    """What holds for every schedule of each sharded shape: work and what follows it; O(types) each.

    Parameters
    ----------
    tables : MeshTables
        Of ``meshes``; their schedules do not matter.
    """

    def __init__(self, cost: CostModel, meshes: Meshes, tables: MeshTables) -> None:
        counts = cost.type_counts
        self.num_layers = cost.num_layers
        self.pp, self.m = meshes.pp, cost.num_microbatches(meshes)
        parts = (tables.field("forward_s"), tables.field("backward_s"), tables.field("weight_s"))
        self.work = work = Work.of(cost, parts, _least_link_s(cost, tables))
        overlap = tables.real("overlap")
        backward = work.backward_s + work.weight_s
        tails = tables.field("update_s") @ counts
        tails += np.maximum(0.0, tables.field("reduce_s") @ counts - overlap * backward)
        tails += np.maximum(0.0, tables.field("gather_s") @ counts - overlap * work.forward_s)
        self.mean_s: Array = (self.m * work.total_s + tails) / meshes.pp
        self.fixed_s = tables.real("fixed_s")

    def bounds(self, schedule: Ints, v: Ints, rows: Ints | slice = slice(None)) -> Array:
        """A lower bound of the step time of the meshes of some rows, seconds.

        The paths of :func:`path_bounds`, and the mean over the stages of work and tail,

            T >= ( m S + sum tails ) / pp,     sum tails >= updates + max(0, reductions - overlap *
            backward) + ...

        (a maximum of sums is at least the sum's maximum with zero). Recomputation only adds work.
        """
        work = self.work.take(rows)
        paths = path_bounds(work, schedule, v, self.pp[rows], self.m[rows], self.num_layers)
        bound: Array = np.maximum(paths, self.mean_s[rows]) + self.fixed_s[rows]
        return bound


def _least_link_s(cost: CostModel, tables: MeshTables) -> Array:
    """The cheapest crossing of any boundary, seconds: the network may be the faster link."""
    least = float(cost.boundary.min())
    near = tables.real("latency_near_s") + least * tables.real("transfer_near_s")
    far = tables.real("latency_far_s") + least * tables.real("transfer_far_s")
    return np.minimum(near, far)


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
    """What holds for every refinement of each shape: work, least memory, a guess of the time.

    With ``pp``, numbers of stages of shape (columns,), the shapes are stems and what ``least`` and
    ``memory`` return has the shape (stems, columns).
    """

    def __init__(self, cost: CostModel, shapes: Meshes, pp: Ints | None = None) -> None:
        self.cost, self.shapes = cost, shapes
        self.pp = shapes.pp if pp is None else pp
        self.m = cost.num_microbatches(shapes)
        self.table, self.row = cost.layer_costs(shapes)
        table = self.table
        hop_s = min(level.latency_s for level in cost.network.levels)
        hops = np.full(len(table.forward_s), hop_s)
        self.by_key = Work.of(cost, (table.forward_s, table.backward_s, table.weight_s), hops)
        self._crossed = pp is not None

    def _against_pp(self, values: Array | Ints) -> Array:
        """Values of the shapes, such that they meet ``pp`` in every operation."""
        return values[:, None] if self._crossed else values  # type: ignore[return-value]

    def bounds(self, schedule: int, v: int, rows: Ints) -> Array:
        """A bound of the step time of some shapes with this schedule, seconds."""
        pp = self.shapes.pp[rows]
        full = np.ones_like(pp)
        paths = path_bounds(
            self.by_key.take(self.row[rows]),
            schedule * full,
            v * full,
            pp,
            self.m[rows],
            self.cost.num_layers,
        )
        return paths + self.cost.constants.fixed_s

    def least(self) -> Array:
        """A bound over all schedules, seconds."""
        key = self.by_key
        one = key.least_forward_s + key.least_backward_s + key.least_weight_s
        m = self.m.astype(np.float64)
        total = self._against_pp(m * key.total_s[self.row]) / self.pp
        fullest = self._against_pp(m * one[self.row]) * np.ceil(self.cost.num_layers / self.pp)
        bound: Array = np.maximum(total, fullest) + self.cost.constants.fixed_s
        return bound

    def memory(self) -> tuple[NDArray[np.bool_], Array]:
        """Which shapes fit in no refinement, and an estimate of the step time of the others,
        seconds.

        The estimate takes equal stages under 1F1B with sharded optimizer states, everything stored
        or everything recomputed, and is infinite where that does not fit. It orders the search and
        proves nothing.
        """
        cost, shapes, table, row = self.cost, self.shapes, self.table, self.row
        counts = cost.type_counts
        group = (shapes.dp * shapes.cp).astype(np.float64)
        spread = np.maximum(1.0, shapes.tp * group / shapes.ep)
        dense, expert, own_dense, own_experts = (
            (values @ counts)[row]
            for values in (
                table.dense_parameters,
                table.expert_parameters,
                table.trained_dense,
                table.trained_experts,
            )
        )
        held = self._against_pp((table.held_bytes @ counts)[row])
        short = (np.minimum(table.input_bytes, table.held_bytes) @ counts)[row]
        again = self._against_pp((table.forward_s[:, 1:-1] @ counts[1:-1])[row])
        tied = cost.graph.tied_parameters / shapes.tp
        # Sharded by stage 3 over everything is the least of all layouts.
        least, states = short, np.zeros_like(short)
        for whole, own, shared, n in (
            (dense, own_dense, tied, group),
            (expert, own_experts, 0.0, spread),
        ):
            frozen = whole - own
            mine = own if cost.workload.lora_rank else own - shared
            least = least + mine * cost.states.total(_THREE, n)
            least = least + (frozen - (shared if cost.workload.lora_rank else 0.0)) * (
                cost.states.frozen(_THREE, n)
            )
            states += own * cost.states.total(_ONE, n) + frozen * cost.states.frozen(_ONE, n)
        room = cost.room_bytes / cost.constants.fragmentation * self.pp
        least, short, states = (self._against_pp(values) for values in (least, short, states))
        m = self._against_pp(self.m)
        flying = np.minimum(m, self.pp)
        steps = (m + self.pp - 1.0) / self.pp
        work = self._against_pp(self.by_key.total_s[row])
        guess = np.where(
            states + flying * held <= room,
            steps * work,
            np.where(states + flying * short <= room, steps * (work + again), np.inf),
        )
        return least > room, guess
