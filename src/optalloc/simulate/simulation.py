"""Simulation: one training step of a plan, replayed event by event."""

from __future__ import annotations

from functools import cached_property

import msgspec

from optalloc.simulate.costs import PipelineCosts, Tail, plan_costs
from optalloc.simulate.events import Trace
from optalloc.simulate.excerpt import excerpt
from optalloc.simulate.trace import trace_events
from optalloc.training.plan import TrainingPlan
from optalloc.training.schedule import PipelineRun, run_pipeline

#: Passes of a trace that is not asked for whole: about 5 MB.
MOST_PASSES = 10_000


class StageUse(msgspec.Struct, frozen=True, kw_only=True):
    """What one stage did in the step.

    ``busy_s`` is spent in passes, ``tail_s`` in visible reductions, the optimizer and visible
    gathering behind the last pass, ``idle_s`` is the rest of the step. ``peak_memory_bytes`` is
    reached at ``peak_at_s`` for the first time, on the fullest device.
    """

    index: int
    end_s: float
    busy_s: float
    tail_s: float
    idle_s: float
    busy_share: float
    idle_share: float
    peak_memory_bytes: int
    peak_at_s: float
    capacity_bytes: int


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of the fullest device of one stage from ``time_s[k]`` on, seconds and bytes.

    Model states, buffers and the working set of recomputation are there all the time; activations
    come when a forward starts and go when the last pass that needs them ends.
    """

    time_s: tuple[float, ...]
    memory_bytes: tuple[int, ...]


class Simulation(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A replayed step.

    Times are estimates of the plan's cost model. ``step_time_s`` should equal the plan's own
    figure, which was found by other code; ``difference`` says how far they are apart.
    """

    step_time_s: float
    planned_step_time_s: float
    stages: tuple[StageUse, ...]
    memory: tuple[Memory, ...]
    run: PipelineRun
    tails: tuple[Tail, ...]
    fixed_s: float

    @property
    def difference(self) -> float:
        """Simulated step time relative to the planned one, less 1."""
        return self.step_time_s / self.planned_step_time_s - 1.0

    @property
    def idle_share(self) -> float:
        """Mean over the stages of the share of the step in which a stage waits."""
        return sum(stage.idle_share for stage in self.stages) / len(self.stages)

    @cached_property
    def trace(self) -> Trace:
        """The step as a trace for Perfetto; ``trace.write(path)`` saves it."""
        counters = [(one.time_s, one.memory_bytes) for one in self.memory]
        return Trace(
            events=trace_events(self.run, self.tails, counters, self.fixed_s, self.step_time_s)
        )

    def short_trace(self, most_passes: int = MOST_PASSES) -> Trace:
        """The same with the beginning and the end of each stage alone, where there is more."""
        part = excerpt(
            self.run, [(one.time_s, one.memory_bytes) for one in self.memory], most_passes
        )
        return Trace(
            events=trace_events(
                part.run, self.tails, part.memory, self.fixed_s, self.step_time_s, part.gaps
            )
        )

    @property
    def num_passes(self) -> int:
        """Passes of all stages."""
        return sum(len(operations) for operations in self.run.operations)


def simulate(plan: TrainingPlan) -> Simulation:
    """Replay one step of a plan: every pass and transfer, idle time and memory by stage.

    Parameters
    ----------
    plan : TrainingPlan
        A plan found by search, read from a file, or predicted from a written configuration.

    Returns
    -------
    Simulation
        Step time (seconds), use and memory (bytes) of each stage, and a trace.

    Raises
    ------
    InputError
        If the plan's numbers do not fit together.

    Complexity: O(n log n) for n passes of micro-batches through chunks.
    """
    costs = plan_costs(plan)
    run = run_pipeline(
        plan.schedule,
        plan.degrees.pp,
        plan.degrees.virtual_stages,
        plan.num_microbatches,
        costs.forward_s,
        costs.backward_s,
        costs.weight_s,
        costs.link_s,
    )
    ends = [end + tail.total_s for end, tail in zip(run.stage_end_s, costs.tails, strict=True)]
    step_time_s = max(ends) + costs.fixed_s
    memory = tuple(stage_memory(run, costs, i) for i in range(len(run.operations)))
    return Simulation(
        step_time_s=step_time_s,
        planned_step_time_s=plan.step_time_s,
        stages=tuple(_use(run, costs, memory[i], i, step_time_s) for i in range(len(memory))),
        memory=memory,
        run=run,
        tails=costs.tails,
        fixed_s=costs.fixed_s,
    )


def stage_memory(run: PipelineRun, costs: PipelineCosts, stage: int) -> Memory:
    """Memory of one stage over the step, by the order of its passes.

    A micro-batch keeps ``waiting_bytes`` of a chunk from its forward to the end of its backward;
    where weight gradients are passes of their own it then keeps ``split_bytes`` until the end of
    that pass.
    """
    splits = any(op.kind == "weight" for op in run.operations[stage])
    waiting = dict.fromkeys((op.chunk for op in run.operations[stage]), 0)
    split = dict(waiting)
    resident = costs.resident_bytes[stage]
    times, sizes = [0.0], [round(resident)]
    for op in run.operations[stage]:
        if op.kind == "forward":
            waiting[op.chunk] += 1
        elif op.kind == "backward":
            waiting[op.chunk] -= 1
            split[op.chunk] += splits
        else:
            split[op.chunk] -= 1
        held = sum(count * costs.waiting_bytes[chunk] for chunk, count in waiting.items())
        held += sum(count * costs.split_bytes[chunk] for chunk, count in split.items())
        times.append(op.start_s if op.kind == "forward" else op.end_s)
        sizes.append(round(resident + held))
    return Memory(time_s=tuple(times), memory_bytes=tuple(sizes))


def _use(
    run: PipelineRun, costs: PipelineCosts, memory: Memory, stage: int, step_time_s: float
) -> StageUse:
    busy_s, tail_s = run.busy_s(stage), costs.tails[stage].total_s
    idle_s = max(0.0, step_time_s - busy_s - tail_s)
    peak = max(memory.memory_bytes)
    return StageUse(
        index=stage,
        end_s=run.stage_end_s[stage],
        busy_s=busy_s,
        tail_s=tail_s,
        idle_s=idle_s,
        busy_share=busy_s / step_time_s,
        idle_share=idle_s / step_time_s,
        peak_memory_bytes=peak,
        peak_at_s=memory.time_s[memory.memory_bytes.index(peak)],
        capacity_bytes=round(costs.capacity_bytes),
    )
