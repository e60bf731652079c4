"""TokenTable: seconds of a token beside any number of decoding sequences, between proven values.

A closed loop asks for the seconds t(D) of a token of D sequences in each of its rounds, whatever
its batch and its requests in flight. So a least and a most t is kept once for each cell of D, 32 of
them an octave. With a(D) seconds of an iteration without prompts and b(D) with a lump of them, o(D)
for a lump by itself, w(D) lumps an iteration and k the share of them that overlaps
(:func:`optalloc.cost.engine.mixed.mixed_parts`),

    t = a + w (k (b - a) + o),      and a, b, o and w do not fall with D.

Where no experts are read, b - a does not fall either: products and streams of a lump take no less
beside more sequences. Else t = (1 - w k) a + w k b + w o does not fall where w k <= 1. So in a cell
from D to E it is between its values at both ends, and in any other cell between

    a(D) + w(D) (k (b(D) - a(E)) + o(D))   and   a(E) + w(E) (k (b(E) - a(D)) + o(E)).
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np

from optalloc.cost.engine.mixed import mixed_parts
from optalloc.cost.engine.step import StepModel
from optalloc.serving.configuration.columns import Floats, Ints
from optalloc.workload import Serving

SAFE = 1.0 - 1e-9
_BITS = 5  # of the mantissa, which number the cells of an octave
_ONE = 1023 << _BITS


class TokenTable(NamedTuple):
    """The least seconds of a token beside as many sequences as a cell has or more, and the most
    beside as many or fewer; shape (engines, cells)."""

    least_s: Floats
    most_s: Floats

    @classmethod
    def of(cls, step: StepModel, work: Serving, most: float) -> Self:
        """The table of engines, a row of ``step`` each, for up to ``most`` sequences.

        Complexity: three iterations of the model for each engine and cell.
        """
        ends = _edges(int(_cells(np.array([most]))[0]) + 2)
        lengths = work.input_len, work.output_len, work.prefix_len
        parts, c = mixed_parts(step, ends, ends - 1.0, *lengths), step.constants
        whole = np.asarray(parts.token_s(c))
        alone, lumps, beside, own, overlaps = (
            np.broadcast_to(value, whole.shape)
            for value in (
                parts.alone_s,
                parts.lumps,
                parts.beside_s,
                c.prefill * c.apart * parts.own_s + parts.prompt_s,
                c.prefill * (1.0 - c.apart),
            )
        )
        rises = (lumps * overlaps <= 1.0) | np.equal(step.work.routed_flops, 0.0)

        def bent(here: slice, there: slice) -> Floats:
            over = np.maximum(0.0, beside[:, here] - alone[:, there])
            more = overlaps[:, here] * over + own[:, here]
            return np.where(rises[:, 1:], whole[:, here], alone[:, here] + lumps[:, here] * more)

        left, right = slice(None, -1), slice(1, None)
        least, most_s = bent(left, right), bent(right, left)
        return cls(
            least_s=np.ascontiguousarray(np.minimum.accumulate(least[:, ::-1], axis=1)[:, ::-1])
            * SAFE,
            most_s=np.maximum.accumulate(most_s, axis=1) / SAFE,
        )

    def least(self, engine: Ints, decoding: Floats) -> Floats:
        """The least seconds beside so many sequences or more."""
        number = self.least_s.shape[1]
        cell = np.clip(_cells(decoding), 0, number - 1)
        found: Floats = np.take(self.least_s, engine * number + cell)
        return found


def _cells(decoding: Floats) -> Ints:
    """The cell of each number of sequences, from 1: its leading bits."""
    found: Ints = (np.ascontiguousarray(decoding).view(np.int64) >> 52 - _BITS) - _ONE
    return found


def _edges(number: int) -> Floats:
    """The least number of sequences of so many cells."""
    octave, part = np.divmod(np.arange(number), 2**_BITS)
    found: Floats = np.ldexp(1.0 + part / 2**_BITS, octave)
    return found
