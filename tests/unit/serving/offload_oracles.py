"""Oracles for offload: try every placement of a tiny problem, and a mixed integer programme.

Neither shares code with the search beyond the statement of the problem.
"""

from __future__ import annotations

import itertools
import math
import random

from benchmarks.offload_milp import least_seconds_by_milp

from optalloc.serving.offload.machine import Cpu, Disk, Gpu, Machine, PeerLink
from optalloc.serving.offload.parts import Chain, Kind, Part, Work
from optalloc.serving.offload.problem import Device, Limits, OffloadProblem, Option

__all__ = ["least_seconds_by_milp", "random_problem", "try_everything"]

_LIMITS = (
    Limits(),
    Limits(cache_moves=False, disk=False, stream_to=(), cpu_first=True, embedding_on_cpu=True),
    Limits(cpu_computes=(), stream_to=(0,), cache_moves=False),
    Limits(cpu_computes=("ffn",)),
)


def random_problem(seed: int, *, layers: int = 2, most_gpus: int = 2) -> OffloadProblem:
    """A small problem of two types of layers; about one in ten has no placement."""
    r = random.Random(seed)

    def part(kind: Kind) -> Part:
        size = r.randint(1, 60)
        read = size * r.choice([1.0, 1.0, 0.3])
        decode = Work(3, read, float(size), size * r.choice([1.0, 2.0, 9.0]))
        return Part(kind, size, Work(1, float(size), float(size), 40.0 * size), decode)

    types = [
        tuple(part(kind) for kind in kinds)
        for kinds in (("attention", "kv", "ffn"), ("attention", "experts"))
    ]
    order = [r.choice([0, 0, 1]) for _ in range(layers)] if r.random() < 0.6 else [0] * layers
    places = ((part("embedding"),), *(types[k] for k in order), (part("head"),))
    total = sum(one.size_bytes for parts in places for one in parts)
    gpus = tuple(
        Gpu(
            name=f"g{k}",
            memory_bytes=r.randint(0, total),
            memory_bandwidth_bytes_per_s=r.choice([100.0, 300.0]),
            flops_per_s=r.choice([500.0, 5000.0]),
            link_bandwidth_bytes_per_s=r.choice([10.0, 30.0]),
            link_latency_s=r.choice([0.0, 0.01, 0.3]),
        )
        for k in range(r.randint(0, most_gpus))
    )
    if len(gpus) == 2 and r.random() < 0.2:
        gpus = (gpus[0], gpus[0])
    linked = len(gpus) > 1 and r.random() < 0.3
    disk = Disk(size_bytes=r.randint(1, 2 * total), bandwidth_bytes_per_s=5.0)
    machine = Machine(
        gpus=gpus,
        cpu=Cpu(
            memory_bytes=r.randint(total // 4, total + 60),
            memory_bandwidth_bytes_per_s=40.0,
            flops_per_s=r.choice([100.0, 1000.0]),
        ),
        disk=disk if r.random() < 0.6 else None,
        links=(PeerLink(between=(0, 1), bandwidth_bytes_per_s=90.0, latency_s=0.001),)
        if linked
        else (),
    )
    chain = Chain(
        model="tiny",
        places=places,
        names=tuple(f"place {k}" for k in range(len(places))),
        prefill_passes=1,
        decode_passes=3,
        hop_bytes=(4, 1),
        workspace_bytes=r.choice([0, 3]),
    )
    limits = r.choice(_LIMITS) if r.random() < 0.5 else Limits()
    if limits.stream_to == (0,) and not gpus:
        limits = Limits()
    return OffloadProblem(machine=machine, chain=chain, limits=limits)


def try_everything(problem: OffloadProblem) -> float:
    """The least seconds of all placements that fit; infinite where none does."""
    places = problem.chain.places
    best = math.inf
    for path in itertools.product(problem.devices, repeat=len(places)):
        if _allowed(problem, path):
            best = min(best, _best_homes(problem, path))
    return best


def _allowed(problem: OffloadProblem, path: tuple[Device, ...]) -> bool:
    ranges = [device for device, _ in itertools.groupby(path)]
    gpus = [device for device in ranges if device is not None]
    if len(gpus) != len(set(gpus)):
        return False
    if problem.limits.cpu_first and None in ranges[1:]:
        return False
    return not problem.limits.embedding_on_cpu or path[0] is None


def _best_homes(problem: OffloadProblem, path: tuple[Device, ...]) -> float:
    machine, chain = problem.machine, problem.chain
    ends = [None, *path, None]
    hops = sum(problem.hop_s(a, b) for a, b in itertools.pairwise(ends))
    flat: list[tuple[Device, Part, tuple[Option, ...]]] = [
        (device, part, problem.options(part, device))
        for device, parts in zip(path, chain.places, strict=True)
        for part in parts
    ]
    room: dict[Device, int] = {
        gpu: machine.gpus[gpu].memory_bytes - chain.workspace_bytes
        for gpu in path
        if gpu is not None
    }
    room[None] = machine.cpu.memory_bytes - chain.workspace_bytes
    best = math.inf

    def extend(k: int, seconds: float, left: dict[Device, int], buffers: dict[Device, int],
               disk: int) -> None:  # fmt: skip
        nonlocal best
        if any(left[device] < buffers.get(device, 0) for device in left):
            return
        if k == len(flat):
            best = min(best, seconds)
            return
        device, part, options = flat[k]
        size = part.size_bytes
        for option in options:
            home = device if option.home == "device" else None
            then, held, free = dict(left), dict(buffers), disk
            if option.home == "disk":
                free -= size
                held[None] = max(held.get(None, 0), size)
                if free < 0:
                    continue
            else:
                then[home] -= size
            if option.streamed:
                held[device] = max(held.get(device, 0), size)
            extend(k + 1, seconds + option.seconds, then, held, free)

    extend(0, hops, room, {}, 0 if machine.disk is None else machine.disk.size_bytes)
    return best
