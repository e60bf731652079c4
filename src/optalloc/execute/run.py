"""Run a plan for real on this machine: its exported script, scaled down, and its paced pipeline.

Two things are measured. The losses of the exported script, with the plan's stages and the axes that
fit into the processes, must equal those of one process. The step time of the pipeline, with stages
that sleep for the planned times, is compared with the event time of the schedule.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import msgspec

from optalloc import files
from optalloc.errors import ExportError, InputError
from optalloc.execute.processes import launch, require_torch
from optalloc.execute.reduce import reduce_plan
from optalloc.export.base import artefacts, write
from optalloc.export.chain import placed_chunks
from optalloc.training.plan import Degrees, TrainingPlan

SCHEDULES = ("gpipe", "1f1b", "interleaved", "zb-h1")
PASSES_WHOLE, PASSES_SPLIT = "FB", "FIW"
PACE_STEP_S = 2.0
PACE_STEPS = 3
LOSS_TOLERANCE = 1e-4


class _Metrics(msgspec.Struct):
    losses: list[float]
    reference_losses: list[float]
    largest_difference: float
    measured_step_s: list[float]
    measured_cpu_s_by_rank: list[list[float]]


class _PaceMetrics(msgspec.Struct):
    measured_step_s: list[float]


class LossRun(msgspec.Struct, frozen=True, kw_only=True):
    """The exported script on tiny widths against one process.

    ``measured_step_s`` are wall seconds of each step on this machine, not comparable with the
    plan's estimate for its own devices. ``equal``: the losses agree within ``LOSS_TOLERANCE``.
    """

    processes: int
    degrees: Degrees
    losses: tuple[float, ...]
    reference_losses: tuple[float, ...]
    largest_difference: float
    equal: bool
    measured_step_s: tuple[float, ...]
    measured_cpu_s_by_rank: tuple[tuple[float, ...], ...]


class PaceRun(msgspec.Struct, frozen=True, kw_only=True):
    """The plan's pipeline with sleeping stages, with every time multiplied by ``time_scale``.

    ``estimate_step_s`` is the event time of the schedule without transfers, ``measured_step_s`` the
    wall time of the last step on the slowest rank; both in scaled seconds.
    ``num_microbatches`` may be fewer than the plan's.
    """

    processes: int
    num_microbatches: int
    time_scale: float
    estimate_step_s: float
    measured_step_s: float

    @property
    def ratio(self) -> float:
        """Measured over estimate."""
        return self.measured_step_s / self.estimate_step_s


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured beside what the plan estimates; ``pace`` is None without a pipeline."""

    model: str
    cost_model: str
    estimate_step_s: float
    loss: LossRun
    pace: PaceRun | None


def run_plan(
    plan: TrainingPlan,
    *,
    processes: int | None = None,
    steps: int = 3,
    timeout_s: float = 600.0,
) -> Run:
    """Run ``plan`` in local processes over gloo and measure it.

    Parameters
    ----------
    plan : TrainingPlan
    processes : int, optional
        At most so many processes; default: one a pipeline stage, or two where that is at most four
        in all.
    steps : int
        Optimizer steps of the loss run.
    timeout_s : float
        Wall seconds for each of the two runs.

    Raises
    ------
    MissingExtra
        If torch is not installed.
    InputError
        If there are fewer processes than stages.
    ExportError
        If the PyTorch export cannot express the plan.
    """
    require_torch()
    if steps < 1:
        raise InputError(f"steps is {steps}", path="--steps", fix="give at least 1")
    pp = plan.degrees.pp
    small = reduce_plan(plan, processes if processes is not None else _default_processes(pp))
    loss = run_losses(small, steps=steps, timeout_s=timeout_s)
    pace = run_paced(plan, timeout_s=timeout_s) if pp > 1 else None
    return Run(
        model=plan.model.name,
        cost_model=plan.cost_model,
        estimate_step_s=plan.step_time_s,
        loss=loss,
        pace=pace,
    )


def _default_processes(pp: int) -> int:
    return pp if 2 * pp > 4 else 2 * pp


def run_losses(plan: TrainingPlan, *, steps: int, timeout_s: float) -> LossRun:
    """Run the exported script of ``plan``, scaled down, beside its one-process reference."""
    degrees = plan.degrees
    processes = degrees.tp * degrees.cp * degrees.pp * degrees.dp
    with tempfile.TemporaryDirectory(prefix="optalloc-run-") as name:
        folder = Path(name)
        write(artefacts(plan, "pytorch"), folder)
        metrics = folder / "metrics.json"
        words = ["--scale-down", "--cpu", "--compare", "--steps", str(steps)]
        # The tolerance is judged here, so that a difference is a result and not a failed process.
        words += ["--tolerance", "inf", "--metrics", str(metrics)]
        launch(folder / "train.py", words, processes=processes, timeout_s=timeout_s)
        measured = files.read_json(metrics, _Metrics)
    return LossRun(
        processes=processes,
        degrees=degrees,
        losses=tuple(measured.losses),
        reference_losses=tuple(measured.reference_losses),
        largest_difference=measured.largest_difference,
        equal=measured.largest_difference <= LOSS_TOLERANCE,
        measured_step_s=tuple(measured.measured_step_s),
        measured_cpu_s_by_rank=tuple(tuple(times) for times in measured.measured_cpu_s_by_rank),
    )


def run_paced(plan: TrainingPlan, *, timeout_s: float) -> PaceRun:
    """Run the plan's order of operations with sleeping stages, one process a stage."""
    from optalloc import _native

    pp, rounds = plan.degrees.pp, plan.degrees.virtual_stages
    if pp < 2:
        raise ExportError("the paced run", "a plan without a pipeline")
    count = min(plan.num_microbatches, 4 * pp)
    forward, backward, weight = chunk_times(plan)
    schedule = SCHEDULES.index(plan.schedule)

    def clock(scale: float) -> tuple[float, list[list[tuple[int, int, int, float]]]]:
        import numpy as np

        f, b, w = (np.array(values) * scale for values in (forward, backward, weight))
        links = np.zeros(pp * rounds - 1)
        ends, orders = _native.run_schedule(schedule, pp, rounds, count, f, b, w, links)
        return max(ends), orders

    time_scale = PACE_STEP_S / clock(1.0)[0]
    estimate, orders = clock(time_scale)
    letters = PASSES_SPLIT if plan.schedule == "zb-h1" else PASSES_WHOLE
    cells = [
        [f"{chunk * pp + stage}{letters[kind]}{micro}" for kind, chunk, micro, _ in order]
        for stage, order in enumerate(orders)
    ]
    task = {
        "order": cells,
        "forward_s": [value * time_scale for value in forward],
        "backward_s": [(b + w) * time_scale for b, w in zip(backward, weight, strict=True)],
        "num_microbatches": count,
        "steps": PACE_STEPS,
    }
    script = Path(__file__).parent / "scripts" / "pace.py"
    with tempfile.TemporaryDirectory(prefix="optalloc-pace-") as name:
        given, taken = Path(name) / "task.json", Path(name) / "measured.json"
        given.write_text(json.dumps(task), encoding="utf-8")
        launch(script, [str(given), str(taken)], processes=pp, timeout_s=timeout_s)
        measured = files.read_json(taken, _PaceMetrics)
    return PaceRun(
        processes=pp,
        num_microbatches=count,
        time_scale=time_scale,
        estimate_step_s=estimate,
        measured_step_s=measured.measured_step_s[-1],
    )


def chunk_times(plan: TrainingPlan) -> tuple[list[float], list[float], list[float]]:
    """Forward, backward and weight-gradient seconds of each chunk in model order.

    A stage's time is shared among its chunks by their layers, each end of the model counting as
    one. A sleeping stage spends its whole backward in the input gradient; only the first chunk,
    which has none, spends it in the weight gradient where the schedule divides them.
    """
    forward, backward, weight = [], [], []
    chunks = placed_chunks(plan)
    size = {c.number: len(c.layers) + c.embedding + c.head for c in chunks}
    for chunk in chunks:
        stage = plan.stages[chunk.stage]
        total = sum(size[c.number] for c in chunks if c.stage == chunk.stage)
        share = size[chunk.number] / total if total else 1 / plan.degrees.virtual_stages
        forward.append(stage.forward_s * share)
        late = plan.schedule == "zb-h1" and chunk.number == 0
        backward.append(0.0 if late else stage.backward_s * share)
        weight.append(stage.backward_s * share if late else 0.0)
    return forward, backward, weight
