"""vLLM: layers of every pipeline stage on unequal GPUs, or CPU memory streamed to one.

``VLLM_PP_LAYER_PARTITION`` counts the layers of the stages in the order of the visible devices; the
first also has the embedding and the last the head. ``--cpu-offload-gb`` is in GiB for every GPU,
so it is used with one.
"""

from __future__ import annotations

import math
import shlex

from optalloc.cluster import catalog
from optalloc.errors import ExportError
from optalloc.export.base import Artefact
from optalloc.export.offload.base import ranges
from optalloc.serving.offload.parts import chain_of
from optalloc.serving.offload.plan import OffloadPlan
from optalloc.units import GIB

_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def artefacts(plan: OffloadPlan) -> tuple[Artefact, ...]:
    """``serve.sh``: takes the model as its first argument.

    Raises
    ------
    ExportError
        For types of weights or cache that vLLM has not, or a stage without a layer.
    """
    environment = environment_of(plan)
    words = " ".join(shlex.quote(word) for word in flags(plan))
    exports = "".join(f"export {name}={value}\n" for name, value in environment.items())
    text = (
        "#!/bin/sh\n"
        "# vLLM with layers placed as planned: serve.sh MODEL [more flags]\n"
        f'{exports}model="$1"\nshift\nexec vllm serve "$model" {words} "$@"\n'
    )
    return (Artefact("serve.sh", text, executable=True),)


def environment_of(plan: OffloadPlan) -> dict[str, str]:
    """The visible devices in the order of the stages, and the layers of each."""
    stages = ranges(plan)
    ends = (plan.placement[0].gpu, plan.placement[-1].gpu)
    if not stages or ends != (stages[0][0], stages[-1][0]):
        raise ExportError(
            "vllm", "an embedding or head on a GPU without layers", fix="plan with one GPU less"
        )
    found = {"CUDA_VISIBLE_DEVICES": ",".join(str(gpu) for gpu, _, _ in stages)}
    if len(stages) > 1:
        counts = ",".join(str(end - first) for _, first, end in stages)
        found["VLLM_PP_LAYER_PARTITION"] = counts
    return found


def flags(plan: OffloadPlan) -> list[str]:
    """The flags of ``vllm serve``, one word an element."""
    generation = plan.generation
    found = ["--pipeline-parallel-size", str(len(ranges(plan)))]
    if generation.dtype == "fp8" and generation.expert_dtype in (None, "fp8"):
        found += ["--quantization", "fp8"]
    elif generation.dtype in _DTYPES and generation.expert_dtype in (None, generation.dtype):
        found += ["--dtype", _DTYPES[_computed_in(plan)]]
    else:
        raise ExportError("vllm", f"weights in {generation.dtype}", fix="plan with bf16 or fp8")
    if generation.kv_dtype == "fp8":
        found += ["--kv-cache-dtype", "fp8"]
    elif generation.kv_dtype not in ("bf16", generation.dtype):
        raise ExportError("vllm", f"a KV cache in {generation.kv_dtype}", fix="plan with bf16")
    found += [
        *("--max-model-len", str(generation.context_tokens)),
        *("--max-num-seqs", str(generation.batch)),
        *("--max-num-batched-tokens", str(max(generation.batch, generation.chunk))),
        "--enable-chunked-prefill",
    ]
    streamed = [
        (part.kind, part.size_bytes)
        for place, parts in zip(
            plan.placement, chain_of(plan.model, generation).places, strict=True
        )
        for one, part in zip(place.parts, parts, strict=True)
        if one.home == "cpu"
    ]
    if streamed:
        gib = math.ceil(100.0 * sum(size for _, size in streamed) / GIB) / 100.0
        found += ["--cpu-offload-gb", f"{gib:g}"]
        if {kind for kind, _ in streamed} == {"experts"}:
            found += ["--cpu-offload-params", "experts"]
    return found


def _computed_in(plan: OffloadPlan) -> str:
    """The type of the weights; vLLM refuses bfloat16 on GPUs that have none, before Ampere."""
    names = [plan.machine.gpus[gpu].name for gpu, _, _ in ranges(plan) if gpu is not None]
    peaks = [catalog.device(name).peak_flops_per_s for name in names if catalog.is_device(name)]
    lacks = any("fp16" in peak and "bf16" not in peak for peak in peaks)
    return "fp16" if plan.generation.dtype == "bf16" and lacks else plan.generation.dtype
