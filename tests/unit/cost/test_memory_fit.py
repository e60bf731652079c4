"""memory_fit.py: constants come back from peaks made with them; what is left out is."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.training_memory import folds

from optalloc.cost.measured.software import MemoryKind
from optalloc.cost.memory_fit import MemoryConstants, Peak, by_source, fit
from optalloc.units import GIB

KINDS: tuple[MemoryKind, ...] = ("device", "reserved", "allocated", "analytic")


def _peaks(true: MemoryConstants, noise: float) -> list[Peak]:
    random = np.random.default_rng(0)
    made = []
    for k in range(60):
        peak = Peak(
            kind=KINDS[k % 4],
            measured_bytes=1.0,
            allocated_bytes=float(random.uniform(5, 70) * GIB),
        )
        measured = true.predict(peak) * (1.0 + noise * random.standard_normal())
        made.append(
            Peak(
                kind=peak.kind,
                measured_bytes=float(measured),
                allocated_bytes=peak.allocated_bytes,
            )
        )
    return made


def test_exact_peaks_give_their_constants_back() -> None:
    """3 GiB and 1.12 are points of the grid."""
    true = MemoryConstants(workspace_bytes=3.0 * GIB, fragmentation=1.12)
    peaks = _peaks(true, 0.0)
    found = fit(peaks)
    assert found.workspace_bytes == pytest.approx(true.workspace_bytes, abs=1.0)
    assert found.fragmentation == pytest.approx(1.12, abs=1e-9)
    assert max(abs(found.error(peak)) for peak in peaks) < 1e-9


def test_a_row_that_reports_something_else_does_not_decide() -> None:
    """One peak in thirty is four times too small."""
    true = MemoryConstants(workspace_bytes=2.0 * GIB, fragmentation=1.1)
    peaks = _peaks(true, 0.02)
    wrong = [
        Peak(kind="device", measured_bytes=4 * GIB, allocated_bytes=15 * GIB) for _ in range(2)
    ]
    found = fit([*peaks, *wrong])
    assert abs(found.workspace_bytes / GIB - 2.0) <= 1.0
    assert found.fragmentation == pytest.approx(1.1, abs=0.03)


def test_a_source_counts_as_the_root_of_its_rows() -> None:
    """Four rows of one source weigh twice one row of another."""
    weights = by_source(["a", "a", "a", "a", "b"])
    assert weights[:4].sum() == 2.0 * weights[4]


def test_folds_keep_groups_whole() -> None:
    """Every position once, and no group in two folds."""
    groups = [f"g{k % 13}" for k in range(50)]
    parts = list(folds(groups))
    assert sorted(k for part in parts for k in part) == list(range(50))
    where = {groups[k]: i for i, part in enumerate(parts) for k in part}
    assert all(where[groups[k]] == i for i, part in enumerate(parts) for k in part)
