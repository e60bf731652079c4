"""Lower bounds of the step time of whole families of configurations, O(1) work each.

Stems (tp, sequence parallelism, cp, dp, ep, micro-batch) with every number of stages come first:
:class:`StemFacts` bounds every refinement of such a shape by its work, its least memory and the
paths of its schedules.
:class:`ShapeFacts` bounds a shape by schedule. Meshes (a shape with ZeRO, shard group, schedule and
chunks) follow: :class:`MeshFacts` adds what is paid behind the last micro-batch. The arithmetic is
in native/training/bounds.cpp, the proofs are here.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc import _native
from optalloc.cost.layers import LayerTable
from optalloc.cost.meshes import Meshes, MeshTables, distinct
from optalloc.cost.model import CostModel, groups_of
from optalloc.training.space import Space

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

_ONE, _THREE = np.array(1.0), np.array(3.0)  # ZeRO stages
_SEEDS = 24
_FEW_STAGES = {k << shift for k in (1, 3) for shift in range(12)}  # tried for the seeds


def work_of(cost: CostModel, parts: tuple[Array, Array, Array], link_s: Array) -> Array:
    """One micro-batch over all stages without recomputation, and the least of one layer.

    Parameters
    ----------
    parts : tuple of array, shape (n, types)
        Forward, input gradient and weight gradient of each layer type, seconds.
    link_s : array, shape (n,)
        At most one crossing of any boundary, seconds.

    Returns
    -------
    array, shape (n, 7)
        Forward, input gradient and weight gradient of all layers; the same of the cheapest layer of
        each kind; ``link_s``.
    """
    work = np.empty((len(link_s), 7))
    for k, part in enumerate(parts):
        work[:, k] = part @ cost.type_counts
        work[:, 3 + k] = part[:, 1]
        for t in range(2, part.shape[1] - 1):  # a minimum over a short axis is slow
            np.minimum(work[:, 3 + k], part[:, t], out=work[:, 3 + k])
    work[:, 6] = link_s
    return work


def path_bounds(
    work: Array, choices: Sequence[tuple[int, int]], pp: Ints, m: Ints, layers: int
) -> Array:
    """A lower bound of the pipeline's time from paths every schedule has; seconds, O(1) each.

    ``choices`` are schedules with their chunks a stage; the result has the shape (choices, n).

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
    schedules, chunks = np.array(choices, np.int32).reshape(-1, 2).T.copy()
    pp, m = np.ascontiguousarray(pp), np.ascontiguousarray(m)
    return _native.path_bounds(np.ascontiguousarray(work), schedules, chunks, pp, m, layers)


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
        self.work = work = work_of(cost, parts, _least_link_s(cost, tables))
        overlap = tables.real("overlap")
        backward = work[:, 1] + work[:, 2]
        tails = tables.field("update_s") @ counts
        tails += np.maximum(0.0, tables.field("reduce_s") @ counts - overlap * backward)
        tails += np.maximum(0.0, tables.field("gather_s") @ counts - overlap * work[:, 0])
        self.mean_s: Array = (self.m * work[:, :3].sum(axis=1) + tails) / meshes.pp
        self.fixed_s = tables.real("fixed_s")

    def bounds(self, choices: Sequence[tuple[int, int]]) -> Array:
        """A lower bound of the step time with each schedule, seconds, shape (choices, n).

        The paths of :func:`path_bounds`, and the mean over the stages of work and tail,

            T >= ( m S + sum tails ) / pp,     sum tails >= updates + max(0, reductions - overlap *
            backward) + ...

        (a maximum of sums is at least the sum's maximum with zero). Recomputation only adds work.
        """
        paths = path_bounds(self.work, choices, self.pp, self.m, self.num_layers)
        bound: Array = np.maximum(paths, self.mean_s) + self.fixed_s
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


def least_states(
    cost: CostModel, meshes: Meshes, zero_stage: Array, shards: Array, expert_shards: Array
) -> Array:
    """Bytes of the model's states over all stages at least; the tied matrix may exist once.

    Parameters
    ----------
    zero_stage, shards, expert_shards : ndarray of float64
        ZeRO stage, and the ranks that share dense parameters and experts; of one entry or n.
    """
    table, row = cost.layer_costs(meshes)
    sums = (
        table.dense_parameters,
        table.trained_dense,
        table.expert_parameters,
        table.trained_experts,
    )
    dense, own_dense, expert, own_experts = ((part @ cost.type_counts)[row] for part in sums)
    tied = cost.graph.tied_parameters / meshes.tp
    dense = dense - tied
    if cost.workload.lora_rank == 0:
        own_dense = own_dense - tied
    bytes_ = np.zeros(len(meshes))
    for every, own, ranks in ((dense, own_dense, shards), (expert, own_experts, expert_shards)):
        bytes_ += own * cost.states.total(zero_stage, ranks)
        if cost.workload.lora_rank:
            bytes_ += (every - own) * cost.states.frozen(zero_stage, ranks)
    return bytes_


def states_exclude(cost: CostModel, meshes: Meshes) -> NDArray[np.bool_]:
    """Some of what :func:`memory_excludes`, before any table is made: O(1) numbers a mesh."""
    table, row = cost.layer_costs(meshes)
    groups = groups_of(meshes)
    shards, expert_shards = (
        ranks[:, 0].astype(np.float64) for ranks in (groups.shards, groups.expert_shards)
    )
    least = least_states(cost, meshes, meshes.zero_stage.astype(np.float64), shards, expert_shards)
    kept = np.minimum(table.input_bytes, table.held_bytes) @ cost.type_counts
    least += kept[row] + cost.logits_bytes(meshes)
    # Capacity is what working memory leaves of the room.
    excluded: NDArray[np.bool_] = cost.fragmentation * least > (
        meshes.pp * cost.room_bytes * (1.0 + 1e-9)
    )
    return excluded


class ShapeFacts:
    """What holds for every refinement of each shape, by schedule."""

    def __init__(self, cost: CostModel, shapes: Meshes) -> None:
        self.cost, self.shapes = cost, shapes
        self.m = cost.num_microbatches(shapes)
        table, row = cost.layer_costs(shapes)
        self.work = _work_of_keys(cost, table)[row]

    def bounds(self, choices: Sequence[tuple[int, int]]) -> Array:
        """A bound of the step time of each shape with each schedule, seconds, (choices, n)."""
        cost = self.cost
        paths = path_bounds(self.work, choices, self.shapes.pp, self.m, cost.num_layers)
        bound: Array = paths + cost.constants.fixed_s
        return bound


def _work_of_keys(cost: CostModel, table: LayerTable) -> Array:
    """:func:`work_of` of each key, before what ZeRO adds."""
    hop_s = min(level.latency_s for level in cost.network.levels)
    hops = np.full(len(table.forward_s), hop_s)
    return work_of(cost, (table.forward_s, table.backward_s, table.weight_s), hops)


class StemFacts:
    """Bounds of every shape of a space, and which of them promise to be good.

    A shape's bound holds for all its schedules and shardings. With S the work of one micro-batch
    and t that of its cheapest layer,

        T >= m max( S / pp, ceil(L / pp) t ) + fixed

    for the mean stage works S / pp on each micro-batch and some stage has ceil(L / pp) layers. The
    shapes that it leaves are bounded by the least of :func:`path_bounds` over the schedules they
    can have (``least_path_bound``). Of an interleaved one with any number v of chunks the sum over
    the stages is least where q is, at the largest v, and a middle stage has v q >= ceil(L / pp)
    layers, or v where all cuts are tried, two at least.

    Parameters
    ----------
    weight : array, shape (num_devices + 1,)
        What one second costs, by number of devices.
    """

    def __init__(self, cost: CostModel, space: Space, weight: Array) -> None:
        self.cost, self.stems = cost, space.stems()
        self.m = cost.num_microbatches(self.stems)
        counts = np.arange(space.most_stages + 1)
        devices = np.arange(space.num_devices + 1)
        table, row = cost.layer_costs(self.stems)
        again = table.forward_s[:, 1:-1] @ cost.type_counts[1:-1]
        # States and choices of sharding depend on few things, activations of a stem on its key.
        stems = self.stems
        first, number = distinct(stems.tp, stems.cp * stems.dp, stems.ep)
        some = stems.take(first)
        group = (some.dp * some.cp).astype(np.float64)
        spread = np.maximum(1.0, some.tp * group / some.ep)
        # Stage 3 over everything leaves the least of all layouts; sharded optimizer states are for
        # the estimate that orders the search and proves nothing.
        least, states = (
            least_states(cost, some, zero, group, spread)[number] for zero in (_THREE, _ONE)
        )
        held = (table.held_bytes @ cost.type_counts)[row]
        kept = np.minimum(table.input_bytes, table.held_bytes) @ cost.type_counts
        short = kept[row]
        self._stems = (
            stems.tp * stems.cp * stems.dp,
            stems.pp,
            self.m,
            space.num_shardings(some)[number],
            row,
            _work_of_keys(cost, table),
            again,
            short + least,
            states,
            held,
            short,
        )
        most = space.most_stages
        few = counts >= most - 2
        few[[k for k in _FEW_STAGES if k <= most]] = True
        self._stages = (
            weight,
            space.limits.keep("num_devices", devices).view(np.uint8),
            space.limits.keep("pp", counts).view(np.uint8),
            few.view(np.uint8),
            *(choices.ravel() for choices in space.schedule_choices),
            cost.room_bytes / cost.fragmentation,
            cost.constants.fixed_s,
            cost.num_layers,
        )
        self.configurations, self.floor, self._floors, self._counts, *seeds = _native.survey_stems(
            *self._stems, *self._stages, _SEEDS
        )
        self.seeds = self._shapes(*seeds)

    def promising(
        self, goal: float, ceiling_s: float
    ) -> tuple[Meshes, Array, Ints, dict[str, int]]:
        """The shapes whose bounds lie below ``goal`` and their weight times ``ceiling_s``, and
        whose states fit: shapes, bounds, configurations of each; and how many configurations of
        others each bound excluded.
        """
        stem, stages, counts, bounds, *excluded = _native.promising_shapes(
            *self._stems, *self._stages, self._floors, self._counts, goal, ceiling_s
        )
        names = ("shape work bound", "memory", "schedule path bound")
        return self._shapes(stem, stages), bounds, counts, dict(zip(names, excluded, strict=True))

    def _shapes(self, stem: Ints, stages: Ints) -> Meshes:
        return msgspec.structs.replace(self.stems.take(stem), pp=stages)
