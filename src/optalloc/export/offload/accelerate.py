"""accelerate: a device map of module names, memory limits, and a script that loads with them.

A module on the CPU or on disk is computed on the main GPU, which is the first GPU in the map: its
modules therefore come first. A layer that lives in one place is one entry; a divided one has an
entry for its attention with the norms, and one for its feed-forward module with the router, or,
where shared and routed experts are apart, for each of the three.
"""

from __future__ import annotations

import json
import math
from collections import Counter

from optalloc.errors import ExportError
from optalloc.export.base import Artefact
from optalloc.export.offload.modules import Modules, modules_of
from optalloc.model.parameters import layer_parameters, vision_parameters
from optalloc.model.spec import Layer
from optalloc.serving.offload.parts import stored_bytes
from optalloc.serving.offload.placement import Placed
from optalloc.serving.offload.plan import OffloadPlan
from optalloc.units import MIB

_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}

_LOAD = '''\
"""Load a model as planned and generate from a prompt: python load.py MODEL_FOLDER [PROMPT]."""

import json
import sys
from pathlib import Path

import torch
from transformers import {loader}, AutoTokenizer

here = Path(__file__).parent
folder = sys.argv[1]
model = {loader}.from_pretrained(
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
        For quantised weights or cache, or a layer divided in a way for which the modules have no
        names.
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
    sees = vision_parameters(plan.model) > 0
    loader = "AutoModelForImageTextToText" if sees else "AutoModelForCausalLM"
    script = _LOAD.replace("{dtype}", _DTYPES[generation.dtype]).replace("{loader}", loader)
    return (
        Artefact("device_map.json", json.dumps(device_map(plan), indent=1) + "\n"),
        Artefact("max_memory.json", json.dumps(max_memory(plan), indent=1) + "\n"),
        Artefact("load.py", script.replace("{tokens}", str(generation.output_tokens))),
    )


def device_map(plan: OffloadPlan) -> dict[str, int | str]:
    """Module name to GPU number, "cpu" or "disk"; the main GPU's modules come first."""
    model, names = plan.model, modules_of(plan.model)
    first, last = plan.placement[0], plan.placement[-1]
    head, beside = _home(last, "head"), _home(first, "embedding")
    found: dict[str, int | str] = dict.fromkeys(names.vision, beside)
    found[f"{names.stem}.{names.embedding}"] = head if model.tied_embeddings else beside
    found |= {f"{names.stem}.{name}": beside for name in names.tables}
    if names.rotary:
        found[f"{names.stem}.{names.rotary}"] = _device(plan.placement[1])
    types = {one.name: one for one in model.layer_types}
    layers = [types[run.layer] for run in model.layers for _ in range(run.count)]
    layers = [layer for layer in layers if layer.stack != "vision"]
    for number, (layer, place) in enumerate(zip(layers, plan.placement[1:-1], strict=True)):
        entries = _layer_map(names, layer, place, f"layer {number} of {model.family}")
        stem = f"{names.stem}.{names.layers}.{number}"
        found |= {f"{stem}.{name}" if name else stem: home for name, home in entries.items()}
    _check_routers(plan, layers)
    found[f"{names.stem}.{names.norm}"] = head
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


def _layer_map(names: Modules, layer: Layer, place: Placed, where: str) -> dict[str, int | str]:
    """Where the modules of a layer are; the whole of it under an empty name if in one place."""
    homes = {one.kind: _home(place, one.kind) for one in place.parts if one.kind != "kv"}
    if len(set(homes.values())) == 1:
        return {"": homes["attention"]}
    norms = names.norms_of(layer)
    if not norms:
        raise ExportError("accelerate", f"a divided {where}")
    held = dict.fromkeys((names.attention_of(layer), *norms), homes["attention"])
    if "experts" not in homes:
        return held | {"mlp": homes["ffn"]}
    if homes.get("shared", homes["experts"]) == homes["experts"]:
        return held | {"mlp": homes["experts"]}
    held[f"mlp.{names.router}"] = _device(place)  # its module reads tensors of it
    held |= {f"mlp.{name}": homes["shared"] for name in names.shared}
    return held | {"mlp.experts": homes["experts"]}


def _check_routers(plan: OffloadPlan, layers: list[Layer]) -> None:
    """A router, which the plan counts with the attention, goes with the module of the experts, or
    where their layer is computed: there must be room for it.

    Raises
    ------
    ExportError
        If there is none.
    """
    moved: Counter[str] = Counter()
    for layer, place in zip(layers, plan.placement[1:-1], strict=True):
        homes = {one.kind: _home(place, one.kind) for one in place.parts}
        if "experts" in homes:
            whole = homes.get("shared", homes["experts"]) == homes["experts"]
            size = stored_bytes(layer_parameters(layer).router, plan.generation.dtype)
            moved[_named(homes["experts"] if whole else _device(place))] += size
            moved[_named(homes["attention"])] -= size
    for use in plan.memory:
        missing = moved[use.device] - use.free_bytes
        if missing > 0:
            more = f"{math.ceil(missing / MIB)} MiB"
            raise ExportError(
                "accelerate",
                f"routers apart from attention, for which {use.device} lacks {more}",
                fix=f"plan with {more} less on {use.device}: a larger reserve_bytes of a GPU, a "
                "smaller memory_bytes of the CPU",
            )


def _named(home: int | str) -> str:
    return f"gpu{home}" if isinstance(home, int) else home


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
