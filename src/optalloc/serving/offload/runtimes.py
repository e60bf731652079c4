"""Runtimes: what each tool that can run an offload plan is able to express.

accelerate    a module on the CPU or on disk is computed on the main GPU, which is one of them; on
              the CPU only where there is no GPU
llama.cpp     the first layers on the CPU, then GPUs in any order; dense and expert feed-forward
              parts of a GPU's layers on the CPU; the embedding on the CPU; nothing on disk by plan
vllm          pipeline stages on GPUs, all parts there, or one GPU that streams from CPU memory
"""

from __future__ import annotations

from optalloc.errors import InputError, known_fix
from optalloc.serving.offload.machine import Machine
from optalloc.serving.offload.placement import Placement, device_name
from optalloc.serving.offload.problem import Limits

#: Everything the formal problem allows; no tool runs that as it is.
ANY = "any"
RUNTIMES = ("accelerate", "llama.cpp", "vllm")


def limits_of(runtime: str, machine: Machine) -> tuple[Limits, ...]:
    """Limits whose union is what a runtime can express on a machine.

    Raises
    ------
    InputError
        If there is no such runtime.
    """
    gpus = tuple(range(len(machine.gpus)))
    if runtime == ANY:
        return (Limits(),)
    if runtime == "accelerate":
        on_gpus = [
            Limits(devices=gpus, stream_to=(main,), cpu_computes=(), cache_moves=False)
            for main in gpus
        ]
        return (*on_gpus, Limits(devices=(None,), cache_moves=False))
    if runtime == "llama.cpp":
        return (
            Limits(
                stream_to=(),
                cpu_computes=("ffn", "shared", "experts"),
                cache_moves=False,
                disk=False,
                cpu_first=True,
                embedding_on_cpu=True,
            ),
        )
    if runtime == "vllm":
        stages = Limits(devices=gpus, stream_to=(), cpu_computes=(), cache_moves=False, disk=False)
        return (
            stages,
            *(
                Limits(
                    devices=(gpu,),
                    stream_to=(gpu,),
                    streams=("attention", "ffn", "shared", "experts"),
                    cpu_computes=(),
                    cache_moves=False,
                    disk=False,
                )
                for gpu in gpus
            ),
        )
    raise InputError(
        f"{runtime!r} is no runtime",
        path="--for",
        fix=known_fix(runtime, RUNTIMES),
    )


def against(limits: Limits, placement: Placement) -> str | None:
    """What of a placement is outside the limits, in words; None if nothing is."""
    seen_gpu = False
    for k, place in enumerate(placement):
        where = f"{place.name} on {device_name(place.gpu)}"
        if limits.devices is not None and place.gpu not in limits.devices:
            return where
        if limits.embedding_on_cpu and k == 0 and place.gpu is not None:
            return where
        if limits.cpu_first and seen_gpu and place.gpu is None:
            return f"{where} behind a GPU"
        seen_gpu |= place.gpu is not None
        for one in place.parts:
            if not limits.allow(one.kind, place.gpu, one.home, one.on_cpu):
                home = {"device": "its device", "cpu": "the CPU", "disk": "disk"}[one.home]
                computed = " and computed by the CPU" if one.on_cpu else ""
                return f"{one.kind} of {where}, held on {home}{computed}"
    return None
