"""Mixed iterations: the time of a token where prompts are read in between or beside it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from optalloc.cost.engine.constants import EngineConstants, Value
from optalloc.cost.engine.step import StepModel


class Mixed(NamedTuple):
    """Seconds of decoding iterations and of the prompts that come in between, in parts.

    An iteration takes ``alone_s`` without prompts and ``beside_s`` with a lump of them, which takes
    ``own_s`` for itself and ``prompt_s`` of the host; ``lumps`` come an iteration.
    """

    alone_s: Value
    lumps: Value
    beside_s: Value
    own_s: Value
    prompt_s: Value

    def token_s(self, c: EngineConstants) -> Value:
        """Seconds of an iteration in the mean."""
        more = (1.0 - c.apart) * (self.beside_s - self.alone_s) + c.apart * self.own_s
        return self.alone_s + self.lumps * (c.prefill * more + self.prompt_s)


def mixed_s(
    step: StepModel,
    decoding: Value,
    others: Value,
    input_len: Value,
    output_len: Value,
    prefix_len: Value = 0,
) -> Value:
    """Seconds a token of ``decoding`` sequences while prompts of ``others`` come between.

    Each sequence's place takes one prompt in ``output_len`` tokens. Prompts come whole, or several
    together where more than one comes in an iteration, at most a chunk.
    """
    parts = mixed_parts(step, decoding, others, input_len, output_len, prefix_len)
    return parts.token_s(step.constants) / step.tokens_per_step


def mixed_parts(
    step: StepModel,
    decoding: Value,
    others: Value,
    input_len: Value,
    output_len: Value,
    prefix_len: Value = 0,
) -> Mixed:
    """The parts of :func:`mixed_s`; none falls with more sequences and others."""
    c, pp = step.constants, step.work.pp
    context = input_len + output_len / 2.0
    new = input_len - prefix_len
    batch = np.maximum(1.0, decoding / pp)
    flow = others / pp * new * step.tokens_per_step / output_len  # prompt tokens an iteration
    lump = np.clip(np.maximum(new, flow), 1.0, step.chunk_tokens)
    pairs = lump * (input_len + prefix_len + 1.0) / 2.0
    alone = step.step_s(0.0, batch, batch * context)
    beside = step.step_s(lump, batch, batch * context, pairs)
    return Mixed(
        alone_s=step.through_s(alone, alone, batch, batch),
        lumps=c.interference * flow / lump,
        beside_s=step.through_s(beside, alone, lump + batch, batch),
        own_s=step.latency_s(lump, 0.0, 0.0, pairs),
        prompt_s=c.prompt_s * lump / new,
    )
