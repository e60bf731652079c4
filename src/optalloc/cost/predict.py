"""Step time and memory of measured rows, from the same tables that a plan is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from optalloc import _native
from optalloc.cluster.topology import Cluster
from optalloc.cost.constants import ConstantsFile, keys_of, read_constants, resolved
from optalloc.cost.measured.problem import Problem, split
from optalloc.cost.measured.software import memory_kind
from optalloc.cost.meshes import MeshTables
from optalloc.cost.model import CostModel

# Published plans ran. Where they do not say what was recomputed, recomputation of whole layers is
# taken only beyond this share of the capacity: below it the estimate's own error, or the norms and
# activation functions alone, recomputed for next to no time, make room.
_RAN = 1.25


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What the row left open, decided: its mesh, the layers of each chunk, recomputed layers."""

    mesh: int
    layers: tuple[int, ...]
    full: int
    selective: int


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """Step time in seconds, bytes of the fullest device and its capacity.

    ``reported_bytes`` is the part of them that the row's kind of memory counts.
    """

    step_time_s: float
    memory_bytes: float
    reported_bytes: float
    capacity_bytes: float
    choice: Choice

    @property
    def fills(self) -> float:
        """Memory over capacity of the fullest device."""
        return self.memory_bytes / self.capacity_bytes


def predict(problem: Problem, file: ConstantsFile | None = None) -> Prediction:
    """The prediction for a row: the fastest of the choices it leaves open that fits in memory.

    Recomputation that is not published is the least that fits: none, the attention core, then one
    more layer of each chunk at a time.
    """
    costs = [cost_of(problem, cluster, file) for cluster in problem.clusters]
    tables = [cost.tables(problem.meshes) for cost in costs]
    best: Prediction | None = None
    limit = 1.0 if problem.recompute else _RAN
    for mesh in range(len(problem.meshes)):
        pp, v = int(problem.meshes.pp[mesh]), int(problem.meshes.virtual_stages[mesh])
        noted = problem.layers if v == 1 else ()
        layers = noted or tuple(split(costs[0].num_layers, pp * v))
        for full, selective in recomputations(problem.recompute, max(layers)):
            choice = Choice(mesh=mesh, layers=layers, full=full, selective=selective)
            found = evaluate(problem, costs, tables, choice)
            fits = found.fills <= limit
            if best is None or (fits and (best.fills > limit or _faster(found, best))):
                best = found
            if fits:
                break
    assert best is not None, "a row has at least one mesh"
    return best


def _faster(one: Prediction, other: Prediction) -> bool:
    return one.step_time_s < other.step_time_s


def recomputations(rule: str, most: int) -> Iterator[tuple[int, int]]:
    """Layers of a chunk recomputed whole, and in their attention core, in the order tried."""
    if rule == "none":
        yield 0, 0
    elif rule == "full":
        yield most, 0
    elif rule in ("selective", "operators"):
        yield 0, most
    else:
        yield 0, 0
        yield 0, most
        for full in range(1, most + 1):
            yield full, 0


def evaluate(
    problem: Problem, costs: list[CostModel], tables: list[MeshTables], choice: Choice
) -> Prediction:
    """One choice: the native evaluation, stage by stage where the devices differ."""
    k = choice.mesh
    pp = int(problem.meshes.pp[k])
    runs = []
    for cost, table in zip(costs, tables, strict=True):
        value, used, _ = _native.evaluate_mesh(
            np.ascontiguousarray(table.ints[k : k + 1]),
            np.ascontiguousarray(table.reals[k : k + 1]),
            np.ascontiguousarray(table.layers[k : k + 1]),
            cost.sequence,
            cost.boundary,
            list(choice.layers),
            [choice.full] * pp,
            [choice.selective] * pp,
        )
        runs.append((value + float(table.real("fixed_s")[k]), used))
    capacities = [cost.device.memory_bytes for cost in costs]
    rooms = [
        float(table.real("capacity_bytes")[k]) + cost.reserve_bytes
        for cost, table in zip(costs, tables, strict=True)
    ]
    if len(costs) == 1:
        time_s, used = runs[0]
        return Prediction(
            step_time_s=time_s * problem.share,
            memory_bytes=max(used) + capacities[0] - rooms[0],
            reported_bytes=_reported_bytes(problem, costs[0], used, k),
            capacity_bytes=float(capacities[0]),
            choice=choice,
        )
    fill = [runs[i][1][i] + capacities[i] - rooms[i] for i in range(pp)]
    worst = int(np.argmax([have / room for have, room in zip(fill, capacities, strict=True)]))
    return Prediction(
        step_time_s=mixed_s(costs, tables, choice, k) * problem.share,
        memory_bytes=fill[worst],
        reported_bytes=max(fill),
        capacity_bytes=float(capacities[worst]),
        choice=choice,
    )


def _reported_bytes(problem: Problem, cost: CostModel, used: Sequence[float], mesh: int) -> float:
    """Peak memory as the row counts it; ``used`` are the bytes of each stage's allocator."""
    kind, c = memory_kind(problem.row), cost.constants
    meshes = problem.meshes.take(np.array([mesh]))
    tables = cost.tables(meshes)
    if kind == "analytic":
        own = used[0] / cost.fragmentation
        return own - float(cost.logits_bytes(meshes)[0]) * (len(used) == 1)
    working = cost.room_bytes - float(tables.real("capacity_bytes")[0])
    reserved = max(used) + working
    if kind == "allocated":
        return reserved / cost.fragmentation
    return reserved if kind == "reserved" else reserved + c.workspace_bytes


def mixed_s(
    costs: Sequence[CostModel], tables: Sequence[MeshTables], choice: Choice, k: int
) -> float:
    """Step time of a pipeline whose stages run on different devices, seconds.

    ``tables`` has one a stage, with the mesh in row ``k``. The event time of the stages' own
    passes; what follows is that of the slowest stage.
    """
    ends = np.cumsum((0, *choice.layers))
    pp = len(choice.layers)
    micro = int(tables[0].ints[k, 3])
    forward, backward, tails = [], [], []
    for i, (cost, table) in enumerate(zip(costs, tables, strict=True)):
        counts = np.bincount(
            cost.sequence[ends[i] : ends[i + 1]], minlength=len(cost.graph.types)
        ).astype(np.float64)
        counts[0], counts[-1] = float(i == 0), float(i == pp - 1)
        sums = {name: float(counts @ table.field(name)[k]) for name in _MIXED_FIELDS}
        share = min(1.0, choice.full / max(1, choice.layers[i]))
        again = share * sums["extra_full_s"]
        forward.append(sums["forward_s"])
        backward.append(sums["backward_s"] + sums["weight_s"] + again)
        tails.append(sums["reduce_s"] + sums["gather_s"] + sums["update_s"])
    link = max(float(t.real("latency_far_s")[k] + t.real("transfer_far_s")[k]) for t in tables)
    total = [f + b for f, b in zip(forward, backward, strict=True)]
    pipeline = sum(total) + (micro - 1) * max(total) + 2 * (pp - 1) * link
    return pipeline + max(tails) + float(tables[0].real("fixed_s")[k])


_MIXED_FIELDS = (
    "forward_s",
    "backward_s",
    "weight_s",
    "extra_full_s",
    "reduce_s",
    "gather_s",
    "update_s",
)


def cost_of(problem: Problem, cluster: Cluster, file: ConstantsFile | None = None) -> CostModel:
    """The cost model of a row on one of its clusters; the measured runs force balanced routing."""
    own = resolved(file or read_constants(), problem_keys(problem, cluster))
    even = msgspec.structs.replace(own, expert_imbalance=1.0)
    return CostModel(problem.model, cluster, problem.workload, constants=even)


def problem_keys(problem: Problem, cluster: Cluster | None = None) -> dict[str, str]:
    """The keys of shifts of a row on one of its clusters, default: the first."""
    work = problem.workload
    device = (cluster or problem.clusters[0]).nodes[0].device.name
    return keys_of(device, work.framework, work.release, work.dtype, problem.site)
