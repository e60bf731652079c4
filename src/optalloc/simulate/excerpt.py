"""Excerpt: the beginning and the end of a long step, with what lies between as one block a stage.

Between fill and drain a pipeline repeats itself. A step of many micro-batches through many stages
has hundreds of thousands of passes, more than a trace viewer or a page is good for.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from optalloc.training.schedule import PipelineRun

Counter = tuple[Sequence[float], Sequence[int]]
"""Times in seconds and bytes from then on."""


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """``num_passes`` passes of a stage that are left out, from ``start_s`` to ``end_s``."""

    start_s: float
    end_s: float
    num_passes: int


class Excerpt(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of a step: a run, memory by stage, and the gap of each stage (None: whole)."""

    run: PipelineRun
    memory: tuple[Counter, ...]
    gaps: tuple[Gap | None, ...]


def excerpt(run: PipelineRun, memory: Sequence[Counter], most_passes: int) -> Excerpt:
    """At most about ``most_passes`` passes of a step: as many from each end of each stage.

    Parameters
    ----------
    run : PipelineRun
        The whole step.
    memory : sequence of Counter
        One a stage: a value at the start of the step, then one a pass. The largest is kept.
    most_passes : int
        Of all stages together; at least four of each are kept.

    Complexity: O(n) for n passes and transfers.
    """
    half = max(2, most_passes // len(run.operations) // 2)
    operations, counters = [], []
    gaps: list[Gap | None] = []
    for passes, (times, sizes) in zip(run.operations, memory, strict=True):
        if len(passes) <= 2 * half:
            operations.append(passes)
            counters.append((times, sizes))
            gaps.append(None)
            continue
        operations.append((*passes[:half], *passes[-half:]))
        peak = max(range(len(sizes)), key=lambda k: sizes[k])
        kept = [*range(half + 1), *range(len(sizes) - half, len(sizes))]
        kept = sorted({*kept, peak})
        counters.append(([times[k] for k in kept], [sizes[k] for k in kept]))
        gaps.append(
            Gap(
                start_s=passes[half - 1].end_s,
                end_s=passes[-half].start_s,
                num_passes=len(passes) - 2 * half,
            )
        )
    shown = {(op.kind, op.chunk, op.micro_batch) for passes in operations for op in passes}
    transfers = tuple(
        t
        for t in run.transfers
        if (t.kind, t.from_chunk, t.micro_batch) in shown
        and (t.kind, t.to_chunk, t.micro_batch) in shown
    )
    return Excerpt(
        run=msgspec.structs.replace(run, operations=tuple(operations), transfers=transfers),
        memory=tuple(counters),
        gaps=tuple(gaps),
    )
