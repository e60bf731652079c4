"""Exports of offload plans: read back by the rules of each tool, refused where it has no words."""

from __future__ import annotations

import bisect
import functools
import itertools
import json
import re
from pathlib import Path

import msgspec
import pytest

from optalloc.cli.__main__ import main
from optalloc.errors import ExportError, InputError
from optalloc.export.export import export
from optalloc.export.offload import accelerate, llama_cpp, vllm
from optalloc.export.offload.base import offload_artefacts
from optalloc.model.load import load_model
from optalloc.serving.offload.generation import Generation
from optalloc.serving.offload.machine import Cpu, Disk, Gpu, Machine
from optalloc.serving.offload.placement import Held
from optalloc.serving.offload.plan import OffloadPlan
from optalloc.serving.offload.solve import plan_offload
from optalloc.units import GB, GIB

ASKED = Generation(prompt_tokens=512, output_tokens=128)


def gpu(memory_gb: float, bandwidth_gb: float = 800.0) -> Gpu:
    """A GPU behind a link of 20 GB/s."""
    return Gpu(
        name=f"{memory_gb:g} GB",
        memory_bytes=int(memory_gb * GB),
        memory_bandwidth_bytes_per_s=bandwidth_gb * GB,
        flops_per_s=80e12,
        link_bandwidth_bytes_per_s=20e9,
        link_latency_s=1e-5,
    )


@functools.lru_cache
def planned(
    model: str,
    runtime: str,
    *gpus: Gpu,
    cpu_gb: float = 64.0,
    disk: bool = False,
    asked: Generation = ASKED,
) -> OffloadPlan:
    """The best plan for a tool."""
    cpu = Cpu(memory_bytes=int(cpu_gb * GB), memory_bandwidth_bytes_per_s=6e10, flops_per_s=1e12)
    box = Machine(
        gpus=gpus,
        cpu=cpu,
        disk=Disk(size_bytes=500 * GB, bandwidth_bytes_per_s=5e9) if disk else None,
    )
    return plan_offload(load_model(model), box, asked, runtime=runtime).plan


def layers_by_llama_cpp(words: list[str], num_layers: int) -> list[str]:
    """Devices of all layers and the output by llama.cpp's rule: the first share that is above
    (layer - first layer on a GPU) / (layers on GPUs).
    """
    value = dict(itertools.pairwise(words))
    on_gpus = int(value["-ngl"])
    devices = value["--device"].split(",")
    shares = [float(part) for part in value.get("-ts", "1").split(",")]
    splits = [part / sum(shares) for part in itertools.accumulate(shares)]
    first = max(num_layers + 1 - on_gpus, 0)
    return [
        "CPU" if k < first else devices[bisect.bisect_right(splits, (k - first) / on_gpus)]
        for k in range(num_layers + 1)
    ]


def tensors_on_cpu(words: list[str], kind: str, num_layers: int) -> set[int]:
    """Layers whose tensors of a kind the flags move to the CPU."""
    name = {"ffn": "blk.{}.ffn_up.weight", "experts": "blk.{}.ffn_gate_exps.weight"}[kind]
    value = dict(itertools.pairwise(words))
    found = set(range(int(value.get("--n-cpu-moe", 0)))) if kind == "experts" else set()
    for rule in value["-ot"].split(",") if "-ot" in value else ():
        pattern, _, buffer = rule.rpartition("=")
        assert buffer == "CPU"
        found |= {k for k in range(num_layers) if re.search(pattern, name.format(k))}
    return found


@pytest.mark.parametrize(
    ("model", "gpus"),
    [
        ("qwen3-30b-a3b", (gpu(24.0), gpu(12.0, 300.0))),
        ("qwen3-30b-a3b", (gpu(10.0),)),
        ("gpt-oss-20b", (gpu(9.0), gpu(9.0))),
    ],
)
def test_llama_cpp_places_layers_and_experts_as_planned(model: str, gpus: tuple[Gpu, ...]) -> None:
    """Its own rule for -ngl, -ts and --device gives the plan's devices; so do the patterns."""
    plan = planned(model, "llama.cpp", *gpus)
    words = llama_cpp.flags(plan)
    places = plan.placement[1:]
    wanted = ["CPU" if place.gpu is None else f"CUDA{place.gpu}" for place in places]
    assert layers_by_llama_cpp(words, len(places) - 1) == wanted
    away = {
        k
        for k, place in enumerate(places[:-1])
        if place.gpu is not None
        and any(p.kind == "experts" and p.home == "cpu" for p in place.parts)
    }
    assert away
    on_gpus = {k for k, place in enumerate(places[:-1]) if place.gpu is not None}
    assert tensors_on_cpu(words, "experts", len(places) - 1) & on_gpus == away


def test_llama_cpp_moves_dense_tensors_by_pattern() -> None:
    """Layers 3 and 15 of 32, and neither 1, 5, 13 nor 31."""
    plan = planned("llama-3.1-8b", "llama.cpp", gpu(40.0))
    placement = tuple(
        msgspec.structs.replace(place, parts=(*place.parts[:2], Held("ffn", "cpu", True)))
        if place.name in ("layer 3", "layer 15")
        else place
        for place in plan.placement
    )
    words = llama_cpp.flags(msgspec.structs.replace(plan, placement=placement))
    assert tensors_on_cpu(words, "ffn", 32) == {3, 15}


def test_llama_cpp_switches_automatic_fitting_off() -> None:
    """It stops where -ngl or -ot is given, so these never come with it."""
    words = llama_cpp.flags(planned("llama-3.1-8b", "llama.cpp", gpu(40.0)))
    assert words[words.index("--fit") + 1] == "off"
    assert words[words.index("-ngl") + 1] == "33"
    assert "-ot" not in words
    assert "-ts" not in words


def test_llama_cpp_runs_on_the_cpu_alone() -> None:
    """Without a GPU no layer is offloaded."""
    words = llama_cpp.flags(planned("llama-3.1-8b", "llama.cpp"))
    assert words[-4:] == ["-ngl", "0", "--device", "none"]


def test_vllm_partition_sums_to_the_layers_in_the_order_of_the_devices() -> None:
    """Unequal GPUs: CUDA_VISIBLE_DEVICES names them in the order of the stages."""
    plan = planned("llama-3.1-8b", "vllm", gpu(6.0), gpu(12.0, 300.0))
    environment = vllm.environment_of(plan)
    counts = [int(word) for word in environment["VLLM_PP_LAYER_PARTITION"].split(",")]
    assert sum(counts) == 32
    order = [int(word) for word in environment["CUDA_VISIBLE_DEVICES"].split(",")]
    assert sorted(order) == [0, 1]
    for number, count in zip(order, counts, strict=True):
        assert count == sum(place.gpu == number for place in plan.placement[1:-1])
    words = vllm.flags(plan)
    assert words[:2] == ["--pipeline-parallel-size", "2"]
    assert "--cpu-offload-gb" not in words


def test_vllm_computes_in_float16_on_a_gpu_without_bfloat16() -> None:
    """A catalogue device before Ampere; of other GPUs nothing is known."""
    turing = msgspec.structs.replace(gpu(20.0), name="rtx-2080")
    for one, word in ((turing, "float16"), (gpu(20.0), "bfloat16")):
        words = vllm.flags(planned("llama-3.1-8b", "vllm", one))
        assert words[words.index("--dtype") + 1] == word


def test_vllm_streams_what_one_gpu_has_no_room_for() -> None:
    """GiB of all parts in CPU memory, rounded up to a hundredth."""
    plan = planned("llama-3.1-8b", "vllm", gpu(10.0))
    words = vllm.flags(plan)
    given = float(words[words.index("--cpu-offload-gb") + 1]) * GIB
    (cpu,) = (use for use in plan.memory if use.device == "cpu")
    assert 0.0 <= given - cpu.parts_bytes <= 0.01 * GIB


def test_accelerate_map_covers_every_module_and_puts_the_main_gpu_first() -> None:
    """The GPU that computes what is elsewhere is the first in the map, whatever its number."""
    plan = planned("llama-3.1-8b", "accelerate", gpu(9.0), gpu(6.0, 300.0))
    found = accelerate.device_map(plan)
    streaming = {
        place.gpu for place in plan.placement if any(p.home != "device" for p in place.parts)
    }
    assert streaming == {next(iter(found.values()))}
    for layer in range(32):
        whole = f"model.layers.{layer}" in found
        parts = [f"model.layers.{layer}.{name}" in found for name in ("self_attn", "mlp")]
        assert whole != all(parts)
    assert {"model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"} <= set(found)


@pytest.mark.parametrize(
    ("model", "kind", "names", "away"),
    [
        (
            "gemma-2-9b",
            "ffn",
            "self_attn input_layernorm post_attention_layernorm pre_feedforward_layernorm "
            "post_feedforward_layernorm",
            "mlp",
        ),
        (
            "glm-4.5-air",
            "experts",
            "self_attn input_layernorm post_attention_layernorm mlp.gate mlp.shared_experts",
            "mlp.experts",
        ),
        ("gpt2-xl", "ffn", "attn ln_1 ln_2", "mlp"),
        ("gpt-j-6b", "ffn", "attn ln_1", "mlp"),
        ("falcon-180b", "ffn", "self_attention ln_attn ln_mlp", "mlp"),
    ],
)
def test_accelerate_map_names_the_modules_of_a_divided_layer(
    model: str, kind: str, names: str, away: str
) -> None:
    """Names as transformers 5.24 has them; such maps gave the logits of the whole model."""
    plan = planned(model, "accelerate", gpu(500.0))
    place = plan.placement[6]
    parts = tuple(Held(p.kind, "cpu", False) if p.kind == kind else p for p in place.parts)
    divided = msgspec.structs.replace(place, parts=parts)
    places = (*plan.placement[:6], divided, *plan.placement[7:])
    found = accelerate.device_map(msgspec.structs.replace(plan, placement=places))
    layers = "transformer.h" if model.startswith(("gpt", "falcon")) else "model.layers"
    held = {key.removeprefix(f"{layers}.5."): home for key, home in found.items()
            if key.startswith(f"{layers}.5.")}  # fmt: skip
    assert held == dict.fromkeys(names.split(), 0) | {away: "cpu"}
    assert found[f"{layers}.4"] == 0


@pytest.mark.parametrize(
    ("model", "homes", "expected"),
    [
        (
            "mixtral-8x7b",
            {"attention": "cpu"},
            {"self_attn": "cpu", "mlp": 0},
        ),
        (
            "mixtral-8x7b",
            {"attention": "cpu", "experts": "disk"},
            {"self_attn": "cpu", "mlp": "disk"},
        ),
        (
            "glm-4.5-air",
            {"attention": "cpu", "experts": "cpu"},
            {"self_attn": "cpu", "mlp.gate": 0, "mlp.shared_experts": 0, "mlp.experts": "cpu"},
        ),
    ],
)
def test_accelerate_map_keeps_a_router_where_its_module_reads_it(
    model: str, homes: dict[str, str], expected: dict[str, int | str]
) -> None:
    """With the experts in one entry, else on the GPU; the attention may be elsewhere."""
    plan = planned(model, "accelerate", gpu(500.0), disk=True)
    place = plan.placement[6]
    parts = tuple(
        Held(p.kind, homes[p.kind], False) if p.kind in homes else p  # type: ignore[arg-type]
        for p in place.parts
    )
    divided = msgspec.structs.replace(place, parts=parts)
    places = (*plan.placement[:6], divided, *plan.placement[7:])
    found = accelerate.device_map(msgspec.structs.replace(plan, placement=places))
    assert {name: found[f"model.layers.5.{name}"] for name in expected} == expected


def test_accelerate_refuses_routers_for_which_there_is_no_room() -> None:
    """One of 64 KiB, where not a byte is free; the message says by how much."""
    plan = planned("mixtral-8x7b", "accelerate", gpu(500.0))
    place = plan.placement[6]
    parts = tuple(Held(p.kind, "cpu", False) if p.kind == "attention" else p for p in place.parts)
    divided = msgspec.structs.replace(place, parts=parts)
    full = tuple(
        msgspec.structs.replace(use, capacity_bytes=use.capacity_bytes - use.free_bytes)
        for use in plan.memory
    )
    tight = msgspec.structs.replace(
        plan, memory=full, placement=(*plan.placement[:6], divided, *plan.placement[7:])
    )
    with pytest.raises(ExportError, match="for which gpu0 lacks 1 MiB"):
        accelerate.device_map(tight)


def test_accelerate_map_holds_the_vision_tower_with_the_embedding() -> None:
    """gemma-3-27b: its loader is the one for images and text."""
    plan = planned("gemma-3-27b", "accelerate", gpu(80.0))
    found = accelerate.device_map(plan)
    assert {
        "model.vision_tower",
        "model.multi_modal_projector",
        "model.language_model.norm",
    } <= set(found)
    *_, script = accelerate.artefacts(plan)
    assert "AutoModelForImageTextToText.from_pretrained(" in script.text


def test_verb_refuses_a_model_whose_modules_have_no_names(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What could not be exported is not planned for accelerate."""
    machine = ["--machine", "rtx-4090+512gb-ram", "--for", "accelerate"]
    assert main(["offload", "llama-4-scout", *machine]) == 2
    assert "accelerate cannot express the modules of llama4" in capsys.readouterr().err


def test_verb_refuses_a_type_of_weights_before_it_plans(capsys: pytest.CaptureFixture[str]) -> None:
    """What accelerate cannot load is not planned for it."""
    machine = ["--machine", "rtx-4090+64gb-ram", "--for", "accelerate", "--dtype", "q4_k"]
    assert main(["offload", "llama-3.1-8b", *machine]) == 2
    assert "accelerate has no weights of type q4_k. Where: --dtype." in capsys.readouterr().err


def test_tied_matrix_is_one_entry_for_both_ends() -> None:
    """gemma-2-9b: embedding and head are one tensor, so they live together."""
    found = accelerate.device_map(planned("gemma-2-9b", "accelerate", cpu_gb=100.0))
    assert found["model.embed_tokens"] == found["lm_head"] == "cpu"


@pytest.mark.parametrize(
    ("target", "change", "words"),
    [
        ("vllm", {"dtype": "q4_k"}, "weights in q4_k"),
        ("accelerate", {"dtype": "q4_k"}, "weights in q4_k"),
        ("llama.cpp", {"kv_dtype": "fp8"}, "KV cache in fp8"),
    ],
)
def test_a_type_the_tool_has_not_is_refused(
    target: str, change: dict[str, str], words: str
) -> None:
    """It names the type."""
    asked = msgspec.structs.replace(ASKED, **change)
    plan = planned("llama-3.1-8b", target, gpu(40.0), asked=asked)
    with pytest.raises(ExportError, match=words):
        offload_artefacts(plan, target)


@pytest.mark.parametrize("target", ["accelerate", "llama.cpp", "vllm"])
def test_a_plan_of_any_kind_is_refused_with_the_place(target: str) -> None:
    """10 GB of GPU, 4 GB of memory and a disk: parts on disk computed by the CPU beside a GPU."""
    plan = planned("llama-3.1-8b", "any", gpu(10.0), cpu_gb=4.0, disk=True)
    with pytest.raises(ExportError, match=f"{target} cannot express .*--for {target}"):
        offload_artefacts(plan, target)


def test_unknown_target_suggests_the_near_one() -> None:
    """``vlm`` is answered with ``vllm``."""
    plan = planned("llama-3.1-8b", "any", gpu(40.0))
    with pytest.raises(InputError, match="did you mean 'vllm'"):
        offload_artefacts(plan, "vlm")


def test_verbs_plan_for_a_tool_and_export(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """offload --for, certify, explain and export, from the words typed to the files written."""
    box = tmp_path / "machine.toml"
    box.write_text(
        '[[gpus]]\ndevice = "rtx-3090"\n[cpu]\ndevice = "cpu-desktop"\nmemory_bytes = "32 GiB"\n'
    )
    saved = str(tmp_path / "plan.json")
    words = ["offload", "llama-3.1-8b", "--machine", str(box), "--for", "accelerate"]
    assert main([*words, "--input-len", "64", "--output-len", "16", "-o", saved]) == 0
    shown = capsys.readouterr().out
    assert "proven optimal" in shown
    assert f"optalloc export {saved} --to accelerate" in shown
    assert main(["certify", saved]) == 0
    assert "says the truth" in capsys.readouterr().out
    assert main(["explain", saved]) == 0
    assert "1 GiB more on gpu0" in capsys.readouterr().out
    assert main(["explain", saved, "--html", str(tmp_path / "page.html")]) == 2
    assert "explained without --html" in capsys.readouterr().err
    assert main(["export", saved, "--to", "accelerate", "-o", str(tmp_path / "out")]) == 0
    written = json.loads((tmp_path / "out" / "device_map.json").read_text())
    assert set(written.values()) == {0}
    words += ["--dtype", "fp32", "--context", "max", "--min-rate"]
    assert main([*words, "1"]) == 0
    assert main([*words, "1e9"]) == 2


def test_export_writes_an_executable_script(tmp_path: Path) -> None:
    """serve.sh of llama.cpp and vLLM."""
    plan = planned("llama-3.1-8b", "vllm", gpu(40.0))
    (script,) = export(plan, "vllm", tmp_path)
    assert script.stat().st_mode & 0o111
    assert "exec vllm serve" in script.read_text()
