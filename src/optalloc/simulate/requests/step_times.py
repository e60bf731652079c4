"""StepTimes: how long one iteration of an engine takes, as a table.

    step_s = base(prompt tokens, sequences) + kv_s_per_token * context + pair_s * pairs
             + prompt_s * prompts

for the decoding ``sequences`` that read ``context`` cached tokens in all, and for chunks of prompts
whose tokens attend to ``pairs`` tokens; ``prompts`` of them are read to their end. The base is
tabulated for every number of sequences where no prompt is read, and on a grid, interpolated
linearly, where one is.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from optalloc.errors import InputError

Reals = NDArray[np.float64]
Base = Callable[[Reals, Reals], Reals]

_GROWTH = 1.12


class StepTimes(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Seconds of an iteration.

    Parameters
    ----------
    decode_s : ndarray of float64, shape (max_batch + 1,)
        Base without prompts, by number of sequences.
    prompt_tokens : ndarray of int32, shape (P,)
        Nodes of the grid, ascending from 1.
    sequences : ndarray of int32, shape (S,)
        Nodes of the grid, ascending from 0.
    mixed_s : ndarray of float64, shape (P, S)
        Base at the nodes.
    kv_s_per_token, pair_s, prompt_s : float
        Seconds for each cached token read, each pair, each prompt.
    """

    decode_s: Reals
    prompt_tokens: NDArray[np.int32]
    sequences: NDArray[np.int32]
    mixed_s: Reals
    kv_s_per_token: float = 0.0
    pair_s: float = 0.0
    prompt_s: float = 0.0

    def __post_init__(self) -> None:
        grid = (self.prompt_tokens.size, self.sequences.size)
        if self.mixed_s.shape != grid or min(grid) < 2 or self.decode_s.size < 2:
            raise InputError(
                f"the grid is {self.mixed_s.shape} for nodes of {grid}",
                path="StepTimes",
                fix="give at least two nodes an axis and one time for each pair of them",
            )
        times = (self.decode_s[1:], self.mixed_s)
        rest = (self.kv_s_per_token, self.pair_s, self.prompt_s)
        if min(float(np.min(part)) for part in times) <= 0.0 or min(rest) < 0.0:
            raise InputError(
                "an iteration takes no time, or less",
                path="StepTimes",
                fix="give positive seconds for every iteration, none negative",
            )

    @property
    def chunk_tokens(self) -> int:
        """Tokens of one iteration at most."""
        return int(self.prompt_tokens[-1])

    @property
    def max_batch(self) -> int:
        """Sequences at once at most."""
        return int(self.decode_s.size) - 1


def step_times(
    base_s: Base,
    *,
    chunk_tokens: int,
    max_batch: int,
    kv_s_per_token: float = 0.0,
    pair_s: float = 0.0,
    prompt_s: float = 0.0,
) -> StepTimes:
    """The table of a function of prompt tokens and sequences (arrays that broadcast), seconds.

    Complexity: one call for ``max_batch`` values and one for about 80 x 60.
    """
    decode = np.zeros(max_batch + 1)
    decode[1:] = base_s(np.zeros(max_batch), np.arange(1.0, max_batch + 1.0))
    prompts, sequences = _nodes(1, chunk_tokens), _nodes(0, max_batch)
    mixed = base_s(prompts[:, None].astype(np.float64), sequences[None, :].astype(np.float64))
    return StepTimes(
        decode_s=decode,
        prompt_tokens=prompts,
        sequences=sequences,
        mixed_s=np.ascontiguousarray(np.broadcast_to(mixed, (prompts.size, sequences.size))),
        kv_s_per_token=kv_s_per_token,
        pair_s=pair_s,
        prompt_s=prompt_s,
    )


def _nodes(first: int, last: int) -> NDArray[np.int32]:
    """Whole numbers from first to last, at least two, each about an eighth above the other."""
    nodes = [first]
    while nodes[-1] < max(last, first + 1):
        nodes.append(min(max(last, first + 1), max(nodes[-1] + 1, int(nodes[-1] * _GROWTH))))
    return np.array(nodes, np.int32)
