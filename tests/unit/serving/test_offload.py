"""Machines, parts and plans of offload: figures by hand, files, limits of runtimes, words."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from optalloc.errors import CertificateError, InputError, NoPlan
from optalloc.model.load import load_model
from optalloc.model.spec import LayerRun
from optalloc.plan.plan import load_offload_plan
from optalloc.result import Termination
from optalloc.serving.offload.certify import certify_offload
from optalloc.serving.offload.explain import explain_offload
from optalloc.serving.offload.flexgen import flexgen_policy
from optalloc.serving.offload.generation import Generation
from optalloc.serving.offload.machine import Cpu, Disk, Gpu, Machine, load_machine
from optalloc.serving.offload.parts import chain_of
from optalloc.serving.offload.plan import OffloadPlan
from optalloc.serving.offload.runtimes import RUNTIMES
from optalloc.serving.offload.solve import best_kv_dtype, longest_context, plan_offload
from optalloc.stop import NodeLimit
from optalloc.units import GB, GIB

SHORT = Generation(prompt_tokens=512, output_tokens=128)


def machine(
    *gpus_gb: float, cpu_gb: float = 64.0, disk_gb: float | None = None, link_gb: float = 20.0
) -> Machine:
    """GPUs of 800 GB/s, a CPU of 60 GB/s, a disk of 5 GB/s."""
    return Machine(
        gpus=tuple(
            Gpu(
                name=f"{size:g} GB",
                memory_bytes=int(size * GB),
                memory_bandwidth_bytes_per_s=800e9,
                flops_per_s=80e12,
                link_bandwidth_bytes_per_s=link_gb * GB,
                link_latency_s=1e-5,
            )
            for size in gpus_gb
        ),
        cpu=Cpu(memory_bytes=int(cpu_gb * GB), memory_bandwidth_bytes_per_s=60e9, flops_per_s=1e12),
        disk=None
        if disk_gb is None
        else Disk(size_bytes=int(disk_gb * GB), bandwidth_bytes_per_s=5e9),
    )


@pytest.fixture(scope="module")
def plan() -> OffloadPlan:
    """An 8B model on 10 GB of GPU and 4 GB of memory: a part of it is on disk."""
    return plan_offload(
        load_model("llama-3.1-8b"), machine(10.0, cpu_gb=4.0, disk_gb=100.0), SHORT
    ).plan


def test_parts_of_a_layer_by_hand() -> None:
    """Llama 3.1 8B in bf16: attention 4096 x (4096 + 2 x 1024) + 4096 x 4096 and two norms; an MLP
    of 3 x 4096 x 14336; a cache of 2 x 8 x 128 values a token for 640 tokens.
    """
    chain = chain_of(load_model("llama-3.1-8b"), SHORT)
    sizes = {part.kind: part.size_bytes for part in chain.places[1]}
    assert sizes == {
        "attention": 2 * (4096 * (4096 + 2048) + 4096 * 4096 + 2 * 4096),
        "kv": 2 * 2 * 8 * 128 * 640,
        "ffn": 2 * 3 * 4096 * 14336,
    }
    assert len(chain.places) == 34
    assert chain.places[0][0].size_bytes == 2 * 128256 * 4096
    assert chain.places[33][0].size_bytes == 2 * (128256 * 4096 + 4096)


def test_experts_touched_by_hand() -> None:
    """Mixtral: of 8 experts one token touches 2, two tokens 8 (1 - (6/8)^2) = 3.5."""
    model = load_model("mixtral-8x7b")
    for batch, touched in ((1, 2.0), (2, 3.5)):
        chain = chain_of(model, msgspec.structs.replace(SHORT, batch=batch))
        part = next(part for part in chain.places[1] if part.kind == "experts")
        assert part.decode.read_bytes == pytest.approx(part.size_bytes * touched / 8)


def test_state_of_linear_attention_by_hand() -> None:
    """Qwen3.5: 64 heads keep 128 x 128 numbers in 32 bits, read and written once a pass, whatever
    the context; one layer in four has a cache. The plan is certified by other code.
    """
    model = load_model("qwen3.5-397b-a17b")
    states = {part.size_bytes for parts in chain_of(model, SHORT).places for part in parts
              if part.kind == "kv"}  # fmt: skip
    assert max(states) == 4 * 64 * 128 * 128
    state = next(p for p in chain_of(model, SHORT).places[1] if p.kind == "kv")
    assert state.decode.read_bytes == 2 * state.size_bytes == 2 * max(states)
    few = msgspec.structs.replace(model, layers=(LayerRun(model.layers[0].layer, 2),))
    certify_offload(plan_offload(few, machine(40.0), SHORT).plan)


def test_everything_on_one_gpu_takes_bytes_over_bandwidth() -> None:
    """A model that fits: a token reads all weights and half-filled cache once at 800 GB/s."""
    model = load_model("llama-3.1-8b")
    result = plan_offload(model, machine(40.0), SHORT)
    assert result.termination is Termination.OPTIMAL
    read = 2 * (8030261248 - 128256 * 4096) + 2 * 2 * 8 * 128 * 32 * 576
    hops = 2 * (1e-5 + 2 * 4096 / 20e9)
    assert result.plan.tpot_s == pytest.approx(read / 800e9 + hops, rel=1e-3)


def test_plan_fits_and_is_certified(plan: OffloadPlan) -> None:
    """Every memory holds what it is given; the linear programme is below the optimum."""
    assert all(use.free_bytes >= 0 for use in plan.memory)
    assert 0.5 * plan.request_s < certify_offload(plan) <= plan.request_s
    assert plan.proof is not None
    assert plan.proof.checked
    assert plan.proof.bound_s == plan.request_s


@pytest.mark.parametrize(
    "change",
    [
        {"request_s": 1.0},
        {"ttft_s": 1.0},
        {"memory": ()},
        {"placement": ()},
        {"runtime": "llama.cpp", "limits": None},
        {"digests": {}},
    ],
)
def test_an_untrue_figure_is_found(plan: OffloadPlan, change: dict[str, object]) -> None:
    """Time, memory, places, the limits of a runtime, digests."""
    if "limits" in change:
        limits = msgspec.structs.replace(plan.limits, disk=False)
        change = change | {"limits": limits}
    with pytest.raises(CertificateError):
        certify_offload(msgspec.structs.replace(plan, **change))


def test_saved_plan_is_read_back(plan: OffloadPlan, tmp_path: Path) -> None:
    """Save and load is the identity."""
    plan.save(tmp_path / "plan.json")
    assert load_offload_plan(tmp_path / "plan.json") == plan


def test_more_memory_never_takes_longer() -> None:
    """Of any of the three kinds."""
    model = load_model("llama-3.1-8b")
    base = machine(6.0, 3.0, cpu_gb=5.0, disk_gb=200.0)
    seconds = plan_offload(model, base, SHORT).plan.request_s
    for more in (
        machine(6.5, 3.0, cpu_gb=5.0, disk_gb=200.0),
        machine(6.0, 3.5, cpu_gb=5.0, disk_gb=200.0),
        machine(6.0, 3.0, cpu_gb=5.5, disk_gb=200.0),
    ):
        assert plan_offload(model, more, SHORT).plan.request_s <= seconds * (1 + 1e-9)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_runtime_is_never_faster_than_anything(runtime: str) -> None:
    """Its plans are a subset; each keeps its own limits."""
    model, box = load_model("llama-3.1-8b"), machine(6.0, 12.0)
    free = plan_offload(model, box, SHORT).plan
    bound = plan_offload(model, box, SHORT, runtime=runtime).plan
    assert bound.request_s >= free.request_s * (1 - 1e-9)
    certify_offload(bound)


def test_too_small_a_machine_says_by_how_much() -> None:
    """16 GB of weights on 9 GB of memory: what is missing, and fixes that work."""
    model, box = load_model("llama-3.1-8b"), machine(4.0, cpu_gb=5.0)
    result = plan_offload(model, box, SHORT)
    assert result.termination is Termination.INFEASIBLE
    with pytest.raises(NoPlan, match=r"needs 15\.0 GiB"):
        _ = result.plan
    more = int(result.fixes[0].cost.split()[0])
    cpu = msgspec.structs.replace(box.cpu, memory_bytes=box.cpu.memory_bytes + more)
    assert plan_offload(model, msgspec.structs.replace(box, cpu=cpu), SHORT).best is not None
    assert any("weights in" in fix.what for fix in result.fixes)


def test_a_disk_that_is_too_small_counts() -> None:
    """What memory would help has to hold what the disk does not: with a gigabyte more than it there
    is a plan, with a gigabyte less there is none."""
    model, given = load_model("llama-3.1-8b"), machine(8.0, cpu_gb=3.0, disk_gb=1.0)
    result = plan_offload(model, given, SHORT)
    assert result.termination is Termination.INFEASIBLE
    more = int(result.fixes[0].cost.split()[0])

    def with_memory(extra: int) -> bool:
        cpu = msgspec.structs.replace(given.cpu, memory_bytes=given.cpu.memory_bytes + extra)
        larger = msgspec.structs.replace(given, cpu=cpu)
        return plan_offload(model, larger, SHORT, stop=NodeLimit(2000)).best is not None

    assert with_memory(more + int(GB))
    assert not with_memory(more - int(GB))


def test_a_stopped_search_answers_with_what_it_has() -> None:
    """Before the first bound: no plan, or one whose gap is open and never negative."""
    model, box = load_model("llama-3.1-8b"), machine(6.0, 3.0, cpu_gb=5.0, disk_gb=200.0)
    for nodes in (0, 1, 40):
        result = plan_offload(model, box, SHORT, stop=NodeLimit(nodes))
        assert result.termination is Termination.LIMIT
        if result.best is not None:
            assert 0.0 < result.bounds.gap <= 1.0


def test_flexgen_keeps_all_that_fits_on_the_gpu() -> None:
    """Shares of 1; decoding takes the bytes of the layers and half-filled cache at 800 GB/s."""
    model = load_model("llama-3.1-8b")
    policy = flexgen_policy(model, machine(40.0), SHORT)
    assert policy is not None
    assert policy.weights == pytest.approx((1.0, 0.0, 0.0), abs=1e-9)
    layers = 2 * (8030261248 - 2 * 128256 * 4096 - 4096)
    read = layers + 2 * 2 * 8 * 128 * 32 * 576
    compute = 2 * (layers / 2) * 512 / 80e12  # and the attention core
    assert policy.request_s == pytest.approx(127 * read / 800e9 + compute, rel=5e-3)


def test_flexgen_divides_what_has_no_room() -> None:
    """16 GB on 10 GB of GPU: a share is streamed, at the speed of the link; too little memory has
    no policy; experts and several GPUs are refused.
    """
    model = load_model("llama-3.1-8b")
    policy = flexgen_policy(model, machine(10.0), SHORT)
    assert policy is not None
    assert policy.weights[0] < 1.0
    streamed = sum(policy.weights[1:]) * 2 * (8030261248 - 2 * 128256 * 4096 - 4096)
    assert policy.request_s >= 127 * streamed / 20e9
    assert flexgen_policy(model, machine(4.0, cpu_gb=5.0), SHORT) is None
    with pytest.raises(InputError, match="one GPU"):
        flexgen_policy(load_model("mixtral-8x7b"), machine(10.0), SHORT)


def test_longest_context_keeps_the_rate() -> None:
    """The next step of 256 tokens is slower than asked, or does not fit."""
    model, box = load_model("llama-3.1-8b"), machine(20.0, cpu_gb=2.0)
    found = longest_context(model, box, SHORT, tokens_per_s=40.0)
    rates = [
        plan_offload(model, box, msgspec.structs.replace(found, context_tokens=tokens))
        for tokens in (found.context_tokens, found.context_tokens + 256)
    ]
    assert rates[0].plan.output_tokens_per_s >= 40.0
    assert rates[1].best is None or rates[1].best.output_tokens_per_s < 40.0


def test_a_rate_that_no_context_keeps_is_refused() -> None:
    """With the rate of the shortest context."""
    model, box = load_model("llama-3.1-8b"), machine(20.0, cpu_gb=2.0)
    fastest = plan_offload(model, box, SHORT).plan.output_tokens_per_s
    with pytest.raises(InputError, match=f"gives {fastest:.4g} output tokens/s"):
        longest_context(model, box, SHORT, tokens_per_s=2.0 * fastest)


def test_cache_is_as_precise_as_costs_no_speed() -> None:
    """With room for it 16 bits are kept; where the cache pushes weights out, fewer bits win."""
    model = load_model("llama-3.1-8b")
    assert best_kv_dtype(model, machine(40.0), SHORT).kv_dtype == "bf16"
    long = Generation(prompt_tokens=16000, output_tokens=500, batch=8)
    assert best_kv_dtype(model, machine(24.0), long).kv_dtype == "q4_0"


def test_explanation_names_the_full_memory_and_the_best_change(plan: OffloadPlan) -> None:
    """The disk is read for every token: CPU memory is full, and more of it helps."""
    told = explain_offload(plan)
    assert any("cpu is full" in text for text in told.binds)
    assert told.changes[0].what == "the disk twice as fast"
    assert all(change.speedup >= 1.0 - 1e-9 for change in told.changes)
    assert sum(cause.share for cause in told.causes) == pytest.approx(1.0)


def test_machine_file_takes_catalogue_names_and_own_figures(tmp_path: Path) -> None:
    """24 GB of a 4090 less what the driver takes; a link given in the file wins."""
    file = tmp_path / "machine.toml"
    file.write_text(
        """
        format = "optalloc.machine/1"
        [[gpus]]
        device = "rtx-4090"
        count = 2
        link_bandwidth_bytes_per_s = "25 GB/s"
        reserve_bytes = "1 GiB"
        [cpu]
        device = "cpu-desktop"
        memory_bytes = "48 GiB"
        """
    )
    box = load_machine(file)
    assert len(box.gpus) == 2
    assert box.gpus[0].memory_bytes == 24564 * 2**20 - GIB
    assert box.gpus[1].link_bandwidth_bytes_per_s == 25e9
    assert box.cpu.memory_bytes == 48 * GIB
    assert box.disk is None


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('[[gpus]]\ndevice = "rtx-409"\n', r"\$.gpus\[0\].device"),
        ('[[gpus]]\nmemory_bytes = "8 GiB"\n', r"memory_bandwidth_bytes_per_s, .* missing"),
        ("[[gpus]]\nmemory = 3\n", "unknown key 'memory'"),
        ("[disk]\nsize_bytes = 5\nbandwidth_bytes_per_s = -1\n", r"\$.disk.bandwidth"),
        (
            '[[gpus]]\ndevice = "l4"\n[[links]]\nbetween = [0, 1]\nbandwidth_bytes_per_s = 1e9\n',
            r"\$.links\[0\].between",
        ),
    ],
)
def test_a_wrong_machine_file_says_where(text: str, where: str, tmp_path: Path) -> None:
    """What, where and how to fix, for every kind of mistake."""
    file = tmp_path / "machine.toml"
    file.write_text(
        '[cpu]\nmemory_bytes = "8 GiB"\nmemory_bandwidth_bytes_per_s = 5e10\nflops_per_s = 1e12\n'
        + text
    )
    with pytest.raises(InputError, match=where):
        load_machine(file)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"dtype": "q4k"}, "did you mean 'q4_k'"),
        ({"batch": 0}, "batch is 0"),
        ({"context_tokens": 10}, "no room for prompt and output"),
    ],
)
def test_a_wrong_generation_is_refused(values: dict[str, object], words: str) -> None:
    """A type that is not known, a count below 1, too short a context."""
    with pytest.raises(InputError, match=words):
        Generation(**values)  # type: ignore[arg-type]


def test_models_that_do_not_generate_are_refused() -> None:
    """An encoder has no tokens to come."""
    with pytest.raises(InputError, match="decoder-only"):
        chain_of(load_model("bert-large-uncased"), SHORT)
    with pytest.raises(InputError, match="positions"):
        chain_of(load_model("llama-2-7b"), msgspec.structs.replace(SHORT, context_tokens=9999))


def test_a_machine_in_words_is_the_file_that_says_the_same(tmp_path: Path) -> None:
    """Counts, sizes with their prefixes, 90 % of the memory, the desktop unless one is named."""
    words = load_machine("2xrtx-4090 + a10g+64GiB-ram+1tb-disk")
    file = tmp_path / "machine.toml"
    file.write_text(
        'format = "optalloc.machine/1"\n[[gpus]]\ndevice = "rtx-4090"\ncount = 2\n[[gpus]]\n'
        'device = "a10g"\n[cpu]\ndevice = "cpu-desktop"\nmemory_bytes = 61847529062\n'
        '[disk]\nsize_bytes = "1 TB"\nbandwidth_bytes_per_s = "3 GB/s"\n'
    )
    assert words == load_machine(file)
    assert load_machine("cpu-server+256gb-ram").gpus == ()
    for wrong, said in (
        ("rtx-4090+64gb-ram+32gb-ram", "on top of another"),
        ("rtx-409+64gb-ram", "did you mean"),
        ("rtx-4090+64gb!ram", "no part of a machine"),
        ("0xrtx-4090", "count is 0"),
    ):
        with pytest.raises(InputError, match=said):
            load_machine(wrong)
