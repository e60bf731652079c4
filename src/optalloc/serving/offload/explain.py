"""Explain an offload plan: where its time goes, which memory is full, what a little more brings."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from optalloc.serving.offload.machine import Machine
from optalloc.serving.offload.parts import chain_of
from optalloc.serving.offload.plan import OffloadPlan
from optalloc.serving.offload.solve import plan_offload
from optalloc.stop import StopRule
from optalloc.units import GIB, format_bytes


class Cause(msgspec.Struct, frozen=True):
    """What part of a request's time goes to one cause."""

    cause: str
    seconds: float
    share: float


class Change(msgspec.Struct, frozen=True):
    """The best plan after one change of the machine: seconds of a request, and times faster."""

    what: str
    request_s: float
    speedup: float


class OffloadExplanation(msgspec.Struct, frozen=True, kw_only=True):
    """``binds`` are sentences on memories that are full; ``changes`` each a plan made again."""

    summary: str
    causes: tuple[Cause, ...]
    binds: tuple[str, ...]
    changes: tuple[Change, ...]


def explain_offload(plan: OffloadPlan, *, stop: StopRule | None = None) -> OffloadExplanation:
    """Say why a plan is as fast as it is.

    Each change (1 GiB more of one memory, a link or the disk twice as fast) is planned anew, within
    the limits of the same runtime; ``stop`` limits each of these searches.
    """
    causes = sorted(plan.breakdown_s.items(), key=lambda item: -item[1])
    smallest = min(
        part.size_bytes for parts in chain_of(plan.model, plan.generation).places for part in parts
    )
    binds = []
    for use in plan.memory:
        if use.parts_bytes and use.free_bytes < max(smallest, use.capacity_bytes // 50):
            binds.append(
                f"{use.device} is full: {format_bytes(use.free_bytes)} of "
                f"{format_bytes(use.capacity_bytes)} are free"
            )
    changes = []
    for what, machine in _changes(plan.machine):
        result = plan_offload(plan.model, machine, plan.generation, runtime=plan.runtime, stop=stop)
        if result.best is not None:
            seconds = result.best.request_s
            changes.append(Change(what, seconds, plan.request_s / seconds))
    changes.sort(key=lambda change: change.request_s)
    first = causes[0]
    return OffloadExplanation(
        summary=(
            f"{first[1] / plan.request_s:.0%} of a request's {plan.request_s:.4g} s: {first[0]}."
        ),
        causes=tuple(Cause(cause, s, s / plan.request_s) for cause, s in causes if s > 0.0),
        binds=tuple(binds) or ("no memory is full: every part is where it is fastest",),
        changes=tuple(changes),
    )


def _changes(machine: Machine) -> Iterator[tuple[str, Machine]]:
    replace = msgspec.structs.replace
    for k, gpu in enumerate(machine.gpus):
        for what, changed in (
            (f"1 GiB more on gpu{k}", replace(gpu, memory_bytes=gpu.memory_bytes + GIB)),
            (
                f"gpu{k}'s link to the CPU twice as fast",
                replace(gpu, link_bandwidth_bytes_per_s=2.0 * gpu.link_bandwidth_bytes_per_s),
            ),
        ):
            gpus = (*machine.gpus[:k], changed, *machine.gpus[k + 1 :])
            yield what, replace(machine, gpus=gpus)
    cpu = machine.cpu
    yield (
        "1 GiB more CPU memory",
        replace(machine, cpu=replace(cpu, memory_bytes=cpu.memory_bytes + GIB)),
    )
    faster = 2.0 * cpu.memory_bandwidth_bytes_per_s
    yield (
        "CPU memory twice as fast",
        replace(machine, cpu=replace(cpu, memory_bandwidth_bytes_per_s=faster)),
    )
    if machine.disk is not None:
        disk = replace(machine.disk, bandwidth_bytes_per_s=2.0 * machine.disk.bandwidth_bytes_per_s)
        yield "the disk twice as fast", replace(machine, disk=disk)
