"""Errors of predictions against measurements: per source, by rank, by regret, of memory."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence

import msgspec

from optalloc.cost.measured.cells import Row, flag, real

GIB = 2**30

# Columns that say what the job is; rows equal in all of them are alternatives of one job.
_JOB = (
    "source",
    "model",
    "layers",
    "hidden",
    "gpu",
    "n_gpus",
    "seq_len",
    "gbs",
    "precision",
    "task",
    "framework",
    "release",
)


class Scored(msgspec.Struct, frozen=True, kw_only=True):
    """One row with its prediction; seconds and bytes. ``measured_s`` is None where not published
    or suspect."""

    row: Row
    predicted_s: float
    measured_s: float | None
    memory_bytes: float
    reported_bytes: float
    capacity_bytes: float
    remark: str

    @property
    def source(self) -> str:
        return self.row.get("source", "") or "unnamed"

    @property
    def error(self) -> float:
        """Relative error of the step time, signed."""
        assert self.measured_s is not None
        return self.predicted_s / self.measured_s - 1.0

    @property
    def measured_bytes(self) -> float | None:
        """Published peak memory; 1 GB of the tables is 2^30 bytes."""
        return real(self.row, "mem_gb") * GIB or None


def timed(scored: Sequence[Scored]) -> list[Scored]:
    """The rows with a step time to compare with."""
    return [s for s in scored if s.measured_s is not None]


def by_source(scored: Sequence[Scored]) -> dict[str, list[Scored]]:
    """The rows of each source, in order of appearance."""
    groups: dict[str, list[Scored]] = defaultdict(list)
    for s in scored:
        groups[s.source].append(s)
    return dict(groups)


def mape(scored: Sequence[Scored]) -> float:
    """Mean absolute relative error of the step time."""
    return statistics.fmean(abs(s.error) for s in scored)


def macro(scored: Sequence[Scored], of: Callable[[Sequence[Scored]], float] = mape) -> float:
    """Plain mean over the sources."""
    return statistics.fmean(of(rows) for rows in by_source(scored).values())


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


def jobs(scored: Sequence[Scored]) -> list[list[Scored]]:
    """Rows of the same job that differ in their plan alone, at least two."""
    groups: dict[tuple[str, ...], list[Scored]] = defaultdict(list)
    for s in scored:
        groups[tuple(s.row.get(name, "") for name in _JOB)].append(s)
    return [rows for rows in groups.values() if len(rows) > 1]


def regret(rows: Sequence[Scored]) -> float:
    """What the alternative predicted to be fastest costs over the one measured to be."""
    pick = min(rows, key=lambda s: s.predicted_s)
    best = min(s.measured_s for s in rows if s.measured_s is not None)
    assert pick.measured_s is not None
    return pick.measured_s / best - 1.0


def rank_correlation(rows: Sequence[Scored]) -> float:
    """Spearman's coefficient between predicted and measured step times, ties averaged."""
    return spearman([s.predicted_s for s in rows], [s.measured_s or 0.0 for s in rows])


def spearman(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Spearman's coefficient of two equally long series, ties averaged; 1 where one is constant."""
    first, second = _ranks(predicted), _ranks(measured)
    mean = (len(first) + 1) / 2.0
    both = sum((a - mean) * (b - mean) for a, b in zip(first, second, strict=True))
    size = (sum((a - mean) ** 2 for a in first) * sum((b - mean) ** 2 for b in second)) ** 0.5
    return both / size if size else 1.0


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(values)
    return [order.index(v) + (order.count(v) + 1) / 2.0 for v in values]


def memory_error(scored: Sequence[Scored]) -> list[float]:
    """Relative errors of peak memory on the rows that report it and did not run out, signed."""
    return [
        s.reported_bytes / s.measured_bytes - 1.0
        for s in scored
        if s.measured_bytes and not flag(s.row, "oom")
    ]


def out_of_memory(scored: Sequence[Scored]) -> tuple[int, int]:
    """Rows that ran out of memory: how many, and how many are predicted above 95 % of capacity."""
    rows = [s for s in scored if flag(s.row, "oom")]
    return len(rows), sum(s.memory_bytes >= 0.95 * s.capacity_bytes for s in rows)


def false_alarms(scored: Sequence[Scored]) -> tuple[int, int]:
    """Rows that ran: how many, and how many are predicted above 105 % of the capacity."""
    rows = [s for s in timed(scored) if not flag(s.row, "oom")]
    return len(rows), sum(s.memory_bytes > 1.05 * s.capacity_bytes for s in rows)
