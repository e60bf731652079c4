"""Engines of the cost model as pools of the simulation: times tabulated, caches counted.

A pipeline of ``pp`` stages is simulated as ``pp`` engines with a part of the batch and of the cache
each, whose iterations take the time through all stages: in a full pipeline every stage works for
one of them at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from optalloc.cost.engine.constants import Value
from optalloc.cost.engine.setup import Engine
from optalloc.cost.engine.step import StepModel
from optalloc.errors import InputError
from optalloc.simulate.requests.deployment import Engines
from optalloc.simulate.requests.step_times import Base, step_times

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

    ranks, batch = engine.attention_dp, -(-engine.max_batch // pp)
    apart = ranks > 1 and bool(np.any(step.work.routed_flops))
    whole = _beside(lambda prompt, sequences: step.latency_s(prompt, sequences, 0.0), step)
    together = _beside(step.shared_s, step)

    def base_s(prompt_tokens: Reals, sequences: Reals) -> Reals:
        own = whole(prompt_tokens, sequences)
        return own - together(prompt_tokens, sequences) if apart else own

    def shared_s(prompt_tokens: Reals, sequences: Reals) -> Reals:
        return together(prompt_tokens / ranks, sequences / ranks)

    return Engines(
        times=step_times(
            base_s,
            chunk_tokens=engine.chunk_tokens,
            max_batch=batch,
            kv_s_per_token=float(step.kv_s_per_token),
            pair_s=float(c.prefill * step.pair_s),
            prompt_s=float(c.prompt_s),
        ),
        shared=step_times(
            shared_s, chunk_tokens=ranks * engine.chunk_tokens, max_batch=ranks * batch
        )
        if apart
        else None,
        kv_tokens=capacity,
        replicas=replicas * pp,
        ranks=ranks,
        sequence_tokens=round(
            float(step.work.fixed_kv_bytes / np.maximum(step.work.kv_bytes, 1e-9))
        ),
        tokens_per_step=engine.tokens_per_step,
        weight=weight,
    )


def _beside(latency_s: Callable[[Reals, Reals], Value], step: StepModel) -> Base:
    """Times of prompts and decoding in one iteration, of those of each, as ``mixed_s`` of the cost
    model's loads has them."""
    c = step.constants

    def seconds(prompt_tokens: Reals, sequences: Reals) -> Reals:
        own = c.prefill * latency_s(prompt_tokens, np.zeros(1))
        decode = latency_s(np.zeros(1), sequences)
        beside = c.prefill * (latency_s(prompt_tokens, sequences) - decode)
        mixed = decode + c.interference * ((1.0 - c.apart) * beside + c.apart * own)
        alone = np.where(prompt_tokens > 0.0, own, decode)
        return np.asarray(np.where((prompt_tokens > 0.0) & (sequences > 0.0), mixed, alone))

    return seconds
