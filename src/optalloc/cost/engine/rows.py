"""Many measured rows at once: the formulas over arrays with one entry a row.

Rows of one scenario are stacked into one step model whose fields are arrays, so a pass over some
thousand rows costs a few milliseconds and a fit some seconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.cost.engine.constants import EngineConstants, EngineFile, Errors
from optalloc.cost.engine.keys import setup_keys
from optalloc.cost.engine.load import (
    Times,
    closed_loop_times,
    disaggregated_times,
    offline_times,
    static_batch_times,
)
from optalloc.cost.engine.measured import Scenario, ServingProblem
from optalloc.cost.engine.step import StepModel, step_model
from optalloc.cost.engine.work import Work

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

TTFT, TPOT, RATE = 0, 1, 2
"""Columns of predictions: seconds, seconds, output tokens per second."""


class _Stack(msgspec.Struct, frozen=True):
    """The rows of one scenario; ``steps`` holds one stacked engine, or prefill and decode."""

    scenario: Scenario
    rows: Ints
    steps: tuple[StepModel, ...]
    counts: tuple[Array, ...]
    input_len: Array
    output_len: Array
    concurrency: Array
    reserved: Array

    def predict(self, constants: EngineConstants) -> tuple[Array, Array, Array]:
        """Times to first and further tokens and rate of every row of the stack."""
        own = [msgspec.structs.replace(step, constants=constants) for step in self.steps]
        i, o, q = self.input_len, self.output_len, self.concurrency
        if self.scenario == "offline":
            whole, times = offline_times(own[0], i, o, q, self.reserved)
            return _array(times.ttft_s), _array(times.tpot_s), q * o / whole
        times = self._times(own)
        rate = q * o / (times.ttft_s + (o - 1.0) * times.tpot_s)
        return _array(times.ttft_s), _array(times.tpot_s), rate

    def _times(self, own: Sequence[StepModel]) -> Times:
        i, o, q = self.input_len, self.output_len, self.concurrency
        if self.scenario == "disaggregated":
            n, m = self.counts
            return disaggregated_times(own[0], n, own[1], m, i, o, q, reserved=self.reserved)
        if self.scenario == "closed":
            return closed_loop_times(own[0], i, o, q, reserved=self.reserved)
        return static_batch_times(own[0], i, o, q)


class Rows:
    """Measured problems prepared for many passes."""

    def __init__(self, problems: Sequence[ServingProblem], file: EngineFile) -> None:
        self.problems = list(problems)
        self.keys = [problem_keys(problem, file) for problem in problems]
        groups: dict[Scenario, list[int]] = defaultdict(list)
        for i, problem in enumerate(problems):
            groups[problem.scenario].append(i)
        self._stacks = [self._stack(scenario, rows, file) for scenario, rows in groups.items()]
        measured = [(p.measured_ttft_s, p.measured_tpot_s, p.measured_rate) for p in self.problems]
        #: logarithms of the measured figures, shape (rows, 3); nan where there is none
        self.log_measured = np.log(
            np.array([[np.nan if v is None else v for v in each] for each in measured])
        ).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self.problems)

    def _stack(self, scenario: Scenario, rows: list[int], file: EngineFile) -> _Stack:
        problems = [self.problems[i] for i in rows]
        steps, counts = [], []
        for k in range(len(problems[0].workers)):
            models = [
                step_model(p.model, p.device, p.workers[k].engine, file=file) for p in problems
            ]
            steps.append(_stacked(models))
            counts.append(np.array([float(p.workers[k].count) for p in problems]))
        return _Stack(
            scenario,
            np.array(rows),
            tuple(steps),
            tuple(counts),
            np.array([p.input_len for p in problems]),
            np.array([p.output_len for p in problems]),
            np.array([p.concurrency for p in problems]),
            np.array([p.reserved for p in problems]),
        )

    def predict(self, constants: dict[str, Array]) -> Array:
        """Logarithms of the predicted figures, shape (rows, 3); constants of shape (rows,)."""
        found = np.empty((len(self), 3))
        for stack in self._stacks:
            own = EngineConstants(**{name: each[stack.rows] for name, each in constants.items()})
            for column, values in enumerate(stack.predict(own)):
                found[stack.rows, column] = np.log(values)
        return found


def problem_keys(problem: ServingProblem, file: EngineFile) -> dict[str, str]:
    """The key of each level of a file for a measured problem; that of its decoding engine."""
    return setup_keys(
        file.levels,
        problem.model,
        problem.device,
        problem.workers[-1].engine,
        campaign=problem.campaign,
    )


def _stacked(models: Sequence[StepModel]) -> StepModel:
    work = Work(
        **{
            name: np.array([float(getattr(m.work, name)) for m in models])
            for name in Work.__struct_fields__
        }
    )
    return StepModel(
        work=work,
        constants=models[0].constants,
        chunk_tokens=np.array([float(m.chunk_tokens) for m in models]),
        max_batch=np.array([float(m.max_batch) for m in models]),
        tokens_per_step=np.array([float(m.tokens_per_step) for m in models]),
        drafted=np.array([float(m.drafted) for m in models]),
        errors=Errors(rows=0, ttft=1.0, tpot=0.5, throughput=0.5),
    )


def _array(value: float | Array) -> Array:
    return np.asarray(value, dtype=np.float64)
