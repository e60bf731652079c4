"""accelerate: a device map of module names, memory limits, and a script that loads with them.

A module on the CPU or on disk is computed on the main GPU, which is the first GPU in the map: its
modules therefore come first. A layer that lives in one place is one entry; a divided one has an
entry for its attention with the norms, and one for its feed-forward module with the router.
"""

from __future__ import annotations

import json

from optalloc.errors import ExportError
from optalloc.export.base import Artefact
from optalloc.model.parameters import vision_parameters
from optalloc.serving.offload.placement import Placed
from optalloc.serving.offload.plan import OffloadPlan

_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_NORMS = ("input_layernorm", "post_attention_layernorm")

_LOAD = '''\
"""Load a model as planned and generate from a prompt: python load.py MODEL_FOLDER [PROMPT]."""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

here = Path(__file__).parent
folder = sys.argv[1]
model = AutoModelForCausalLM.from_pretrained(
    folder,
    dtype=torch.{dtype},
    device_map=json.loads((here / "device_map.json").read_text()),
    offload_folder=str(here / "offload"),
)
tokenizer = AutoTokenizer.from_pretrained(folder)
prompt = sys.argv[2] if len(sys.argv) > 2 else "The capital of France is"
inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
output = model.generate(**inputs, max_new_tokens={tokens})
print(tokenizer.decode(output[0]))
'''


def artefacts(plan: OffloadPlan) -> tuple[Artefact, ...]:
    """``device_map.json``, ``max_memory.json`` and ``load.py``.

    Raises
    ------
    ExportError
        For quantised weights or cache, a vision tower, or a layer divided in a way for which the
        modules have no names.
    """
    generation = plan.generation
    if generation.dtype not in _DTYPES or generation.expert_dtype not in (None, generation.dtype):
        raise ExportError(
            "accelerate", f"weights in {generation.dtype}", fix="plan with --dtype bf16"
        )
    if generation.kv_dtype not in ("bf16", generation.dtype):
        raise ExportError(
            "accelerate", f"a KV cache in {generation.kv_dtype}", fix="plan with --kv-dtype bf16"
        )
    script = _LOAD.replace("{dtype}", _DTYPES[generation.dtype])
    return (
        Artefact("device_map.json", json.dumps(device_map(plan), indent=1) + "\n"),
        Artefact("max_memory.json", json.dumps(max_memory(plan), indent=1) + "\n"),
        Artefact("load.py", script.replace("{tokens}", str(generation.output_tokens))),
    )


def device_map(plan: OffloadPlan) -> dict[str, int | str]:
    """Module name to GPU number, "cpu" or "disk"; the main GPU's modules come first."""
    model = plan.model
    if vision_parameters(model):
        raise ExportError("accelerate", "a vision tower", fix="plan the language model alone")
    gpt2 = model.family == "gpt2"
    stem = "transformer" if gpt2 else "model"
    layers = f"{stem}.{'h' if gpt2 else 'layers'}"
    first, last = plan.placement[0], plan.placement[-1]
    head = _home(last, "head")
    table = head if model.tied_embeddings else _home(first, "embedding")
    found: dict[str, int | str] = {f"{stem}.{'wte' if gpt2 else 'embed_tokens'}": table}
    if gpt2:
        found[f"{stem}.wpe"] = _home(first, "embedding")
    else:
        found[f"{stem}.rotary_emb"] = _device(plan.placement[1])
    for layer, place in enumerate(plan.placement[1:-1]):
        homes = {one.kind: _home(place, one.kind) for one in place.parts if one.kind != "kv"}
        if len(set(homes.values())) == 1:
            found[f"{layers}.{layer}"] = homes["attention"]
            continue
        rest = {home for kind, home in homes.items() if kind != "attention"}
        moe = "experts" in homes
        if gpt2 or len(rest) > 1 or _norm_count(plan, layer) != len(_NORMS):
            raise ExportError("accelerate", f"a divided layer {layer} of {model.family}")
        if moe and homes["attention"] != _device(place):
            raise ExportError(
                "accelerate", f"attention of layer {layer} away from its router", fix="add memory"
            )
        for name in ("self_attn", *_NORMS):
            found[f"{layers}.{layer}.{name}"] = homes["attention"]
        found[f"{layers}.{layer}.mlp"] = rest.pop()
    found[f"{stem}.{'ln_f' if gpt2 else 'norm'}"] = head
    found["lm_head"] = head
    gpus = {place.gpu for place in plan.placement if place.gpu is not None}
    main = next(
        (
            place.gpu
            for place in plan.placement
            if place.gpu is not None and any(one.home != "device" for one in place.parts)
        ),
        min(gpus, default=None),
    )
    return dict(sorted(found.items(), key=lambda item: item[1] != main))


def max_memory(plan: OffloadPlan) -> dict[str, int]:
    """Bytes of parameters that the plan holds on every device, for tools that ask for a limit."""
    named = {f"gpu{k}": str(k) for k in range(len(plan.machine.gpus))} | {"cpu": "cpu"}
    return {
        named[use.device]: use.capacity_bytes - use.workspace_bytes
        for use in plan.memory
        if use.device in named
    }


def _device(place: Placed) -> int | str:
    return "cpu" if place.gpu is None else place.gpu


def _home(place: Placed, kind: str) -> int | str:
    held = next((one for one in place.parts if one.kind == kind), None)
    if held is None or held.home == "device":
        return _device(place)
    return held.home


def _norm_count(plan: OffloadPlan, layer: int) -> int:
    types = {one.name: one for one in plan.model.layer_types}
    names = [run.layer for run in plan.model.layers for _ in range(run.count)]
    return types[names[layer]].norm.count
