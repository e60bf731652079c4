"""Event simulation of a pipeline schedule: every operation and transfer with its start and end.

A stage runs its operations one at a time in a fixed order. An operation starts once the stage is
free and its input has arrived: a forward needs the same micro-batch's forward of the chunk before,
a backward its own forward and the backward of the chunk behind, a weight gradient its own backward.
Results travel over the link between two chunks in a fixed time; links carry any number of transfers
at once and keep no stage busy.

All four orders follow from one rule, *a stage runs the next forward while fewer than* ``depth``
*micro-batches of its chunks wait for their backward, else the next backward*, with

    GPipe            depth = num_microbatches
    1F1B, ZB-H1      depth = p - i                           stage i of p
    interleaved      depth = 2 (p - i - 1) + (v - 1) p + 1   v chunks a stage, counted per chunk

(Narayanan et al. 2021, section 2.2; Qi et al. 2024, section 3.1). ZB-H1 runs weight gradients ``i``
micro-batches behind its backwards, so that no stage holds more than the first.

This is the reference of the native event clock, and shares no code with it. Times are seconds as
floats: an end is a start plus a length and an arrival an end plus a link time, as in the
definition, so equal inputs give equal times to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import msgspec

from optalloc.clock import EventQueue
from optalloc.errors import InputError
from optalloc.training.strategy import Schedule

Pass = Literal["forward", "backward", "weight"]
Step = tuple[Pass, int, int]
"""Pass, chunk in model order, micro-batch."""


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One pass of one micro-batch through one chunk.

    ``chunk`` counts in model order and runs on stage ``chunk % num_stages``. ``backward`` is the
    whole backward, or the input gradient alone where the schedule has ``weight`` passes. Times in
    seconds.
    """

    stage: int
    chunk: int
    micro_batch: int
    kind: Pass
    start_s: float
    end_s: float


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """Activations (``forward``) or their gradients (``backward``) on the way between two chunks,
    seconds.
    """

    from_stage: int
    to_stage: int
    from_chunk: int
    to_chunk: int
    micro_batch: int
    kind: Pass
    start_s: float
    end_s: float


class PipelineRun(msgspec.Struct, frozen=True, kw_only=True):
    """What happened in one step of the pipeline, without what follows the last operation.

    ``operations`` has one tuple a stage in the order run; ``stage_end_s`` the end of each stage's
    last.
    """

    operations: tuple[tuple[Operation, ...], ...]
    transfers: tuple[Transfer, ...]
    stage_end_s: tuple[float, ...]

    @property
    def end_s(self) -> float:
        """End of the last operation, seconds."""
        return max(self.stage_end_s)

    def busy_s(self, stage: int) -> float:
        """Seconds in which a stage computes."""
        return sum(op.end_s - op.start_s for op in self.operations[stage])


def stage_order(
    schedule: Schedule, num_stages: int, chunks_per_stage: int, num_microbatches: int, stage: int
) -> list[Step]:
    """The operations of one stage in the order they run.

    Complexity: O(num_microbatches * chunks_per_stage).
    """
    depth = {
        "gpipe": num_microbatches,
        "1f1b": num_stages - stage,
        "zb-h1": num_stages - stage,
        "interleaved": 2 * (num_stages - stage - 1) + (chunks_per_stage - 1) * num_stages + 1,
    }[schedule]
    forwards = _turns(num_stages, chunks_per_stage, num_microbatches)
    backwards = [(chunks_per_stage - 1 - turn, micro) for turn, micro in forwards]
    order: list[Step] = []
    begun = ended = weighed = 0
    while ended < len(backwards):
        if begun < len(forwards) and begun - ended < depth:
            turn, micro = forwards[begun]
            order.append(("forward", turn * num_stages + stage, micro))
            begun += 1
            continue
        turn, micro = backwards[ended]
        order.append(("backward", turn * num_stages + stage, micro))
        ended += 1
        if schedule == "zb-h1" and ended - weighed > stage:
            order.append(("weight", stage, weighed))
            weighed += 1
    if schedule == "zb-h1":
        order += [("weight", stage, micro) for micro in range(weighed, num_microbatches)]
    return order


def _turns(num_stages: int, chunks_per_stage: int, num_microbatches: int) -> list[tuple[int, int]]:
    """Chunk of the stage and micro-batch of each forward: groups of one micro-batch a stage pass
    chunk by chunk. With one chunk that is the order of the micro-batches.
    """
    return [
        (turn, micro)
        for first in range(0, num_microbatches, num_stages)
        for turn in range(chunks_per_stage)
        for micro in range(first, min(first + num_stages, num_microbatches))
    ]


def run_pipeline(
    schedule: Schedule,
    num_stages: int,
    chunks_per_stage: int,
    num_microbatches: int,
    forward_s: Sequence[float],
    backward_s: Sequence[float],
    weight_s: Sequence[float],
    link_s: Sequence[float],
) -> PipelineRun:
    """Run one step of a pipeline.

    Parameters
    ----------
    schedule : {"gpipe", "1f1b", "interleaved", "zb-h1"}
    num_stages, chunks_per_stage, num_microbatches : int
        More than one chunk a stage needs the interleaved schedule, which needs a multiple of
        ``num_stages`` micro-batches.
    forward_s, backward_s, weight_s : sequence of float, length num_stages * chunks_per_stage
        Times of one micro-batch on each chunk in model order, seconds: forward, gradient of the
        input, gradient of the weights. Schedules other than ZB-H1 run the last two as one
        operation.
    link_s : sequence of float, length num_stages * chunks_per_stage - 1
        Time from each chunk to the next one, either way, seconds.

    Raises
    ------
    InputError
        If the numbers do not fit together.

    Complexity: O(n log n) for n = num_stages * chunks_per_stage * num_microbatches operations.
    """
    _check(schedule, num_stages, chunks_per_stage, num_microbatches)
    chunks = num_stages * chunks_per_stage
    for name, values, length in (
        ("forward_s", forward_s, chunks),
        ("backward_s", backward_s, chunks),
        ("weight_s", weight_s, chunks),
        ("link_s", link_s, chunks - 1),
    ):
        if len(values) != length or any(not 0 <= value < float("inf") for value in values):
            raise InputError(
                f"{name} is not {length} finite times of at least 0 s",
                path=name,
                fix="give one time a chunk in model order, and one a link between two chunks",
            )
    whole = backward_s
    if schedule != "zb-h1":
        whole = [b + w for b, w in zip(backward_s, weight_s, strict=True)]
    lengths: dict[Pass, Sequence[float]] = {
        "forward": forward_s,
        "backward": whole,
        "weight": weight_s,
    }
    orders = [
        stage_order(schedule, num_stages, chunks_per_stage, num_microbatches, i)
        for i in range(num_stages)
    ]
    return _events(orders, chunks, lengths, link_s)


def _events(
    orders: list[list[Step]],
    chunks: int,
    lengths: dict[Pass, Sequence[float]],
    link_s: Sequence[float],
) -> PipelineRun:
    """Play the orders through an event queue.

    An event is a stage that looks for work, because it has ended an operation or because the input
    of a step has arrived. A step has at most one input from another chunk; what it needs from its
    own chunk comes earlier in the order of its stage.
    """
    num_stages = len(orders)
    queue: EventQueue[tuple[int, Step | None]] = EventQueue()
    arrived: set[Step] = set()
    done: list[list[Operation]] = [[] for _ in orders]
    transfers: list[Transfer] = []
    free_s = [0.0] * num_stages
    for stage in range(num_stages):
        queue.put(0.0, (stage, None))
    while queue:
        now, (stage, arrival) = queue.next()
        if arrival is not None:
            arrived.add(arrival)
        position = len(done[stage])
        if free_s[stage] > now or position == len(orders[stage]):
            continue
        step = orders[stage][position]
        kind, chunk, micro = step
        source = chunk + {"forward": -1, "backward": 1, "weight": chunks}[kind]
        if 0 <= source < chunks and step not in arrived:
            continue
        end = now + lengths[kind][chunk]
        free_s[stage] = end
        done[stage].append(
            Operation(
                stage=stage, chunk=chunk, micro_batch=micro, kind=kind, start_s=now, end_s=end
            )
        )
        queue.put(end, (stage, None))
        target = chunk + {"forward": 1, "backward": -1, "weight": chunks}[kind]
        if 0 <= target < chunks:
            transfer = Transfer(
                from_stage=stage,
                to_stage=target % num_stages,
                from_chunk=chunk,
                to_chunk=target,
                micro_batch=micro,
                kind=kind,
                start_s=end,
                end_s=end + link_s[min(chunk, target)],
            )
            transfers.append(transfer)
            queue.put(transfer.end_s, (transfer.to_stage, (kind, target, micro)))
    left = sum(len(order) for order in orders) - sum(map(len, done))
    assert left == 0, f"{left} operations wait for one another"
    return PipelineRun(
        operations=tuple(tuple(operations) for operations in done),
        transfers=tuple(transfers),
        stage_end_s=tuple(operations[-1].end_s for operations in done),
    )


def _check(
    schedule: Schedule, num_stages: int, chunks_per_stage: int, num_microbatches: int
) -> None:
    if schedule not in get_args(Schedule):
        raise InputError(
            f"unknown schedule {schedule!r}",
            path="schedule",
            fix=f"use one of {', '.join(get_args(Schedule))}",
        )
    for name, value in (
        ("num_stages", num_stages),
        ("chunks_per_stage", chunks_per_stage),
        ("num_microbatches", num_microbatches),
    ):
        if value < 1:
            raise InputError(f"{name} is {value}", path=name, fix="use at least 1")
    if chunks_per_stage > 1 and schedule != "interleaved":
        raise InputError(
            f"{schedule} has {chunks_per_stage} chunks a stage",
            path="chunks_per_stage",
            fix="use the interleaved schedule, or one chunk a stage",
        )
    if schedule == "interleaved" and num_microbatches % num_stages:
        raise InputError(
            f"{num_microbatches} micro-batches are no multiple of {num_stages} stages",
            path="num_microbatches",
            fix="the interleaved schedule sends them in groups of one a stage",
        )
