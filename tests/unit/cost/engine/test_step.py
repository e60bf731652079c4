"""engine/work.py and step.py: bytes and times of one iteration, by hand."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from optalloc.cluster import catalog
from optalloc.cost.engine.constants import EngineFile, read_engine_constants
from optalloc.cost.engine.setup import Engine
from optalloc.cost.engine.step import StepModel, step_model
from optalloc.model.load import load_model

H100 = catalog.device("h100-sxm")
LLAMA = load_model("llama-2-70b")


@pytest.fixture(scope="module")
def plain() -> EngineFile:
    """Constants that leave the physics alone: efficiencies of one, no latencies, no shifts."""
    file = read_engine_constants()
    constants = {}
    for name, constant in file.constants.items():
        value = 1.0 if constant.unit in ("share", "factor") else 0.0
        constants[name] = msgspec.structs.replace(constant, value=value)
    for name in ("idle_experts", "bubble"):
        constants[name] = msgspec.structs.replace(constants[name], value=0.0)
    constants["sharpness"] = msgspec.structs.replace(constants["sharpness"], value=64.0)
    return msgspec.structs.replace(file, constants=constants, shifts={}, errors=())


def _plain(plain: EngineFile, model: str, **fields: object) -> StepModel:
    engine = msgspec.convert(fields, Engine)
    return step_model(load_model(model), H100, engine, file=plain)


def test_cached_bytes_of_a_token_are_those_of_the_paper(plain: EngineFile) -> None:
    """Llama-2-70B, 16 bits: 2 * 80 layers * 8 heads * 128 * 2 = 327,680 bytes; an eighth with tp 8,
    and the same eighth with tp 16, where each head lies on two devices. DeepSeek-V3 keeps
    61 * 576 * 2 = 70,272 bytes whatever tp."""
    assert _plain(plain, "llama-2-70b").kv_bytes_per_token == 327_680
    assert _plain(plain, "llama-2-70b", tp=8).kv_bytes_per_token == 40_960
    assert _plain(plain, "llama-2-70b", tp=16).kv_bytes_per_token == 40_960
    assert _plain(plain, "deepseek-v3", tp=8).kv_bytes_per_token == 70_272


def test_prompts_that_a_chunk_holds_are_read_together(plain: EngineFile) -> None:
    """A chunk of 8,192 holds four prompts of 2,000 tokens, and one of 5,000."""
    step = _plain(plain, "llama-2-70b")
    together = float(step.prefill_s(2000, 4.0)) / 4.0
    assert float(step.prompt_interval_s(2000)) == pytest.approx(together)
    assert float(step.prompt_interval_s(2000)) < float(step.prefill_s(2000))
    assert float(step.prompt_interval_s(5000)) == pytest.approx(float(step.prefill_s(5000)))


def test_a_further_prompt_takes_less_where_a_chunk_holds_both(plain: EngineFile) -> None:
    """Two of 50 tokens read the weights once, two of 5,000 take an iteration each."""
    step = _plain(plain, "llama-2-70b")
    both = float(step.prefill_s(50, 2.0))
    assert float(step.another_prompt_s(50)) == pytest.approx(both - float(step.prefill_s(50)))
    assert float(step.another_prompt_s(50)) < 0.2 * float(step.prefill_s(50))
    assert float(step.another_prompt_s(5000)) == pytest.approx(float(step.prefill_s(5000)))


def test_one_sequence_reads_every_weight_once(plain: EngineFile) -> None:
    """Decoding alone is bound by memory: 80 layers of 855,654,400 weights less the norms (16,384 a
    layer) and a head of 32000 * 8192, at two bytes and 3.35 TB/s: 41.0 ms."""
    step = _plain(plain, "llama-2-70b")
    weights = 80 * (855_654_400 - 16_384) + 32000 * 8192
    assert step.base_s(0.0, 1.0) == pytest.approx(2 * weights / 3.35e12, rel=1e-3)


def test_a_long_prompt_is_bound_by_the_matrix_units(plain: EngineFile) -> None:
    """8192 tokens: 2 FLOPs a weight and token at 989.4 TFLOP/s, and a pair costs 4 * 80 * 64 * 128
    FLOPs."""
    step = _plain(plain, "llama-2-70b")
    flops = 2 * 80 * (855_654_400 - 16_384) * 8192
    peak = H100.peak_flops_per_s["bf16"]
    assert step.base_s(8192.0, 0.0) == pytest.approx(
        flops / peak + 2 * 32000 * 8192 / 3.35e12, rel=1e-2
    )
    assert step.pair_s == pytest.approx(4 * 80 * 64 * 128 / peak)


def test_experts_touched_grow_with_the_tokens_and_end_at_all(plain: EngineFile) -> None:
    """Mixtral visits 2 of 8: one token reads a quarter of the experts, two 7/16, many all."""
    step = _plain(plain, "mixtral-8x7b")
    one, two, many = (step.base_s(0.0, n) for n in (1.0, 2.0, 64.0))
    experts = 32 * 8 * 3 * 4096 * 14336 * 2 / 3.35e12
    assert two - one == pytest.approx((7 / 16 - 1 / 4) * experts, rel=1e-3)
    assert many - one == pytest.approx(3 / 4 * experts, rel=2e-2)


def _with(plain: EngineFile, **values: float) -> EngineFile:
    changed = {
        name: msgspec.structs.replace(plain.constants[name], value=value)
        for name, value in values.items()
    }
    return msgspec.structs.replace(plain, constants=plain.constants | changed)


def test_kernels_of_fixed_shape_read_experts_that_nobody_visits(plain: EngineFile) -> None:
    """Mixtral's one token reads 2 of 8 experts, and half of the other six where half are idle."""
    step = _plain(_with(plain, idle_experts=0.5), "mixtral-8x7b")
    assert step.experts_read(1.0) == pytest.approx((2 + 6 / 2) / 8)
    assert step.experts_read(1e6) == pytest.approx(1.0)


def test_a_token_reaches_the_devices_of_its_experts_alone(plain: EngineFile) -> None:
    """DeepSeek-V3 on 32 devices: a token visits 8 of them; on eight, or cut over all, it is met on
    all."""
    for dp, ep, share in ((32, 32, 1 / 4), (8, 8, 1.0), (32, 1, 1.0)):
        step = _plain(plain, "deepseek-v3", attention_dp=dp, moe_ep=ep, weight_dtype="fp8")
        assert step.work.reach == share


def test_a_stage_over_nodes_waits_for_the_network(plain: EngineFile) -> None:
    """Sixteen H100s are two nodes: 160 all-reduces of Llama-2-70B wait 10 us more each; eight are
    one node."""
    slow = _with(plain, network_s=1e-5)
    for tp, more in ((8, 0.0), (16, 160e-5)):
        before, after = (_plain(f, "llama-2-70b", tp=tp).base_s(0.0, 1.0) for f in (plain, slow))
        assert after - before == pytest.approx(more, abs=1e-9)


def test_a_batch_waits_for_others_in_a_pipeline(plain: EngineFile) -> None:
    """A tenth of the time times 1 - 1/4 with four stages, none with one."""
    late = _with(plain, bubble=0.1)
    for pp, share in ((1, 0.0), (4, 0.075)):
        before, after = (
            _plain(f, "llama-2-70b", pp=pp).latency_s(0.0, 8.0, 8000.0) for f in (plain, late)
        )
        step = _plain(plain, "llama-2-70b", pp=pp).step_s(0.0, 8.0, 8000.0)
        assert after - before == pytest.approx(share * step)


def test_prompts_keep_the_stages_of_a_pipeline_busy(plain: EngineFile) -> None:
    """A tenth of what the same decoding takes alone, times 1 - 1/4, whatever comes with it."""
    late = _with(plain, bubble=0.1)
    before, after = (
        _plain(f, "llama-2-70b", pp=4).latency_s(4096.0, 8.0, 8000.0, 8e6) for f in (plain, late)
    )
    decode = _plain(plain, "llama-2-70b", pp=4).step_s(0.0, 8.0, 8000.0)
    assert after - before == pytest.approx(0.075 * decode)


def test_the_host_prepares_the_batches_of_all_stages(plain: EngineFile) -> None:
    """A millisecond for each of four batches of 8 sequences."""
    busy = _with(plain, sequence_s=1e-3)
    before, after = (
        _plain(f, "llama-2-70b", pp=4).latency_s(0.0, 8.0, 8000.0) for f in (plain, busy)
    )
    assert after - before == pytest.approx(4 * 8e-3)


def test_arrays_give_what_numbers_give() -> None:
    """One formula serves the search and the simulator."""
    step = step_model(LLAMA, H100, Engine(tp=4))
    prompts, sequences = np.array([0.0, 512.0, 8192.0]), np.array([1.0, 64.0, 0.0])
    together = step.step_s(prompts, sequences, 1000.0, 10.0)
    alone = [
        float(step.step_s(p, s, 1000.0, 10.0)) for p, s in zip(prompts, sequences, strict=True)
    ]
    assert np.allclose(together, alone, rtol=1e-12)


def test_a_pipeline_holds_and_takes_its_share() -> None:
    """80 layers over two stages: half of the cache on each; over three, 27 on the longest."""
    two, three = (step_model(LLAMA, H100, Engine(tp=2, pp=pp)) for pp in (2, 3))
    assert two.kv_bytes_per_token == 327_680 / 2 / 2
    assert (two.work.stage_share, three.work.stage_share) == (1 / 2, 27 / 80)
    assert two.latency_s(0, 8, 8000) > two.step_s(0, 8, 8000)


def test_weights_and_cache_fill_the_memory() -> None:
    """70 billion 16-bit weights leave nothing on one H100 and much on four."""
    one, four = (step_model(LLAMA, H100, Engine(tp=tp)) for tp in (1, 4))
    assert one.kv_capacity_tokens < 0
    assert four.weights_bytes == pytest.approx(2 * 68_976_648_192 / 4, rel=1e-3)
    room = 0.9 * H100.memory_bytes - four.weights_bytes - four.workspace_bytes
    assert four.kv_capacity_tokens == pytest.approx(room / 81_920)
    assert four.sequences_that_fit(2000) == np.floor(room / 81_920 / 2000)


def test_windows_are_held_once_for_a_sequence(plain: EngineFile) -> None:
    """Half of gpt-oss-20b's 24 layers see 128 tokens: 8 heads of 64, keys and values, 16 bits."""
    step = _plain(plain, "gpt-oss-20b")
    assert step.kv_bytes_per_token == 12 * 2 * 8 * 64 * 2
    assert step.work.fixed_kv_bytes == 12 * 128 * 2 * 8 * 64 * 2


def test_a_device_without_measurements_is_answered_by_the_common_constants() -> None:
    """An AMD device has no shifts, and its errors are those of any setup."""
    step = step_model(load_model("llama-3.1-8b"), catalog.device("mi300x"), Engine())
    assert 0 < step.base_s(0.0, 1.0) < 0.1
    assert step.errors.level == ""
