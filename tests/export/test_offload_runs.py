"""Offload plans run for real: a small Llama over CPU memory and disk by accelerate."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from optalloc.export.offload.accelerate import device_map
from optalloc.model.load import load_model
from optalloc.model.parameters import total_parameters
from optalloc.serving.offload.generation import Generation
from optalloc.serving.offload.machine import Cpu, Disk, Machine
from optalloc.serving.offload.plan import OffloadPlan
from optalloc.serving.offload.solve import plan_offload
from optalloc.units import MB

pytestmark = [pytest.mark.torch, pytest.mark.slow]

TOKENS = 16


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 small layers between two large matrices, randomly initialised."""
    torch = pytest.importorskip("torch", reason="needs torch")
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    pytest.importorskip("accelerate", reason="needs accelerate")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=24,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=64000,
        max_position_embeddings=256,
        tie_word_embeddings=False,
    )
    folder = tmp_path_factory.mktemp("llama")
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def plan(saved: Path) -> OffloadPlan:
    """60 MB of memory are missing; each part from the disk costs an opening beside its bytes."""
    model = load_model(str(saved))
    cpu = Cpu(
        memory_bytes=4 * total_parameters(model) - 60 * MB,
        memory_bandwidth_bytes_per_s=1e10,
        flops_per_s=2e10,
    )
    disk = Disk(size_bytes=10**12, bandwidth_bytes_per_s=2e9, latency_s=4e-3)
    asked = Generation(prompt_tokens=16, output_tokens=TOKENS, dtype="fp32", kv_dtype="fp32")
    machine = Machine(gpus=(), cpu=cpu, disk=disk)
    return plan_offload(model, machine, asked, runtime="accelerate").plan


def _loaded(saved: Path, places: dict[str, Any], folder: Path) -> Any:
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        saved, device_map=places, offload_folder=str(folder), dtype=torch.float32
    )
    return model.eval()


def _first_fit(saved: Path, plan: OffloadPlan) -> dict[str, Any]:
    """accelerate's own map, given the memory that the plan has for weights."""
    import accelerate
    import torch
    import transformers

    whole = transformers.AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32)
    (cpu,) = (use for use in plan.memory if use.device == "cpu")
    found: dict[str, Any] = accelerate.infer_auto_device_map(
        whole,
        max_memory={"cpu": cpu.capacity_bytes - cpu.workspace_bytes},
        no_split_module_classes=["LlamaDecoderLayer"],
        dtype=torch.float32,
    )
    return found


def test_logits_are_those_of_the_whole_model_and_tokens_come_faster(
    saved: Path, plan: OffloadPlan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """First-fit keeps room for the largest matrix and puts most layers on disk; the plan puts the
    two matrices there, which are opened once a token. Best of three, taken in turns.
    """
    import torch
    import transformers

    torch.set_num_threads(1)
    ours = device_map(plan)
    theirs = _first_fit(saved, plan)
    assert set(ours.values()) == {"cpu", "disk"}
    assert set(theirs.values()) == {"cpu", "disk"}
    whole = transformers.AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32).eval()
    models = [
        _loaded(saved, places, tmp_path / name)
        for name, places in (("ours", ours), ("theirs", theirs))
    ]
    prompt = torch.arange(16)[None]
    with torch.no_grad():
        logits = whole(prompt).logits
        for model in models:
            assert torch.equal(model(prompt).logits, logits)
    best = [float("inf")] * 2
    for _ in range(3):
        for k, model in enumerate(models):
            begin = time.perf_counter()
            model.generate(prompt, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)
            best[k] = min(best[k], time.perf_counter() - begin)
    rates = [TOKENS / seconds for seconds in best]
    with capsys.disabled():
        print(f"\ntokens/s: planned {rates[0]:.1f}, first-fit {rates[1]:.1f}")
    assert rates[0] >= 1.2 * rates[1]


def test_every_parameter_has_a_place(saved: Path, plan: OffloadPlan) -> None:
    """from_pretrained does not complain of a module that the map leaves out."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(saved)
    places = device_map(plan)
    for name, _ in [*model.named_parameters(), *model.named_buffers()]:
        assert any(name == key or name.startswith(f"{key}.") for key in places), name


def test_quantities_of_the_plan_are_those_of_the_files(saved: Path, plan: OffloadPlan) -> None:
    """Bytes of parts over all devices, the cache aside, are the parameters' in the checkpoint."""
    import safetensors.torch

    stored = sum(
        tensor.numel() * tensor.element_size()
        for file in saved.glob("*.safetensors")
        for tensor in safetensors.torch.load_file(file).values()
    )
    cache = 24 * 4 * 2 * 4 * 32 * plan.generation.context_tokens
    assert sum(use.parts_bytes for use in plan.memory) == stored + cache


@pytest.mark.parametrize("missing_mb", [10, 60, 70, 90, 130])
def test_the_peer_of_the_study_is_accelerates_own_map(saved: Path, missing_mb: int) -> None:
    """The first-fit of benchmarks/offload_peers.py against infer_auto_device_map."""
    import accelerate
    import msgspec
    import torch
    import transformers
    from benchmarks.offload_peers import first_fit_homes

    from optalloc.serving.offload.parts import chain_of

    model = load_model(str(saved))
    asked = Generation(prompt_tokens=16, output_tokens=TOKENS, dtype="fp32", kv_dtype="fp32")
    chain = chain_of(model, asked)
    weights = tuple(tuple(p for p in parts if p.kind != "kv") for parts in chain.places)
    room = 4 * total_parameters(model) - missing_mb * MB
    homes = first_fit_homes(msgspec.structs.replace(chain, places=weights), [room, 10**12], 0)
    whole = transformers.AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32)
    theirs = accelerate.infer_auto_device_map(
        whole,
        max_memory={"cpu": room},
        no_split_module_classes=["LlamaDecoderLayer"],
        dtype=torch.float32,
    )
    names = ["model.embed_tokens", *(f"model.layers.{k}" for k in range(24)), "lm_head"]
    keys = [
        max((k for k in theirs if not k or f"{name}.".startswith(f"{k}.")), key=len)
        for name in names
    ]
    assert homes is not None
    assert [theirs[key] for key in keys] == [("cpu", "disk")[home] for home in homes]
