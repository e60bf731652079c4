"""Predict one measured problem: its times and its rate, one after another as a planner would."""

from __future__ import annotations

import msgspec

from optalloc.cost.engine.constants import EngineFile, Errors
from optalloc.cost.engine.load import (
    closed_loop_times,
    disaggregated_times,
    offline_times,
    static_batch_times,
)
from optalloc.cost.engine.measured import ServingProblem
from optalloc.cost.engine.step import step_model


class ServingPrediction(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds to the first and to each further token, output tokens per second of all engines, and
    the relative errors to expect."""

    ttft_s: float
    tpot_s: float
    output_tokens_per_s: float
    errors: Errors


def predict_serving(problem: ServingProblem, file: EngineFile) -> ServingPrediction:
    """The figures of one problem with the constants of ``file``.

    Complexity: about a millisecond; the work of a model's layers is kept for the next call.
    """
    steps = [
        step_model(
            problem.model, problem.device, worker.engine, campaign=problem.campaign, file=file
        )
        for worker in problem.workers
    ]
    i, o, q = problem.input_len, problem.output_len, problem.concurrency
    reserved = problem.reserved
    if problem.scenario == "offline":
        whole, times = offline_times(steps[0], i, o, q, reserved)
        rate = q * o / float(whole)
    else:
        if problem.scenario == "disaggregated":
            counts = [float(worker.count) for worker in problem.workers]
            times = disaggregated_times(
                steps[0], counts[0], steps[1], counts[1], i, o, q, reserved=reserved
            )
        elif problem.scenario == "closed":
            times = closed_loop_times(steps[0], i, o, q, reserved=reserved)
        else:
            times = static_batch_times(steps[0], i, o, q)
        rate = q * o / float(times.ttft_s + (o - 1.0) * times.tpot_s)
    return ServingPrediction(
        ttft_s=float(times.ttft_s),
        tpot_s=float(times.tpot_s),
        output_tokens_per_s=rate,
        errors=steps[-1].errors,
    )
