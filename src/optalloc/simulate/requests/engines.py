"""Engines of the cost model as pools of the simulation: times tabulated, caches counted.

A pipeline of ``pp`` stages is simulated as ``pp`` engines with a part of the batch and of the cache
each, whose iterations take the time through all stages: in a full pipeline every stage works for
one of them at a time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from optalloc.cost.engine.setup import Engine
from optalloc.cost.engine.step import StepModel
from optalloc.errors import InputError
from optalloc.simulate.requests.deployment import Engines
from optalloc.simulate.requests.step_times import step_times

Reals = NDArray[np.float64]


def engines_of(engine: Engine, step: StepModel, *, replicas: int = 1, weight: int = 1) -> Engines:
    """So many replicas of an engine.

    Parameters
    ----------
    engine : Engine
        Its widths and the limits of its batch.
    step : StepModel
        Its times and its memory.

    Raises
    ------
    InputError
        If the weights leave no room for a cache.

    Complexity: about 5,000 evaluations of the step model, as arrays.
    """
    c, pp = step.constants, engine.pp
    capacity = int(float(step.kv_capacity_tokens) / pp)
    if capacity < 1:
        raise InputError(
            "the weights leave no room for a cache",
            path="engine",
            fix="use more devices (tp, pp or moe_ep) or smaller weights",
        )

    def base_s(prompt_tokens: Reals, sequences: Reals) -> Reals:
        """With prompts beside decoding, as ``mixed_s`` of the cost model's loads has it."""
        own = c.prefill * step.latency_s(prompt_tokens, 0.0, 0.0)
        decode = step.latency_s(0.0, sequences, 0.0)
        beside = c.prefill * (step.latency_s(prompt_tokens, sequences, 0.0) - decode)
        mixed = decode + c.interference * ((1.0 - c.apart) * beside + c.apart * own)
        alone = np.where(prompt_tokens > 0.0, own, decode)
        return np.asarray(np.where((prompt_tokens > 0.0) & (sequences > 0.0), mixed, alone))

    return Engines(
        times=step_times(
            base_s,
            chunk_tokens=engine.chunk_tokens,
            max_batch=-(-engine.max_batch // pp),
            kv_s_per_token=float(step.kv_s_per_token),
            pair_s=float(c.prefill * step.pair_s),
            prompt_s=float(c.prompt_s),
        ),
        kv_tokens=capacity,
        replicas=replicas * pp,
        ranks=engine.attention_dp,
        sequence_tokens=round(
            float(step.work.fixed_kv_bytes / np.maximum(step.work.kv_bytes, 1e-9))
        ),
        tokens_per_step=engine.tokens_per_step,
        weight=weight,
    )
