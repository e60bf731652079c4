"""Fit of the two constants of memory: what lies outside the allocator, and its fragmentation.

Every measured peak is one equation, peak = workspace + fragmentation * allocated, in which what is
allocated comes from the formulas alone. The fit takes the least mean relative error, each error
counted up to a half so that a row that reports something else does not decide, over a grid that
physics bounds: a context and its buffers take at most 8 GiB, gaps at most 30 %.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cost.measured.software import MemoryKind
from optalloc.units import GIB

Array = NDArray[np.float64]

_WORKSPACE = np.arange(0.0, 8.01, 0.05) * GIB
_FRAGMENTATION = np.arange(1.0, 1.3001, 0.01)
_LARGEST_ERROR = 0.5


class Peak(msgspec.Struct, frozen=True, kw_only=True):
    """A published peak: its kind, bytes measured and allocated by the formulas, and a weight."""

    kind: MemoryKind
    measured_bytes: float
    allocated_bytes: float
    weight: float = 1.0


class MemoryConstants(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes outside the allocator and bytes reserved over bytes handed out."""

    workspace_bytes: float
    fragmentation: float

    def predict(self, peak: Peak) -> float:
        """The peak as it is counted, bytes."""
        scale = self.fragmentation if peak.kind in ("device", "reserved") else 1.0
        outside = self.workspace_bytes if peak.kind == "device" else 0.0
        return scale * peak.allocated_bytes + outside

    def error(self, peak: Peak) -> float:
        """Relative error of the prediction, signed."""
        return self.predict(peak) / peak.measured_bytes - 1.0


def fit(peaks: Sequence[Peak]) -> MemoryConstants:
    """The constants of least weighted mean error.

    Complexity: O(peaks) for each of 5,000 points of the grid, vectorised.
    """
    measured, allocated, weight = (
        np.array([getattr(peak, name) for peak in peaks])
        for name in ("measured_bytes", "allocated_bytes", "weight")
    )
    gaps = np.array([peak.kind in ("device", "reserved") for peak in peaks])
    outside = np.array([peak.kind == "device" for peak in peaks])
    best = (np.inf, 0.0, 1.0)
    for fragmentation in _FRAGMENTATION:
        inside = np.where(gaps, fragmentation, 1.0) * allocated
        predicted = inside + np.outer(_WORKSPACE, outside)
        error = np.minimum(np.abs(predicted / measured - 1.0), _LARGEST_ERROR)
        means = error @ weight / weight.sum()
        k = int(np.argmin(means))
        if means[k] < best[0]:
            best = (float(means[k]), float(_WORKSPACE[k]), float(fragmentation))
    return MemoryConstants(workspace_bytes=best[1], fragmentation=best[2])


def by_source(sources: Sequence[str]) -> Array:
    """Weights that let a source count as the square root of its rows."""
    counts = {name: sources.count(name) for name in sources}
    return np.array([counts[name] ** -0.5 for name in sources])
