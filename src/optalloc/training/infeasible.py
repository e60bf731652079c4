"""Why no plan exists: a smallest conflicting set, and the cheapest fixes, each tried."""

from __future__ import annotations

import msgspec

from optalloc.cost.model import SCHEDULES, CostModel
from optalloc.result import Fix
from optalloc.stop import Progress
from optalloc.training.search import Search
from optalloc.training.space import RECOMPUTE_RULES, Limits, Space

_GIB = 2**30


def explain_infeasible(
    cost: CostModel, space: Space, ceiling_s: float
) -> tuple[tuple[str, ...], tuple[Fix, ...]]:
    """A smallest conflicting set (in words) and fixes, each checked by a search of its own.

    The set is irreducible: without any one of its members there is a plan. Members are each pin and
    each forbidden value, the memory of a device, the number of devices, and the target time.

    Complexity: one feasibility search for each pin and fix, about twenty more for amounts.
    """
    limits = space.limits
    kept = limits
    conflict: list[str] = []
    fixes: list[Fix] = []
    for kind in ("pin", "forbid"):
        for name, values in getattr(limits, kind).items():
            fewer = kept.without(kind, name)
            if not _feasible(cost, fewer, ceiling_s):
                kept = fewer
                continue
            conflict.append(f"--{kind} {_word(name, values)}")
            alone = limits.without(kind, name)
            if _feasible(cost, alone, ceiling_s):
                fixes.append(Fix(what=f"drop --{kind} {_word(name, values)}"))
    room = cost.device.memory_bytes
    if _feasible(_with_memory(cost, 1 << 60), kept, ceiling_s):
        conflict.append(f"{room / _GIB:.4g} GiB of memory on each device")
        more = _least_memory(cost, limits, ceiling_s)
        if more is not None:
            extra = (more - room) / _GIB
            fixes.append(
                Fix(what=f"{more / _GIB:.4g} GiB per device", cost=f"{extra:.3g} GiB more on each")
            )
    if ceiling_s < float("inf") and _feasible(cost, kept, float("inf")):
        conflict.append(f"a step of at most {ceiling_s:.4g} s")
        best = _best(cost, limits)
        if best is not None:
            fixes.append(
                Fix(what=f"a target of {best:.4g} s", cost=f"{best - ceiling_s:.3g} s more a step")
            )
    devices = _more_devices(cost, limits, ceiling_s)
    if devices is not None:
        have = cost.cluster.num_devices
        conflict.append(f"{have} devices")
        fixes.append(Fix(what=f"{devices} devices", cost=f"{devices - have} more"))
    if not conflict:
        conflict.append(
            f"global batch {cost.workload.global_batch}, sequence length "
            f"{cost.workload.sequence_length} and the rules of the space"
        )
    return tuple(conflict), tuple(fixes)


def _word(name: str, values: tuple[int, ...]) -> str:
    """A limit as it was typed."""
    if name == "schedule":
        return f"{name}={','.join(SCHEDULES[v] for v in values)}"
    if name == "recompute":
        words = {number: word for word, number in RECOMPUTE_RULES.items()}
        return f"{name}={','.join(words[v] for v in values)}"
    return f"{name}={','.join(str(v) for v in values)}"


def _first(progress: Progress) -> bool:
    return progress.incumbent is not None


def _feasible(cost: CostModel, limits: Limits, ceiling_s: float) -> bool:
    """True if any plan exists: the search stops at the first."""
    space = Space(cost.graph, cost.cluster, cost.workload, limits)
    outcome = Search(cost, space, leaders=1, ceiling_s=ceiling_s).run(_first)
    return bool(outcome.found)


def _best(cost: CostModel, limits: Limits) -> float | None:
    space = Space(cost.graph, cost.cluster, cost.workload, limits)
    outcome = Search(cost, space, leaders=1).run()
    return outcome.found[0].value if outcome.found else None


def _with_memory(cost: CostModel, memory_bytes: int) -> CostModel:
    group = cost.cluster.nodes[0]
    device = msgspec.structs.replace(group.device, memory_bytes=memory_bytes)
    nodes = tuple(msgspec.structs.replace(g, device=device) for g in cost.cluster.nodes)
    cluster = msgspec.structs.replace(cost.cluster, nodes=nodes)
    return CostModel(cost.model, cluster, cost.workload, name=cost.name)


def _least_memory(cost: CostModel, limits: Limits, ceiling_s: float) -> int | None:
    """The least memory per device that helps, to 1/16 GiB upward; None beyond 64 times."""
    low = cost.device.memory_bytes
    high = low
    for _ in range(6):
        high *= 2
        if _feasible(_with_memory(cost, high), limits, ceiling_s):
            break
        low = high
    else:
        return None
    step = _GIB // 16
    while high - low > step:
        middle = (low + high) // 2
        if _feasible(_with_memory(cost, middle), limits, ceiling_s):
            high = middle
        else:
            low = middle
    rounded = -(-high // step) * step
    return rounded if _feasible(_with_memory(cost, rounded), limits, ceiling_s) else high


def _more_devices(cost: CostModel, limits: Limits, ceiling_s: float) -> int | None:
    """The fewest whole nodes that help, up to 64 times as many; None beyond."""
    group = cost.cluster.nodes[0]
    have = cost.cluster.num_devices

    def larger(nodes: int) -> CostModel:
        grown = msgspec.structs.replace(group, count=nodes)
        cluster = msgspec.structs.replace(
            cost.cluster, name=f"{nodes * group.devices}x{group.device.name}", nodes=(grown,)
        )
        return CostModel(cost.model, cluster, cost.workload, name=cost.name)

    low = max(1, have // group.devices)
    high = low
    for _ in range(6):
        high *= 2
        if _feasible(larger(high), limits, ceiling_s):
            break
        low = high
    else:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if _feasible(larger(middle), limits, ceiling_s):
            high = middle
        else:
            low = middle
    return high * group.devices
