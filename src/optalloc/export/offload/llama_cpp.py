"""llama.cpp: the flags of ``llama-server`` that place layers and tensors as planned.

Layers and the output are numbered 0 .. L; the last ``-ngl`` of them are on GPUs, in shares ``-ts``
of the devices in the order of ``--device``. Expert tensors go to the CPU by ``--n-cpu-moe`` where
they are those of the first layers, else, as dense feed-forward tensors, by ``-ot`` patterns.
Automatic fitting is switched off, for it stops where these flags are given; so is the computation
of CPU tensors on a GPU during prefill, for which the plan keeps no room.
"""

from __future__ import annotations

import shlex

from optalloc.errors import ExportError
from optalloc.export.base import Artefact
from optalloc.export.offload.base import ranges
from optalloc.serving.offload.plan import OffloadPlan

_CACHE = {"fp32": "f32", "bf16": "f16", "q8_0": "q8_0", "q4_0": "q4_0"}
_TENSORS = {
    "experts": r"ffn_(up|down|gate|gate_up)_(ch|)exps",
    "shared": r"ffn_(up|down|gate)_shexp",
    "ffn": r"ffn_(up|down|gate)\.",
}


def artefacts(plan: OffloadPlan) -> tuple[Artefact, ...]:
    """``serve.sh``: takes the GGUF file as its first argument.

    Raises
    ------
    ExportError
        For a type of cache that llama.cpp has not, or an output that is not on the last device.
    """
    words = " ".join(shlex.quote(word) for word in flags(plan))
    text = (
        "#!/bin/sh\n"
        "# llama-server with tensors placed as planned: serve.sh MODEL.gguf [more flags]\n"
        'model="$1"\nshift\n'
        f'exec llama-server -m "$model" {words} "$@"\n'
    )
    return (Artefact("serve.sh", text, executable=True),)


def flags(plan: OffloadPlan) -> list[str]:
    """The flags, one word an element."""
    generation = plan.generation
    if generation.kv_dtype not in _CACHE:
        raise ExportError(
            "llama.cpp", f"a KV cache in {generation.kv_dtype}", fix="plan with --kv-dtype q8_0"
        )
    cache = _CACHE[generation.kv_dtype]
    found = [
        *("-c", str(generation.context_tokens * generation.batch)),
        *("-np", str(generation.batch)),
        *("-ub", str(generation.chunk * generation.batch)),
        *("-b", str(generation.chunk * generation.batch)),
        *("-ctk", cache, "-ctv", cache, "-fa", "on"),
        *("--fit", "off", "--no-op-offload"),
    ]
    return [*found, *_devices(plan), *_tensors(plan)]


def _devices(plan: OffloadPlan) -> list[str]:
    gpus = [(gpu, end - first) for gpu, first, end in ranges(plan) if gpu is not None]
    head = plan.placement[-1].gpu
    if not gpus and head is None:
        return ["-ngl", "0", "--device", "none"]
    if head is not None and (not gpus or gpus[-1][0] != head):
        gpus.append((head, 0))
    if head is None:
        raise ExportError("llama.cpp", "an output on the CPU behind layers on a GPU")
    counts = [count + (gpu == head) for gpu, count in gpus]
    found = ["-ngl", str(sum(counts)), "--device", ",".join(f"CUDA{gpu}" for gpu, _ in gpus)]
    if len(counts) > 1:
        found += ["-sm", "layer", "-ts", ",".join(map(str, counts))]
    return found


def _tensors(plan: OffloadPlan) -> list[str]:
    """Tensors of GPU layers that are on the CPU."""
    found: list[str] = []
    patterns: list[str] = []
    places = plan.placement[1:-1]
    for kind, tensor in _TENSORS.items():
        away: list[int] = []
        near: list[int] = []
        for layer, place in enumerate(places):
            for one in place.parts:
                if one.kind == kind:
                    (near if place.gpu is not None and one.home == "device" else away).append(layer)
        on_gpu = [layer for layer in away if places[layer].gpu is not None]
        if not on_gpu:
            continue
        if kind == "experts" and (not near or max(away) < min(near)):
            found += ["--n-cpu-moe", str(max(away) + 1)]
        else:
            patterns.append(rf"^blk\.({'|'.join(map(str, on_gpu))})\.{tensor}=CPU")
    return [*found, *(["-ot", ",".join(patterns)] if patterns else [])]
