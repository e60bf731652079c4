"""What other tools do with the same machine: first-fit in module order, and filling with layers.

accelerate (``infer_auto_device_map``, 1.15)
    Modules in order: embedding, layers, head. Devices in order: GPUs, CPU, disk. A module that does
    not fit closes its device for good. The first GPU and the CPU keep a hole of the largest module
    still to come. What is on CPU or disk is computed on the first GPU. It knows nothing of cache
    and work space; here it is told what they take, so that its maps fit.
llama.cpp
    Without flags for tensors: the last layers and the output on GPUs, as many as fit, in shares of
    their memory. Of experts: all layers on GPUs and the experts of the first layers on the CPU, as
    few as fit. The faster of the two.
"""

from __future__ import annotations

import math

from optalloc.errors import InputError
from optalloc.serving.offload.machine import Machine
from optalloc.serving.offload.parts import Chain, Part
from optalloc.serving.offload.placement import Held, Placed, Placement, check_fits, evaluate
from optalloc.serving.offload.problem import Device, Home, OffloadProblem
from optalloc.serving.offload.runtimes import limits_of


def first_fit_s(machine: Machine, chain: Chain) -> float:
    """Seconds of a request with accelerate's map; infinite where it has none that fits."""
    free = [max(0, gpu.memory_bytes - chain.workspace_bytes) for gpu in machine.gpus]
    cpu = machine.cpu.memory_bytes - chain.workspace_bytes
    disk = 0 if machine.disk is None else machine.disk.size_bytes
    computing = max(1, len(machine.gpus))  # the GPUs, or the CPU where there is none
    taken = 0  # by cache of modules that are elsewhere and computed on the first of these
    while True:
        rooms = [*free, cpu, disk]
        rooms[0] -= taken
        homes = first_fit_homes(chain, rooms, len(machine.gpus))
        if homes is None or rooms[0] < 0:
            return math.inf
        cache = sum(
            part.size_bytes
            for parts, home in zip(chain.places, homes, strict=True)
            for part in parts
            if part.kind == "kv" and home >= computing
        )
        if cache <= taken:
            return _map_s(machine, chain, homes)
        taken = cache


def first_fit_homes(chain: Chain, rooms: list[int], num_gpus: int) -> list[int] | None:
    """Device number of every place: GPUs, then CPU, then disk."""
    sizes = [sum(part.size_bytes for part in parts) for parts in chain.places]
    homes: list[int] = []
    device, used = 0, 0
    for k, size in enumerate(sizes):
        while True:
            if device == len(rooms):
                return None
            main = device == num_gpus or (device == 0 and num_gpus > 0)
            hole = max(sizes[k:]) if main else 0
            if used + size + hole <= rooms[device] or (
                device == num_gpus and used + sum(sizes[k:]) <= rooms[device] and rooms[-1] == 0
            ):
                break
            device, used = device + 1, 0
        homes.append(device)
        used += size
    return homes


def _map_s(machine: Machine, chain: Chain, homes: list[int]) -> float:
    """Seconds of a map; the first GPU may run several ranges."""
    problem = OffloadProblem(machine=machine, chain=chain)
    seconds, previous = 0.0, None
    for parts, home in zip(chain.places, homes, strict=True):
        gpus = len(machine.gpus)
        runs: Device = home if home < gpus else (0 if gpus else None)
        where: Home = "device" if home < gpus or (not gpus and home == gpus) else "cpu"
        if home == gpus + 1:
            where = "disk"
        seconds += problem.hop_s(previous, runs)
        previous = runs
        for part in parts:
            at: Home = "device" if part.kind == "kv" else where
            seconds += next(
                option.seconds
                for option in problem.options(part, runs)
                if option.home == at and not option.on_cpu
            )
    return seconds + problem.hop_s(previous, None)


def filled_s(machine: Machine, chain: Chain) -> float:
    """Seconds of a request as llama.cpp fills the machine; infinite where nothing fits."""
    (limits,) = limits_of("llama.cpp", machine)
    problem = OffloadProblem(machine=machine, chain=chain, limits=limits)
    layers = len(chain.places) - 2
    experts = any(part.kind == "experts" for parts in chain.places for part in parts)
    best = math.inf
    for on_gpus in range(layers + 1, -1, -1):
        seconds = _seconds(problem, _filled(problem, on_gpus, 0))
        if seconds < math.inf:
            best = seconds
            break
    if experts and machine.gpus:
        for spilled in range(layers + 1):
            seconds = _seconds(problem, _filled(problem, layers + 1, spilled))
            if seconds < math.inf:
                return min(best, seconds)
    return best


def _filled(problem: OffloadProblem, on_gpus: int, spilled: int) -> Placement:
    """The last ``on_gpus`` of layers and output in shares of memory; experts of the first
    ``spilled`` layers on the CPU.
    """
    chain, gpus = problem.chain, problem.machine.gpus
    last = len(chain.places) - 1
    total = sum(gpu.memory_bytes for gpu in gpus)
    placed = []
    for k, (name, parts) in enumerate(zip(chain.names, chain.places, strict=True)):
        device: Device = None
        behind = k - 1 - (last - on_gpus)
        if gpus and k > 0 and behind >= 0:
            device, share = 0, 0
            for number, gpu in enumerate(gpus):
                device = number
                share += gpu.memory_bytes
                if behind * total < share * on_gpus:
                    break
        placed.append(Placed(name, device, tuple(_held(p, device, k <= spilled) for p in parts)))
    return tuple(placed)


def _held(part: Part, device: Device, spilled: bool) -> Held:
    away = spilled and device is not None and part.kind == "experts"
    return Held(part.kind, "cpu" if away else "device", away)


def _seconds(problem: OffloadProblem, placement: Placement) -> float:
    try:
        found = evaluate(problem, placement)
        check_fits(found)
    except InputError:
        return math.inf
    return found.seconds
