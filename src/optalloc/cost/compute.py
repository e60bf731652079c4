"""Time of operations on one device.

    t_gemm = max( waves * t_wave, stream ) + cast_passes * stream + launch
    stream = bytes / (bandwidth * memory_efficiency)
    waves  = f + wave_share ( ceil(f) - f ),   f = ceil(M/t) ceil(N/t) / multiprocessors
    t_wave = multiprocessors * 2 t^2 K / (peak * gemm_efficiency) + gemm_tile_s

t is ``gemm_tile``, less for thinner matrices; ``gemm_tile_s`` is the time a tile fills its pipeline
and writes its result, which weighs more on a faster device. A tile at the edge takes as long as a
whole one; a wave of few tiles takes ``wave_share`` of what is missing, for libraries choose tiles
that fill waves, and share the depth of a product with very few. ``cast_passes`` counts passes over
the operands that convert them to 8 or 4 bits. Tile and wave quantisation: NVIDIA, "Matrix
Multiplication Background User's Guide", section 4. Operators that only move memory run at the
memory bandwidth.
"""

from __future__ import annotations

from typing import get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cluster.device import DeviceSpec
from optalloc.cost.constants import Constants
from optalloc.errors import InputError
from optalloc.workload import Dtype

Array = NDArray[np.float64]

# Rows or columns of the smallest operand of a matrix instruction.
_TILE_STEP = 16.0

# Least depth of one part of a product whose depth is shared.
_SPLIT_DEPTH = 1024.0

# Where a dtype has no units of its own, the device runs it on these.
_STAND_IN = {"fp32": ("tf32", "fp32"), "bf16": ("bf16", "fp16", "fp32"), "fp16": ("fp16", "bf16")}


def peak_flops_per_s(device: DeviceSpec, dtype: str) -> float:
    """Dense peak of ``dtype``, or of the type that stands in for it.

    Raises
    ------
    InputError
        If the device cannot compute in ``dtype`` (fp8 on an A100).
    """
    peak = _peak(device, dtype)
    if peak is None:
        known = ", ".join(name for name in get_args(Dtype) if _peak(device, name))
        raise InputError(
            f"{device.name} has no {dtype} units", path="dtype", fix=f"use one of {known}"
        )
    return peak


def computes_in(device: DeviceSpec, dtype: str) -> bool:
    """Whether the device has units of ``dtype``, or of a type that stands in for it."""
    return _peak(device, dtype) is not None


def _peak(device: DeviceSpec, dtype: str) -> float | None:
    peaks = device.peak_flops_per_s
    return next((peaks[name] for name in _STAND_IN.get(dtype, (dtype,)) if name in peaks), None)


def _tile(extent: Array, largest: float) -> Array:
    """Rows or columns of a tile: a multiple of what a matrix instruction takes."""
    tile: Array = np.minimum(largest, _TILE_STEP * np.ceil(extent / _TILE_STEP))
    return tile


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one device that the formulas need; speeds in FLOP/s and bytes/s.

    ``element_bytes`` is the size of one stored activation.
    """

    matrix_flops_per_s: float
    matrix_efficiency: float
    attention_flops_per_s: float
    bandwidth_bytes_per_s: float
    multiprocessors: float
    element_bytes: float
    cast_passes: float = 0.0
    constants: Constants

    @staticmethod
    def of(device: DeviceSpec, dtype: str, constants: Constants) -> Unit:
        """The unit of a device for matrix multiplications in ``dtype``.

        With fp8 or fp4 multiplications the attention and the stored values stay in 16 bits.
        """
        small = dtype in ("fp8", "fp4")
        efficiency = {
            "fp8": constants.gemm_efficiency_fp8,
            "fp4": constants.gemm_efficiency_fp4,
            "fp32": constants.gemm_efficiency_fp32,
        }
        return Unit(
            matrix_flops_per_s=peak_flops_per_s(device, dtype),
            matrix_efficiency=efficiency.get(dtype, constants.gemm_efficiency),
            attention_flops_per_s=peak_flops_per_s(device, "bf16" if small else dtype),
            bandwidth_bytes_per_s=device.memory_bandwidth_bytes_per_s * constants.memory_efficiency,
            multiprocessors=float(device.num_multiprocessors),
            element_bytes=4.0 if dtype == "fp32" else 2.0,
            cast_passes=constants.cast_passes if small else 0.0,
            constants=constants,
        )

    def plain(self) -> Unit:
        """The unit for products that stay in 16 bits whatever the rest runs in."""
        return msgspec.structs.replace(
            self,
            matrix_flops_per_s=np.minimum(self.matrix_flops_per_s, self.attention_flops_per_s),
            matrix_efficiency=np.where(
                np.greater(self.matrix_flops_per_s, self.attention_flops_per_s),
                self.constants.gemm_efficiency,
                self.matrix_efficiency,
            ),
            cast_passes=0.0,
        )

    def gemm_s(self, m: Array, n: Array, k: Array, groups: Array | float = 1.0) -> Array:
        """``groups`` equal products ``[m, k] x [k, n]`` in one launch, seconds (broadcast)."""
        c = self.constants
        high, wide = _tile(m, c.gemm_tile), _tile(n, c.gemm_tile)
        tiles = groups * np.ceil(m / high) * np.ceil(n / wide)
        full = tiles / self.multiprocessors
        waves = full + c.wave_share * (np.ceil(full) - full)
        # Few tiles of a deep product share its depth.
        parts = np.clip(np.floor(1.0 / full), 1.0, np.maximum(1.0, np.floor(k / _SPLIT_DEPTH)))
        waves = np.where(full < 1.0, 1.0 / parts, waves)
        speed = self.matrix_flops_per_s * self.matrix_efficiency / self.multiprocessors
        compute = waves * (2.0 * high * wide * k / speed + c.gemm_tile_s)
        moved = groups * self.element_bytes * (m * k + k * n + m * n)
        stream = moved / self.bandwidth_bytes_per_s
        return np.maximum(compute, stream) + self.cast_passes * stream + c.launch_s

    def attention_s(
        self, flops: Array, moved_bytes: Array, scores_bytes: Array | float, head_dim: Array | float
    ) -> tuple[Array, Array]:
        """Forward and backward of an attention core of ``flops`` forward FLOPs, seconds.

        ``scores_bytes`` is the size of the score matrix where it goes through memory, else 0: then
        products and passes over it follow one another.
        """
        c = self.constants
        speed: Array | float = self.attention_flops_per_s * c.attention_efficiency
        speed = (
            speed * (1.0 + c.attention_head_dim / 128.0) / (1.0 + c.attention_head_dim / head_dim)
        )
        # Matrix instructions read eight 16-bit values of a head at a time.
        uneven = np.greater(scores_bytes, 0.0) & (np.remainder(head_dim, 8.0) > 0.0)
        speed = speed * np.where(uneven, c.unaligned, 1.0)
        stream = moved_bytes / self.bandwidth_bytes_per_s
        passes = c.softmax_passes * scores_bytes / self.bandwidth_bytes_per_s
        kernels = np.where(np.greater(scores_bytes, 0.0), 4.0, 1.0)
        forward = np.maximum(flops / speed, stream) + passes + kernels * c.launch_s
        unfused = np.greater(scores_bytes, 0.0)
        ratio = np.where(unfused, 2.0, c.attention_backward_ratio / c.attention_backward_efficiency)
        backward = np.maximum(flops * ratio / speed, 2.0 * stream) + 2.0 * passes
        return forward, backward + 2.0 * kernels * c.launch_s

    def stream_s(self, moved_bytes: Array, kernels: float = 1.0) -> Array:
        """Operators that only move ``moved_bytes`` through memory, seconds."""
        return moved_bytes / self.bandwidth_bytes_per_s + kernels * self.constants.launch_s
