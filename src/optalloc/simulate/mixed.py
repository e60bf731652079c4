"""Replay the step of a mixed plan: every replica's pipeline event by event, then the exchange."""

from __future__ import annotations

from functools import cached_property

import msgspec

from optalloc.simulate.costs import Tail
from optalloc.simulate.events import Event, Trace
from optalloc.simulate.trace import trace_events
from optalloc.training.mixed.estimate import mixed_figures
from optalloc.training.mixed.plan import MixedPlan
from optalloc.training.mixed.problem import StageCost
from optalloc.training.schedule import PipelineRun, run_pipeline


class MixedUse(msgspec.Struct, frozen=True, kw_only=True):
    """What one stage of one replica did in the step; seconds, shares of the step, bytes."""

    replica: int
    index: int
    device: str
    num_devices: int
    end_s: float
    busy_s: float
    tail_s: float
    busy_share: float
    idle_share: float
    peak_memory_bytes: int
    capacity_bytes: int


class MixedSimulation(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A replayed step of a mixed plan.

    ``step_time_s`` is the event time: replicas run beside each other, and the exchange among them
    begins when the last one has ended. The plan's own figure is the closed form of 1F1B, mostly an
    upper estimate; ``difference`` says how far they are apart.
    """

    step_time_s: float
    planned_step_time_s: float
    replica_end_s: tuple[float, ...]
    stages: tuple[MixedUse, ...]
    runs: tuple[PipelineRun, ...]
    tails: tuple[tuple[Tail, ...], ...]
    memory: tuple[tuple[tuple[tuple[float, ...], tuple[int, ...]], ...], ...]
    fixed_s: float

    @property
    def difference(self) -> float:
        """Relative difference to the plan's step time."""
        return self.step_time_s / self.planned_step_time_s - 1.0

    @property
    def idle_share(self) -> float:
        """Idle time of the devices used, as a share of the step."""
        total = sum(use.num_devices for use in self.stages)
        return sum(use.idle_share * use.num_devices for use in self.stages) / total

    @cached_property
    def trace(self) -> Trace:
        """The step for ui.perfetto.dev, a process a stage."""
        events: list[Event] = []
        base = arrows = 0
        for r, run in enumerate(self.runs):
            end = self.step_time_s if r == 0 else max(self.replica_end_s)
            if len(self.runs) > 1:  # tails begin when the last replica has ended
                together = (max(self.replica_end_s),) * len(run.operations)
                run = msgspec.structs.replace(run, stage_end_s=together)
            own = trace_events(run, self.tails[r], self.memory[r], self.fixed_s, end)
            events += [_moved(event, r, base, arrows) for event in own]
            base += len(run.operations) + 1
            arrows += len({event["id"] for event in own if "id" in event})
        return Trace(events=tuple(events))


def _moved(event: Event, replica: int, base: int, arrows: int) -> Event:
    """An event of one replica with its own process numbers, arrows and names."""
    moved = dict(event)
    for name, before in (("pid", base), ("id", arrows)):
        number = moved.get(name)
        if isinstance(number, int):
            moved[name] = number + before
    arguments = moved.get("args")
    if isinstance(arguments, dict) and moved.get("ph") == "M" and "name" in arguments:
        name = arguments["name"]
        if moved.get("name") == "process_name":
            moved["args"] = arguments | {"name": f"replica {replica}, {name}"}
    return moved


def simulate_mixed(plan: MixedPlan) -> MixedSimulation:
    """Replay one step of a mixed plan: unequal stages, unequal replicas.

    Raises
    ------
    InputError
        If the plan's numbers do not fit together.

    Complexity: O(n log n) for n passes of micro-batches through stages.
    """
    figures = mixed_figures(plan)
    runs = [
        run_pipeline(
            "1f1b",
            len(own),
            1,
            replica.num_microbatches,
            [c.forward_s for c in own],
            [c.backward_s for c in own],
            [0.0] * len(own),
            [c.link_s for c in own[:-1]],
        )
        for replica, own in zip(plan.replicas, figures, strict=True)
    ]
    tails = [
        tuple(
            Tail(
                reduce_s=c.parts_s[0],
                tied_s=c.parts_s[1],
                update_s=c.parts_s[2],
                gather_s=c.parts_s[3],
            )
            for c in own
        )
        for own in figures
    ]
    last = max(run.end_s for run in runs)
    alone = len(runs) == 1
    step_s = max(
        (end if alone else last) + tail.total_s
        for run, own in zip(runs, tails, strict=True)
        for end, tail in zip(run.stage_end_s, own, strict=True)
    )
    fixed_s = plan.breakdown_s["fixed"]
    step_s += fixed_s
    memory = [
        tuple(_memory(run, i, c) for i, c in enumerate(own))
        for run, own in zip(runs, figures, strict=True)
    ]
    return MixedSimulation(
        step_time_s=step_s,
        planned_step_time_s=plan.step_time_s,
        replica_end_s=tuple(run.end_s for run in runs),
        stages=tuple(
            _use(plan, run, r, i, figures[r][i], memory[r][i], step_s)
            for r, run in enumerate(runs)
            for i in range(len(run.operations))
        ),
        runs=tuple(runs),
        tails=tuple(tails),
        memory=tuple(memory),
        fixed_s=fixed_s,
    )


def _memory(
    run: PipelineRun, stage: int, cost: StageCost
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Memory of a stage over the step: a micro-batch is held from its forward to its backward."""
    each = cost.held_bytes / (len(run.operations) - stage)
    resident = cost.state_bytes + cost.scratch_bytes + cost.logits_bytes
    times, sizes, held = [0.0], [round(resident)], 0
    for op in run.operations[stage]:
        held += 1 if op.kind == "forward" else -1
        times.append(op.start_s if op.kind == "forward" else op.end_s)
        sizes.append(round(resident + held * each))
    return tuple(times), tuple(sizes)


def _use(
    plan: MixedPlan,
    run: PipelineRun,
    r: int,
    i: int,
    cost: StageCost,
    memory: tuple[tuple[float, ...], tuple[int, ...]],
    step_s: float,
) -> MixedUse:
    stage, busy_s = plan.replicas[r].stages[i], run.busy_s(i)
    buffers = stage.memory_bytes["buffers"]
    return MixedUse(
        replica=r,
        index=i,
        device=stage.device,
        num_devices=stage.num_devices,
        end_s=run.stage_end_s[i],
        busy_s=busy_s,
        tail_s=cost.tail_s,
        busy_share=busy_s / step_s,
        idle_share=max(0.0, step_s - busy_s - cost.tail_s) / step_s,
        peak_memory_bytes=max(memory[1]) + buffers,
        capacity_bytes=stage.capacity_bytes,
    )
