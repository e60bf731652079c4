"""compute.py: matrix products, attention and streaming operators on one device."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from optalloc.cluster.catalog import device
from optalloc.cost.compute import Unit, peak_flops_per_s
from optalloc.cost.constants import read_constants, values
from optalloc.errors import InputError

CONSTANTS = msgspec.structs.replace(
    values(read_constants()),
    gemm_tile_s=2e-6,
    layer_host_s=0.0,
    gemm_tile=128.0,
    wave_share=1.0,
    attention_head_dim=0.0,
    attention_backward_ratio=2.5,
    attention_backward_efficiency=0.8,
    launch_s=0.0,
)
# 100 multiprocessors, 100 TFLOP/s, half of it reached by deep products; 1 TB/s.
UNIT = Unit(
    matrix_flops_per_s=100e12,
    matrix_efficiency=0.5,
    attention_flops_per_s=80e12,
    bandwidth_bytes_per_s=1e12,
    multiprocessors=100.0,
    element_bytes=2.0,
    constants=msgspec.structs.replace(CONSTANTS, attention_efficiency=0.25),
)


def _gemm(m: float, n: float, k: float, groups: float = 1.0) -> float:
    return float(UNIT.gemm_s(np.array(m), np.array(n), np.array(k), groups))


def test_a_product_of_whole_waves_runs_at_its_efficiency() -> None:
    """1280 x 1280 is 100 tiles, one wave.

    2 x 1280 x 1280 x 256 = 838.9 MFLOP at 50 TFLOP/s are 16.78 us, and a tile's own 2 us.
    """
    assert _gemm(1280, 1280, 256) == pytest.approx(18.777e-6, rel=1e-4)


def test_one_tile_more_costs_a_wave() -> None:
    """101 tiles need two waves of 100."""
    assert _gemm(1281, 1280, 256) == pytest.approx(2 * 18.777e-6, rel=1e-4)


def test_a_row_more_is_never_faster() -> None:
    """Edge tiles count whole: 1 to 700 rows."""
    times = [_gemm(m, 512, 1024) for m in range(1, 700)]
    assert times == sorted(times)


def test_a_thin_product_runs_at_memory_speed() -> None:
    """One row times 12800 x 12800: the matrix's 327.7 MB at 1 TB/s are 327.7 us."""
    assert _gemm(1, 12800, 12800) == pytest.approx(327.7e-6, rel=1e-3)


def test_equal_products_share_waves() -> None:
    """100 products of one tile fill one wave: as long as one of 100 tiles."""
    assert _gemm(128, 128, 256, groups=100) == pytest.approx(_gemm(1280, 1280, 256))


def test_fp32_moves_twice_the_bytes() -> None:
    """Four bytes a value: 655.4 us for the matrix above."""
    wide = msgspec.structs.replace(UNIT, element_bytes=4.0)
    time_s = wide.gemm_s(np.array(1.0), np.array(12800.0), np.array(12800.0))
    assert float(time_s) == pytest.approx(655.4e-6, rel=1e-3)


def test_attention_is_bound_by_its_products() -> None:
    """1 GFLOP at a quarter of 80 TFLOP/s: 50 us; backward 2.5 times the work at 0.8: 156.25 us."""
    forward, backward = UNIT.attention_s(np.array(1e9), np.array(1.0), 0.0, 128.0)
    assert float(forward) == pytest.approx(50e-6)
    assert float(backward) == pytest.approx(156.25e-6)


def test_attention_is_bound_by_its_traffic() -> None:
    """1 GB at 1 TB/s: 1 ms forward, twice that backward."""
    forward, backward = UNIT.attention_s(np.array(1.0), np.array(1e9), 0.0, 128.0)
    assert (float(forward), float(backward)) == pytest.approx((1e-3, 2e-3))


def test_part_of_a_last_wave_may_be_free() -> None:
    """101 tiles with a quarter of what is missing: 1.01 + 0.99 / 4 = 1.2575 waves."""
    constants = msgspec.structs.replace(CONSTANTS, wave_share=0.25)
    unit = msgspec.structs.replace(UNIT, constants=constants)
    time_s = unit.gemm_s(np.array(101 * 128.0), np.array(128.0), np.array(256.0))
    assert float(time_s) == pytest.approx(1.2575 * 18.777e-6, rel=1e-4)


def test_few_tiles_of_a_deep_product_share_its_depth() -> None:
    """25 tiles on 100 processors, 8192 deep: in four parts, a quarter of the time of one."""
    quarter, whole = _gemm(640, 640, 8192), _gemm(1280, 1280, 8192)
    assert quarter == pytest.approx(whole / 4.0)


def test_unfused_scores_pass_through_memory() -> None:
    """100 MB of scores five times at 1 TB/s: 500 us on top of the 50 us of 1 GFLOP."""
    constants = msgspec.structs.replace(UNIT.constants, softmax_passes=5.0)
    unit = msgspec.structs.replace(UNIT, constants=constants)
    forward, backward = unit.attention_s(np.array(1e9), np.array(1.0), np.array(100e6), 128.0)
    assert float(forward) == pytest.approx(550e-6)
    assert float(backward) == pytest.approx(1100e-6)


def test_heads_that_are_no_multiple_of_eight_are_slow() -> None:
    """A quarter of the speed: 200 us instead of 50; a fused kernel pads and does not care."""
    constants = msgspec.structs.replace(UNIT.constants, unaligned=0.25, softmax_passes=1e-9)
    unit = msgspec.structs.replace(UNIT, constants=constants)
    forward, _ = unit.attention_s(np.array(1e9), np.array(1.0), np.array(1.0), 150.0)
    assert float(forward) == pytest.approx(200e-6)
    forward, _ = unit.attention_s(np.array(1e9), np.array(1.0), 0.0, 150.0)
    assert float(forward) == pytest.approx(50e-6)


def test_narrow_products_convert_their_operands() -> None:
    """Half a pass over 327.7 MB on top of the product: 1.5 times 327.7 us."""
    unit = msgspec.structs.replace(UNIT, cast_passes=0.5)
    time_s = unit.gemm_s(np.array(1.0), np.array(12800.0), np.array(12800.0))
    assert float(time_s) == pytest.approx(1.5 * 327.7e-6, rel=1e-3)


def test_every_kernel_is_launched() -> None:
    """Three kernels of 4 us on top of 1 MB at 1 TB/s: 13 us."""
    slow = msgspec.structs.replace(UNIT.constants, launch_s=4e-6)
    unit = msgspec.structs.replace(UNIT, constants=slow)
    assert float(unit.stream_s(np.array(1e6), 3.0)) == pytest.approx(13e-6)


def test_a_type_without_units_runs_on_its_stand_in() -> None:
    """fp32 products run in tf32 where there is tf32; a V100 runs bf16 work on its fp16 units."""
    assert peak_flops_per_s(device("a100-sxm-80g"), "fp32") == 156e12
    assert peak_flops_per_s(device("v100-sxm-32g"), "bf16") == 125e12


def test_a_type_no_unit_can_run_is_refused() -> None:
    """An A100 has no fp8; the hint names the types that a workload can ask of it."""
    with pytest.raises(InputError, match="no fp8 units") as refused:
        peak_flops_per_s(device("a100-sxm-80g"), "fp8")
    assert refused.value.fix == "use one of fp32, bf16, fp16"


def test_fp8_keeps_the_attention_in_16_bits() -> None:
    """H100: 1978.9 TFLOP/s for products, 989.4 for attention."""
    unit = Unit.of(device("h100-sxm"), "fp8", CONSTANTS)
    assert unit.matrix_flops_per_s == 1978.9e12
    assert unit.attention_flops_per_s == 989.4e12
    assert unit.element_bytes == 2.0


def test_a_missing_dtype_is_answered_with_those_that_run() -> None:
    """Only types that a workload can have, those with a stand-in among them."""
    with pytest.raises(InputError, match=r"t4 has no fp8 units.*use one of fp32, bf16, fp16"):
        peak_flops_per_s(device("t4"), "fp8")
