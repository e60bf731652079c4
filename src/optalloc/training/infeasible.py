"""Why no plan exists: a smallest conflicting set, and the cheapest fixes, each tried."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from optalloc.cost.meshes import SCHEDULES
from optalloc.cost.model import CostModel
from optalloc.result import Fix
from optalloc.stop import Progress, StopRule
from optalloc.training.search import Search
from optalloc.training.space import RECOMPUTE_RULES, Limits, Space

_GIB = 2**30
_Number = TypeVar("_Number", int, float)
_Entry = tuple[str, str]  # "pin" or "forbid", and the name of the decision


def explain_infeasible(
    cost: CostModel,
    space: Space,
    ceiling_s: float,
    *,
    stop: StopRule | None = None,
    begin: float | None = None,
) -> tuple[tuple[str, ...], tuple[Fix, ...]]:
    """A smallest conflicting set (in words) and fixes, each checked by a search of its own.

    The set is irreducible: without any one of its members there is a plan. Members are each pin and
    each forbidden value, the memory of a device, the number of devices, and the target time. Where
    ``stop`` ends the work first, the set says so and the fixes are those checked by then.

    Parameters
    ----------
    begin : float, optional
        When the work that ``stop`` limits began, on the clock of ``time.perf_counter``.

    Complexity: one feasibility search for each pin and fix, about twenty more for amounts.
    """
    fixes: list[Fix] = []
    ask = _Oracle(stop, time.perf_counter() if begin is None else begin)
    try:
        conflict = _find_conflict(ask, cost, space.limits, ceiling_s, fixes)
    except _OutOfTime:
        conflict = ["one part or another: which was not found within the limit"]
    return tuple(conflict), tuple(fixes)


def _find_conflict(
    ask: _Oracle, cost: CostModel, limits: Limits, ceiling_s: float, fixes: list[Fix]
) -> list[str]:
    """The conflicting set; ``fixes`` grows as they are found."""
    kept = limits
    conflict: list[str] = []
    blocking: list[_Entry] = []
    for kind in ("pin", "forbid"):
        for name in getattr(limits, kind):
            fewer = kept.without(kind, name)
            if not ask.feasible(cost, fewer, ceiling_s):
                kept = fewer
                blocking.append((kind, name))
                continue
            conflict.append(_word(limits, kind, name))
            if ask.feasible(cost, limits.without(kind, name), ceiling_s):
                fixes.append(Fix(what=f"drop {conflict[-1]}"))

    def add_fix(what: str, price: str, changed: CostModel, ceiling: float = ceiling_s) -> None:
        if ask.feasible(changed, kept, ceiling):
            words = _to_drop(ask, changed, limits, kept, blocking, ceiling)
            fixes.append(Fix(what=", ".join([what, *words]), cost=price))

    spaces = (limits, kept) if blocking else (limits,)  # rather with all pins than without some
    room = cost.device.memory_bytes
    if ask.feasible(_with_memory(cost, 1 << 60), kept, ceiling_s):
        conflict.append(f"{room / _GIB:.4g} GiB of memory on each device")
        gib = _first_of(_least_gib(ask, cost, some, ceiling_s) for some in spaces)
        if gib is not None:
            larger = _with_memory(cost, math.ceil(gib * _GIB))
            add_fix(
                f"{gib:g} GiB per device", f"{_amount(gib - room / _GIB)} GiB more on each", larger
            )
    if ceiling_s < float("inf") and ask.feasible(cost, kept, float("inf")):
        conflict.append(f"a step of at most {ceiling_s:.4g} s")
        best = _first_of(ask.best(cost, some) for some in spaces)
        if best is not None:
            goal = _rounded_up(best)
            add_fix(f"a target of {goal:g} s", f"{goal - ceiling_s:.3g} s more a step", cost, goal)
    have = cost.cluster.num_devices
    devices = _first_of(_more_devices(ask, cost, some, ceiling_s) for some in spaces)
    if devices is not None:
        conflict.append(f"{have} device{'s' if have > 1 else ''}")
        add_fix(f"{devices} devices", f"{devices - have} more", _with_devices(cost, devices))
    if not conflict:
        conflict.append(
            f"global batch {cost.workload.global_batch}, sequence length "
            f"{cost.workload.sequence_length} and the rules of the space"
        )
    return conflict


def _to_drop(
    ask: _Oracle,
    cost: CostModel,
    limits: Limits,
    kept: Limits,
    blocking: list[_Entry],
    ceiling_s: float,
) -> list[str]:
    """Limits that have to go as well, in words: those that conflict among themselves.

    ``kept`` is feasible under the changed cost model; what of the rest fits beside it is put back.
    """
    words = []
    for kind, name in blocking:
        entries = getattr(kept, kind) | {name: getattr(limits, kind)[name]}
        more = msgspec.structs.replace(kept, **{kind: entries})
        if ask.feasible(cost, more, ceiling_s):
            kept = more
        else:
            words.append(f"without {_word(limits, kind, name)}")
    return words


def _word(limits: Limits, kind: str, name: str) -> str:
    """A limit as it was typed."""
    values = [str(value) for value in getattr(limits, kind)[name]]
    if name == "schedule":
        values = [SCHEDULES[int(value)] for value in values]
    if name == "recompute":
        words = {str(number): word for word, number in RECOMPUTE_RULES.items()}
        values = [words[value] for value in values]
    return f"--{kind} {name}={','.join(values)}"


def _amount(value: float) -> str:
    """Three digits, or all of a whole number's."""
    return f"{value:.3g}" if value < 1000.0 else f"{value:,.0f}"


def _rounded_up(value: float) -> float:
    """To four significant digits, upward: what is printed must be enough."""
    step = 10.0 ** (math.floor(math.log10(value)) - 3)
    return float(f"{math.ceil(value / step - 1e-9) * step:.6g}")


def _first_of(values: Iterable[_Number | None]) -> _Number | None:
    """The first that is a number."""
    return next((value for value in values if value is not None), None)


class _OutOfTime(Exception):
    """A search was stopped before it knew."""


class _Oracle:
    """Answers by searches of their own, until the stop rule ends them."""

    def __init__(self, stop: StopRule | None, begin: float) -> None:
        self.stop, self.begin = stop, begin

    def feasible(self, cost: CostModel, limits: Limits, ceiling_s: float) -> bool:
        """True if any plan exists: the search stops at the first."""
        return self._run(cost, limits, ceiling_s, first=True) is not None

    def best(self, cost: CostModel, limits: Limits) -> float | None:
        """The least step time, seconds."""
        return self._run(cost, limits, math.inf, first=False)

    def _run(
        self, cost: CostModel, limits: Limits, ceiling_s: float, *, first: bool
    ) -> float | None:
        def late(progress: Progress) -> bool:
            now = msgspec.structs.replace(progress, elapsed_s=time.perf_counter() - self.begin)
            return self.stop is not None and self.stop(now)

        def done(progress: Progress) -> bool:
            return (first and progress.incumbent is not None) or late(progress)

        if late(Progress(elapsed_s=0.0)):
            raise _OutOfTime
        space = Space(cost.graph, cost.cluster, cost.workload, limits)
        outcome = Search(cost, space, leaders=1, ceiling_s=ceiling_s).run(done)
        if outcome.stopped and not (first and outcome.found):
            raise _OutOfTime
        return outcome.found[0].value if outcome.found else None


def _with_memory(cost: CostModel, memory_bytes: int) -> CostModel:
    group = cost.cluster.nodes[0]
    device = msgspec.structs.replace(group.device, memory_bytes=memory_bytes)
    nodes = tuple(msgspec.structs.replace(g, device=device) for g in cost.cluster.nodes)
    cluster = msgspec.structs.replace(cost.cluster, nodes=nodes)
    return CostModel(cost.model, cluster, cost.workload, name=cost.name)


def _with_devices(cost: CostModel, devices: int) -> CostModel:
    group = cost.cluster.nodes[0]
    grown = msgspec.structs.replace(group, count=devices // group.devices)
    cluster = msgspec.structs.replace(
        cost.cluster, name=f"{devices}x{group.device.name}", nodes=(grown,)
    )
    return CostModel(cost.model, cluster, cost.workload, name=cost.name)


def _least_gib(ask: _Oracle, cost: CostModel, limits: Limits, ceiling_s: float) -> float | None:
    """The least memory per device that helps, GiB, to a sixteenth or to four digits upward.

    None beyond 64 times.
    """
    low = cost.device.memory_bytes
    high = low
    for _ in range(6):
        high *= 2
        if ask.feasible(_with_memory(cost, high), limits, ceiling_s):
            break
        low = high
    else:
        return None
    step = _GIB // 16
    while high - low > step:
        middle = (low + high) // 2
        if ask.feasible(_with_memory(cost, middle), limits, ceiling_s):
            high = middle
        else:
            low = middle
    return _rounded_up(high / _GIB)


def _more_devices(ask: _Oracle, cost: CostModel, limits: Limits, ceiling_s: float) -> int | None:
    """The fewest whole nodes that help, up to 64 times as many; None beyond."""
    each = cost.cluster.nodes[0].devices
    low = max(1, cost.cluster.num_devices // each)
    high = low
    for _ in range(6):
        high *= 2
        if ask.feasible(_with_devices(cost, high * each), limits, ceiling_s):
            break
        low = high
    else:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if ask.feasible(_with_devices(cost, middle * each), limits, ceiling_s):
            high = middle
        else:
            low = middle
    return high * each
