"""Tokens: what one token takes beside D decoding sequences, fenced in on both sides, for the proof.

Prompts come as w = flow / lump lumps an iteration. One takes k (beside - alone) + own seconds, k
the share that overlaps, beside an iteration with it and alone one without; none of the four falls
with D. Streams and products take (x^p + y^p)^(1/p), which grows by no less with y the larger y. So
without experts, whose stream alone grows with D, beside - alone grows too; with them all grows as
long as w k <= 1, for then (1 - w k) alone + w k beside does. Between two numbers on the grid a
token then takes at least that of the lower, at most that of the upper one; and elsewhere at least,
or at most, what the four make of it that are the least, or the most, of both.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from optalloc.cost.engine.step import StepModel
from optalloc.serving.configuration.prove_space import Floats, Ints

_OCTAVE = 32
LESS = 1.0 - 1e-9


class Tokens(NamedTuple):
    """Fences of every engine (rows) between numbers on a grid (columns), seconds.

    ``least`` holds for a number between two of the grid or any above, ``most`` for any below.
    """

    least: Floats
    most: Floats

    def at_least(self, engine: Ints, decoding: Floats) -> Floats:
        return self.least[engine, self._column(decoding)]

    def at_most(self, engine: Ints, decoding: Floats) -> Floats:
        return self.most[engine, self._column(decoding)]

    def _column(self, decoding: Floats) -> Ints:
        column = np.floor(np.log2(decoding) * _OCTAVE - 1e-6).astype(np.int64)
        found: Ints = np.clip(column, 0, self.least.shape[1] - 1)
        return found


def tokens(
    step: StepModel, new: float, input_len: float, output_len: float, largest: float
) -> Tokens:
    """The fences of steps, one an engine each as a column, up to the ``largest`` number."""
    grid = 2.0 ** (np.arange(int(np.log2(largest) * _OCTAVE) + 4) / _OCTAVE)
    c, pp = step.constants, step.work.pp
    context = input_len + output_len / 2.0
    batch = np.maximum(1.0, grid / pp)
    flow = (grid - 1.0) / pp * new / output_len
    lump = np.clip(np.maximum(new, flow), 1.0, step.chunk_tokens)
    pairs = lump * (2.0 * input_len - new + 1.0) / 2.0
    alone = np.asarray(step.decode_s(batch, context))
    beside = np.asarray(step.latency_s(lump, batch, batch * context, pairs))
    own = c.prefill * c.apart * step.latency_s(lump, 0.0, 0.0, pairs) + c.prompt_s * lump / new
    lumps, share = c.interference * flow / lump, c.prefill * (1.0 - c.apart)
    true = alone + lumps * (share * (beside - alone) + own)
    here, there = true[:, :-1].copy(), true[:, 1:].copy()
    bends = (lumps * share > 1.0) & (np.asarray(step.work.routed_flops) > 0.0)
    row, column = np.nonzero(bends[:, 1:])
    if len(row):
        share = np.broadcast_to(share, true.shape)[row, 0]
        low, high = (row, column), (row, column + 1)
        least_more = np.maximum(0.0, beside[low] - alone[high])
        here[low] = alone[low] + lumps[low] * (share * least_more + own[low])
        there[low] = alone[high] + lumps[high] * (share * (beside[high] - alone[low]) + own[high])
    least = np.minimum.accumulate(here[:, ::-1], axis=1)[:, ::-1]
    return Tokens(least * LESS, np.maximum.accumulate(there, axis=1) / LESS)
