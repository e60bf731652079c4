"""Why nothing fits: how many bytes are missing, and the smallest changes that help."""

from __future__ import annotations

import msgspec

from optalloc.model.spec import ModelSpec
from optalloc.result import Fix
from optalloc.serving.offload.duals import whole_space
from optalloc.serving.offload.generation import Generation
from optalloc.serving.offload.machine import Machine
from optalloc.serving.offload.parts import Chain, chain_of
from optalloc.serving.offload.problem import OffloadProblem
from optalloc.serving.offload.runtimes import ANY, limits_of
from optalloc.serving.offload.tables import Tables, disk_buffers
from optalloc.units import GIB, MIB, format_bytes

_DTYPES = ("fp8", "q8_0", "q6_k", "q4_k", "q2_k")


def why_not(
    model: ModelSpec, machine: Machine, generation: Generation, runtime: str
) -> tuple[tuple[str, ...], tuple[Fix, ...]]:
    """What conflicts, and changes of which each alone makes a plan possible.

    A change is tried by the bound: a fractional placement fits. Sizes of memory are rounded up to
    64 MiB; less does not help, and whole parts may take up to one of them more.
    """
    chain = chain_of(model, generation)
    needed = sum(part.size_bytes for parts in chain.places for part in parts)
    memory = machine.cpu.memory_bytes + sum(gpu.memory_bytes for gpu in machine.gpus)
    disk = 0 if machine.disk is None else machine.disk.size_bytes
    words = "" if runtime == ANY else f" as {runtime} can place it"
    conflict = (
        f"{model.name} needs {format_bytes(needed)} for weights and KV cache and "
        f"{format_bytes(chain.workspace_bytes)} of work space on every device that computes",
        f"the machine has {format_bytes(memory)} of memory and {format_bytes(disk)} of disk, "
        f"which does not suffice{words}",
    )
    fixes = []
    more = _least_memory(machine, chain, runtime)
    if more is not None:
        what = f"at least {format_bytes(more)} more CPU memory"
        fixes.append(Fix(what=what, cost=f"{more} bytes"))
    for dtype in _DTYPES:
        smaller = msgspec.structs.replace(generation, dtype=dtype, expert_dtype=None)
        size = sum(p.size_bytes for ps in chain_of(model, smaller).places for p in ps)
        if size < needed and _fits(machine, chain_of(model, smaller), runtime):
            fixes.append(Fix(what=f"weights in {dtype}", cost="less precise"))
            break
    shortest = msgspec.structs.replace(generation, context_tokens=0)
    if generation.context_tokens > shortest.prompt_tokens + shortest.output_tokens:
        shortest = msgspec.structs.replace(
            generation, context_tokens=generation.prompt_tokens + generation.output_tokens
        )
        if _fits(machine, chain_of(model, shortest), runtime):
            fixes.append(Fix(what=f"a context of {shortest.context_tokens} tokens", cost="shorter"))
    if runtime != ANY and _fits(machine, chain, ANY):
        fixes.append(Fix(what="another runtime, or none", cost=f"not {runtime}"))
    return conflict, tuple(fixes)


def _fits(machine: Machine, chain: Chain, runtime: str) -> bool:
    """Whether a fractional placement fits."""
    for limits in limits_of(runtime, machine):
        problem = OffloadProblem(machine=machine, chain=chain, limits=limits)
        for disk in disk_buffers(problem):
            if whole_space(Tables(problem, disk), 0.0) is not None:
                return True
    return False


def _least_memory(machine: Machine, chain: Chain, runtime: str) -> int | None:
    """CPU memory to add, bytes; None where none helps."""

    def enough(more: int) -> bool:
        cpu = msgspec.structs.replace(machine.cpu, memory_bytes=machine.cpu.memory_bytes + more)
        return _fits(msgspec.structs.replace(machine, cpu=cpu), chain, runtime)

    step = 64 * MIB
    high = step
    while not enough(high):
        if high > 2**14 * GIB:
            return None
        high *= 2
    low = 0
    while high - low > step:
        middle = (low + high) // 2 // step * step
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
